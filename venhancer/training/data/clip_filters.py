"""Filters of clips that teach little: still clips, clips with a cut inside, and pages of text.

Thresholds are in 8-bit values. Text is guessed, not read: small strokes of high contrast that do
not move for half a second, dense over an eighth of the picture. This finds slides, credits and
shop windows full of signs. It does not find one or two lines of subtitles, or moving text; and a
night view of lit windows from a fixed camera may be taken for text.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from venhancer.training.data.media import CUT, shrink

STATIC = 0.25  # mean change from frame to frame; views of a city from a tripod have 0.8
TEXT_SHARE = 0.12  # of the picture; two lines of subtitles fill 0.06, a page 0.25 and more
TEXT_ROWS = 360  # strokes are looked for in a picture of this height
STROKE, CONTRAST = 7, 64  # pixels that a stroke is thinner than; its contrast
STILL = 10  # largest change within half a second that counts as still
BLOCK, DENSITY = 24, 0.15  # pixels of a block of text, and the share of strokes in it


class Watch:
    """Filter that takes every frame of a clip, RGB (H W 3, uint8), and finds its fault."""

    def __init__(self, fps: float) -> None:
        self.apart = max(1, round(fps / 2))  # frames between two that are searched for text
        self.frames = 0
        self.changes: list[float] = []
        self.shares: list[float] = []
        self._small: Tensor | None = None
        self._searched: tuple[Tensor, Tensor] | None = None  # the last picture, and its strokes

    def add(self, frame: NDArray[np.uint8]) -> None:
        small = shrink(torch.tensor(frame).permute(2, 0, 1))
        if self._small is not None:
            self.changes.append(float((small - self._small).abs().mean()))
        if self.frames % self.apart == 0:
            luma = _luma(frame)
            searched = (luma, strokes(luma))
            if self._searched is not None:
                self.shares.append(text_share(self._searched, searched))
            self._searched = searched
        self._small = small
        self.frames += 1

    def fault(self) -> str | None:
        """Give the reason to leave the clip out; None where there is none."""
        if self.changes and max(self.changes) > CUT:
            return "cut inside"
        if not self.changes or float(np.mean(self.changes)) < STATIC:
            return "static"
        if self.shares and float(np.median(self.shares)) > TEXT_SHARE:
            return "text"
        return None


def _luma(frame: NDArray[np.uint8]) -> Tensor:
    """Convert to small luma: H W 3 -> 1 1 TEXT_ROWS w, 0 to 255."""
    height, width = frame.shape[:2]
    size = (max(1, round(width * TEXT_ROWS / height)), TEXT_ROWS)
    small = Image.fromarray(frame).convert("L").resize(size, Image.Resampling.BOX)
    return torch.from_numpy(np.array(small, np.float32))[None, None]


def text_share(one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor]) -> float:
    """Compute the share of the picture that looks like text; pictures, strokes: 1 1 h w."""
    still = (one[0] - two[0]).abs() < STILL
    found = (one[1] & two[1] & still).float()
    side = min(BLOCK, *found.shape[-2:])
    return float((F.avg_pool2d(found, side, side // 2) > DENSITY).float().mean())


def strokes(luma: Tensor) -> Tensor:
    """Find thin shapes much brighter or darker than their surroundings, by top-hat filters."""
    opened, closed = _widest(-_widest(-luma)), -_widest(-_widest(luma))
    return torch.maximum(luma - opened, closed - luma) > CONTRAST


def _widest(luma: Tensor) -> Tensor:
    return F.max_pool2d(luma, STROKE, stride=1, padding=STROKE // 2)
