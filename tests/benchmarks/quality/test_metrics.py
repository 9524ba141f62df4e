"""The metrics of the quality benchmark: known answers on synthetic frames."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from tests.support.paths import ROOT

pytest.importorskip("cv2", reason="needs the `bench` extra")

from benchmarks.quality import metrics

WEIGHTS = ROOT / "data" / "metrics" / "alexnet.ckpt"


def texture(seed: int = 0, height: int = 128, width: int = 192) -> NDArray[np.uint8]:
    """Make a frame with detail at every scale, as in photos: H W 3."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    layers = [ndimage.gaussian_filter(noise, (s, s, 0), mode="wrap") * s for s in (0.7, 2, 6)]
    total: NDArray[np.float64] = np.sum([layer / layer.std() for layer in layers], axis=0)
    return np.clip(128 + 15 * total, 0, 255).astype(np.uint8)


def moving(frames: int = 4, step: int = 3) -> NDArray[np.uint8]:
    """Make a texture that moves `step` pixels a frame to the right: f H W 3."""
    return np.stack([np.roll(texture(), step * index, axis=1) for index in range(frames)])


def test_equal_frames_are_perfect() -> None:
    """A frame compared with itself has no error, full similarity and all its detail."""
    frame = texture()

    assert metrics.psnr(frame, frame) == float("inf")
    assert metrics.ssim(frame, frame) == pytest.approx(1)
    assert metrics.high_frequency_ratio(frame, frame) == pytest.approx(1)


@pytest.mark.parametrize("offset", [1, 5, 20])
def test_psnr_of_a_constant_offset(offset: int) -> None:
    """An offset of k grey levels gives 20 log10(255 / k) dB."""
    frame = np.full((32, 32, 3), 100, np.uint8)

    made = metrics.psnr(frame + np.uint8(offset), frame)

    assert made == pytest.approx(20 * np.log10(255 / offset))


def test_ssim_equals_the_long_form() -> None:
    """The separable windows give what a sum over one explicit 11x11 window gives."""
    x, y = metrics.luma(texture(1)), metrics.luma(texture(2))
    ramp = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(ramp, ramp) / ramp.sum() ** 2
    patches = [np.lib.stride_tricks.sliding_window_view(plane, (11, 11)) for plane in (x, y)]
    a, b = ((patch * window).sum(axis=(-1, -2)) for patch in patches)
    aa, bb = ((patch**2 * window).sum(axis=(-1, -2)) for patch in patches)
    ab = (patches[0] * patches[1] * window).sum(axis=(-1, -2))
    c1, c2 = 2.55**2, 7.65**2
    expected = (2 * a * b + c1) * (2 * (ab - a * b) + c2)
    expected /= (a * a + b * b + c1) * (aa - a * a + bb - b * b + c2)

    assert metrics.ssim(texture(1), texture(2)) == pytest.approx(expected.mean())


def test_blur_costs_similarity_and_detail() -> None:
    """A blurred frame is less similar and has lost most of what a 4x smaller one cannot carry."""
    frame = texture()
    blurred = ndimage.gaussian_filter(frame, (2, 2, 0), mode="wrap")

    assert metrics.ssim(blurred, frame) < 0.9
    assert metrics.high_frequency_ratio(blurred, frame) < 0.2


def test_flow_finds_a_known_motion() -> None:
    """The flow of a texture moved by 3 pixels is 3 pixels."""
    first, second = moving(2, step=3)

    motion = np.median(metrics.flow(first, second)[16:-16, 16:-16], axis=(0, 1))

    assert motion == pytest.approx([3, 0], abs=0.3)


def test_warping_error_forgives_motion_but_not_flicker() -> None:
    """Moved content costs almost nothing; content that changes under the motion is counted."""
    reference = moving()
    dark = reference.copy()
    dark[1::2] -= np.minimum(dark[1::2], 20)

    errors = metrics.warping_errors({"same": reference, "dark": dark}, reference)

    assert errors["same"] < 4
    assert errors["dark"] > errors["same"] + 10
    assert metrics.warping_error(dark, reference) == errors["dark"]


def test_occluded_pixels_are_masked() -> None:
    """A pixel is masked if its forward and backward flows disagree or lead out of the frame."""
    forward = np.zeros((20, 30, 2), np.float32)
    forward[..., 0] = 4
    meeting = metrics.visible(forward, -forward)
    missing = metrics.visible(forward, forward)

    assert meeting[:, :26].all()
    assert not meeting[:, 26:].any()
    assert not missing.any()


def test_frame_difference_error_of_a_frozen_video() -> None:
    """A frozen copy misses exactly the changes of the reference; equal videos miss none."""
    levels = np.array([10, 14, 22], np.uint8)
    reference = np.broadcast_to(levels[:, None, None, None], (3, 16, 16, 3))

    assert metrics.frame_difference_error(reference[:1].repeat(3, 0), reference) == pytest.approx(6)
    assert metrics.frame_difference_error(reference, reference) == 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_natural_texture_has_no_patch_grid(seed: int) -> None:
    """Without a grid, a frame's energy at the patch period is like that of nearby periods."""
    assert 0.5 < metrics.patch_grid_energy(texture(seed, 256, 384)) < 1.8


@pytest.mark.parametrize("strength", [4, 10])
def test_a_patch_grid_is_detected(strength: int) -> None:
    """Patches of 4x4 pixels that differ by a few grey levels at random stand out."""
    frame = texture(0, 256, 384)
    offsets = np.random.default_rng(3).normal(0, strength, (64, 96)).repeat(4, 0).repeat(4, 1)
    gridded = np.clip(frame + offsets[..., None], 0, 255).astype(np.uint8)

    found = metrics.patch_grid_energy(gridded)

    assert found > 3 * metrics.patch_grid_energy(frame)


def test_a_grid_of_another_period_is_not_counted() -> None:
    """Blocks of 5x5 pixels do not change the energy at the 4-pixel period."""
    frame = texture(0, 260, 400)
    offsets = np.random.default_rng(3).normal(0, 6, (52, 80)).repeat(5, 0).repeat(5, 1)
    gridded = np.clip(frame + offsets[..., None], 0, 255).astype(np.uint8)

    assert metrics.patch_grid_energy(gridded) < 2


def test_weights_with_code_are_refused(tmp_path: Path) -> None:
    """A pickle that names anything but arrays is refused, and its code is not run."""
    path = tmp_path / "weights.ckpt"
    path.write_bytes(pickle.dumps(Path.cwd))

    with pytest.raises(metrics.MetricError, match="only arrays"):
        metrics.Lpips(path)


def test_missing_weights_say_what_to_do(tmp_path: Path) -> None:
    """The error names the command that fetches the weights."""
    with pytest.raises(metrics.MetricError, match="make data"):
        metrics.Lpips(tmp_path / "alexnet.ckpt")


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="needs `make data`")
def test_lpips_orders_distortions() -> None:
    """Equal frames are at distance 0, and more blur gives a larger distance."""
    lpips = metrics.Lpips(WEIGHTS)
    frame = texture()
    distances = [
        lpips(ndimage.gaussian_filter(frame, (sigma, sigma, 0)), frame) for sigma in (0, 1, 3)
    ]

    assert distances[0] == 0
    assert 0.01 < distances[1] < distances[2] < 1.5


def test_vmaf_orders_distortions() -> None:
    """Equal videos score near 100 and blurred ones much lower."""
    pytest.importorskip("imageio_ffmpeg", reason="needs the `bench` extra")
    reference = moving(3)
    blurred = np.stack([ndimage.gaussian_filter(frame, (2, 2, 0)) for frame in reference])

    assert metrics.vmaf(reference, reference) > 90
    assert metrics.vmaf(blurred, reference) < 70


def test_baselines_align_with_their_inputs() -> None:
    """Nine frames become 17; the inputs stay where they were, new frames lie between them."""
    pytest.importorskip("imageio_ffmpeg", reason="needs the `bench` extra")
    from benchmarks.quality.methods import bicubic_repeat, minterpolate

    truth = moving(17, step=1)
    made = minterpolate(truth[::2])
    repeated = bicubic_repeat(truth[::2], scale=1)

    assert made.shape == truth.shape == repeated.shape
    assert (made[::2] == truth[::2]).all()
    inside = (slice(None), slice(16, -16), slice(24, -24))
    for new, old, true in zip(made[1::2], repeated[1::2], truth[1::2], strict=True):
        assert metrics.psnr(new[inside[1:]], true[inside[1:]]) > metrics.psnr(
            old[inside[1:]], true[inside[1:]]
        )
