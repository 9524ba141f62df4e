"""Ring of latents for the frames between noise and their last step; `Capacity` gives its size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from venhancer.planning.capacity import Capacity, Size
from venhancer.planning.window_order import WindowStep
from venhancer.spans import Span


class Latents:
    """Latents of frames, by their number in a scene; all memory is allocated once, here.

    neighbours: channels of its neighbours that a key frame has after its latents
    """

    def __init__(self, capacity: Capacity, size: Size, device: str, neighbours: int = 0) -> None:
        self.capacity = capacity
        self.size = size
        self.device = device
        # unscaled: noise counts as sigma / alpha
        self.x = torch.zeros(capacity.frames, *size, device=device)
        self.previous = torch.zeros_like(self.x)  # x_0 of the step before
        shown = size[0] + neighbours
        self.keys = torch.zeros(capacity.keys, shown, *size[1:], device=device)
        self.sums = torch.zeros(capacity.sums, *size, device=device)  # of x_0 times shares, so far

    def tensors(self) -> dict[str, Tensor]:
        """Return all that a run needs to go on, except the key frames."""
        return {"x": self.x, "previous": self.previous, "sums": self.sums}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` returned."""
        for name, own in self.tensors().items():
            own.copy_(tensors[name])

    def enter(self, frame: int, start: Tensor) -> None:
        """Set the latents that a frame starts from: c h w, diffused, noise at sigma / alpha."""
        self.x[frame % self.capacity.frames].copy_(start)

    def show(self, key: int, hint: Tensor) -> None:
        """Set what the controller sees of a key frame: its hint and its neighbours' channels."""
        self.keys[key % self.capacity.keys].copy_(hint)

    def get(self, span: Span) -> Tensor:
        """Copy the latents of a span: f c h w."""
        first, count = span.start % self.capacity.frames, len(span)
        end = self.x[first : first + count]
        return torch.cat([end, self.x[: count - len(end)]])

    def slots(self, span: Span) -> list[int]:
        return [frame % self.capacity.frames for frame in range(span.start, span.stop)]

    def key_slots(self, window: Span, key_stride: int) -> list[int]:
        first, last = window.start // key_stride, (window.stop - 1) // key_stride
        return [key % self.capacity.keys for key in range(first, last + 1)]

    def sums_before(self, window_step: WindowStep, windows: Sequence[Span]) -> list[int]:
        """List the slots of each frame's sum from the window before; without one, the zero slot."""
        window = windows[window_step.window]
        seen = windows[window_step.window - 1].stop if window_step.window else window.start
        zero = self.capacity.overlap + 1
        frames = range(window.start, window.stop)
        return [self._sum_slot(window_step.step, j, zero, j < seen) for j in frames]

    def sums_after(self, window_step: WindowStep, windows: Sequence[Span]) -> list[int]:
        """List the slots where frames' sums wait for the next window; final frames need none."""
        window, waste = windows[window_step.window], self.capacity.overlap
        frames = range(window.start, window.stop)
        return [
            self._sum_slot(window_step.step, j, waste, j >= window.start + window_step.final)
            for j in frames
        ]

    def _sum_slot(self, step: int, frame: int, otherwise: int, is_shared: bool) -> int:
        place = frame % self.capacity.overlap if is_shared else otherwise
        return step * (self.capacity.overlap + 2) + place
