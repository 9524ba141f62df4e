"""Logs of a run: lines of JSON, and the same for TensorBoard.

The files are RUN/loss.jsonl, validation.jsonl and skipped.jsonl. Every line has its step, so that a
run that resumes from a checkpoint can drop later lines.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from venhancer.files import write_text
from venhancer.training import validation
from venhancer.training.data.samples import SampleVideo
from venhancer.training.validation import Scores

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)

LOSS, VALIDATION, SKIPPED = "loss.jsonl", "validation.jsonl", "skipped.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One update of the weights; clips are those of all devices together."""

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float  # before it is clipped
    seconds: float
    data_seconds: float  # of `seconds`, spent waiting for clips
    clips_per_second: float
    loader_clips_per_second: float  # that the workers could deliver


class Logs:
    """The logs of one run; where `is_main` is false, nothing is written.

    skipped: number of files given up since this process began
    """

    def __init__(self, folder: Path, is_main: bool = True) -> None:
        self.folder = folder
        self.is_main = is_main
        self.skipped = 0
        self.first: Scores | None = None  # of the run's first validation
        self.best = math.inf  # least mean loss of all validations so far
        self._board: SummaryWriter | None = None
        self._has_tried = False
        self._step = 0  # from which this process resumed
        if is_main:
            folder.mkdir(parents=True, exist_ok=True)

    def forget(self, step: int) -> None:
        """Drop lines after `step`, logged by a run that ended between two checkpoints."""
        self._step = step
        if not self.is_main:
            return
        for name in (LOSS, VALIDATION, SKIPPED):
            kept = [line for line in _lines(self.folder / name) if line["step"] <= step]
            if name == VALIDATION and kept:
                self.first = validation.from_record(kept[0])
                self.best = min(line["mean"] for line in kept)
            _replace(self.folder / name, kept)

    def update(self, update: Update) -> None:
        """Log an update: a line, and a scalar for each number."""
        values = dataclasses.asdict(update)
        self._append(LOSS, values)
        self._scalars("train", values)

    def validation(self, step: int, scores: Scores) -> None:
        """Log scores: a line, scalars of the mean and of every cell, and the grid as a picture."""
        if not self.is_main:
            return
        self.first = self.first or scores
        self.best = min(self.best, validation.mean_loss(scores))
        self._append(VALIDATION, validation.to_record(step, scores))
        _, share = validation.worst(scores, self.first)
        mean = validation.mean_loss(scores)
        self._scalars("validation", {"step": step, "mean": mean, "worst_of_first": share})
        for kind in ("loss", "psnr"):
            found = {cell.tag: getattr(score, kind) for cell, score in scores.items()}
            self._scalars(f"validation_{kind}", {"step": step, **found})
        self._image("validation/grid", validation.picture(scores, self.first), step)

    def samples(self, step: int, samples: Sequence[SampleVideo]) -> None:
        """Log a still of each sample video."""
        for sample in samples:
            name = sample.path.stem.partition("_")[2]
            self._image(f"samples/{name}", sample.still, step)

    def skip(self, step: int, reasons: Sequence[str]) -> None:
        """Log the reasons of files that gave no clip."""
        self.skipped += len(reasons)
        for reason in reasons:
            self._append(SKIPPED, {"step": step, "reason": reason})

    def close(self) -> None:
        if self._board is not None:
            self._board.close()

    def _append(self, name: str, values: Mapping[str, Any]) -> None:
        if self.is_main:
            with (self.folder / name).open("a") as file:
                file.write(json.dumps(values) + "\n")

    def _scalars(self, group: str, values: Mapping[str, float | None]) -> None:
        board = self._tensorboard()
        if board is None:
            return
        for name, value in values.items():
            if name != "step" and value is not None:
                board.add_scalar(f"{group}/{name}", value, values["step"])

    def _image(self, name: str, picture: Any, step: int) -> None:
        board = self._tensorboard()
        if board is not None:
            board.add_image(name, picture, step, dataformats="HWC")

    def _tensorboard(self) -> SummaryWriter | None:
        """Open TensorBoard at first use; None on other processes, and without the package."""
        if self.is_main and not self._has_tried:
            self._has_tried = True
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                logger.warning("no TensorBoard logs, only JSON: `pip install tensorboard` for them")
            else:
                self._board = SummaryWriter(self.folder / "tensorboard", purge_step=self._step + 1)
        return self._board


def _lines(path: Path) -> list[dict[str, Any]]:
    """Read all complete lines; a crash may have truncated the last one."""
    if not path.is_file():
        return []
    text = path.read_text()
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _replace(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    if path.is_file():
        write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
