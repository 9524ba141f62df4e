"""From the first update of a run to the last, and all that it leaves behind.

RUN/: checkpoints/ to go on from, model.safetensors (the averaged weights), best.safetensors (those
of the best validation), loss.jsonl, validation.jsonl, skipped.jsonl, samples/, tensorboard/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from venhancer.config import Preset
from venhancer.training.augmentation import Batch
from venhancer.training.logs import Logs
from venhancer.training.objective import Objective
from venhancer.training.trainer import Trainer, Update
from venhancer.training.validation import Validation

Report = Callable[[Update], None]


@dataclass(frozen=True, slots=True)
class Run:
    """A folder, and what is done there beside the updates themselves."""

    folder: Path
    objective: Objective
    exported: Preset  # that the weights of this run carry
    workers: int
    validation: Validation | None = None


def train(trainer: Trainer, batches: Iterator[Batch], run: Run, report: Report) -> None:
    """Train to `config.steps`.

    TrainingError where the loss is no longer a number: the checkpoints so far are kept.
    """
    config = trainer.config
    with Logs(run.folder, trainer.accelerator.is_main_process) as logs:
        logs.forget(trainer.step)
        while trainer.step < config.steps:
            update = trainer.update(batches, run.objective)
            logs.write(update, run.workers)
            report(update)
            is_last = trainer.step == config.steps
            if is_last or trainer.step % config.save_every == 0:
                trainer.save(run.folder, run.workers)
                trainer.export(run.folder / "model.safetensors", run.exported)
            if is_last or trainer.step % config.validate_every == 0:
                validate(trainer, run, logs)


def validate(trainer: Trainer, run: Run, logs: Logs) -> None:
    """Measure the averaged weights; the best so far are kept as best.safetensors."""
    if run.validation is None:
        return
    with trainer.averaged():
        is_best = run.validation.run(trainer, run.folder, logs)
    if is_best:
        trainer.export(run.folder / "best.safetensors", run.exported)
