"""Coarse features that windows keep between steps (`--reuse`): DeepCache, Ma et al. 2023.

The coarse levels of the UNet change little from step to step. A step that computes all levels keeps
the coarse input of the finest level; the steps after it compute the finest level alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from venhancer.config import UNetConfig
from venhancer.planning.plan import Sampling

NOBODY = -1


class CoarseFeatures:
    """Slots for features: one for each tile of every window between its first step and its last.

    The index of the slot in use is a tensor, so that a CUDA graph can read it.
    """

    def __init__(
        self, config: UNetConfig, sampling: Sampling, windows: int, dtype: torch.dtype, device: str
    ) -> None:
        self.windows = windows  # held at a time
        self.tiles = len(sampling.rows) * len(sampling.columns)
        shape = sampling.coarse_shape(config, windows)
        self.kept = torch.zeros(shape, dtype=dtype, device=device)
        self.owners = torch.full(shape[:1], NOBODY)  # number of the window in each slot
        self.place = torch.zeros(1, dtype=torch.int64, device=device)
        self.slot = 0  # the same index, on the host
        self.is_kept = False  # True if an earlier step has kept this tile's features

    def select(self, window: int, tile: int) -> None:
        """Select the tile that the other functions work on."""
        self.slot = window % self.windows * self.tiles + tile
        self.place.fill_(self.slot)
        self.is_kept = int(self.owners[self.slot]) == window

    def claim(self, window: int) -> None:
        """Mark the selected slot as holding this window's features."""
        self.owners[self.slot] = window

    def forget(self) -> None:
        """Mark all slots as empty: another scene begins, whose windows have the same numbers."""
        self.owners.fill_(NOBODY)

    def put(self, coarse: Tensor) -> None:
        """Keep features (b f) c h w of all branches, or of the first."""
        kept = self.kept[:, : len(coarse)]
        kept.index_copy_(0, self.place, coarse.permute(0, 2, 3, 1)[None])

    def get(self, count: int) -> Tensor:
        """Read the first `count` features of the slot: (b f) c h w, channels last."""
        return self.kept[:, :count].index_select(0, self.place)[0].permute(0, 3, 1, 2)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a state has to hold."""
        return {"coarse": self.kept, "coarse_owners": self.owners}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` returned; features of other tile sizes are computed anew."""
        if tensors["coarse"].shape == self.kept.shape:
            for name, own in self.tensors().items():
                own.copy_(tensors[name])
