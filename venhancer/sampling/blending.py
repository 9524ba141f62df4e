"""Work between the latents and the network: cut a tile, blend its x_0, take the solver's step.

All positions are read from tensors at fixed addresses, so that a CUDA graph can hold the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from venhancer.device import to_device
from venhancer.diffusion.solver import advance, solver_table
from venhancer.planning.plan import Sampling
from venhancer.planning.window_order import WindowStep
from venhancer.sampling.latents import Latents
from venhancer.spans import Span, join_shares

STAY = (1.0, 0.0, 0.0, 0.0)  # the solver's weights for a frame that takes no step


@dataclass(frozen=True, slots=True)
class Tile:
    """Rows and columns of a tile in a frame, and the share of each of them."""

    rows: Span
    columns: Span
    row_shares: Sequence[float]
    column_shares: Sequence[float]

    def positions(self, width: int) -> Tensor:
        """Compute the flat index of each position in a frame of `width` columns: (h w)."""
        rows = torch.arange(self.rows.start, self.rows.stop)[:, None]
        return (rows * width + torch.arange(self.columns.start, self.columns.stop)).flatten()


class TileTensors(NamedTuple):
    """Tensors of a tile, on the device of the latents."""

    row_shares: Tensor  # (h), float32
    column_shares: Tensor  # (w), float32
    positions: Tensor  # (h w), int64


def tile_tensors(tile: Tile, latents: Latents) -> TileTensors:
    """Make the tensors of one tile."""
    return TileTensors(
        torch.tensor(tile.row_shares, device=latents.device),
        torch.tensor(tile.column_shares, device=latents.device),
        tile.positions(latents.size[2]).to(latents.device),
    )


def cut_tiles(sampling: Sampling) -> list[Tile]:
    """Cut a frame into tiles of one size; their shares sum to one at every position."""
    rows, columns = (join_shares(list(s), sampling.join) for s in (sampling.rows, sampling.columns))
    return [
        Tile(row, column, h, w)
        for row, h in zip(sampling.rows, rows, strict=True)
        for column, w in zip(sampling.columns, columns, strict=True)
    ]


class Blending:
    """Blending of windows of one length, one window at a time.

    is_static: run the same operations for every window, as a captured graph needs
    """

    def __init__(self, latents: Latents, sampling: Sampling, length: int, is_static: bool) -> None:
        self.latents = latents
        self.key_stride = sampling.key_stride
        self.is_static = is_static
        self.is_tiled = len(sampling.rows) * len(sampling.columns) > 1
        table = solver_table(sampling.schedule.sigmas, sampling.eta).float()
        keys = (length - 1) // sampling.key_stride + 1
        self.window = Numbers(
            latents.device,
            torch.int64,
            slots=length,
            key_slots=keys,
            sums_before=length,
            sums_after=length,
            final=1,
        )
        self.frame_shares = Numbers(latents.device, torch.float32, shares=length)
        self.tiles: dict[tuple[Span, Span], TileTensors] = {}
        self.tile = tile_tensors(cut_tiles(sampling)[0], latents)
        self.order = torch.arange(length, device=latents.device)[:, None]
        self.step = torch.zeros(1, dtype=torch.int64, device=latents.device)
        self.final = 0
        self.table = table.to(latents.device)
        self.stay = torch.tensor([STAY], device=latents.device)
        self.denoised = torch.zeros(length, *latents.size, device=latents.device)
        self.noise = torch.zeros_like(self.denoised) if bool(table[:, 3].any()) else None

    def select_window(
        self, window_step: WindowStep, windows: Sequence[Span], shares: Sequence[float]
    ) -> None:
        """Select the next window; shares: the weight of each of its frames."""
        window = windows[window_step.window]
        self.final = window_step.final
        self.window.set(
            slots=self.latents.slots(window),
            key_slots=self.latents.key_slots(window, self.key_stride),
            sums_before=self.latents.sums_before(window_step, windows),
            sums_after=self.latents.sums_after(window_step, windows),
            final=[window_step.final],
        )
        self.frame_shares.set(shares=shares)
        self.step.fill_(window_step.step)

    def select_tile(self, tile: Tile) -> None:
        """Select the next tile of the window."""
        if not self.is_tiled:
            return
        where = tile.rows, tile.columns
        if where not in self.tiles:
            self.tiles[where] = tile_tensors(tile, self.latents)
        for own, new in zip(self.tile, self.tiles[where], strict=True):
            own.copy_(new)

    def add_noise(self, noise: Sequence[Tensor]) -> None:
        """Set the fresh noise (c h w) of each frame that takes its step, if the solver adds any."""
        assert self.noise is not None
        for own, frame in zip(self.noise, noise, strict=False):
            own.copy_(frame)

    def begin(self) -> None:
        """Start from the sums that the window before left in the overlap."""
        self.denoised.copy_(self.latents.sums.index_select(0, self.window["sums_before"]))

    def gather(self, out: Tensor) -> None:
        """Copy x of the tile to `out`: 1 c f h w."""
        out[0].copy_(
            self._cut(self.latents.x.index_select(0, self.window["slots"]), out).transpose(0, 1)
        )

    def gather_hint(self, out: Tensor) -> None:
        """Copy the controller's input at key frames to `out`, zero between them: 1 c f h w."""
        keys = self._cut(self.latents.keys.index_select(0, self.window["key_slots"]), out)
        out.zero_()
        out[0, :, :: self.key_stride].copy_(keys.transpose(0, 1))

    def _cut(self, frames: Tensor, like: Tensor) -> Tensor:
        """Cut the tile out of whole frames: f c H W -> f c h w."""
        if not self.is_tiled:
            return frames
        cut = frames.flatten(2).index_select(2, self.tile.positions)
        return cut.unflatten(2, like.shape[-2:])

    def blend(self, x0: Tensor) -> None:
        """Add the network's output, 1 c f h w, times the shares of frames, rows and columns."""
        share = self.frame_shares["shares"][:, None, None, None] * self.tile.row_shares[:, None]
        counted = x0[0].transpose(0, 1).to(self.latents.device) * (share * self.tile.column_shares)
        if self.is_tiled:
            self.denoised.flatten(2).index_add_(2, self.tile.positions, counted.flatten(2))
        else:
            self.denoised.add_(counted)

    def finish(self) -> None:
        """Take the solver's step on final frames; keep the others' sums for the next window."""
        everything = slice(None)
        done = everything if self.is_static else slice(0, self.final)
        left = everything if self.is_static else slice(self.final, None)
        slots, latents = self.window["slots"][done], self.latents
        is_final = (self.order < self.window["final"])[done]
        row = torch.where(is_final, self.table.index_select(0, self.step), self.stay)
        x = latents.x.index_select(0, slots)
        previous = latents.previous.index_select(0, slots)
        noise = None if self.noise is None else self.noise[done]
        advance(x, self.denoised[done], previous, noise, row)
        seen = torch.where(is_final[..., None, None], self.denoised[done], previous)
        # All is computed before any is written: running out of memory leaves the latents unchanged
        latents.x.index_copy_(0, slots, x)
        latents.previous.index_copy_(0, slots, seen)
        latents.sums.index_copy_(0, self.window["sums_after"][left], self.denoised[left])


class Numbers:
    """Small tensors at fixed addresses that are set together, by one copy from the host."""

    def __init__(self, device: str, dtype: torch.dtype, **lengths: int) -> None:
        self.all = torch.zeros(sum(lengths.values()), dtype=dtype, device=device)
        self.parts = dict(zip(lengths, self.all.split(list(lengths.values())), strict=True))

    def __getitem__(self, name: str) -> Tensor:
        return self.parts[name]

    def set(self, **values: Sequence[float]) -> None:
        """Set the values of all parts, by name; each part's length is fixed."""
        given = [value for name in self.parts for value in values[name]]
        numbers = torch.tensor(given, dtype=self.all.dtype)
        self.all.copy_(to_device(numbers, self.all.device.type))
