"""The Space-Time Controller: a trainable copy of the encoder that also sees the key frames.

VEnhancer paper, section 3.2: key frames enter as condition latents. Their degradation
(conditioning scale s and noise level) is added to the embedding of key frames only.
"""

from __future__ import annotations

from torch import Tensor, nn

from venhancer.config import ModelConfig
from venhancer.model.flat import Repair
from venhancer.model.layers import Embedding, zero_init
from venhancer.model.unet import Encoder, Middle, Texts, encoder_widths


class HintEncoder(nn.Module):
    """Embedding of the key frames' degradation, and first convolution over the hint.

    For a flat body, this is the whole controller.
    """

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        config = model.unet
        width, channels = config.embedding_width, config.latent_channels + model.neighbour_channels
        self.time_embedding = Embedding(config)
        self.noise_level_embedding = zero_init(nn.Linear(width, width))
        self.scale_embedding = Embedding(config, zero=True)
        self.hint_conv = zero_init(nn.Conv2d(channels, config.base_channels, 3, padding=1))
        self.repair = Repair(config, channels) if config.repair_blocks else None

    def condition(self, noise_level: Tensor, scale: Tensor) -> Tensor:
        """Compute the term added to key frames' embeddings: noise_level (b), scale (b) -> (b e)."""
        noise = self.noise_level_embedding(self.time_embedding(noise_level))
        return noise + self.scale_embedding(scale)


class Controller(HintEncoder):
    """Copy of the UNet's encoder that turns latents and hint into residuals for the UNet's skips.

    x: noisy latents of all frames; hint: features of the key frames
    Returns one tensor per encoder output, then the middle's.
    """

    def __init__(self, model: ModelConfig) -> None:
        super().__init__(model)
        config = model.unet
        self.encoder = Encoder(config)
        self.middle = Middle(config)
        self.zero_convs = nn.ModuleList(
            zero_init(nn.Conv2d(channels, channels, 1)) for channels in encoder_widths(config)
        )
        self.zero_conv_middle = zero_init(nn.Conv2d(config.widths[-1], config.widths[-1], 1))

    def forward(
        self, x: Tensor, embedding: Tensor, texts: Texts, frames: int, hint: Tensor
    ) -> list[Tensor]:
        outputs = self.encoder(x, embedding, texts, frames, hint)
        middle = self.middle(outputs[-1], embedding, texts, frames)
        return [*self._residuals(outputs), self.zero_conv_middle(middle)]

    def finest(
        self, x: Tensor, embedding: Tensor, texts: Texts, frames: int, hint: Tensor
    ) -> list[Tensor]:
        """Compute the finest level only, and return the residuals for its skips."""
        return self._residuals(self.encoder(x, embedding, texts, frames, hint, is_finest=True))

    def _residuals(self, outputs: list[Tensor]) -> list[Tensor]:
        return [conv(out) for conv, out in zip(self.zero_convs, outputs, strict=False)]
