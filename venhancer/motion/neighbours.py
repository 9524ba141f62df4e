"""Neighbours of a key frame as a part of its hint: aligned by motion, compared, gated.

A key frame's neighbours hold detail that its own sampling lost. Each is enlarged, warped onto the
key frame, and compared with it at half the size of the output. A gate passes the difference where
the motion can be trusted, and where the difference is small compared with the picture's contrast.
Elsewhere it would mislead: neighbours without a gate make fast scenes worse.

This is computed on the host, once for every key frame, from key frames of the same scene only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from venhancer.motion import optical_flow as motion
from venhancer.motion.optical_flow import Field
from venhancer.planning.geometry import Geometry
from venhancer.spans import Span

GAIN = 4.0  # factor on the differences, which are small
BOX = 5  # latent positions a side; differences and contrast are averaged over this square
GATE = 1.5  # the gate is 1 up to a third of the contrast, and 0 from the whole contrast on
LEAST_CONTRAST = 0.01


def offsets(count: int) -> list[int]:
    """List the distances of `count` neighbours: as many before as after, in order of time."""
    return [d for d in range(-count // 2, count // 2 + 1) if d]


def compare(own: Tensor, aligned: Tensor, trust: Tensor) -> Tensor:
    """Compute channels of the hint: own b 3 2h 2w, aligned b n 3 2h 2w, trust b n h w -> b 13n h w.

    Pixels in [-1, 1], at half the size of the output. First the gated differences, each with the
    four pixels of a latent position as channels, then the gates.
    """
    count, colours = aligned.shape[1:3]
    difference = F.pixel_unshuffle((aligned - own[:, None]).flatten(1, 2), 2)
    pixels = difference.unflatten(1, (count, colours, 4))
    gate = _gate(own, pixels.mean(3).abs().mean(2), trust)
    gated = pixels * (GAIN * gate)[:, :, None, None]
    return torch.cat([gated.flatten(1, 3), gate], dim=1)


def _gate(own: Tensor, difference: Tensor, trust: Tensor) -> Tensor:
    """Compute the gate: 1 where a neighbour shows the same with other detail, else down to 0.

    difference: b n h w, one for each latent position -> b n h w
    """
    small = F.avg_pool2d(own, 2)
    contrast = _box((small - _box(small)).abs().mean(1, keepdim=True))
    return trust * (GATE - GATE * _box(difference) / (contrast + LEAST_CONTRAST)).clamp(0, 1)


def _box(x: Tensor) -> Tensor:
    """Average over the square around each position, inside the frame."""
    for size in ((1, BOX), (BOX, 1)):
        around = (size[0] // 2, size[1] // 2)
        x = F.avg_pool2d(x, size, 1, around, count_include_pad=False)
    return x


@dataclass(frozen=True, slots=True)
class Lattice:
    """Positions of a coarser grid over the padded output, in pixels of the input frame."""

    columns: NDArray[np.float32]
    rows: NDArray[np.float32]

    @classmethod
    def every(cls, step: int, geometry: Geometry, width: int, height: int) -> Lattice:
        """Make one position per square of `step` output pixels; width, height: of the input."""

        def along(padded: int, before: int, shown: int, size: int) -> NDArray[np.float32]:
            pixels = np.arange(padded // step) * step + (step - 1) / 2 - before
            return ((pixels + 0.5) * size / shown - 0.5).astype(np.float32)

        return cls(
            along(geometry.padded_width, geometry.left, geometry.width, width),
            along(geometry.padded_height, geometry.top, geometry.height, height),
        )

    def read(self, values: Field) -> Field:
        """Sample values of the input's pixels (H W, or H W and channels) at these positions."""
        shape = len(self.rows), len(self.columns)
        columns = np.broadcast_to(self.columns, shape)
        rows = np.broadcast_to(self.rows[:, None], shape)
        found = cv2.remap(
            values,
            np.ascontiguousarray(columns),
            np.ascontiguousarray(rows),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return np.asarray(found, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Key:
    """A key frame at its input size, and at half its output size."""

    frame: motion.Frame
    half: Field  # 2h 2w 3, in [-1, 1], padded

    @classmethod
    def of(cls, frame: motion.Frame, padded: Tensor) -> Key:
        """Make a key; padded: 1 3 H W, the input of the codec."""
        half = F.avg_pool2d(padded, 2)[0].permute(1, 2, 0)
        return cls(frame, np.ascontiguousarray(half.cpu().numpy()))


@dataclass(slots=True)
class Aligner:
    """Aligner of the key frames of a scene, added in order; computes each flow only once."""

    count: int
    geometry: Geometry
    keys: dict[int, Key] = field(default_factory=dict)
    flows: dict[tuple[int, int], Field] = field(default_factory=dict)

    def add(self, number: int, key: Key) -> None:
        """Add the scene's next key frame; drop those that no later hint needs."""
        self.keys[number] = key
        oldest = number - self.count
        self.keys = {n: k for n, k in self.keys.items() if n >= oldest}
        self.flows = {pair: flow for pair, flow in self.flows.items() if min(pair) >= oldest}

    def hint(self, number: int) -> Tensor:
        """Compute the channels of one key frame, after its neighbours were added: c h w."""
        moved, trust = (torch.from_numpy(x)[None] for x in self.look(number))
        half = torch.from_numpy(self.keys[number].half).permute(2, 0, 1)[None]
        return compare(half, moved.permute(0, 1, 4, 2, 3), trust)[0]

    def look(self, number: int) -> tuple[Field, Field]:
        """Warp the neighbours onto the key frame (n 2h 2w 3), with the trust in each (n h w)."""
        height, width = self.keys[number].frame.shape[:2]
        halves = Lattice.every(2, self.geometry, width, height)
        latents = Lattice.every(4, self.geometry, width, height)
        found = [self._aligned(number, offset, halves) for offset in offsets(self.count)]
        return (
            np.stack([moved for moved, _ in found]),
            np.stack([latents.read(trusted) for _, trusted in found]),
        )

    def _aligned(self, number: int, offset: int, halves: Lattice) -> tuple[Field, Field]:
        """Warp a neighbour onto the key frame (2h 2w 3), with the trust in the result (H W).

        A neighbour that the scene lacks is replaced by the key frame itself, with zero trust.
        """
        own = self.keys[number]
        if number + offset not in self.keys:
            return own.half, np.zeros(own.frame.shape[:2], np.float32)
        path, trusted = self._path(number, number + offset)
        height, width = own.frame.shape[:2]
        factor = (self.geometry.width / (2 * width), self.geometry.height / (2 * height))
        flow = halves.read(path) * np.array(factor, np.float32)
        return motion.warp(self.keys[number + offset].half, flow, is_cubic=True), trusted

    def _path(self, start: int, stop: int) -> tuple[Field, Field]:
        """Compose the motion over all key frames in between, and the trust in it."""
        way = 1 if stop > start else -1
        path, trusted = self._step(start, start + way)
        for number in range(start + way, stop, way):
            further, trusted_further = self._step(number, number + way)
            trusted = trusted * motion.warp(trusted_further, path)
            path = motion.compose(path, further)
        return path, trusted

    def _step(self, start: int, stop: int) -> tuple[Field, Field]:
        forward = self._flow(start, stop)
        return forward, motion.trust(forward, self._flow(stop, start))

    def _flow(self, start: int, stop: int) -> Field:
        if (start, stop) not in self.flows:
            first, second = (self.keys[n].frame for n in (start, stop))
            self.flows[start, stop] = motion.flow(first, second)
        return self.flows[start, stop]


def needed_from(scene: Span, first: int, count: int) -> int:
    """Find the earliest key frame that the hint of `first` sees."""
    return max(scene.start, first - count // 2)
