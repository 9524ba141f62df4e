"""How fast one process gives what training reads: 720p clips, and the samples of a pool.

Clips are drawn from files, from shards and as latents; the videos are prepared on the spot. The
latents come of a codec that stands in for the released one, of the same size, since only reading
them is measured. NANO trains on a pool: its samples are made of the same videos, then drawn. Rates
are by the wall clock and, as other programs may share the machine, by seconds of the processor.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import four, report
from venhancer.config import NANO, VAE_STRIDE
from venhancer.training.config import NANO_TRAINING, TrainingConfig
from venhancer.training.data.dataset import Clips
from venhancer.training.data.pool import Pool, PoolBatches
from venhancer.training.data.sources import open_sources
from venhancer.training.encoders import Encoders
from venhancer.training.prepare.clips import find_films, prepare
from venhancer.training.prepare.cutting import Rules
from venhancer.training.prepare.latents import LatentMaker
from venhancer.training.prepare.pool_maker import PoolSettings, make_pool
from venhancer.training.prepare.shard_writer import ShardFolder

SHARD_BYTES = 10**9
SIZE = "720p"
CLIPS = TrainingConfig()
UPSAMPLING = NANO.model.upsampling


def pooled(clips: Tensor, _: torch.Generator) -> Tensor:
    """Latents as large as the released codec's: b f 3 H W -> b 4 f h w."""
    small = F.avg_pool2d(clips.flatten(0, 1), VAE_STRIDE).unflatten(0, clips.shape[:2])
    return torch.cat([small, small[:, :, :1]], dim=2).transpose(1, 2)


def rate(work: Callable[[], int], name: str) -> dict[str, Any]:
    """How many `work` gives, in all and a second."""
    wall, processor = time.perf_counter(), time.process_time()
    count = work()
    processor, wall = time.process_time() - processor, time.perf_counter() - wall
    return {
        name: count,
        f"{name}_per_second": four(count / wall),
        f"{name}_per_processor_second": four(count / processor),
    }


def draw_clips(data: Path, batches: int) -> dict[str, Any]:
    """Clips a second, once the first block is drawn."""
    clips = iter(Clips(open_sources([data]), CLIPS, UPSAMPLING))
    next(clips)
    return rate(lambda: sum(len(batch.names) for batch in islice(clips, batches)), "clips")


def link(videos: Sequence[Path], folder: Path) -> Path:
    """A folder of just these videos."""
    folder.mkdir()
    for video in videos:
        (folder / video.name).symlink_to(video.resolve())
    return folder


def fill(source: Path, out: Path, seconds: float, latents: int) -> Path:
    """Shards of the first seconds of each video."""
    rules = Rules.of(SIZE, CLIPS, latents=latents)
    films = [
        dataclasses.replace(film, wanted=(((0.0, seconds), ""),)) for film in find_films([source])
    ]
    folder = ShardFolder(out, dataclasses.asdict(rules), SHARD_BYTES)
    maker = LatentMaker(Encoders(pooled), CLIPS, UPSAMPLING, latents) if latents else None
    prepare(films, folder, rules, maker)
    return out


def measure_clips(videos: Path, place: Path, seconds: float, batches: int) -> dict[str, Any]:
    """Clips of the three kinds of data."""
    found = {"folder": draw_clips(videos, batches)}
    for name, latents in (("shards", 0), ("latents", 1)):
        found[name] = draw_clips(fill(videos, place / name, seconds, latents), batches)
    return {"size": SIZE, "crop": CLIPS.crop, "frames": CLIPS.longest, **found}


def measure_pool(videos: Path, place: Path, samples: int, batches: int) -> dict[str, Any]:
    """Make a pool, then draw batches of it."""
    settings = PoolSettings(samples=samples, part=samples)

    def make() -> int:
        make_pool(open_sources([videos]).samples, place, NANO.model, settings, lambda _: None)
        return samples

    made = rate(make, "samples")
    drawn = iter(PoolBatches(Pool(place), NANO_TRAINING))
    next(drawn)
    return {
        "crop": settings.crop,
        "batch": NANO_TRAINING.micro_batch,
        "made": made,
        "drawn": rate(lambda: sum(len(b.names) for b in islice(drawn, batches)), "samples"),
    }


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, nargs="+", required=True, help="videos from 720p up")
    add("--seconds", type=float, default=4.0, help="of each that go into shards")
    add("--batches", type=int, default=2, help="of 720p clips that are drawn")
    add("--samples", type=int, default=96, help="of the pool that is made")
    add("--pool-batches", type=int, default=200, help="that are drawn of it")
    add("--out", type=Path)
    return parser


def main() -> None:
    args = build_parser().parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        videos = link(args.data, place / "videos")
        pool = measure_pool(videos, place / "pool", args.samples, args.pool_batches)
        print(json.dumps(pool), flush=True)
        clips = measure_clips(videos, place, args.seconds, args.batches)
        print(json.dumps(clips), flush=True)
    report("benchmarks.loader", "cpu", {"cases": [clips], "pool": pool}, args.out)


if __name__ == "__main__":
    main()
