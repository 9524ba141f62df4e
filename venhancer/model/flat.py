"""A body of one level: residual blocks at the size of the latents, without normalisation.

Each frame is processed by itself. Temporal layers are not needed: key frames are aligned before
the network sees them, and new frames are made by motion after it. A second stack of such blocks
runs before the body and repairs its input, only for key frames with a noise level above 0.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from venhancer.config import UNetConfig
from venhancer.model.layers import zero_init


class FlatBlock(nn.Module):
    """Residual block: two convolutions, with the embedding added as a bias between them.

    x: (b f) c h w, embedding: (b f) e -> (b f) c h w
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        channels = config.base_channels
        self.conv_in = nn.Conv2d(channels, channels, 3, padding=1)
        self.embed = zero_init(nn.Linear(config.embedding_width, channels))
        self.conv_out = zero_init(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        out = self.conv_in(x) + self.embed(F.silu(embedding))[:, :, None, None]
        return x + self.conv_out(F.relu(out))


class Repair(nn.Module):
    """Network that cleans the body's input for noisy key frames: hint and neighbours.

    shown: (b f) c h w, embedding: (b f) e -> correction to add to `shown`, (b f) c h w
    """

    def __init__(self, config: UNetConfig, channels: int) -> None:
        super().__init__()
        self.input = nn.Conv2d(channels, config.base_channels, 3, padding=1)
        self.blocks = nn.ModuleList(FlatBlock(config) for _ in range(config.repair_blocks))
        self.head = nn.Conv2d(config.base_channels, channels, 3, padding=1)
        zero_init(self.head)

    def forward(self, shown: Tensor, embedding: Tensor) -> Tensor:
        first = x = self.input(shown)
        for block in self.blocks:
            x = block(x, embedding)
        return self.head(x + first)


class FlatBody(nn.Module):
    """Prior and controller in one: noisy latents and hint features are summed before the blocks.

    x: (b f) latents h w, embedding: (b f) e, hint: (b f) c h w -> (b f) latents h w
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.input = nn.Conv2d(config.latent_channels, config.base_channels, 3, padding=1)
        self.blocks = nn.ModuleList(FlatBlock(config) for _ in range(config.blocks_per_level))
        self.head = nn.Conv2d(config.base_channels, config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor, embedding: Tensor, hint: Tensor) -> Tensor:
        first = x = self.input(x) + hint
        for block in self.blocks:
            x = block(x, embedding)
        return self.head(x + first)
