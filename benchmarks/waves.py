"""A clip made on the spot, for measurements that do not depend on what is shown."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


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
