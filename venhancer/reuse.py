"""Coarse features that windows keep between steps (`--reuse`): DeepCache, Ma et al. 2023.

The coarse levels of the UNet change little from step to step. One that computes all of them keeps
what the finest level was given; the steps after it compute that level alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from venhancer.config import UNetConfig
from venhancer.plan import Sampling

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

    def aim(self, window: int, tile: int) -> None:
        """The tile that `put` and `get` mean."""
        self.place.fill_(self._place_of(window, tile))

    def holds(self, window: int, tile: int) -> bool:
        """Whether an earlier step has kept this tile's."""
        return int(self.owners[self._place_of(window, tile)]) == window

    def own(self, window: int, tile: int) -> None:
        """From now on this tile's features stand in its place."""
        self.owners[self._place_of(window, tile)] = window

    def forget(self) -> None:
        """Another scene begins, whose windows have the same numbers."""
        self.owners.fill_(NOBODY)

    def put(self, coarse: Tensor) -> None:
        """(b f) c h w, of all its branches or of the first."""
        kept = self.kept[:, : len(coarse)]
        kept.index_copy_(0, self.place, coarse.to(kept.device).permute(0, 2, 3, 1)[None])

    def get(self, count: int, device: torch.device) -> Tensor:
        """The first `count` of what was put: (b f) c h w, channels last."""
        kept = self.kept[:, :count].index_select(0, self.place)[0]
        return kept.permute(0, 3, 1, 2).to(device)

    def tensors(self) -> dict[str, Tensor]:
        """What a state has to hold."""
        return {"coarse": self.kept, "coarse_owners": self.owners}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `tensors` gave; features of other tiles are computed anew."""
        if tensors["coarse"].shape == self.kept.shape:
            for name, own in self.tensors().items():
                own.copy_(tensors[name])

    def _place_of(self, window: int, tile: int) -> int:
        return window % self.windows * self.tiles + tile
