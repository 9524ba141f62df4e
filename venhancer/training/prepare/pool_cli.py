"""Make a pool of prepared samples, for training a model that uses neighbours.

Films and photos are downscaled, flawed, aligned by motion and cropped once. Doing so for every
update would cost more than the update of a small network.
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
    add("-o", "--out", type=Path, required=True, help="folder of the pool, new or unfinished")
    add("--samples", type=int, help="how many (default: 14400)")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=1, help="CPU threads (default: 1)")
    return parser


def run(args: argparse.Namespace) -> None:
    """Make the pool; OptionError for other settings than the folder's, or without key frames."""
    import torch

    from venhancer.training.data.sources import open_sources
    from venhancer.training.prepare.pool_maker import PoolSettings, make_pool

    media = open_sources(args.data).samples
    if any(sample.kind == "latents" for sample in media):
        raise OptionError("a pool is made from films and photos, not from latents: name those")
    torch.set_num_threads(args.threads)
    settings = PoolSettings(seed=args.seed)
    if args.samples is not None:
        part = min(settings.part, args.samples)
        settings = dataclasses.replace(settings, samples=args.samples, part=part)
    make_pool(media, args.out, NANO.model, settings, lambda line: print(line, flush=True))
