"""A codec for frames larger than its network's input: equal tiles, blended.

Group norms and attention see a tile instead of the whole frame. So a tiled frame is close to the
untiled one, but not equal: benchmarks/results/vae_tiles.json says how close.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from venhancer.config import VAE_STRIDE
from venhancer.encoders.autoencoder import AutoencoderCodec
from venhancer.errors import ShapeError
from venhancer.spans import Span, join_shares, tiles

TileFunction = Callable[[Tensor], Sequence[Tensor]]  # f c h w -> one or more of f c h w, float32


class TiledCodec(AutoencoderCodec):
    """A codec whose network gets at most `tile` at a time: rows and columns of latents.

    Noise is drawn for whole frames, as without tiles. A frame that fits one tile gives results that
    are bitwise equal to those of `codec`.
    """

    def __init__(self, codec: AutoencoderCodec, tile: tuple[int, int]) -> None:
        super().__init__(codec.network, codec.scale)
        self.codec = codec
        self.tile = tile

    def moments(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = encode_in_tiles(self.codec.moments, frames, self.tile)
        return mean, std

    def pixels(self, latents: Tensor) -> Tensor:
        [frames] = decode_in_tiles(lambda part: [self.codec.pixels(part)], latents, self.tile)
        return frames


def encode_in_tiles(run: TileFunction, frames: Tensor, tile: tuple[int, int]) -> list[Tensor]:
    """Run on tiles and join the results to latents of whole frames: f 3 H W -> each f c h w."""
    height, width = frames.shape[-2:]
    if height % VAE_STRIDE or width % VAE_STRIDE:
        raise ShapeError(f"a frame is {width}x{height}, not a multiple of {VAE_STRIDE} each way")
    cover = grid((height // VAE_STRIDE, width // VAE_STRIDE), tile)
    return in_tiles(run, frames, cover, (VAE_STRIDE, 1))


def decode_in_tiles(run: TileFunction, latents: Tensor, tile: tuple[int, int]) -> list[Tensor]:
    """Run on tiles and join the results to pixels of whole frames: f c h w -> each f 3 H W."""
    height, width = latents.shape[-2:]
    return in_tiles(run, latents, grid((height, width), tile), (1, VAE_STRIDE))


Grid = tuple[list[Span], list[Span]]  # rows and columns of tiles, in latents


def grid(size: tuple[int, int], tile: tuple[int, int]) -> Grid:
    """Lay tiles that overlap by a quarter, as the denoiser's; one along an axis that fits in it."""
    return tiles(size[0], tile[0], 1), tiles(size[1], tile[1], 1)


def in_tiles(run: TileFunction, x: Tensor, cover: Grid, strides: tuple[int, int]) -> list[Tensor]:
    """Run on one tile of x after the other, and sum the outputs, weighted by `shares`.

    strides: distance of two latent positions in x, and in the outputs
    """
    rows, columns = cover
    if len(rows) == len(columns) == 1:
        return list(run(x))
    into, out_of = strides
    downwards, across = shares(rows, out_of), shares(columns, out_of)
    wholes: list[Tensor] = []
    for row, h in zip(rows, downwards, strict=True):
        for column, w in zip(columns, across, strict=True):
            outputs = run(view(x, row, column, into))
            if not wholes:
                size = (rows[-1].stop * out_of, columns[-1].stop * out_of)
                wholes = [made.new_zeros(*made.shape[:2], *size) for made in outputs]
            for whole, made in zip(wholes, outputs, strict=True):
                share = (h[:, None] * w).to(made.device)
                view(whole, row, column, out_of).addcmul_(made, share)
    return wholes


def shares(spans: list[Span], stride: int) -> list[Tensor]:
    """Compute each tile's weight at each of its positions, `stride` positions to a latent."""
    finer = [Span(span.start * stride, span.stop * stride) for span in spans]
    return [torch.tensor(values) for values in join_shares(finer)]


def view(x: Tensor, row: Span, column: Span, stride: int) -> Tensor:
    """Cut one tile out of f c H W, without a copy."""
    return x[
        ...,
        row.start * stride : row.stop * stride,
        column.start * stride : column.stop * stride,
    ]
