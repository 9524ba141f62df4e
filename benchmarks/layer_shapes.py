"""What the layers of a model see, at every level, and layers at random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from benchmarks.ceiling import branches
from benchmarks.random_models import random_state
from venhancer.config import Preset, UNetConfig
from venhancer.model.denoiser import UNetDenoiser, make_denoiser
from venhancer.weights.checkpoint import assign

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A model, the window that it is shown, and where it computes."""

    preset: Preset
    latent: tuple[int, int]  # rows and columns
    frames: int
    codec: tuple[int, int]  # rows and columns of pixels that the autoencoder is shown
    device: str
    dtype: torch.dtype

    @property
    def unet(self) -> UNetConfig:
        return self.preset.model.unet

    @property
    def branches(self) -> int:
        return branches(self.preset.model)

    @property
    def images(self) -> int:
        """Frames of all branches."""
        return self.branches * self.frames

    def size(self, level: int) -> tuple[int, int]:
        """Rows and columns, after as many `Downsample`s."""
        rows, columns = self.latent
        for _ in range(level):
            rows = (rows - 1) // 2 + 1 + self.unet.extra_rows
            columns = (columns - 1) // 2 + 1
        return rows, columns

    def tokens(self, level: int) -> int:
        """Of one frame."""
        rows, columns = self.size(level)
        return rows * columns

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.device).to(self.dtype)

    def pixels(self, level: int) -> Tensor:
        """(b f) c h w, channels last."""
        x = self.random(self.images, self.unet.widths[level], *self.size(level))
        return x.contiguous(memory_format=torch.channels_last)

    def build(self, make: Callable[[], Module]) -> Module:
        """A layer; no weight is zero, and filters are channels last."""
        with torch.device(self.device):
            state = random_state(make, self.dtype)
        with torch.device("meta"):
            made = make()
        made.load_state_dict(state, assign=True)
        made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return made.eval().requires_grad_(False)

    def denoiser(self) -> UNetDenoiser:
        """The whole network, as the product loads it; candidates are parts of a UNet."""
        model = self.preset.model
        with torch.device(self.device):
            state = random_state(lambda: make_denoiser(model), self.dtype)
        made = assign(model, state, dtype=self.dtype, device=self.device)
        assert isinstance(made, UNetDenoiser)
        return made.eval().requires_grad_(False)
