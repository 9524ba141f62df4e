"""The training loop, from the first update of a run to the last, and the files it writes.

RUN/ holds checkpoints/ to resume from; model.safetensors, the averaged weights;
best.safetensors, those of the best validation; the logs; sample videos.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from venhancer.config import Preset
from venhancer.pipeline.networks import Networks
from venhancer.training import validation
from venhancer.training.data.augmentation import Batch
from venhancer.training.data.held_out import HeldOut
from venhancer.training.data.samples import write_samples
from venhancer.training.logs import Logs, Update
from venhancer.training.objective import Objective
from venhancer.training.trainer import Trainer
from venhancer.training.validation import Measure

Show = Callable[[str], None]
SHOWN_EVERY = 20  # updates


@dataclass(frozen=True, slots=True)
class Check:
    """Validation of a run, and sample videos."""

    validation: Measure
    networks: Networks | None  # with the model in training; None where its weights are sharded
    clips: Sequence[HeldOut]  # to make sample videos from


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """Folder and objective of a training run, and what it exports and validates."""

    folder: Path
    objective: Objective
    exported: Preset  # preset that the exported weights carry
    check: Check | None = None


def train(trainer: Trainer, batches: Iterator[Batch], run: TrainingRun, show: Show) -> None:
    """Train until `config.steps`.

    TrainingError where the loss is not finite; the checkpoints so far are kept.
    """
    config = trainer.config
    with closing(Logs(run.folder, trainer.accelerator.is_main_process)) as logs:
        logs.forget(trainer.step)
        while trainer.step < config.steps:
            update, skipped = trainer.update(batches, run.objective)
            logs.update(update)
            logs.skip(update.step, skipped)
            if update.step % SHOWN_EVERY == 0:
                show(_line(update, logs.skipped))
            is_last = trainer.step == config.steps
            if is_last or trainer.step % config.save_every == 0:
                trainer.export(run.folder / "model.safetensors", run.exported)
                trainer.save(run.folder)
            if run.check and (is_last or trainer.step % config.validate_every == 0):
                validate(trainer, run, run.check, logs, show)


def _line(update: Update, skipped: int) -> str:
    speed = f"{update.clips_per_second:.2f} clips/s (loader {update.loader_clips_per_second:.2f})"
    left_out = f", {skipped} files given up" if skipped else ""
    return f"update {update.step}  loss {update.loss:.4f}  {speed}{left_out}"


def validate(trainer: Trainer, run: TrainingRun, check: Check, logs: Logs, show: Show) -> None:
    """Validate the averaged weights; the best so far are kept as best.safetensors."""
    rank, world = trainer.accelerator.process_index, trainer.accelerator.num_processes
    with trainer.averaged():
        scores = check.validation.measure(trainer.network, rank, world)
        is_best = trainer.agreed(validation.mean_loss(scores) < logs.best)
        logs.validation(trainer.step, scores)
        if trainer.accelerator.is_main_process and check.networks is not None:
            folder = run.folder / "samples"
            made = write_samples(check.networks, run.exported, check.clips, folder, trainer.step)
            logs.samples(trainer.step, made)
    show(validation.describe(scores, logs.first))
    if is_best:
        trainer.export(run.folder / "best.safetensors", run.exported)
