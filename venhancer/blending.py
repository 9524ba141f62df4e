"""Between the ring of latents and the network: cut a tile, blend its x_0, take the solver's step.

Everything reads where to work from tensors of fixed addresses, so that a CUDA graph can hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from venhancer.diffusion.solver import advance, solver_table
from venhancer.latents import Latents
from venhancer.plan import Sampling
from venhancer.wavefront import Turn
from venhancer.windows import Span, weights

STAY = (1.0, 0.0, 0.0, 0.0)  # the solver's row of a frame that takes no step


@dataclass(frozen=True, slots=True)
class Tile:
    """Rows and columns of a frame, and how much each of them counts there."""

    rows: Span
    columns: Span
    row_shares: Sequence[float]
    column_shares: Sequence[float]

    def positions(self, width: int) -> Tensor:
        """Where each of its positions lies in a frame of `width` columns: (h w)."""
        rows = torch.arange(self.rows.start, self.rows.stop)[:, None]
        return (rows * width + torch.arange(self.columns.start, self.columns.stop)).flatten()


def cut_tiles(sampling: Sampling) -> list[Tile]:
    """All tiles of a frame, of one size; their shares sum to one at every position."""
    rows, columns = (weights(list(s), sampling.join) for s in (sampling.rows, sampling.columns))
    return [
        Tile(row, column, h, w)
        for row, h in zip(sampling.rows, rows, strict=True)
        for column, w in zip(sampling.columns, columns, strict=True)
    ]


class Blending:
    """One window at a time, of one length.

    is_static: the same operations for every window, as a captured graph needs them
    """

    def __init__(self, latents: Latents, sampling: Sampling, length: int, is_static: bool) -> None:
        self.latents = latents
        self.gap = sampling.gap
        self.is_static = is_static
        self.is_tiled = len(sampling.rows) * len(sampling.columns) > 1
        table = solver_table(sampling.schedule.sigmas, sampling.eta).float()
        keys = (length - 1) // sampling.gap + 1
        self._allocate(length, keys, len(sampling.rows[0]), len(sampling.columns[0]))
        self.table = table.to(latents.device)
        self.stay = torch.tensor([STAY], device=latents.device)
        self.denoised = torch.zeros(length, *latents.size, device=latents.device)
        self.noise = torch.zeros_like(self.denoised) if bool(table[:, 3].any()) else None

    def _allocate(self, frames: int, keys: int, rows: int, columns: int) -> None:
        """What is to be worked on: numbers of frames, places, shares."""
        device = self.latents.device
        self.slots = torch.zeros(frames, dtype=torch.int64, device=device)
        self.key_slots = torch.zeros(keys, dtype=torch.int64, device=device)
        self.sums_before = torch.zeros_like(self.slots)
        self.sums_after = torch.zeros_like(self.slots)
        self.step = torch.zeros(1, dtype=torch.int64, device=device)
        self.is_final = torch.zeros(frames, 1, dtype=torch.bool, device=device)
        self.final = 0
        self.frame_shares = torch.zeros(frames, device=device)
        self.row_shares = torch.zeros(rows, device=device)
        self.column_shares = torch.zeros(columns, device=device)
        self.positions = torch.zeros(rows * columns, dtype=torch.int64, device=device)

    def aim_window(self, turn: Turn, windows: Sequence[Span], shares: Sequence[float]) -> None:
        """The next window; shares: how much each of its frames counts there."""
        window = windows[turn.window]
        self.final = turn.final
        _set(self.slots, self.latents.slots(window))
        _set(self.key_slots, self.latents.key_slots(window, self.gap))
        _set(self.sums_before, self.latents.sums_before(turn, windows))
        _set(self.sums_after, self.latents.sums_after(turn, windows))
        _set(self.is_final, [[k < turn.final] for k in range(len(window))])
        _set(self.frame_shares, shares)
        self.step.fill_(turn.step)

    def aim_tile(self, tile: Tile) -> None:
        """The next tile of that window."""
        _set(self.row_shares, tile.row_shares)
        _set(self.column_shares, tile.column_shares)
        self.positions.copy_(tile.positions(self.latents.size[2]))

    def add_noise(self, noise: Sequence[Tensor]) -> None:
        """Fresh noise (c h w) of each frame that takes its step, if this step has any."""
        assert self.noise is not None
        for own, frame in zip(self.noise, noise, strict=False):
            own.copy_(frame)

    def begin(self) -> None:
        """Go on with what the window before left in the overlap."""
        self.denoised.copy_(self.latents.sums.index_select(0, self.sums_before))

    def gather(self, out: Tensor) -> None:
        """x of the tile -> 1 c f h w."""
        out[0].copy_(self._cut(self.latents.x.index_select(0, self.slots), out).transpose(0, 1))

    def gather_hint(self, out: Tensor) -> None:
        """What is shown of its key frames, zero between them -> 1 c f h w."""
        keys = self._cut(self.latents.keys.index_select(0, self.key_slots), out)
        out.zero_()
        out[0, :, :: self.gap].copy_(keys.transpose(0, 1))

    def _cut(self, frames: Tensor, like: Tensor) -> Tensor:
        """f c H W -> the tile: f c h w."""
        if not self.is_tiled:
            return frames
        cut = frames.flatten(2).index_select(2, self.positions)
        return cut.unflatten(2, like.shape[-2:])

    def blend(self, x0: Tensor) -> None:
        """The network's answer, 1 c f h w, counted as its frames, rows and columns are."""
        share = self.frame_shares[:, None, None, None] * self.row_shares[:, None]
        counted = x0[0].transpose(0, 1).to(self.latents.device) * (share * self.column_shares)
        if self.is_tiled:
            self.denoised.flatten(2).index_add_(2, self.positions, counted.flatten(2))
        else:
            self.denoised.add_(counted)

    def finish(self) -> None:
        """Final frames take the solver's step; the others wait for the next window."""
        everything = slice(None)
        done = everything if self.is_static else slice(0, self.final)
        left = everything if self.is_static else slice(self.final, None)
        slots, latents = self.slots[done], self.latents
        row = torch.where(self.is_final[done], self.table.index_select(0, self.step), self.stay)
        x = latents.x.index_select(0, slots)
        previous = latents.previous.index_select(0, slots)
        noise = None if self.noise is None else self.noise[done]
        advance(x, self.denoised[done], previous, noise, row)
        seen = torch.where(self.is_final[done][..., None, None], self.denoised[done], previous)
        # Nothing is written before all is there: whoever runs out of memory has changed nothing
        latents.x.index_copy_(0, slots, x)
        latents.previous.index_copy_(0, slots, seen)
        latents.sums.index_copy_(0, self.sums_after[left], self.denoised[left])


def _set(buffer: Tensor, values: Sequence[object]) -> None:
    buffer.copy_(torch.tensor(values, dtype=buffer.dtype))
