"""Frame sizes: the size asked for, the padding that the network needs, the release's rules."""

from __future__ import annotations

import math
from dataclasses import dataclass

from venhancer.config import ModelConfig
from venhancer.errors import OptionError

MIN_SCALE, MAX_SCALE = 1.0, 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Size of the output, and the padding that the network needs around it; all in pixels."""

    width: int
    height: int
    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0

    @property
    def padded_width(self) -> int:
        return self.left + self.width + self.right

    @property
    def padded_height(self) -> int:
        return self.top + self.height + self.bottom


def target_size(
    width: int,
    height: int,
    scale: float | None,
    size: tuple[int, int] | None,
    is_even: bool = False,
) -> tuple[int, int]:
    """Compute the exact output size (width, height); OptionError if it is out of range.

    is_even: a size that follows from the scale becomes even, by a pixel more
    """
    if size is None:
        if scale is None or not MIN_SCALE <= scale <= MAX_SCALE:
            raise OptionError(f"scale={scale}: take a number from 1 to 8")
        wanted = max(1, round(width * scale)), max(1, round(height * scale))
        return (wanted[0] + wanted[0] % 2, wanted[1] + wanted[1] % 2) if is_even else wanted
    for name, found, asked in (("width", width, size[0]), ("height", height, size[1])):
        if not MIN_SCALE * found <= asked <= MAX_SCALE * found:
            raise OptionError(
                f"size {size[0]}x{size[1]} is out of reach from {width}x{height}: "
                f"take a {name} from {found} to {int(MAX_SCALE * found)}"
            )
    return size


def _round_up(value: int, step: int, remainder: int) -> int:
    """Round up to the next number that is congruent to `remainder` modulo `step`."""
    return value + (remainder - value) % step


def fit(width: int, height: int, model: ModelConfig, least: tuple[int, int] = (0, 0)) -> Geometry:
    """Compute the smallest padding, at the right and the bottom, to a size that the network takes.

    least: the smallest padded width and height; the network must take these too
    """
    stride, step = model.latent_stride, model.unet.size_step
    padded_width = max(least[0], _round_up(width, stride * step, 0))
    padded_height = max(
        least[1], _round_up(height, stride * step, stride * model.unet.row_remainder)
    )
    return Geometry(
        width=width, height=height, right=padded_width - width, bottom=padded_height - height
    )


RELEASED_LEAST_WIDTH, RELEASED_LEAST_HEIGHT = 1280, 720  # smaller frames are centred in this
RELEASED_LARGEST_AREA = 1280 * 2048


def released_size(width: int, height: int, scale: float) -> tuple[int, int]:
    """Compute the size that the release chooses: at least 720 lines, clamped area, even numbers."""
    scale = max(scale, RELEASED_LEAST_HEIGHT / height)
    scale = min(scale, math.sqrt(RELEASED_LARGEST_AREA / (width * height)))
    return int(width * scale) // 2 * 2, int(height * scale) // 2 * 2


def released_padding(width: int, height: int) -> Geometry:
    """Compute the release's padding; a side above 1280 or 720 always gets some, up to 64."""
    left, right = _released_pad(width, RELEASED_LEAST_WIDTH, 0)
    top, bottom = _released_pad(height, RELEASED_LEAST_HEIGHT, 16)
    return Geometry(width=width, height=height, left=left, right=right, top=top, bottom=bottom)


def _released_pad(size: int, least: int, remainder: int) -> tuple[int, int]:
    if size <= least:
        before = (least - size) // 2
        return before, least - size - before
    return 0, 64 - (size - remainder) % 64
