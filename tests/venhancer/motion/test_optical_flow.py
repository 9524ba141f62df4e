"""Optical flow: accuracy, determinism, and where it is not trusted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from venhancer.motion import optical_flow as motion

HEIGHT, WIDTH = 72, 96


def picture(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> NDArray[np.uint8]:
    """Make blotches a few pixels wide, so that every patch is unique."""
    noise = np.random.default_rng(seed).standard_normal((height, width, 3))
    soft = cv2.GaussianBlur(noise, (0, 0), 2.0)
    return np.clip(127 + 60 * soft / soft.std(), 0, 255).astype(np.uint8)


def shifted(right: int, down: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Make two views of one picture, whose content moves by so many pixels."""
    wide = picture(HEIGHT + 32, WIDTH + 32, seed)

    def view(x: int, y: int) -> NDArray[np.uint8]:
        return np.ascontiguousarray(wide[16 - y : 16 - y + HEIGHT, 16 - x : 16 - x + WIDTH])

    return view(0, 0), view(right, down)


def constant(right: float, down: float) -> motion.Field:
    return np.broadcast_to(np.array([right, down], np.float32), (HEIGHT, WIDTH, 2)).copy()


@pytest.mark.parametrize(("right", "down"), [(0, 0), (3, 0), (0, -2), (-6, 4)])
def test_a_shift_is_found(right: int, down: int) -> None:
    """The flow is right to a tenth of a pixel inside; the second frame warped is the first."""
    first, second = shifted(right, down)

    found = motion.flow(first, second)
    fetched = motion.warp(second, found)

    inner = (slice(12, -12), slice(12, -12))
    assert found.shape == (HEIGHT, WIDTH, 2)
    assert found.dtype == np.float32
    assert np.abs(found - (right, down))[inner].mean() < 0.1
    assert np.abs(fetched - first)[inner].mean() < 2
    if right or down:
        assert np.abs(second.astype(float) - first)[inner].mean() > 15


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one or four OpenCV threads the flow is equal, and the setting is restored afterwards."""
    first, second = shifted(5, 2)
    working: list[int] = []

    class Search:
        def calc(self, *frames: Any) -> motion.Field:
            working.append(cv2.getNumThreads())
            return search.calc(*frames)

    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    monkeypatch.setattr(cv2, "DISOpticalFlow", SimpleNamespace(create=lambda _: Search()))
    before, found = cv2.getNumThreads(), []
    try:
        for threads in (1, 4):
            cv2.setNumThreads(threads)
            found.append(motion.flow(first, second))
            assert cv2.getNumThreads() == threads
    finally:
        cv2.setNumThreads(before)

    assert np.array_equal(*found)
    assert working == [1, 1]


def test_deep_frames_move_as_shallow_ones() -> None:
    """Sixteen bits over the whole range give the flow of their upper eight."""
    first, second = shifted(4, 1)
    deep = [frame.astype(np.uint16) << 8 | 77 for frame in (first, second)]

    assert np.array_equal(motion.flow(deep[0], deep[1]), motion.flow(first, second))


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (15, 15), (16, 16)])
def test_tiny_frames_have_a_flow(size: tuple[int, int]) -> None:
    """A frame smaller than a patch has a flow of its size, without motion if nothing moves."""
    frame = picture(*size)

    found = motion.flow(frame, frame)

    assert found.shape == (*size, 2)
    assert np.abs(found).max() < 0.1


def test_two_motions_make_one() -> None:
    """The second motion is sampled at the positions that the first one leads to."""
    ramp = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    ramp[..., 0] = np.arange(WIDTH) / 8

    path = motion.compose(constant(8, 0), ramp)

    wanted = 8 + (np.arange(WIDTH) + 8).clip(max=WIDTH - 1) / 8
    np.testing.assert_allclose(path[..., 0], np.tile(wanted, (HEIGHT, 1)), atol=1e-3)
    assert not path[..., 1].any()


def test_outside_the_border_is_repeated() -> None:
    """Pixels beyond the edges repeat the border; cubic sampling agrees inside."""
    columns = np.arange(WIDTH, dtype=np.float32)
    image = np.tile(columns, (HEIGHT, 1))

    right, left = (motion.warp(image, constant(x, 0)) for x in (1000, -1000))
    halfway = motion.warp(image, constant(0.5, 0), is_cubic=True)

    assert (right == WIDTH - 1).all()
    assert (left == 0).all()
    np.testing.assert_allclose(halfway[:, 2:-3], image[:, 2:-3] + 0.5, atol=1e-2)


def test_what_leaves_the_frame_is_not_trusted() -> None:
    """A motion that returns is trusted up to the last pixel that stays inside."""
    trust = motion.trust(constant(10, 0), constant(-10, 0))

    assert np.allclose(trust[:, : WIDTH - 10], 1)
    assert not trust[:, WIDTH - 9 :].any()
    assert not motion.is_inside(constant(0, -1))[0].any()
    assert motion.is_inside(constant(0, -1))[1:].all()


def test_a_motion_that_does_not_return_is_not_trusted() -> None:
    """A miss of one pixel costs more trust on a short motion; equal motions agree fully."""
    assert motion.trust(constant(4, 0), constant(4, 0)).max() < 0.01
    near, far = (motion.agreement(constant(x + 1, 0), constant(x, 0)).mean() for x in (1, 20))
    assert near < 0.2 < 0.8 < far
    assert (motion.agreement(constant(3, 2), constant(3, 2)) == 1).all()


def test_what_is_covered_is_not_trusted() -> None:
    """If a square moves over the background, only what both frames show is trusted."""
    back, square = picture(144, 192, seed=1), picture(64, 64, seed=2)
    first, second = back.copy(), back.copy()
    first[40:104, 40:104] = square
    second[40:104, 50:114] = square

    trust = motion.trust(motion.flow(first, second), motion.flow(second, first))

    assert trust[56:88, 56:88].mean() > 0.95  # the square
    assert trust[112:, 8:-8].mean() > 0.95  # background far from it
    assert trust[48:96, 105:113].mean() < 0.3  # background that the square covers later
