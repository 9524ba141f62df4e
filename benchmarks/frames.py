"""A clip made on the spot, and the PSNR between the frames of two runs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from typing_extensions import Self

from venhancer.pipeline.pixels import Frame
from venhancer.pipeline.state import NoJournal
from venhancer.planning.plan import Plan


def write_clip(path: Path, frames: int, width: int = 320, height: int = 180) -> None:
    """Soft waves that move, 24 frames a second."""
    y, x = np.mgrid[0:height, 0:width]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(24))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for k in range(frames):
            waves = (np.sin((x - 3 * k) / 9), np.cos((y + k) / 7), np.sin((x + y - k) / 13))
            pixels = np.stack([127 + 90 * w for w in waves], axis=-1).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


# --- frames of two runs, before a file's encoder sees them ----------------------------------------


LEAST_PSNR = 45.0  # dB, of the worst frame against float32
SMALLEST_ERROR = 1e-9  # squared: gives equal frames a finite PSNR


class FrameTap(NoJournal):
    """A journal that only stores a run's 8-bit frames: an .npy file, f H W 3.

    The writing thread puts them on the disk one by one, so memory and the networks' time do not
    change.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        size = plan.geometry
        shape = (plan.timeline.grid_frames, size.height, size.width, 3)
        self._file = path.open("wb")
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, frame: Frame) -> None:
        self._file.write(np.ascontiguousarray(frame).data)


def psnr(frame: Frame, exact: Frame) -> float:
    """Compute the PSNR over all three channels, in dB."""
    error = ((frame.astype(np.float64) - exact) ** 2).mean()
    return float(10 * np.log10(255**2 / max(error, SMALLEST_ERROR)))


def mean_and_least(values: Iterable[float]) -> dict[str, float]:
    """Compute the mean and the minimum over the frames of a clip, to two decimals."""
    found = list(values)
    return {"mean": round(statistics.fmean(found), 2), "least": round(min(found), 2)}


def compare(frames: Path, exact: Path) -> dict[str, float]:
    """Compute the PSNR of the frames that two taps stored, frame by frame."""
    pair = (np.load(path, mmap_mode="r") for path in (frames, exact))
    return mean_and_least(psnr(a, b) for a, b in zip(*pair, strict=True))
