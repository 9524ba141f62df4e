"""Measures how fast the device trains NANO: updates on one batch that lies there, no loader."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from functools import partial
from typing import cast

import accelerate
import torch
from torch import nn

from benchmarks.gpu.records import Found, Recorder
from benchmarks.gpu.setting import Setting, card_peak, timed
from benchmarks.timing import four
from benchmarks.turns import make_room
from venhancer.config import NANO
from venhancer.model.denoiser import make_denoiser
from venhancer.training.config import NANO_TRAINING, TrainingConfig
from venhancer.training.data.augmentation import Batch
from venhancer.training.encoders import load_encoders
from venhancer.training.objective import DiffusionLoss
from venhancer.training.trainer import Trainer, initialise

STEP = "update"
BATCHES = (32, 128)
SMALL_BATCH, SMALL_CROP = 2, 32
WARM_UPS, ROUNDS = 3, 12


def run(setting: Setting, recorder: Recorder) -> None:
    for batch in (SMALL_BATCH,) if setting.is_small else BATCHES:
        for is_compiled in (False,) if setting.is_small else (False, True):
            what = f"{batch} clips, {'compiled' if is_compiled else 'eager'}"
            recorder.attempt(what, partial(measure, setting, batch, is_compiled))
            make_room(setting.device)
    recorder.attempt("noise of 32 clips, drawn on the host", partial(host_noise, setting))


def measure(setting: Setting, batch: int, is_compiled: bool) -> Found:
    """Seconds of an update, the median; without the perceptual loss, which needs a file."""
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
    """NANO's own settings, but for the batch and the perceptual loss."""
    changes = {"batch": batch, "micro_batch": batch, "perceptual_weight": 0.0}
    config = dataclasses.replace(NANO_TRAINING, **changes)  # type: ignore[arg-type]
    if not setting.is_small:
        return config
    return dataclasses.replace(config, crop=(SMALL_CROP, SMALL_CROP), precision="float32")


def random_batch(config: TrainingConfig) -> Batch:
    """Noise in the shape of a pool's samples."""
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
    """Time drawing the noise of an update on the processor."""
    side = NANO_TRAINING.crop[0] // NANO.model.latent_stride
    shape = (32, NANO.model.unet.latent_channels, 1, side, side)
    seconds = timed(partial(torch.randn, shape), "cpu", setting.times(3))
    return {"ms": four(2000 * min(seconds))}  # of the latents and of the hint
