"""Checkpoints of a run, from which it can be resumed.

Each process writes its share, and a complete checkpoint appears by renaming.
RUN/checkpoints/step-00000250/ is a checkpoint of torch.distributed.checkpoint (trainable weights,
their average, the optimiser's moments) with a `run.json` in it. The format does not depend on the
number of devices, so a run can be resumed with another number.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn, optim
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)

from venhancer.config import Preset
from venhancer.errors import OptionError, WeightsError
from venhancer.training.config import TrainingConfig
from venhancer.weights.checkpoint import UNREADABLE

FACTS = "run.json"
KEPT = 2
TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)
FREE = {  # settings that a resumed run may change: none of them affects what was learned so far
    "steps",
    "save_every",
    "validate_every",
    "micro_batch",
    "precision",
    "sharding",
    "checkpoint_activations",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Facts about a run, stored in its checkpoints."""

    step: int
    preset: Preset
    config: TrainingConfig
    streams: tuple[int, ...]  # processes, workers, micro-batch: decide who draws which clips
    origin: int  # the update from which these streams count
    frozen: str | None  # SHA-256 of the file that the frozen weights came from

    def to_json(self) -> str:
        values = {name: getattr(self, name) for name in ("step", "streams", "origin", "frozen")}
        values["preset"] = self.preset.to_json()
        values["config"] = dataclasses.asdict(self.config)
        return json.dumps(values, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Facts:
        values = json.loads(text)
        return cls(
            step=values["step"],
            preset=Preset.from_json(values["preset"]),
            config=TrainingConfig.from_dict(values["config"]),
            streams=tuple(values["streams"]),
            origin=values["origin"],
            frozen=values["frozen"],
        )


def folder_of(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def find_checkpoints(run: Path) -> list[Path]:
    """List the complete checkpoints of a run, the oldest first."""
    found = (run / "checkpoints").glob("step-*")
    return sorted(path for path in found if path.suffix != ".part" and path.is_dir())


def read_facts(folder: Path) -> Facts:
    """Read a checkpoint's facts; WeightsError if it is no checkpoint of ours."""
    try:
        return Facts.from_json((folder / FACTS).read_text())
    except (*UNREADABLE, TypeError) as error:
        raise WeightsError(f"{folder} is not a checkpoint of a training run: {error}") from error


def check_facts(found: Facts, wanted: Facts, folder: Path) -> None:
    """Raise WeightsError or OptionError where the resumed run would differ from the first."""
    if found.preset.model != wanted.preset.model:
        raise WeightsError(f"{folder} was trained with another model configuration")
    if found.frozen != wanted.frozen:
        raise WeightsError(
            f"{folder} was trained with other frozen weights: name the same file by --prior "
            "or --weights"
        )
    for field in dataclasses.fields(TrainingConfig):
        was, given = getattr(found.config, field.name), getattr(wanted.config, field.name)
        if field.name not in FREE and was != given:
            raise OptionError(
                f"{folder} was trained with {field.name}={was}, this run has {given}: "
                f"set {field.name} as it was, or start a new run with --weights"
            )


def save(
    run: Path,
    network: nn.Module,
    optimizer: optim.Optimizer,
    average: Mapping[str, Tensor],
    facts: Facts,
    *,
    is_main: bool,
    wait: Callable[[], None],
) -> None:
    """Write a checkpoint, delete all but the newest ones; `wait` is a barrier of all processes."""
    target = folder_of(run, facts.step)
    temporary = target.with_suffix(".part")
    if is_main:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        (temporary / FACTS).write_text(facts.to_json())
    wait()
    with _quietly():
        state_dict_saver.save(_state(network, optimizer, average), checkpoint_id=temporary)
    wait()
    if is_main:
        temporary.replace(target)
        for old in find_checkpoints(run)[:-KEPT]:
            shutil.rmtree(old)
    wait()


def load(
    folder: Path, network: nn.Module, optimizer: optim.Optimizer, average: Mapping[str, Tensor]
) -> None:
    """Load all three in place; WeightsError if a file is missing or damaged."""
    state = _state(network, optimizer, average)
    try:
        with _quietly():
            state_dict_loader.load(state, checkpoint_id=folder)
    except (*UNREADABLE, CheckpointException) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise WeightsError(f"{folder} is damaged, use the one before it: {reason}") from error
    set_state_dict(
        network,
        optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
        options=TRAINED,
    )


@contextmanager
def _quietly() -> Iterator[None]:
    """Suppress the warning that a run on one device is not distributed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield


def _state(
    network: nn.Module, optimizer: optim.Optimizer, average: Mapping[str, Tensor]
) -> dict[str, Any]:
    model, moments = get_state_dict(network, optimizer, options=TRAINED)
    return {"model": model, "optimizer": moments, "average": dict(average)}
