"""Numbers of frames, key frames and sums that a run holds; `sampling/latents.py` allocates them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from venhancer.contract import DECODED_FRAMES
from venhancer.planning.window_order import held_frames, held_windows, longest_overlap
from venhancer.planning.windows import Scene

Size = tuple[int, int, int]  # channels, rows, columns


@dataclass(frozen=True, slots=True)
class Capacity:
    """Numbers of frames, key frames, sums and windows that are held at a time."""

    frames: int  # being denoised, or waiting to be decoded
    overlap: int  # frames whose sums wait for the next window, at every step
    keys: int
    steps: int
    windows: int  # between their first step and their last

    @property
    def sums(self) -> int:
        """Slots for sums; per step: the overlap, one for unused sums, one that stays zero."""
        return self.steps * (self.overlap + 2)

    def bytes(self, size: Size, neighbours: int = 0) -> int:
        """Count the bytes of `Latents`, float32; neighbours: a key frame's neighbour channels."""
        channels = size[0] * (2 * self.frames + self.keys + self.sums) + neighbours * self.keys
        return 4 * channels * size[1] * size[2]


@cache
def capacity_for(scenes: tuple[Scene, ...], steps: int) -> Capacity:
    """Compute what the largest scene needs; frames leave `DECODED_FRAMES` at a time."""
    key_stride = scenes[0].key_stride
    held = max(held_frames(scene.windows, steps) for scene in scenes)
    overlap = max(longest_overlap(scene.windows) for scene in scenes)
    frames = (
        held + (DECODED_FRAMES - 1) + (key_stride - 1)
    )  # a key frame brings the frames up to the next one
    windows = max(held_windows(scene.windows, steps) for scene in scenes)
    return Capacity(frames, overlap, (frames - 1) // key_stride + 1, steps, windows)
