"""A clip -> scenes -> equal overlapping windows; a large frame -> equal overlapping tiles.

Pure integers and weights. All windows of a scene have the same length, and so have all tiles, so
that an engine can be static and a graph is captured once: windows are spread evenly, and the last
tile slides back rather than being smaller.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from venhancer.errors import OptionError

Join = Literal["blend", "cut"]


@dataclass(frozen=True, slots=True)
class Span:
    """Positions from `start` up to, not including, `stop`."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def cover(total: int, length: int, stride: int) -> list[Span]:
    """Equal spans of `length`, at most `stride` apart, that cover `total`; one, if it fits."""
    if total <= length:
        return [Span(0, total)]
    starts = [*range(0, total - length, stride), total - length]
    return [Span(start, start + length) for start in starts]


def window_length(window: int, gap: int) -> int:
    """The longest window of at most `window` frames that begins and ends on key frames."""
    if window < gap + 1:
        raise OptionError(
            f"window={window} holds no two key frames that lie {gap} apart: take {gap + 1} or more"
        )
    return (window - 1) // gap * gap + 1


def temporal_windows(frames: int, window: int, gap: int, overlap: float) -> list[Span]:
    """Windows over `frames` (a multiple of `gap`, plus one), on key frames, evenly spread.

    About the share `overlap` of each, at most half, is seen by the next one too; two thirds of that
    at least. Two strides cover a window wherever that can be: then a step of the sampler follows
    the one before it by one stride, not by two.
    """
    length = window_length(window, gap)
    if frames <= length:
        return [Span(0, frames)]
    shortest = -(-length // (2 * gap))  # strides, in gaps
    wanted = max(shortest, (length - int(overlap * length)) // gap)
    longest = max(1, (length - int(2 * overlap * length / 3)) // gap)
    way = (frames - length) // gap
    strides = max(-(-way // longest), way // wanted)
    starts = [way * k // strides * gap for k in range(strides + 1)]
    return [Span(start, start + length) for start in starts]


@dataclass(frozen=True, slots=True)
class Scene:
    """Key frames between two cuts, and the windows over what is made of them."""

    keys: Span  # of the clip's key frames
    gap: int  # frames that the model makes from one key frame to the next
    windows: tuple[Span, ...]  # over the scene's own frames, which begin with its first key frame

    @property
    def start(self) -> int:
        """Where it begins among the frames that the model makes."""
        return self.keys.start * self.gap

    @property
    def frames(self) -> int:
        """Frames that the model makes, from its first key frame to its last."""
        return (len(self.keys) - 1) * self.gap + 1


def cut_scenes(
    keys: int, cuts: Sequence[int], gap: int, window: int, overlap: float
) -> tuple[Scene, ...]:
    """Cut `keys` key frames where a new scene begins, and each scene into windows."""
    made = []
    for start, stop in pairwise([0, *cuts, keys]):
        frames = (stop - start - 1) * gap + 1
        windows = tuple(temporal_windows(frames, window, gap, overlap))
        made.append(Scene(Span(start, stop), gap, windows))
    return tuple(made)


def tiles(size: int, tile: int, step: int) -> list[Span]:
    """Tiles along one axis of `size` latents, a quarter overlapping; each begins on a `step`.

    Tile and size must both suit the network; so do all tiles, for the last slides back.
    """
    return cover(size, tile, max(step, tile * 3 // 4 // step * step))


def weights(spans: list[Span], join: Join = "blend") -> list[list[float]]:
    """How much each span counts at each of its positions; they sum to one everywhere.

    `cut` changes over in the middle of an overlap, as the release does; `blend` fades along it.
    """
    risen = _cut if join == "cut" else _fade
    raw = []
    for i, span in enumerate(spans):
        rise = _overlap(spans[i - 1], span) if i else 0
        fall = _overlap(span, spans[i + 1]) if i + 1 < len(spans) else 0
        into_fall = len(span) - fall
        raw.append(
            [
                (risen(k, rise) if rise else 1.0)
                * (1.0 - risen(k - into_fall, fall) if fall else 1.0)
                for k in range(len(span))
            ]
        )
    return _normalised(spans, raw)


def _overlap(left: Span, right: Span) -> int:
    return max(0, left.stop - right.start)


def _cut(position: int, overlap: int) -> float:
    """0 in the first half of an overlap, 1 from its middle on."""
    return float(position >= overlap // 2)


def _fade(position: int, overlap: int) -> float:
    """A raised cosine from 0 to 1, strictly between them along an overlap."""
    share = min(max((position + 1) / (overlap + 1), 0.0), 1.0)
    return (1 - math.cos(math.pi * share)) / 2


def _normalised(spans: list[Span], raw: list[list[float]]) -> list[list[float]]:
    """Divide by the sum at each position: a last tile that slid back may overlap two others."""
    total = [0.0] * spans[-1].stop
    for span, values in zip(spans, raw, strict=True):
        for k, value in enumerate(values):
            total[span.start + k] += value
    return [
        [value / total[span.start + k] for k, value in enumerate(values)]
        for span, values in zip(spans, raw, strict=True)
    ]
