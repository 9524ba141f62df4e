"""A pool: key frames that were degraded, aligned and cropped beforehand, for a flat body.

Optical flow needs whole frames, and costs more than a small network's update, so it is computed
once. A pool is a folder of parts, each written whole or not at all; `pool.json` has its settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset

from venhancer.config import ModelConfig
from venhancer.device import to_device
from venhancer.errors import OptionError
from venhancer.files import written_whole
from venhancer.motion.neighbours import compare
from venhancer.training.config import TrainingConfig
from venhancer.training.data.augmentation import Batch, Generator

NAME = "pool.json"
FIELDS = ("target", "hint", "aligned", "trust", "scale", "level")


@dataclass(frozen=True, slots=True)
class Crop:
    """One sample: a square of a true key frame, and the network's inputs for it."""

    target: NDArray[np.uint8]  # 3 H W
    hint: NDArray[np.uint8]  # 3 H W: degraded, and enlarged again
    aligned: NDArray[np.uint8]  # n 3 H/2 W/2: neighbours, warped onto this key frame
    trust: NDArray[np.uint8]  # n H/4 W/4, 0 to 255
    scale: float
    level: int  # noise level (of `--refine`) that suits its degradation; 0 is clean


def write_part(folder: Path, number: int, crops: Sequence[Crop]) -> None:
    """Write samples as `part-NUMBER.npz`, by renaming a temporary file."""
    arrays = {name: np.stack([getattr(crop, name) for crop in crops]) for name in FIELDS}
    path = folder / f"part-{number:04d}.npz"
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


class Pool:
    """Samples of a folder, in memory or on a device; OptionError where it holds none.

    is_flawed: True: only those with a noise level above 0; False: only the others
    """

    def __init__(self, folder: Path, is_flawed: bool | None = None) -> None:
        parts = [_read(path, is_flawed) for path in sorted(folder.glob("part-*.npz"))]
        if not any(len(part["level"]) for part in parts):
            kind = {None: "", True: "flawed ", False: "clean "}[is_flawed]
            raise OptionError(f"{folder} holds no {kind}samples: `venhancer-train pool` makes some")
        self.samples = {
            name: torch.from_numpy(np.concatenate([part[name] for part in parts]))
            for name in FIELDS
        }

    def __len__(self) -> int:
        return len(self.samples["scale"])

    def to(self, device: torch.device) -> Pool:
        """Copy the samples to a device, as bytes; batches are then made there."""
        moved = copy(self)
        moved.samples = {name: x.to(device) for name, x in self.samples.items()}
        return moved

    def batch(self, indices: NDArray[np.int64], rng: Generator | None) -> Batch:
        """Make a batch of samples; mirrored and transposed at random if `rng` is given."""
        device = self.samples["scale"].device
        chosen = to_device(torch.from_numpy(indices), device.type)
        taken = {name: x.index_select(0, chosen) for name, x in self.samples.items()}
        target, hint, aligned, trust = (taken[name].float() for name in FIELDS[:4])
        parts = (target / 127.5 - 1, hint / 127.5 - 1, aligned / 127.5 - 1, trust / 255)
        target, hint, aligned, trust = parts if rng is None else _turned(parts, rng)
        neighbours = compare(F.avg_pool2d(hint, 2), aligned, trust)
        return Batch(
            target=target[:, None],
            hint=hint[:, None],
            is_key=torch.ones(len(indices), 1, device=device),
            scale=taken["scale"].float(),
            noise_level=(taken["level"].long() - 1).clamp(min=0),
            captions=[""] * len(indices),
            names=[f"sample {index} of the pool" for index in indices],
            neighbours=neighbours[:, :, None],
            keys=(0,),
        )


def open_pool(folder: Path, model: ModelConfig, is_flawed: bool | None = None) -> Pool:
    """Open a pool for a model; OptionError where its samples have another number of neighbours."""
    pool = Pool(folder, is_flawed)
    found = pool.samples["aligned"].shape[1]
    if found != model.neighbours:
        raise OptionError(
            f"{folder} holds samples with {found} neighbours, the model sees {model.neighbours}: "
            "make another pool"
        )
    return pool


def _read(path: Path, is_flawed: bool | None) -> dict[str, NDArray[Any]]:
    with np.load(path) as part:
        level = part["level"]
        kept = np.full(len(level), True) if is_flawed is None else (level > 0) == is_flawed
        return {name: part[name][kept] for name in FIELDS}


def _turned(parts: Sequence[Tensor], rng: Generator) -> list[Tensor]:
    for axis in (-1, -2):
        if rng.random() < 0.5:
            parts = [part.flip(axis) for part in parts]
    if rng.random() < 0.5:
        parts = [part.transpose(-1, -2) for part in parts]
    return [part.contiguous() for part in parts]


class PoolBatches(IterableDataset[Batch]):
    """Endless micro-batches of a pool: every sample once, then all again in another order.

    The k-th batch of a rank depends on config.seed, origin, rank, world and k only.
    """

    def __init__(
        self,
        pool: Pool,
        config: TrainingConfig,
        *,
        rank: int = 0,
        world: int = 1,
        origin: int = 0,
        position: int = 0,
    ) -> None:
        self.pool, self.config = pool, config
        self.seed = (config.seed, origin, rank, world)
        self.position = position

    def __iter__(self) -> Iterator[Batch]:
        size = self.config.micro_batch
        a_round = max(1, len(self.pool) // size)
        number = self.position
        while True:
            shuffled = np.random.default_rng([*self.seed, 0, number // a_round])
            order = shuffled.permutation(len(self.pool))
            for place in range(number % a_round, a_round):
                rng = np.random.default_rng([*self.seed, 1, number])
                yield self.pool.batch(order[place * size : (place + 1) * size], rng)
                number += 1
