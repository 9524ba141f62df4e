"""Spans of positions that cover a length, and their shares where they overlap.

Windows over frames and tiles over rows and columns are both spans.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from venhancer.options import Join


@dataclass(frozen=True, slots=True)
class Span:
    """Positions from `start` up to, not including, `stop`."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def cover(total: int, length: int, stride: int) -> list[Span]:
    """Cover `total` with equal spans of `length`, at most `stride` apart; with one, if it fits."""
    if total <= length:
        return [Span(0, total)]
    starts = [*range(0, total - length, stride), total - length]
    return [Span(start, start + length) for start in starts]


def tiles(size: int, tile: int, step: int) -> list[Span]:
    """Lay tiles along one axis of `size` latents, with a quarter of overlap, each on a `step`.

    Tile and size must both suit the network. Then all tiles do, because the last one slides back.
    """
    return cover(size, tile, max(step, tile * 3 // 4 // step * step))


def join_shares(spans: list[Span], join: Join = "blend") -> list[list[float]]:
    """Compute the share of each span at each of its positions; shares sum to one everywhere.

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
    """Return 0 in the first half of an overlap, 1 from its middle on."""
    return float(position >= overlap // 2)


def _fade(position: int, overlap: int) -> float:
    """Compute a raised cosine from 0 to 1, strictly between them along an overlap."""
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
