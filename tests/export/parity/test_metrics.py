"""The metrics of a verification: known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from venhancer_export.parity.metrics import cosine, largest_error, psnr, relative_l2, ssim


def picture(seed: int, height: int = 40, width: int = 56) -> torch.Tensor:
    """Make a smooth picture of three channels, from 0 to 1."""
    noise = np.random.default_rng(seed).normal(size=(3, height, width))
    soft = ndimage.gaussian_filter(noise, (0, 2, 2), mode="wrap")
    return torch.from_numpy((soft - soft.min()) / (soft.max() - soft.min())).float()


def test_errors_of_known_vectors() -> None:
    """For (3, 4) and (3, 5) the error is 1, the relative one 1/5, the cosine that of the angle."""
    expected, made = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 5.0])

    assert relative_l2(made, expected) == pytest.approx(0.2)
    assert largest_error(made, expected) == 1
    assert cosine(made, expected) == pytest.approx(29 / (5 * math.sqrt(34)))


def test_zeros_are_equal_to_zeros() -> None:
    """There is no division by zero: two zero tensors have no error, a zero and a one do."""
    zero, one = torch.zeros(4), torch.ones(4)

    assert (relative_l2(zero, zero), cosine(zero, zero)) == (0, 1)
    assert relative_l2(one, zero) == 2
    assert cosine(one, zero) == 0


def test_what_is_not_finite_shows() -> None:
    """One NaN element makes the error NaN too."""
    made = torch.tensor([1.0, math.nan])

    assert math.isnan(relative_l2(made, torch.ones(2)))
    assert math.isnan(largest_error(made, torch.ones(2)))


@pytest.mark.parametrize("offset", [0.5, 0.1, 0.001])
def test_psnr_of_a_constant_offset(offset: float) -> None:
    """An offset of d gives -20 log10(d) dB; equal pictures have infinite PSNR."""
    flat = torch.full((3, 8, 8), 0.25, dtype=torch.float64)

    assert psnr(flat + offset, flat) == pytest.approx(-20 * math.log10(offset))
    assert psnr(flat, flat) == math.inf


def test_ssim_of_flat_pictures() -> None:
    """Without structure only the means count: (2 a b + c1) / (a a + b b + c1)."""
    a, b = torch.full((1, 16, 16), 0.3), torch.full((1, 16, 16), 0.6)

    c1 = 0.01**2
    expected = (2 * 0.3 * 0.6 + c1) / (0.3**2 + 0.6**2 + c1)
    assert ssim(a, b) == pytest.approx(expected, abs=1e-6)
    assert ssim(a, a) == pytest.approx(1)


def test_ssim_equals_the_long_form() -> None:
    """The result equals Wang's SSIM: scipy's filters, an 11x11 Gaussian, the border left out."""
    x, y = picture(0).double().numpy(), picture(1).double().numpy()

    def blur(z: np.ndarray) -> np.ndarray:
        soft = ndimage.gaussian_filter(z, (0, 1.5, 1.5), radius=(0, 5, 5))
        return soft[:, 5:-5, 5:-5]

    a, b = blur(x), blur(y)
    c1, c2 = 0.01**2, 0.03**2
    expected = (2 * a * b + c1) * (2 * (blur(x * y) - a * b) + c2)
    expected /= (a**2 + b**2 + c1) * (blur(x * x) - a**2 + blur(y * y) - b**2 + c2)

    assert ssim(picture(0), picture(1)) == pytest.approx(expected.mean(), rel=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (4, 9), (10, 8), (11, 11)])
def test_ssim_of_small_pictures(size: tuple[int, int]) -> None:
    """A picture smaller than the window is compared too."""
    small = picture(3)[:, : size[0], : size[1]]

    assert ssim(small, small) == pytest.approx(1)
    assert ssim(small + 0.3, small) < 1
