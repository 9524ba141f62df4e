"""Does it train? Updates of NANO on one batch that lies on the device, and pools to train on.

`python -m benchmarks.gpu.training PACK OUT` makes the pools for training and validating NANO from
the clips of a pack. `venhancer-train pool` uses one core, so one process per core runs here, each
with a seed of its own, and their parts are merged into one pool.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

import accelerate
import torch
from torch import nn

from benchmarks.gpu.records import Found, Recorder
from benchmarks.gpu.setting import Setting, card_peak, timed
from benchmarks.interleaved import make_room
from benchmarks.measuring import four
from venhancer.config import NANO
from venhancer.model.denoiser import make_denoiser
from venhancer.training.config import NANO_TRAINING, TrainingConfig
from venhancer.training.data.augmentation import Batch
from venhancer.training.encoders import load_encoders
from venhancer.training.objective import DiffusionLoss
from venhancer.training.trainer import Trainer, initialise

BATCHES = (32, 128)
SMALL_BATCH, SMALL_CROP = 2, 32
WARM_UPS, ROUNDS = 3, 12


def run_update(setting: Setting, recorder: Recorder) -> None:
    for batch in (SMALL_BATCH,) if setting.is_small else BATCHES:
        for is_compiled in (False,) if setting.is_small else (False, True):
            what = f"{batch} clips, {'compiled' if is_compiled else 'eager'}"
            recorder.attempt(what, partial(measure, setting, batch, is_compiled))
            make_room(setting.device)
    recorder.attempt("noise of 32 clips, drawn on the host", partial(host_noise, setting))


def measure(setting: Setting, batch: int, is_compiled: bool) -> Found:
    """Measure the median seconds of an update, without the perceptual loss, which needs a file."""
    config = configure(setting, batch)
    torch.manual_seed(0)
    model = make_denoiser(NANO.model)
    initialise(model, config)
    trainer = Trainer(model, NANO, config, accelerate.Accelerator(cpu=setting.device == "cpu"))
    if is_compiled:
        trainer.network = cast(nn.Module, torch.compile(trainer.network, dynamic=False))
    encoders = load_encoders(NANO, setting.device)
    loss = DiffusionLoss(NANO.model, config, encoders, trainer.model.sigmas)
    batches = itertools.repeat(random_batch(config).to(trainer.accelerator.device))
    seconds: list[float] = []

    def updates() -> None:
        for _ in range(setting.times(WARM_UPS)):
            trainer.update(batches, loss)
        update = partial(trainer.update, batches, loss)
        seconds.extend(timed(update, setting.device, setting.times(ROUNDS)))

    peak = card_peak(setting.device, updates)
    median = statistics.median(seconds)
    return {"seconds": four(median), "clips_a_second": four(batch / median), **peak}


def configure(setting: Setting, batch: int) -> TrainingConfig:
    """Return NANO's own settings, except for the batch and the perceptual loss."""
    changes = {"batch": batch, "micro_batch": batch, "perceptual_weight": 0.0}
    config = dataclasses.replace(NANO_TRAINING, **changes)  # type: ignore[arg-type]
    if not setting.is_small:
        return config
    return dataclasses.replace(config, crop=(SMALL_CROP, SMALL_CROP), precision="float32")


def random_batch(config: TrainingConfig) -> Batch:
    """Make a batch of noise in the shape of a pool's samples."""
    count, side = config.batch, config.crop[0]
    stride, channels = NANO.model.latent_stride, NANO.model.neighbour_channels
    frames = torch.rand(count, 1, 3, side, side) * 2 - 1
    return Batch(
        target=frames,
        hint=frames,
        is_key=torch.ones(count, 1),
        scale=torch.full((count,), 4.0),
        noise_level=torch.zeros(count, dtype=torch.int64),
        captions=[""] * count,
        names=["noise"] * count,
        neighbours=torch.rand(count, channels, 1, side // stride, side // stride),
    )


def host_noise(setting: Setting) -> Found:
    """Measure how long the processor takes to draw the noise of an update."""
    side = NANO_TRAINING.crop[0] // NANO.model.latent_stride
    shape = (32, NANO.model.unet.latent_channels, 1, side, side)
    seconds = timed(partial(torch.randn, shape), "cpu", setting.times(3))
    return {"ms": four(2000 * min(seconds))}  # for the latents and for the hint


# --- pools ----------------------------------------------------------------------------------------


POOL = "pool.json"
SAMPLES = {"train": 4800, "validation": 384}
VALIDATION_SEED = 1000  # far from the seeds of the training parts


def shares(samples: int, processes: int) -> list[int]:
    """Split samples over processes: shares differ by at most one, and none is empty."""
    count = min(samples, processes)
    return [samples // count + (number < samples % count) for number in range(count)]


def command(media: Path, out: Path, samples: int, seed: int) -> list[str]:
    words = ["pool", str(media), "-o", str(out), "--samples", str(samples), "--seed", str(seed)]
    return [sys.executable, "-m", "venhancer.training", *words]


def start_pool(media: Path, out: Path, samples: int, seed: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command(media, out, samples, seed), env=environment)


def merge_pools(parts: Sequence[Path], out: Path) -> int:
    """Move the parts of several pools into one -> the number of parts."""
    out.mkdir(parents=True, exist_ok=True)
    files = [file for part in parts for file in sorted(part.glob("part-*.npz"))]
    for number, file in enumerate(files):
        file.replace(out / f"part-{number:04d}.npz")
    described = [part / POOL for part in parts if (part / POOL).is_file()]
    if described:
        (out / POOL).write_text(described[0].read_text())
    return len(files)


def make_pools(pack: Path, out: Path, processes: int, samples: dict[str, int]) -> None:
    """Make both pools side by side; SystemExit if one of them has no sample."""
    running: dict[str, list[tuple[Path, subprocess.Popen[bytes]]]] = {}
    for name, count in samples.items():
        own = processes if name == "train" else 1
        first = VALIDATION_SEED if name == "validation" else 0
        running[name] = []
        for number, share in enumerate(shares(count, own)):
            part = out / f"{name}-{number}"
            running[name].append((part, start_pool(pack / name, part, share, first + number)))
    for name, made in running.items():
        for _, process in made:
            process.wait()
        files = merge_pools([part for part, _ in made], out / name)
        print(f"{name}: {files} parts", flush=True)
        if not files:
            raise SystemExit(f"{pack / name} gave no samples")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pack", type=Path, help="with folders train and validation")
    parser.add_argument("out", type=Path, help="takes the pools train and validation")
    parser.add_argument("--samples", type=int, default=SAMPLES["train"], help="to train on")
    args = parser.parse_args()
    processes = max(1, (os.cpu_count() or 2) - 1)
    make_pools(args.pack, args.out, processes, {**SAMPLES, "train": args.samples})


if __name__ == "__main__":
    main()
