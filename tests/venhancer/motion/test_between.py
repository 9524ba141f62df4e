"""Frames made between two others: pans, overlays, fades, flashes, text, sizes and depths."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tests.support.clips import moving_frames
from venhancer.motion.between import Between

Picture = NDArray[np.uint8]
Scene = Callable[[float], NDArray[np.float32]]  # what is visible at a time: H W 3, 0 to 255
WIDTH, HEIGHT, SCALE = 256, 160, 4


def texture(seed: int = 0) -> NDArray[np.float32]:
    """Make coarse and fine spots, twice as wide as the visible part."""
    rng = np.random.default_rng(seed)
    out = np.zeros((HEIGHT, 2 * WIDTH, 3), dtype=np.float32)
    for spread in (3, 8, 16):
        spots = cv2.GaussianBlur(rng.normal(size=out.shape).astype(np.float32), (0, 0), spread)
        out += 30 * spots / spots.std()
    return np.clip(128 + out, 0, 255)


def panned(picture: NDArray[np.float32], right: float) -> NDArray[np.float32]:
    by = np.array([[1, 0, right], [0, 1, 0]], dtype=np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(picture, by, (WIDTH, HEIGHT), flags=flags)


def lettering(text: str, place: tuple[int, int], size: int) -> NDArray[np.float32]:
    """Make a mask of text: H W 1, 0 to 1."""
    image = Image.new("L", (WIDTH, HEIGHT))
    ImageDraw.Draw(image).text(place, text, fill=255, font=ImageFont.load_default(size))
    return np.asarray(image).astype(np.float32)[..., None] / 255


def whole(values: NDArray[np.float32]) -> Picture:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def smaller(picture: Picture, factor: int = SCALE) -> Picture:
    size = picture.shape[1] // factor, picture.shape[0] // factor
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def psnr(made: NDArray[np.generic], true: NDArray[np.generic]) -> float:
    error = np.square(made.astype(float) - true.astype(float)).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def blend(first: Picture, second: Picture, time: float = 0.5) -> Picture:
    return whole((1 - time) * first.astype(np.float32) + time * second.astype(np.float32))


def made_of(scene: Scene, time: float = 0.5) -> tuple[Picture, Picture, Picture]:
    """Make the frame between ideal key frames at 0 and 1 -> it, the true one, and the plain mix."""
    first, true, second = (whole(scene(t)) for t in (0.0, time, 1.0))
    made = Between(smaller(first), smaller(second)).frame(time, first, second)
    return made, true, blend(first, second, time)


@pytest.mark.parametrize("time", [0.125, 0.5, 0.875])
def test_a_pan_is_followed(time: float) -> None:
    """At any time between, the frame is far closer to the truth than the plain mix."""
    picture = texture()

    made, true, mixed = made_of(lambda t: panned(picture, 40 + 24 * t), time)

    inner = np.s_[:, 24:-24]
    assert psnr(made[inner], true[inner]) > 35
    assert psnr(made[inner], true[inner]) > psnr(mixed[inner], true[inner]) + 5


@pytest.mark.parametrize("right", [8, 16, 24])
def test_an_overlay_stays_put(right: int) -> None:
    """A logo over a pan is as close to the truth as the mix, and the rest much closer."""
    picture, logo = texture(), lettering("LIVE", (70, 40), 64)
    seen = cv2.dilate((logo > 0.5).astype(np.uint8), np.ones((3, 3), dtype=np.uint8)) > 0

    made, true, mixed = made_of(lambda t: (1 - logo) * panned(picture, 40 + right * t) + 255 * logo)

    assert psnr(made[seen], true[seen]) > psnr(mixed[seen], true[seen]) - 1
    assert psnr(made, true) > psnr(mixed, true) + 3


def test_a_fade_stays_a_fade() -> None:
    """A still picture that fades gives the mix of its two sides, at every position."""
    picture = panned(texture(), 40)

    made, _, mixed = made_of(lambda t: picture * (1 - 0.5 * t), 0.25)

    assert abs(made.astype(int) - mixed).max() <= 3


def test_a_fade_over_a_pan_is_both() -> None:
    """The frame follows the motion, and has the brightness of its time."""
    picture = texture()

    made, true, mixed = made_of(lambda t: panned(picture, 40 + 16 * t) * (1 - 0.4 * t), 0.25)

    inner = np.s_[:, 24:-24]
    assert psnr(made[inner], true[inner]) > psnr(mixed[inner], true[inner]) + 5
    assert made[inner].mean() == pytest.approx(true[inner].mean(), abs=1)


def test_another_picture_that_shines_through_is_mixed() -> None:
    """A dissolve has no motion to follow, so the two pictures are mixed."""
    first, second = panned(texture(), 40), panned(texture(1), 40)

    made, _, mixed = made_of(lambda t: (1 - t) * first + t * second)

    assert psnr(made, mixed) > 28


def test_a_flash_does_not_smear() -> None:
    """One bright frame of a still scene: nothing moves, the new frame is the mix of both."""
    picture = panned(texture(), 40)

    made, _, mixed = made_of(lambda t: picture if t < 1 else np.minimum(picture * 1.3 + 110, 255))

    assert psnr(made, mixed) > 35


def test_scrolling_text_stays_legible() -> None:
    """Letters are in the right places, once and not twice."""
    text = lettering("Directed by\nWritten by\nFilmed in", (20, 30), 24)
    up = [np.array([[1, 0, 0], [0, 1, 8 * t]], dtype=np.float32) for t in (0.0, 0.5, 1.0)]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = {
        t: cv2.warpAffine(text, m, (WIDTH, HEIGHT), flags=flags)
        for t, m in zip((0.0, 0.5, 1.0), up, strict=True)
    }

    made, true, mixed = made_of(lambda t: (20 + 220 * moved[t][..., None]) * np.ones(3, np.float32))

    assert psnr(made, true) > psnr(mixed, true) + 6


def test_repeated_frames_are_repeated() -> None:
    """Equal input frames have no motion: between equal key frames the frame is the same."""
    small, key = moving_frames(1, 48, 32)[0], moving_frames(1, 96, 64)[0]
    between = Between(small, small.copy())

    assert np.array_equal(between.frame(0.3, key, key), key)
    assert np.array_equal(between.frame(0.5, key, 255 - key), blend(key, 255 - key))
    deep = key.astype(np.uint16) * 257
    assert np.array_equal(between.frame(0.3, deep, deep), deep)


def test_deep_frames_are_as_shallow_ones() -> None:
    """16 bits over the whole range give the same picture, 257 times as fine."""
    first, second = (whole(panned(texture(), x)) for x in (40, 52))
    made = Between(smaller(first), smaller(second)).frame(0.5, first, second)
    pairs = [frame.astype(np.uint16) * 257 for frame in (smaller(first), smaller(second))]
    keys = [frame.astype(np.uint16) * 257 for frame in (first, second)]

    deep = Between(*pairs).frame(0.5, *keys)

    assert deep.dtype == np.uint16
    assert abs(deep.astype(float) / 257 - made).max() <= 0.51


def test_bright_and_dark_do_not_wrap_round() -> None:
    """Cubic overshoot beside black and white is clipped."""
    bars = np.repeat(np.arange(2 * WIDTH) // 16 % 2 * 255.0, 3).reshape(1, -1, 3)
    picture = np.broadcast_to(bars, (HEIGHT, 2 * WIDTH, 3)).astype(np.float32)

    made, true, _ = made_of(lambda t: panned(picture, 40 + 6 * t))

    assert np.mean(abs(made.astype(int) - true) > 200) < 0.01


@pytest.mark.parametrize(
    ("small", "large"),
    [((16, 16), (64, 64)), ((37, 23), (101, 35)), ((48, 32), (48, 32)), ((7, 5), (28, 20))],
)
def test_sizes(small: tuple[int, int], large: tuple[int, int]) -> None:
    """Tiny frames, odd ones, and enlargements that differ in width and height work."""
    inputs, keys = (moving_frames(2, *size) for size in (small, large))

    made = Between(*inputs).frame(0.5, *keys)

    assert made.shape == keys[0].shape
    assert made.dtype == np.uint8
    assert psnr(made, blend(*keys)) > 15


def test_threads_do_not_change_a_bit() -> None:
    """OpenCV with one thread and with four gives the same frames."""
    first, second = (whole(panned(texture(), x)) for x in (40, 60))
    threads, made = cv2.getNumThreads(), []
    try:
        for count in (1, 4):
            cv2.setNumThreads(count)
            made.append(Between(smaller(first), smaller(second)).frame(0.25, first, second))
            assert cv2.getNumThreads() == count
    finally:
        cv2.setNumThreads(threads)

    assert np.array_equal(*made)
