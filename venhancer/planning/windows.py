"""Scenes of a clip, and the equal, overlapping windows of each scene.

This is integer arithmetic only. All windows of a scene have the same length and are spread evenly,
so that an engine can be static and a graph is captured once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from venhancer.errors import OptionError
from venhancer.spans import Span


def window_length(window: int, key_stride: int) -> int:
    """Find the longest window of at most `window` frames that begins and ends on key frames."""
    if window < key_stride + 1:
        raise OptionError(
            f"window={window} holds no two key frames that lie {key_stride} apart: "
            f"take {key_stride + 1} or more"
        )
    return (window - 1) // key_stride * key_stride + 1


def temporal_windows(frames: int, window: int, key_stride: int, overlap: float) -> list[Span]:
    """Spread windows evenly over `frames` (a multiple of `key_stride`, plus one), on key frames.

    Each window shares about `overlap` of its frames with the next: at most half, at least two
    thirds of `overlap`. Where possible, two strides cover a window; then a step of the sampler
    follows the one before it by one stride, not by two.
    """
    length = window_length(window, key_stride)
    if frames <= length:
        return [Span(0, frames)]
    shortest = -(-length // (2 * key_stride))  # strides, counted in key strides
    wanted = max(shortest, (length - int(overlap * length)) // key_stride)
    longest = max(1, (length - int(2 * overlap * length / 3)) // key_stride)
    way = (frames - length) // key_stride
    strides = max(-(-way // longest), way // wanted)
    starts = [way * k // strides * key_stride for k in range(strides + 1)]
    return [Span(start, start + length) for start in starts]


@dataclass(frozen=True, slots=True)
class Scene:
    """Key frames between two cuts, and the windows over the frames made from them."""

    keys: Span  # of the clip's key frames
    key_stride: int  # frames that the model makes from one key frame to the next
    windows: tuple[Span, ...]  # over the scene's own frames, which begin with its first key frame

    @property
    def start(self) -> int:
        """Number of the scene's first frame among the frames that the model makes."""
        return self.keys.start * self.key_stride

    @property
    def frames(self) -> int:
        """Count of the frames that the model makes, from its first key frame to its last."""
        return (len(self.keys) - 1) * self.key_stride + 1


def cut_scenes(
    keys: int, cuts: Sequence[int], key_stride: int, window: int, overlap: float
) -> tuple[Scene, ...]:
    """Cut `keys` key frames into scenes, each beginning at a cut, and each scene into windows."""
    made = []
    for start, stop in pairwise([0, *cuts, keys]):
        frames = (stop - start - 1) * key_stride + 1
        windows = tuple(temporal_windows(frames, window, key_stride, overlap))
        made.append(Scene(Span(start, stop), key_stride, windows))
    return tuple(made)
