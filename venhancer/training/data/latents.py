"""Clips encoded beforehand: latents of the truth and of degraded versions, text embeddings.

KEY.latents.safetensors holds, float16 and for every frame of the clip:

    target    f c h w             the clip's centre, config.crop in size, encoded
    hints     n f c h w           the same, degraded before it was encoded
    scales    n                   by how much, float32

and in its header `crop` in pixels, such as 96x96. KEY.text.safetensors holds `text`, l d, float16,
for the caption, and `empty` for an empty caption, which is used where text is dropped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from venhancer.errors import OptionError
from venhancer.training.config import TrainingConfig
from venhancer.training.data.augmentation import Generator
from venhancer.training.data.media import Extent, UnusableError

TYPES = {"F16": np.float16, "F32": np.float32}
LENGTH_BYTES = 8  # at the start of a safetensors file: the length of its header


def pack_latents(
    target: Tensor, hints: Tensor, scales: Sequence[float], crop: tuple[int, int]
) -> bytes:
    """Pack latents; target: f c h w; hints: n f c h w; crop: width, height in pixels."""
    tensors = {
        "target": target.half().contiguous(),
        "hints": hints.half().contiguous(),
        "scales": torch.tensor(scales, dtype=torch.float32),
    }
    return save(tensors, metadata={"crop": _shown(crop)})


def pack_text(text: Tensor, empty: Tensor) -> bytes:
    """Pack embeddings of the caption and of an empty one, both l d."""
    return save({"text": text.half().contiguous(), "empty": empty.half().contiguous()})


def read_latents(
    media: Extent, config: TrainingConfig, rng: Generator
) -> tuple[Tensor, Tensor, float]:
    """Read config.longest frames from a random place (f c h w), a hint of them, and its scale.

    Only their bytes are read. UnusableError: damaged or too short; OptionError: another crop.
    """
    try:
        return _read_run(_TensorFile(media), config, rng)
    except (ValueError, KeyError, OSError) as error:
        raise UnusableError(f"cannot be read: {error}") from error


def _read_run(
    file: _TensorFile, config: TrainingConfig, rng: Generator
) -> tuple[Tensor, Tensor, float]:
    frames, hints = file.shape("target")[0], file.shape("hints")[0]
    crop = file.metadata.get("crop")
    if crop != _shown(config.crop):
        raise OptionError(
            f"{file.media.path} holds latents of {crop} pixels, and training takes "
            f"{_shown(config.crop)}: prepare them anew"
        )
    if frames < config.longest:
        raise UnusableError(f"too short: {frames} frames where a clip takes {config.longest}")
    start, chosen = int(rng.integers(frames - config.longest + 1)), int(rng.integers(hints))
    target = file.read("target", start, config.longest)
    hint = file.read("hints", chosen * frames + start, config.longest, outer=2)
    return target, hint, float(file.read("scales")[chosen])


def read_text(media: Extent) -> Tensor:
    """Read embeddings of the caption and of an empty one, 2 l d. UnusableError: damaged."""
    try:
        tensors = load(media.read())
        return torch.stack([tensors["text"], tensors["empty"]])
    except (SafetensorError, KeyError, OSError) as error:
        raise UnusableError(f"its text cannot be read: {error}") from error


def _shown(size: tuple[int, int]) -> str:
    return "{}x{}".format(*size)


class _TensorFile:
    """A safetensors file inside a shard, whose rows are read without extracting the file."""

    def __init__(self, media: Extent) -> None:
        self.media = media
        length = int.from_bytes(media.read(0, LENGTH_BYTES), "little")
        self.begin = LENGTH_BYTES + length
        self.entries: dict[str, Any] = json.loads(media.read(LENGTH_BYTES, length))
        self.metadata: dict[str, str] = self.entries.get("__metadata__", {})

    def shape(self, name: str) -> list[int]:
        return self.entries[name]["shape"]

    def read(self, name: str, start: int = 0, count: int | None = None, outer: int = 1) -> Tensor:
        """Read rows [start:start + count] of a tensor; its first `outer` axes count as one."""
        entry = self.entries[name]
        kind = np.dtype(TYPES[entry["dtype"]])
        row = entry["shape"][outer:]
        size = math.prod(row) * kind.itemsize
        rows = math.prod(entry["shape"][:outer]) if count is None else count
        place = self.begin + entry["data_offsets"][0] + start * size
        values = np.frombuffer(bytearray(self.media.read(place, rows * size)), kind)
        return torch.from_numpy(values.reshape(rows, *row))
