"""A codec in tiles: exact positions and weights, no seams, one tile at a time."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.bundles import small_vae
from tests.support.clips import moving_frames
from tests.support.training_parts import small_v_preset
from venhancer.bundle.static_networks import StaticCodec
from venhancer.config import VAE_STRIDE
from venhancer.contract import Shape, networks, sizes
from venhancer.encoders.autoencoder import AutoencoderCodec
from venhancer.encoders.tiled_autoencoder import TiledCodec, grid
from venhancer.errors import ShapeError
from venhancer.pipeline.seams import BESIDE, borders

pytest.importorskip("diffusers")
TILE = (8, 12)
KINDS = ["AutoencoderKL", "AutoencoderKLTemporalDecoder"]


class Pointwise(AutoencoderCodec):
    """A codec whose latent positions depend on their own pixels only; records its largest input."""

    def __init__(self) -> None:
        super().__init__(None)
        self.shown: list[tuple[int, ...]] = []

    def moments(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        self.shown.append(tuple(frames.shape))
        small = torch.nn.functional.avg_pool2d(frames, VAE_STRIDE)
        mean = torch.cat([small, small.mean(dim=1, keepdim=True)], dim=1)
        return mean, mean.abs() + 0.1

    def pixels(self, latents: Tensor) -> Tensor:
        self.shown.append(tuple(latents.shape))
        return torch.nn.functional.pixel_shuffle(
            latents[:, :3].repeat_interleave(64, 1), VAE_STRIDE
        )


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def pictures(rows: int, columns: int, count: int = 1) -> Tensor:
    """Make a smooth moving picture of so many latent positions, in [-1, 1]."""
    frames = np.stack(moving_frames(count, columns * VAE_STRIDE, rows * VAE_STRIDE))
    return torch.from_numpy(frames).permute(0, 3, 1, 2) / 127.5 - 1


def vae_codec(kind: str = "AutoencoderKL") -> AutoencoderCodec:
    return AutoencoderCodec(small_vae(kind).eval().requires_grad_(False))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(8, 12), (5, 7)])
def test_what_fits_one_tile_is_the_codecs_own(kind: str, size: tuple[int, int]) -> None:
    """A frame of one tile gives the codec's own bits, both ways, for either class of network."""
    codec, frames = vae_codec(kind), pictures(*size, count=2)
    tiled = TiledCodec(codec, TILE)
    latents = codec.encode(frames, seeded())

    assert tiled.is_temporal == codec.is_temporal
    assert torch.equal(tiled.encode(frames, seeded()), latents)
    assert torch.equal(tiled.decode(latents), codec.decode(latents))


@pytest.mark.parametrize("size", [(9, 13), (31, 12), (5, 50), (17, 41)])
def test_every_position_is_where_it_was(size: tuple[int, int]) -> None:
    """A network that treats each position separately gives its untiled result, noise included."""
    codec, frames = Pointwise(), pictures(*size, count=4)
    tiled = TiledCodec(codec, TILE)
    before, after = seeded(), seeded()

    latents = codec.encode(frames, before)

    torch.testing.assert_close(tiled.encode(frames, after), latents, atol=1e-5, rtol=1e-5)
    assert torch.equal(before.get_state(), after.get_state())
    torch.testing.assert_close(tiled.decode(latents), codec.decode(latents), atol=1e-5, rtol=1e-5)


def test_the_network_sees_one_tile_at_a_time() -> None:
    """For a frame of any size, every input of the network has one bounded size."""
    codec = Pointwise()
    tiled = TiledCodec(codec, TILE)

    latents = tiled.encode(pictures(45, 80, count=4), seeded())
    encoded, codec.shown = codec.shown, []
    tiled.decode(latents)

    assert {shape[1:] for shape in encoded} == {(3, 8 * VAE_STRIDE, 12 * VAE_STRIDE)}
    assert {shape[1:] for shape in codec.shown} == {(4, 8, 12)}
    assert max(shape[0] for shape in encoded + codec.shown) == 3


def jump(pixels: Tensor, axis: int, place: int) -> float:
    """Compute the change across a border, divided by the changes beside it."""
    steps = pixels.diff(dim=axis).abs()
    near = [float(steps.select(axis, place + k - 1).mean()) for k in BESIDE]
    return float(steps.select(axis, place - 1).mean()) / fmean(near)


@pytest.mark.parametrize("kind", KINDS)
def test_no_seam_shows(kind: str) -> None:
    """Across tile borders, a moving picture changes no more than untiled."""
    codec, size = vae_codec(kind), (20, 30)
    latents = codec.encode(pictures(*size, count=3), seeded())
    whole, out = codec.decode(latents), TiledCodec(codec, (12, 16)).decode(latents)
    ratios = [
        jump(out, axis, VAE_STRIDE * border) / jump(whole, axis, VAE_STRIDE * border)
        for axis, spans in zip((-2, -1), grid(size, (12, 16)), strict=True)
        for border in borders(spans)
    ]

    assert len(ratios) >= 2
    assert fmean(ratios) <= 1.05


@pytest.mark.parametrize("size", [(44, 64), (48, 60)])
def test_half_a_position_is_refused(size: tuple[int, int]) -> None:
    """A frame must be whole latent positions; the error names it."""
    with pytest.raises(ShapeError, match=f"{size[1]}x{size[0]}, not a multiple of 8"):
        TiledCodec(Pointwise(), TILE).encode(torch.zeros(1, 3, *size), seeded())


def static_codec(codec: AutoencoderCodec) -> StaticCodec:
    """Make a static codec for one shape: a tile of TILE, one frame in and three out."""
    model = small_v_preset().model
    rows, columns = TILE
    shape = sizes(model, Shape(width=columns * VAE_STRIDE, height=rows * VAE_STRIDE, window=5))

    def encode(inputs: Any) -> dict[str, Tensor]:
        assert inputs["frames"].shape == (1, 3, rows * VAE_STRIDE, columns * VAE_STRIDE)
        mean, std = codec.moments(inputs["frames"])
        return {"std": std, "mean": mean}

    def decode(inputs: Any) -> dict[str, Tensor]:
        assert inputs["latents"].shape == (3, 4, rows, columns)
        return {"frames": codec.pixels(inputs["latents"])}

    runs = {"vae_encoder": encode, "vae_decoder": decode}
    return StaticCodec(networks(model, "float32"), shape, runs)


@pytest.mark.parametrize("size", [(8, 12), (8, 19), (11, 13)])
def test_networks_of_one_size_take_larger_frames(size: tuple[int, int]) -> None:
    """The result is PyTorch's in tiles of that size."""
    codec, frames = vae_codec(), pictures(*size, count=4)
    static, tiled = static_codec(codec), TiledCodec(codec, TILE)

    latents = static.encode(frames, seeded())

    torch.testing.assert_close(latents, tiled.encode(frames, seeded()), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(static.decode(latents), tiled.decode(latents), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(7, 12), (7, 40), (20, 11)])
def test_networks_of_one_size_take_no_smaller_frames(size: tuple[int, int]) -> None:
    """A frame smaller in one direction is refused; the error names the network and its size."""
    static = static_codec(Pointwise())

    with pytest.raises(ShapeError, match=r"vae_encoder takes \[3, 64, 96\] or larger"):
        static.encode(pictures(*size), seeded())
    with pytest.raises(ShapeError, match=r"vae_decoder takes \[4, 8, 12\] or larger"):
        static.decode(torch.zeros(1, 4, *size))
