"""What `venhancer-train` does with its options: model, data and objective, then the run."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from venhancer.config import PRESETS, Preset
from venhancer.device import choose_device, keep_freed_memory
from venhancer.errors import OptionError, WeightsError
from venhancer.model.denoiser import Denoiser
from venhancer.training import checkpoints
from venhancer.training.augmentation import Batch
from venhancer.training.config import NANO_TRAINING, TrainingConfig
from venhancer.training.dataset import Clips
from venhancer.training.distillation import Distillation, student_preset
from venhancer.training.encoders import Encoders, load_encoders
from venhancer.training.loop import Run, train
from venhancer.training.objective import DiffusionLoss, Objective, Perceive
from venhancer.training.perceptual import VGG16, Lpips
from venhancer.training.resources import card_named, describe, plan_training
from venhancer.training.sources import open_sources
from venhancer.training.trainer import Trainer, Update, initialise
from venhancer.training.validation import Validation
from venhancer.weights import load_model, load_prior

Show = Callable[[str], None]
SHOWN_EVERY = 20


@dataclass(frozen=True, slots=True)
class Start:
    """The model at update 0, and where the part of it that does not learn came from."""

    model: Denoiser
    frozen: str | None  # SHA-256 of the file


def run(args: argparse.Namespace, show: Show) -> None:
    """Train, or only plan; VEnhancerError for whatever the user can mend."""
    if args.threads:
        torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    accelerator = Accelerator(cpu=device == "cpu")
    preset = PRESETS[args.preset]
    config = choose_config(args)
    if args.plan:
        show(describe(plan_training(preset, config, args.devices or accelerator.num_processes, card_named(args.card, device))))
        return
    folder, resumed = choose_run(args)
    source = open_sources(args.data)
    torch.manual_seed(config.seed)
    start = begin(args, preset, config)
    trainer = Trainer(start.model, preset, config, accelerator, frozen=start.frozen)
    if resumed:
        trainer.load(resumed, args.workers)
    encoders = load_encoders(preset, device)
    objective, exported = choose_objective(args, preset, config, encoders, trainer)
    ...
