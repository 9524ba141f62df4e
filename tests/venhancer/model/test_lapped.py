"""NANO's codec: lossless, orthonormal, and without block edges."""

from __future__ import annotations

import pytest
import torch

from venhancer.model import lapped


@pytest.mark.parametrize("size", [(4, 4), (8, 12), (32, 20)])
def test_lossless_and_orthonormal(size: tuple[int, int]) -> None:
    """Decoding inverts encoding; energy is kept, times the square of the scale."""
    frames = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1

    latents = lapped.encode(frames, 2.0)

    assert latents.shape == (2, 48, size[0] // 4, size[1] // 4)
    torch.testing.assert_close(lapped.decode(latents, 2.0), frames, atol=1e-5, rtol=0)
    torch.testing.assert_close(latents.square().sum(), 4 * frames.square().sum())


def test_an_error_in_one_coefficient_leaves_no_block_edge() -> None:
    """The lowest basis function fades out beyond its block; a block DCT's would end in a step."""
    latents = torch.zeros(1, 48, 5, 5)
    latents[0, 0, 2, 2] = 1.0

    row = lapped.decode(latents, 1.0)[0, 0, 9]

    assert row[8:12].min() > 0  # its own block
    assert row[7] > 0.1 * row[8] and row[12] > 0.1 * row[11]
    assert (row[1:] - row[:-1]).abs().max() < 0.5 * row.max()
    assert row[:6].abs().max() < 1e-6 and row[14:].abs().max() < 1e-6


def test_the_first_channels_hold_the_colours() -> None:
    """A picture of one colour has zeros in the detail channels, also at its edges."""
    colour = torch.tensor([0.5, -0.25, 1.0])[None, :, None, None]

    latents = lapped.encode(colour.expand(1, 3, 12, 16), 2.0)

    means, details = latents.split([lapped.MEANS, 48 - lapped.MEANS], dim=1)
    torch.testing.assert_close(means, (8 * colour).expand_as(means))
    assert details.abs().max() < 1e-5
