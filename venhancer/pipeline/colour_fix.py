"""Colours of the result, taken from the enlarged input.

A fix takes something from an input frame that was enlarged (`take`), and gives it to a frame of the
result (`give`). A frame that the model makes between two key frames gets a linear mix of what was
taken from both.

    wavelet  the low band of an a-trous wavelet transform (Holschneider et al. 1989)
    adain    mean and spread of each channel in RGB (Huang and Belongie 2017)
    lab      mean and spread of each channel in CIELAB (after Reinhard et al. 2001)

Frames: f 3 H W, RGB in [-1, 1]. Every frame is computed by itself, so that the bits do not depend
on how many are computed together.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from venhancer.config import ColorFix
from venhancer.pipeline.pixels import Frame, resize
from venhancer.pipeline.queues import close
from venhancer.planning.plan import Plan
from venhancer.video.reading import read_frames

LEVELS = 5  # of the wavelet transform: the low band is a blur of about 13 pixels
LEAST_SPREAD = 1 / 255  # half a grey level of 255; spreads below it count as this one
DITHER = 0.9  # levels from the lowest to the highest value: rounding undoes it on whole levels

WHITE_XYZ = (  # linear sRGB to CIE XYZ, relative to the white of D65: each row sums to 1
    (0.433887, 0.376224, 0.189889),
    (0.212639, 0.715169, 0.072192),
    (0.017750, 0.109448, 0.872802),
)
LAB_BEND = 6 / 29  # below, the cube root of CIELAB is replaced by a line


def take(fix: ColorFix, reference: Tensor) -> Tensor:
    """Take what the result gets: 1 3 H W -> its low band, or its means and spreads (2 3 1 1)."""
    if fix == "wavelet":
        return low_band(reference)
    return statistics(reference if fix == "adain" else to_lab(reference))


def give(fix: ColorFix, frame: Tensor, taken: Tensor) -> Tensor:
    """Give a frame what was taken from its reference: 1 3 H W."""
    if fix == "wavelet":
        return frame + (taken - low_band(frame))
    if fix == "adain":
        return matched(frame, taken)
    return from_lab(matched(to_lab(frame), taken))


def low_band(frames: Tensor) -> Tensor:
    """Smooth with the kernel [1 2 1] / 4, dilated by 1, 2, 4, 8 and 16; borders are repeated."""
    for level in range(LEVELS):
        for axis in (2, 3):
            frames = _smooth(frames, axis, 2**level)
    return frames


def _smooth(frames: Tensor, axis: int, distance: int) -> Tensor:
    around = (0, 0, distance, distance) if axis == 2 else (distance, distance, 0, 0)
    padded = F.pad(frames, around, mode="replicate")
    near, far = (padded.narrow(axis, start, frames.shape[axis]) for start in (0, 2 * distance))
    return near.add(far).add_(frames, alpha=2).mul_(0.25)


def statistics(frame: Tensor) -> Tensor:
    """Compute means and spreads of the channels: 1 3 H W -> 2 3 1 1."""
    spread, mean = torch.std_mean(frame, dim=(2, 3), keepdim=True, correction=0)
    return torch.cat([mean, spread])


def matched(frame: Tensor, wanted: Tensor) -> Tensor:
    """Change a frame linearly, such that its channels have the wanted means and spreads."""
    own = statistics(frame)
    spreads = wanted[1].clamp_min(LEAST_SPREAD), own[1].clamp_min(LEAST_SPREAD)
    gain = spreads[0] / spreads[1]
    return frame * gain + (wanted[0] - gain * own[0])


# --- CIELAB ------------------------------------------------------------------------------------


def to_lab(frames: Tensor) -> Tensor:
    """Convert sRGB to CIELAB over 100: f 3 H W; values beyond the range are converted too."""
    coded = (frames + 1) / 2
    curved = ((coded.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4
    linear = torch.where(coded <= 0.04045, coded / 12.92, curved)
    xyz = _mixed(linear, WHITE_XYZ)
    line = xyz / (3 * LAB_BEND**2) + 4 / 29
    x, y, z = torch.where(xyz <= LAB_BEND**3, line, _cube_root(xyz)).unbind(1)
    return torch.stack([1.16 * y - 0.16, 5 * (x - y), 2 * (y - z)], dim=1)


def from_lab(lab: Tensor) -> Tensor:
    """Undo `to_lab`."""
    light, red, yellow = lab.unbind(1)
    y = (light + 0.16) / 1.16
    root = torch.stack([y + red / 5, y, y - yellow / 2], dim=1)
    xyz = torch.where(root <= LAB_BEND, 3 * LAB_BEND**2 * (root - 4 / 29), root**3)
    linear = _mixed(xyz, np.linalg.inv(WHITE_XYZ).tolist())
    curved = 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, 12.92 * linear, curved) * 2 - 1


def _cube_root(values: Tensor) -> Tensor:
    return values.clamp_min(LAB_BEND**3) ** (1 / 3)


def _mixed(frames: Tensor, rows: tuple[tuple[float, ...], ...] | list[list[float]]) -> Tensor:
    """Mix the channels by a matrix, pixel by pixel, in full precision on every device."""
    channels = frames.unbind(1)
    mixed = [sum(w * c for w, c in zip(row, channels, strict=True)) for row in rows]
    return torch.stack(mixed, dim=1)  # type: ignore[arg-type]


# --- dithering ---------------------------------------------------------------------------------


def dither(height: int, width: int, largest: int) -> Tensor:
    """Make a pattern to add before rounding, so that smooth areas show no bands: H W.

    It is interleaved gradient noise (Jimenez 2014) of less than half a level in each direction.
    largest: the largest value of the pixels, which stands for 1
    """
    rows, columns = np.mgrid[:height, :width]
    slope = (0.06711056 * columns + 0.00583715 * rows) % 1
    noise = 52.9829189 * slope % 1 - 0.5
    return torch.from_numpy((noise * (2 * DITHER / largest)).astype(np.float32))


# --- the input beside the result ---------------------------------------------------------------


class InputColours:
    """Fixer of the model's frames; it reads the input once more, a frame at a time.

    Frames come in order; going back, or starting later, opens the input again at the right frame.
    """

    def __init__(self, plan: Plan, device: str) -> None:
        self.plan, self.device = plan, device
        largest = np.iinfo(np.dtype(plan.source.frame_type)).max
        self.dither = dither(plan.geometry.height, plan.geometry.width, largest).to(device)
        self.frames: Iterator[Frame] = iter(())
        self.reached = -1  # number of the input frame that `frames` gives next
        self.taken: dict[int, Tensor] = {}  # from the key frames around the present frame

    def fix(self, frames: Tensor, first: int) -> Tensor:
        """Fix and dither frames of the model, numbered from `first` on: f 3 H W."""
        fixed = [
            give(self.plan.color_fix, frame[None], self._wanted(number))
            for number, frame in enumerate(frames, first)
        ]
        return torch.cat(fixed).add_(self.dither)

    def _wanted(self, number: int) -> Tensor:
        """Mix what was taken from the key frames on both sides of a frame."""
        stride = self.plan.sampling.key_stride
        key, step = divmod(number, stride)
        before = self._of(key)
        return torch.lerp(before, self._of(key + 1), step / stride) if step else before

    def _of(self, key: int) -> Tensor:
        """Take from a key frame, enlarged as the model sees it."""
        if key not in self.taken:
            plan = self.plan
            size = plan.geometry.width, plan.geometry.height
            reference = resize(
                self._read(key), *size, plan.preset.model.upsampling, device=self.device
            )
            self.taken = {k: x for k, x in self.taken.items() if k == key - 1}
            self.taken[key] = take(plan.color_fix, reference)
        return self.taken[key]

    def _read(self, key: int) -> Frame:
        if key != self.reached:
            self.close()
            self.frames = read_frames(self.plan.source, key)
        frame = next(self.frames)
        self.reached = key + 1
        return frame

    def close(self) -> None:
        """Close the input; a later frame opens it again."""
        close(self.frames)
        self.frames, self.reached = iter(()), -1
