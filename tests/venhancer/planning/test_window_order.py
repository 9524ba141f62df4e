"""The order of evaluations: every window at every step, after its inputs, with few frames held."""

from __future__ import annotations

from itertools import pairwise

import pytest

from venhancer.planning.window_order import (
    SceneProgress,
    held_frames,
    longest_overlap,
    settled,
    window_steps,
)
from venhancer.planning.windows import cut_scenes, temporal_windows
from venhancer.spans import Span, cover

CLIPS = [(1, 9, 4), (9, 9, 4), (10, 9, 4), (40, 9, 4), (41, 9, 8), (97, 16, 8), (50, 49, 24)]


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize(("frames", "window", "stride"), CLIPS)
def test_every_window_is_evaluated_once_a_step(
    frames: int, window: int, stride: int, steps: int
) -> None:
    """Within each step the windows are in order."""
    windows = cover(frames, window, stride)
    order = list(window_steps(windows, steps))

    for step in range(steps):
        assert [t.window for t in order if t.step == step] == list(range(len(windows)))
    assert len(order) == steps * len(windows)


@pytest.mark.parametrize("steps", [2, 5])
@pytest.mark.parametrize(("frames", "window", "stride"), CLIPS)
def test_a_frame_steps_when_all_its_windows_were_seen(
    frames: int, window: int, stride: int, steps: int
) -> None:
    """In a simulation by frame, every frame evaluated at step i has taken i steps."""
    windows = cover(frames, window, stride)
    taken, seen = [0] * frames, [[0] * frames for _ in range(steps)]
    for window_step in window_steps(windows, steps):
        span = windows[window_step.window]
        for j in range(span.start, span.stop):
            assert taken[j] == window_step.step
            seen[window_step.step][j] += 1
        for j in range(span.start, span.start + window_step.final):
            assert seen[window_step.step][j] == sum(w.start <= j < w.stop for w in windows)
            taken[j] += 1

    assert taken == [steps] * frames


@pytest.mark.parametrize("steps", [1, 4, 14])
@pytest.mark.parametrize(
    ("window", "key_stride"), [(16, 1), (49, 1), (49, 2), (25, 2), (25, 1), (17, 8)]
)
def test_how_much_is_held_depends_on_windows_and_steps_alone(
    window: int, key_stride: int, steps: int
) -> None:
    """A clip ten times as long holds no more frames: a window, and a stride for each step."""
    covers = [temporal_windows(n * key_stride + 1, window, key_stride, 0.5) for n in (600, 6000)]
    held = [held_frames(windows, steps) for windows in covers]

    length, stride = len(covers[0][0]), covers[0][1].start
    strides = 1 if 2 * stride >= length else 2
    assert max(held) <= length + strides * stride * steps


@pytest.mark.parametrize(("window", "key_stride"), [(49, 1), (49, 2), (25, 1), (25, 2), (33, 2)])
@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_two_strides_cover_a_window(window: int, key_stride: int, overlap: float) -> None:
    """Two strides cover a window, and at least two thirds of the wanted overlap is kept."""
    for frames in (150, 600, 613):
        windows = temporal_windows(frames * key_stride + 1, window, key_stride, overlap)
        strides = {right.start - left.start for left, right in pairwise(windows)}
        length = len(windows[0])

        assert 2 * min(strides) >= length
        assert length - max(strides) >= int(2 * overlap * length / 3)
        computed = len(windows) * length / windows[-1].stop
        assert computed < 1.12 / (1 - overlap)  # times that a frame is evaluated


def test_a_short_clip_is_held_as_a_whole() -> None:
    """A short clip allows no saving."""
    assert held_frames([Span(0, 7)], 4) == 7
    assert longest_overlap([Span(0, 7)]) == 0


def test_the_front_counts_frames() -> None:
    """The progress counts frames that entered, and frames that are done."""
    windows = cover(20, 9, 4)
    reached = SceneProgress(windows, 3)
    for window_step in window_steps(windows, 3):
        reached.take(window_step)
        assert reached.entered >= reached.settled

    assert (reached.entered, reached.settled) == (20, 20)


def test_a_window_may_reach_over_two_others() -> None:
    """A frame waits for every window that holds it, whatever the windows' layout."""
    windows = cover(18, 9, 4)  # 0, 4, 8, 9
    assert [w.start for w in windows] == [0, 4, 8, 9]
    assert settled(windows, 3) == 9
    assert longest_overlap(windows) == 8


def test_scenes_begin_at_cuts() -> None:
    """Each scene has its own windows, over grid frames counted from its first key frame."""
    made = cut_scenes(20, (3, 4), key_stride=2, window=9, overlap=0.5)

    assert [(s.keys.start, s.keys.stop) for s in made] == [(0, 3), (3, 4), (4, 20)]
    assert [s.frames for s in made] == [5, 1, 31]
    assert [s.start for s in made] == [0, 6, 8]
    assert all(s.windows[-1].stop == s.frames for s in made)
    assert {len(w) for w in made[2].windows} == {9}
