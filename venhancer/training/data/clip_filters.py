"""Which clips teach little: stills, those with a cut inside, and pages of text.

Thresholds are of 8-bit values. What counts as text is a guess without any reading: small strokes of
high contrast that stand still for half a second, dense over an eighth of the picture. Slides,
credits and shop windows full of signs are caught; a line or two of subtitles is not, nor is text
that moves, and a night view of windows from a camera that stands still may be taken for text.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from venhancer.training.data.media import CUT, shrink

STATIC = 0.25  # mean change from frame to frame; tripod views of a city have 0.8
TEXT_SHARE = 0.12  # of the picture; two lines of subtitles fill 0.06, a page 0.25 and more
TEXT_ROWS = 360  # strokes are looked for in a picture of this height
STROKE, CONTRAST = 7, 64  # pixels that a stroke is thinner than; how far it stands out
STILL = 10  # change within half a second that standing still allows
BLOCK, DENSITY = 24, 0.15  # pixels of a block of text, and the share of strokes in it


class Watch:
    """Takes every frame of a clip, RGB (H W 3, uint8), and says what is wrong with the clip."""

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
        """The reason to leave the clip out; None where there is none."""
        if self.changes and max(self.changes) > CUT:
            return "cut inside"
        if not self.changes or float(np.mean(self.changes)) < STATIC:
            return "static"
        if self.shares and float(np.median(self.shares)) > TEXT_SHARE:
            return "text"
        return None


def _luma(frame: NDArray[np.uint8]) -> Tensor:
    """H W 3 -> 1 1 TEXT_ROWS w, 0 to 255."""
    height, width = frame.shape[:2]
    size = (max(1, round(width * TEXT_ROWS / height)), TEXT_ROWS)
    small = Image.fromarray(frame).convert("L").resize(size, Image.Resampling.BOX)
    return torch.from_numpy(np.array(small, np.float32))[None, None]


def text_share(one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor]) -> float:
    """Share of the picture that looks like text; pictures and their strokes, 1 1 h w."""
    still = (one[0] - two[0]).abs() < STILL
    found = (one[1] & two[1] & still).float()
    side = min(BLOCK, *found.shape[-2:])
    return float((F.avg_pool2d(found, side, side // 2) > DENSITY).float().mean())


def strokes(luma: Tensor) -> Tensor:
    """Where something thin is much brighter or darker than what is round it: top-hat filters."""
    opened, closed = _widest(-_widest(-luma)), -_widest(-_widest(luma))
    return torch.maximum(luma - opened, closed - luma) > CONTRAST


def _widest(luma: Tensor) -> Tensor:
    return F.max_pool2d(luma, STROKE, stride=1, padding=STROKE // 2)
