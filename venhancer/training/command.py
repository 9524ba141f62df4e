"""Set up model, clips and objective from the options of `venhancer-train`, and start the run."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from venhancer.config import PRESETS, Preset
from venhancer.device import choose_device, computes_in_bfloat16, keep_freed_memory
from venhancer.errors import OptionError
from venhancer.files import hash_file
from venhancer.model.denoiser import Denoiser, make_denoiser
from venhancer.training import checkpoints
from venhancer.training.config import NANO_TRAINING, TrainingConfig
from venhancer.training.data.augmentation import Batch
from venhancer.training.data.dataset import Clips
from venhancer.training.data.held_out import read_held_out
from venhancer.training.data.pool import NAME as POOL
from venhancer.training.data.pool import Pool, PoolBatches, open_pool
from venhancer.training.data.samples import sampling_networks
from venhancer.training.data.sources import Source, open_sources
from venhancer.training.distillation import Distillation, student_preset
from venhancer.training.encoders import Encoders, load_encoders
from venhancer.training.loop import Check, TrainingRun, train
from venhancer.training.objective import DiffusionLoss, Objective, Perceive
from venhancer.training.perceptual import VGG16, Lpips
from venhancer.training.pool_validation import PoolValidation
from venhancer.training.resources import card_named, describe, plan_training
from venhancer.training.trainer import Trainer, initialise
from venhancer.training.validation import Validation
from venhancer.weights.checkpoint import load_model, load_prior, read_preset

Show = Callable[[str], None]
SAMPLES = 2  # held-out clips that sample videos are made from
PREFETCHED = 4  # micro-batches that each worker prepares ahead


def run(args: argparse.Namespace, show: Show) -> None:
    """Train, or resume training; VEnhancerError for whatever the user can fix."""
    if args.threads:
        torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    if device == "cpu":
        keep_freed_memory()
    preset, config = PRESETS[args.preset], choose_config(args)
    check_teacher(args.teacher, preset)
    checkpoint = choose_checkpoint(args)
    data = open_data(args.data, preset, is_flawed=config.trains_repair)
    accelerator = Accelerator(cpu=device == "cpu")
    trainer = open_trainer(args, preset, config, accelerator)
    if checkpoint is not None:
        trainer.load(checkpoint)
    encoders = load_encoders(preset, str(accelerator.device))
    check = None if args.validate is None else open_check(args.validate, trainer, encoders)
    objective, exported = choose_objective(args, trainer, encoders)
    train(
        trainer,
        batches(data, trainer),
        TrainingRun(args.out, objective, exported, check),
        show if accelerator.is_main_process else lambda _: None,
    )


def open_data(
    paths: Sequence[Path],
    preset: Preset,
    option: str = "--data",
    is_flawed: bool | None = None,
) -> Source | Pool:
    """Open what an option names: a pool for a model that uses neighbours, clips for any other.

    is_flawed: selects samples of a pool, see `Pool`
    """
    is_pool = [(path / POOL).is_file() for path in paths]
    if not preset.model.neighbours:
        if any(is_pool):
            raise OptionError(
                f"{paths[is_pool.index(True)]} is a pool of aligned key frames, and preset "
                f"{preset.name!r} sees none: name folders of films, lists or shards"
            )
        return open_sources(paths)
    if is_pool != [True]:
        raise OptionError(
            f"{option} {' '.join(map(str, paths))}: preset {preset.name!r} trains on one pool of "
            "aligned key frames: make it by `venhancer-train pool FILMS -o POOL`"
        )
    return open_pool(paths[0], preset.model, is_flawed)


def plan(args: argparse.Namespace, show: Show) -> None:
    """Show the memory, time and disk space that the run would need."""
    card = card_named(args.card, choose_device(args.device))
    devices = args.devices or int(os.environ.get("WORLD_SIZE", "1"))
    show(describe(plan_training(PRESETS[args.preset], choose_config(args), devices, card)))


def choose_config(args: argparse.Namespace) -> TrainingConfig:
    """Take the preset's settings, with the changes that the options ask for."""
    config = NANO_TRAINING if args.preset == "nano" else TrainingConfig()
    changes = dict(_setting(text) for text in args.set)
    if args.prior is not None:
        changes["trains_prior"] = False
    if args.steps is not None:
        changes["steps"] = args.steps
    if choose_device(args.device) == "cpu" and not computes_in_bfloat16():
        changes.setdefault("precision", "float32")
    return TrainingConfig.from_dict({**dataclasses.asdict(config), **changes})


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise OptionError(f"--set {text}: write NAME=VALUE, such as --set batch=64")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def choose_checkpoint(args: argparse.Namespace) -> Path | None:
    """Find the newest checkpoint to resume; OptionError where options and folder disagree."""
    for name in ("data", "out"):
        if getattr(args, name) is None:
            raise OptionError(f"--{name} is missing: see venhancer-train --help")
    found = checkpoints.find_checkpoints(args.out)
    if found and not args.resume:
        raise OptionError(f"{found[-1]} exists: go on with --resume, or choose another -o")
    if args.resume and not found:
        raise OptionError(f"--resume: there is no checkpoint in {args.out} to go on from")
    return found[-1] if found else None


def check_teacher(path: Path | None, preset: Preset) -> None:
    """Raise OptionError for a teacher whose runs take one step: no student can take fewer."""
    carried = preset if path is None else read_preset(path) or preset
    if path is not None and carried.defaults.steps == 1:
        raise OptionError(
            f"--teacher {path}: runs of preset {carried.name!r} take one step already, and no "
            "student can take fewer: to train these weights further, pass them with --weights"
        )


def open_trainer(
    args: argparse.Namespace, preset: Preset, config: TrainingConfig, accelerator: Accelerator
) -> Trainer:
    """Make the trainer with its initial model: from a prior, from trained weights, or random."""
    torch.manual_seed(config.seed)
    source = args.prior or args.weights or args.teacher
    model = _begin(args, source, preset, config)
    is_whole = config.trains_prior and model.controller.repair is None
    return Trainer(
        model,
        preset,
        config,
        accelerator,
        workers=args.workers,
        frozen=None if is_whole or source is None else hash_file(source),
    )


def _begin(
    args: argparse.Namespace, source: Path | None, preset: Preset, config: TrainingConfig
) -> Denoiser:
    if args.prior is not None:
        return load_prior(args.prior, preset)
    if source is not None:
        model, carried = load_model(source, preset)
        _check_same_model(source, carried, preset)
        return model.requires_grad_(True).train()
    if not config.trains_prior:
        raise OptionError(
            f"preset {preset.name!r} trains around a frozen prior: pass it with --prior FILE, "
            "or trained weights with --weights FILE"
        )
    model = make_denoiser(preset.model)
    initialise(model, config)
    return model


def _check_same_model(path: Path, carried: Preset, preset: Preset) -> None:
    if carried.model != preset.model:
        raise OptionError(
            f"{path} holds the model of preset {carried.name!r}, not that of {preset.name!r}: "
            "choose the other --preset"
        )


def choose_objective(
    args: argparse.Namespace, trainer: Trainer, encoders: Encoders
) -> tuple[Objective, Preset]:
    """Choose the training objective, and the preset that the exported weights will carry."""
    preset, config, sigmas = trainer.preset, trainer.config, trainer.model.sigmas
    perceive = _perceive(args.perceptual, config, encoders, trainer.accelerator)
    loss = DiffusionLoss(preset.model, config, encoders, sigmas, perceive)
    if args.teacher is None:
        return loss, preset
    teacher, carried = load_model(args.teacher, preset, device=str(trainer.accelerator.device))
    _check_same_model(args.teacher, carried, preset)
    return Distillation(loss, teacher, carried), student_preset(carried, config)


def _perceive(
    weights: Path | None, config: TrainingConfig, encoders: Encoders, accelerator: Accelerator
) -> Perceive | None:
    """Make LPIPS in the run's precision, if `perceptual_weight` is set."""
    if not config.perceptual_weight:
        return None
    if weights is None or encoders.decode is None:
        raise OptionError(
            f"perceptual_weight={config.perceptual_weight} needs --perceptual FILE, the VGG16 "
            "weights that `make data` fetches, and a codec that decodes at no cost (NANO's)"
        )
    lpips = Lpips(weights, VGG16).to(accelerator.device)
    is_half = config.precision == "bf16"

    def perceive(made: Tensor, true: Tensor) -> Tensor:
        with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=is_half):
            return lpips(made, true)

    return perceive


def open_check(folder: Path, trainer: Trainer, encoders: Encoders) -> Check:
    """Open the held-out clips, with networks that make samples of them; or a held-out pool."""
    preset, config = trainer.preset, trainer.config
    if preset.model.neighbours:
        pool = open_data([folder], preset, "--validate")
        assert isinstance(pool, Pool)
        return Check(PoolValidation(pool, preset, config, encoders), None, ())
    clips = read_held_out(folder, config)
    networks = None
    if config.sharding == "none":  # the pipeline needs unsharded weights
        codec, text = encoders.codec, encoders.text_encoder
        networks = sampling_networks(trainer.model, config, codec, text)
    return Check(
        Validation(clips, preset, config, encoders),
        networks,
        read_held_out(folder, config, SAMPLES),
    )


def batches(data: Source | Pool, trainer: Trainer) -> Iterator[Batch]:
    """Iterate over this process's micro-batches, from the run's present update on."""
    if isinstance(data, Pool):
        accelerator = trainer.accelerator
        return iter(
            PoolBatches(
                data.to(accelerator.device),
                trainer.config,
                rank=accelerator.process_index,
                world=accelerator.num_processes,
                origin=trainer.origin,
                position=trainer.position,
            )
        )
    clips = Clips(
        data,
        trainer.config,
        trainer.preset.model.upsampling,
        rank=trainer.accelerator.process_index,
        world=trainer.accelerator.num_processes,
        origin=trainer.origin,
        position=trainer.position,
        needs_text=bool(trainer.preset.model.unet.text_width),
    )
    ahead = PREFETCHED if trainer.workers else None
    workers = trainer.workers
    pinned = trainer.accelerator.device.type == "cuda"
    loader = DataLoader(
        clips, batch_size=None, num_workers=workers, prefetch_factor=ahead, pin_memory=pinned
    )
    return fitting(iter(loader), trainer.preset.model.unet.latent_channels)


def fitting(drawn: Iterator[Batch], channels: int) -> Iterator[Batch]:
    """Pass the batches on; OptionError for latents of another codec."""
    for batch in drawn:
        if batch.is_latent and batch.target.shape[1] != channels:
            raise OptionError(
                f"{batch.names[0]} holds latents of {batch.target.shape[1]} channels, the model "
                f"takes {channels}: prepare the shards with the same --preset"
            )
        yield batch
