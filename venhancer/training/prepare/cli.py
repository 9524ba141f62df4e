"""`venhancer-train prepare SOURCE... -o SHARDS`: videos into shards that training reads fast.

The shards are for the released model; `venhancer-train pool` makes the samples for nano.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from venhancer.errors import OptionError

if TYPE_CHECKING:  # so that --help needs no torch
    from venhancer.training.config import TrainingConfig
    from venhancer.training.prepare.latents import LatentMaker

MEGABYTE = 10**6


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="venhancer-train prepare", description=__doc__)
    add = parser.add_argument
    add("sources", type=Path, nargs="+", metavar="SOURCE", help="videos, folders, .jsonl lists")
    add("-o", "--out", type=Path, required=True, metavar="SHARDS", help="folder of the shards")
    add("--min-seconds", type=float, default=2.0, help="shortest clip (default: %(default)s)")
    add("--max-seconds", type=float, default=10.0, help="longest clip (default: %(default)s)")
    add("--min-size", type=parse_size, metavar="WxH", help="default: what the model trains on")
    add("--shard-size", type=int, default=500, metavar="MB", help="default: %(default)s")
    add("--latents", type=int, default=0, metavar="N", help="also store latents, with N degraded")
    add("--device", default="auto", choices=["auto", "cpu", "cuda"], help="for encoding latents")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: 1 per core)")
    return parser


def parse_size(text: str) -> tuple[int, int]:
    """Parse an argument such as 1280x720."""
    width, height = text.split("x")
    return int(width), int(height)


def run(args: argparse.Namespace) -> None:
    """Fill the folder, or continue to fill it, and print what was kept."""
    from venhancer.config import RELEASED
    from venhancer.training.config import TrainingConfig
    from venhancer.training.prepare.clips import find_films, prepare
    from venhancer.training.prepare.cutting import Rules
    from venhancer.training.prepare.shard_writer import ShardFolder

    _check(args)
    config = TrainingConfig()
    chosen = {"min_size": args.min_size} if args.min_size else {}
    rules = Rules.of(
        RELEASED.name,
        config,
        min_seconds=args.min_seconds,
        max_seconds=args.max_seconds,
        latents=args.latents,
        **chosen,
    )
    films = find_films(args.sources)
    folder = ShardFolder(args.out, dataclasses.asdict(rules), args.shard_size * MEGABYTE)
    maker = _latent_maker(RELEASED, config, args) if args.latents else None
    print(_told(prepare(films, folder, rules, maker, workers=args.workers, show=print)))


def _check(args: argparse.Namespace) -> None:
    least = {"shard_size": 1, "latents": 0, "workers": 1}
    for name, number in least.items():
        if getattr(args, name) < number:
            raise OptionError(f"--{name.replace('_', '-')} must be at least {number}")


def _latent_maker(preset: Any, config: TrainingConfig, args: argparse.Namespace) -> LatentMaker:
    from venhancer.device import choose_device
    from venhancer.training.encoders import load_encoders
    from venhancer.training.prepare.latents import LatentMaker

    device = choose_device(args.device)
    encoders = load_encoders(preset, device)
    return LatentMaker(encoders, config, preset.model.upsampling, args.latents, device)


def _told(report: dict[str, Any]) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in report["left_out"].items())
    return (
        f"{report['kept']} clips of {report['seconds']:.0f} s in {report['shards']} shards, "
        f"from {report['films']} films; left out: {reasons or 'nothing'}"
    )
