"""Coarse features that windows keep between steps (`--reuse`): DeepCache, Ma et al. 2023.

The coarse levels of the UNet change little from step to step. One that computes all of them keeps
what the finest level was given; the steps after it compute that level alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from venhancer.config import UNetConfig
from venhancer.planning.plan import Sampling

NOBODY = -1


class CoarseFeatures:
    """A place for each tile of every window that is on its way; where stands in a tensor, so that a
    CUDA graph can hold what is done with it.
    """

    def __init__(
        self, config: UNetConfig, sampling: Sampling, windows: int, dtype: torch.dtype, device: str
    ) -> None:
        self.windows = windows  # on their way at a time
        self.tiles = len(sampling.rows) * len(sampling.columns)
        shape = sampling.coarse_shape(config, windows)
        self.kept = torch.zeros(shape, dtype=dtype, device=device)
        self.owners = torch.full(shape[:1], NOBODY)  # windows, by their number
        self.place = torch.zeros(1, dtype=torch.int64, device=device)
        self.slot = 0  # the same, for the host
        self.is_kept = False  # whether an earlier step has kept this tile's

    def aim(self, window: int, tile: int) -> None:
        """The tile that everything else means."""
        self.slot = window % self.windows * self.tiles + tile
        self.place.fill_(self.slot)
        self.is_kept = int(self.owners[self.slot]) == window

    def own(self, window: int) -> None:
        """From now on this window's features stand there."""
        self.owners[self.slot] = window

    def forget(self) -> None:
        """Another scene begins, whose windows have the same numbers."""
        self.owners.fill_(NOBODY)

    def put(self, coarse: Tensor) -> None:
        """(b f) c h w, of all its branches or of the first."""
        kept = self.kept[:, : len(coarse)]
        kept.index_copy_(0, self.place, coarse.permute(0, 2, 3, 1)[None])

    def get(self, count: int) -> Tensor:
        """The first `count` of what was put: (b f) c h w, channels last."""
        return self.kept[:, :count].index_select(0, self.place)[0].permute(0, 3, 1, 2)

    def tensors(self) -> dict[str, Tensor]:
        """What a state has to hold."""
        return {"coarse": self.kept, "coarse_owners": self.owners}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `tensors` gave; features of other tiles are computed anew."""
        if tensors["coarse"].shape == self.kept.shape:
            for name, own in self.tensors().items():
                own.copy_(tensors[name])
