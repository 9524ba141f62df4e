"""Make a pool of prepared samples, which a model that sees neighbours trains on.

Films and photos are downscaled, flawed, aligned by motion and cropped once; a small network's
updates cost less than that would every time.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from venhancer.config import NANO
from venhancer.errors import OptionError


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="venhancer-train pool", description=__doc__)
    add = parser.add_argument
    add("data", type=Path, nargs="+", help="folders of films and photos, JSONL files, shards")
    add("-o", "--out", type=Path, required=True, help="folder of the pool; it may be begun already")
    add("--samples", type=int, help="how many (default: 14400)")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=1, help="CPU threads (default: 1)")
    return parser


def run(args: argparse.Namespace) -> None:
    """OptionError where the folder was made otherwise, or where nothing gives key frames."""
    import torch

    from venhancer.training.data.sources import open_sources
    from venhancer.training.prepare.pool_maker import PoolSettings, make_pool

    media = open_sources(args.data).samples
    if any(sample.kind == "latents" for sample in media):
        raise OptionError("a pool is made of films and photos, not of latents: name those")
    torch.set_num_threads(args.threads)
    settings = PoolSettings(seed=args.seed)
    if args.samples is not None:
        part = min(settings.part, args.samples)
        settings = dataclasses.replace(settings, samples=args.samples, part=part)
    make_pool(media, args.out, NANO.model, settings, lambda line: print(line, flush=True))
