"""How many clips a second one loader process gives, from files, from shards, and as latents.

The videos are prepared into shards on the spot. A clip of NANO is one of many crops of a decode, a
720p clip is a decode of its own. Latents are those of the crop: by NANO's codec, and at 720p by one
that stands in for the released codec, of the same size, since only reading them is measured. Rates
are by the wall clock and, as other programs may share the machine, by seconds of the processor.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import four, report
from venhancer.config import NANO, VAE_STRIDE
from venhancer.training.config import NANO_TRAINING, TrainingConfig
from venhancer.training.cutting import Rules
from venhancer.training.dataset import Clips
from venhancer.training.encoders import Encoders, load_encoders
from venhancer.training.prepare import find_films, prepare
from venhancer.training.prepare_latents import LatentMaker
from venhancer.training.shard_writer import ShardFolder
from venhancer.training.sources import open_sources

SHARD_BYTES = 10**9


def pooled(clips: Tensor, _: torch.Generator) -> Tensor:
    """Latents as large as the released codec's: b f 3 H W -> b 4 f h w."""
    small = F.avg_pool2d(clips.flatten(0, 1), VAE_STRIDE).unflatten(0, clips.shape[:2])
    return torch.cat([small, small[:, :, :1]], dim=2).transpose(1, 2)


SIZES = {
    "nano": (NANO_TRAINING, load_encoders(NANO, "cpu")),
    "720p": (TrainingConfig(), Encoders(pooled)),
}


def rate(data: Path, config: TrainingConfig, batches: int) -> dict[str, Any]:
    """Clips a second, once the first block is drawn."""
    clips = iter(Clips(open_sources([data]), config, NANO.model.upsampling))
    next(clips)
    wall, processor = time.perf_counter(), time.process_time()
    count = sum(len(batch.names) for batch in islice(clips, batches))
    processor, wall = time.process_time() - processor, time.perf_counter() - wall
    return {
        "clips": count,
        "clips_per_second": four(count / wall),
        "clips_per_processor_second": four(count / processor),
    }


def link(videos: Sequence[Path], folder: Path) -> Path:
    """A folder of just these videos."""
    folder.mkdir()
    for video in videos:
        (folder / video.name).symlink_to(video.resolve())
    return folder


def fill(source: Path, out: Path, size: str, seconds: float, latents: int) -> Path:
    """Shards of the first seconds of each video."""
    config, encoders = SIZES[size]
    rules = Rules.of(size, config, latents=latents)
    films = [
        dataclasses.replace(film, wanted=(((0.0, seconds), ""),)) for film in find_films([source])
    ]
    folder = ShardFolder(out, dataclasses.asdict(rules), SHARD_BYTES)
    maker = LatentMaker(encoders, config, NANO.model.upsampling, latents) if latents else None
    prepare(films, folder, rules, maker)
    return out


def measure(size: str, videos: Sequence[Path], seconds: float, batches: int) -> dict[str, Any]:
    """The three kinds of data of one size of crop."""
    config, _ = SIZES[size]
    with tempfile.TemporaryDirectory() as place:
        folder = link(videos, Path(place) / "videos")
        found = {"folder": rate(folder, config, batches)}
        for name, latents in (("shards", 0), ("latents", 1)):
            shards = fill(folder, Path(place) / name, size, seconds, latents)
            found[name] = rate(shards, config, batches)
    return {"size": size, "crop": config.crop, "frames": config.longest, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="videos from 720p up")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each that go into shards")
    parser.add_argument("--batches", type=int, nargs=2, default=(48, 8), help="of nano, of 720p")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases = []
    for size, batches in zip(SIZES, args.batches, strict=True):
        cases.append(measure(size, args.data, args.seconds, batches))
        print(json.dumps(cases[-1]), flush=True)
    report("benchmarks.loader", "cpu", {"cases": cases}, args.out)


if __name__ == "__main__":
    main()
