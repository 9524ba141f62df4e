"""Transformers over space (with text) and over time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from venhancer.config import UNetConfig
from venhancer.model.kernels.back_ends import prefer
from venhancer.model.kernels.forms import PLAIN, Fusable
from venhancer.model.layers import GroupNorm, clip_view, repeat_branches

KeysValues = tuple[Tensor, Tensor]  # each (b, l, heads * head_channels)


class Attention(Fusable):
    """Multi-head attention; keys and values may be precomputed.

    When fused, self-attention computes query, key and value in one matrix product.
    x: b l c; or 1 l c, repeated for a context of b -> b l c
    """

    joined: Tensor | None  # one weight; query, key and value hold views of it

    def __init__(self, channels: int, context_channels: int, head_channels: int) -> None:
        super().__init__()
        self.head_channels = head_channels
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(context_channels, channels, bias=False)
        self.value = nn.Linear(context_channels, channels, bias=False)
        self.out = nn.Linear(channels, channels)
        self.register_buffer("joined", None, persistent=False)

    def fuse(self, is_fused: bool) -> None:
        super().fuse(is_fused)
        layers = (self.query, self.key, self.value)
        if not is_fused or self.key.in_features != self.query.in_features:
            self.joined = None
            return
        self.joined = torch.cat([layer.weight.detach() for layer in layers])
        for layer, part in zip(layers, self.joined.chunk(3), strict=True):
            layer.weight.data = part

    def keys_values(self, context: Tensor) -> KeysValues:
        return self.key(context), self.value(context)

    def forward(self, x: Tensor, context: KeysValues | None = None) -> Tensor:
        query, key, value = self._project(x, context)
        with prefer(self.back_ends, query, key):
            attended = self.forms.attend(query, key, value, self.head_channels)
        return self.out(attended)

    def _project(self, x: Tensor, context: KeysValues | None) -> tuple[Tensor, Tensor, Tensor]:
        if context is None and self.joined is not None and self.forms is not PLAIN:
            query, key, value = F.linear(x, self.joined).chunk(3, dim=-1)
            return query, key, value
        key, value = self.keys_values(x) if context is None else context
        return repeat_branches(self.query(x), len(key)), key, value


class FeedForward(Fusable):
    """GEGLU feed-forward: a * gelu(g), with four times the channels inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.widen = nn.Linear(channels, 8 * channels)
        self.narrow = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(self.forms.geglu(self.widen(x)))


class TransformerBlock(Fusable):
    """Self-attention, a second attention (to text, or to itself again), feed-forward."""

    def __init__(self, channels: int, context_channels: int, head_channels: int) -> None:
        super().__init__()
        self.norm_first = nn.LayerNorm(channels)
        self.first = Attention(channels, channels, head_channels)
        self.norm_second = nn.LayerNorm(channels)
        self.second = Attention(channels, context_channels, head_channels)
        self.norm_feed = nn.LayerNorm(channels)
        self.feed = FeedForward(channels)

    def transform(self, x: Tensor, text: KeysValues | None = None, frames: int = 1) -> Tensor:
        """Run the block: (b f) l c -> b (f l) c; the frames of a clip share the text, if any.

        One clip (f l c) with b texts gives b clips.
        """
        add_norm = self.forms.add_norm
        x, normal = add_norm(x, self.first(self.norm_first(x)), self.norm_second, frames)
        x = x if text is None else repeat_branches(x, len(text[0]))
        x, normal = add_norm(x, self.second(normal, text), self.norm_feed, 1)
        return x + self.feed(normal)


class SpatialTransformer(Fusable):
    """Self-attention within each frame, then cross-attention to the text.

    x: (b f) c h w, or f c h w shared by all b -> (b f) c h w
    text: keys and values of (b, l) tokens, shared by the frames
    """

    def __init__(self, channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.norm = GroupNorm(config.norm_groups, channels, eps=1e-6)
        self.project_in = nn.Linear(channels, channels)
        self.block = TransformerBlock(channels, config.text_width, config.head_channels)
        self.project_out = nn.Linear(channels, channels)

    def text_keys_values(self, text: Tensor) -> KeysValues:
        return self.block.second.keys_values(text)

    def forward(self, x: Tensor, text: KeysValues, frames: int) -> Tensor:
        h, w = x.shape[-2:]
        tokens = self.block.transform(self._tokens(x), text, frames)
        out = rearrange(self.project_out(tokens), "b (f h w) c -> (b f) c h w", h=h, w=w)
        return repeat_branches(x, len(out)) + out

    def _tokens(self, x: Tensor) -> Tensor:
        tokens = rearrange(self.forms.norm(self.norm, x), "b c h w -> b (h w) c")
        return self.project_in(tokens)


class TemporalTransformer(Fusable):
    """Self-attention of each latent pixel over the frames, twice; no positional encoding.

    Tokens are copied to contiguous memory first. The tokens of a single clip would otherwise be a
    strided view, which PyTorch multiplies pixel by pixel.
    x: (b f) c h w -> (b f) c h w
    """

    def __init__(self, channels: int, config: UNetConfig, heads: int | None = None) -> None:
        super().__init__()
        inner = channels if heads is None else heads * config.head_channels
        self.norm = GroupNorm(config.norm_groups, channels, eps=1e-6)
        self.project_in = nn.Linear(channels, inner)
        self.block = TransformerBlock(inner, inner, config.head_channels)
        self.project_out = nn.Linear(inner, channels)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        h, w = x.shape[-2:]
        tokens = self.block.transform(self._tokens(x, frames))
        return x + rearrange(self.project_out(tokens), "(b h w) f c -> (b f) c h w", h=h, w=w)

    def _tokens(self, x: Tensor, frames: int) -> Tensor:
        clip = self.forms.norm(self.norm, clip_view(x, frames))
        return self.project_in(rearrange(clip, "b c f l -> (b l) f c").contiguous())
