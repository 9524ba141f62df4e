"""Transformers over space (with text) and over time."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from venhancer.config import UNetConfig
from venhancer.model.layers import GroupNorm, clip_view

KeysValues = tuple[Tensor, Tensor]  # each (b, l, heads * head_channels)


def attend(query: Tensor, key: Tensor, value: Tensor, head_channels: int) -> Tensor:
    """Scaled dot-product attention of every head: b l (n c), twice b m (n c) -> b l (n c)."""
    q, k, v = (rearrange(x, "b l (n c) -> b n l c", c=head_channels) for x in (query, key, value))
    return rearrange(F.scaled_dot_product_attention(q, k, v), "b n l c -> b l (n c)")


class Attention(nn.Module):
    """Multi-head attention; keys and values may come ready-made.

    x: b l c -> b l c
    """

    def __init__(self, channels: int, context_channels: int, head_channels: int) -> None:
        super().__init__()
        self.head_channels = head_channels
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(context_channels, channels, bias=False)
        self.value = nn.Linear(context_channels, channels, bias=False)
        self.out = nn.Linear(channels, channels)

    def keys_values(self, context: Tensor) -> KeysValues:
        return self.key(context), self.value(context)

    def forward(self, x: Tensor, context: KeysValues | None = None) -> Tensor:
        key, value = self.keys_values(x) if context is None else context
        return self.out(attend(self.query(x), key, value, self.head_channels))


class FeedForward(nn.Module):
    """GEGLU: a * gelu(g), four times as wide inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.widen = nn.Linear(channels, 8 * channels)
        self.narrow = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.widen(x).chunk(2, dim=-1)
        return self.narrow(value * F.gelu(gate))


class TransformerBlock(nn.Module):
    """Self-attention, a second attention (to text, or to itself again), feed-forward."""

    def __init__(self, channels: int, context_channels: int, head_channels: int) -> None:
        super().__init__()
        self.norm_first = nn.LayerNorm(channels)
        self.first = Attention(channels, channels, head_channels)
        self.norm_second = nn.LayerNorm(channels)
        self.second = Attention(channels, context_channels, head_channels)
        self.norm_feed = nn.LayerNorm(channels)
        self.feed = FeedForward(channels)

    def attend_self(self, x: Tensor) -> Tensor:
        return x + self.first(self.norm_first(x))

    def attend_second(self, x: Tensor, context: KeysValues | None = None) -> Tensor:
        return x + self.second(self.norm_second(x), context)

    def feed_forward(self, x: Tensor) -> Tensor:
        return x + self.feed(self.norm_feed(x))


class SpatialTransformer(nn.Module):
    """Let every latent pixel look at its frame, then at the text.

    x: (b f) c h w -> (b f) c h w; text: keys and values of (b, l) tokens, shared by the frames
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
        tokens = self.project_in(rearrange(self.norm(x), "b c h w -> b (h w) c"))
        tokens = self.block.attend_self(tokens)
        tokens = rearrange(tokens, "(b f) l c -> b (f l) c", f=frames)
        tokens = self.block.attend_second(tokens, text)
        tokens = self.project_out(self.block.feed_forward(tokens))
        return x + rearrange(tokens, "b (f h w) c -> (b f) c h w", h=h, w=w)


class TemporalTransformer(nn.Module):
    """Let every latent pixel look along its own time line, twice; no positional encoding.

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
        clip = self.norm(clip_view(x, frames))
        tokens = self.project_in(rearrange(clip, "b c f l -> (b l) f c"))
        tokens = self.block.attend_second(self.block.attend_self(tokens))
        tokens = self.project_out(self.block.feed_forward(tokens))
        return x + rearrange(tokens, "(b h w) f c -> (b f) c h w", h=h, w=w)
