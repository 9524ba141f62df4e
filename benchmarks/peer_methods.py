"""Methods out of networks of others: RIFE doubles the frames, then another enlarges them all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.metrics import Frames
from benchmarks.peer_basicvsr import SCALE, BasicVsr
from benchmarks.peer_ncnn import AnimeVideo, NcnnEnlarger, Span
from benchmarks.peer_rife import Rife

INTERPOLATE = 2
Method = Callable[[Frames], Frames]


def one_by_one(network: NcnnEnlarger) -> Method:
    return lambda frames: np.stack([*map(network.enlarge, frames)])


ENLARGERS: dict[str, Callable[[Path], Method]] = {
    "rife-span": lambda peers: one_by_one(Span(SCALE, peers / "span")),
    "rife-basicvsr": lambda peers: BasicVsr(peers / "basicvsr").enlarge,
    "rife-animevideov3": lambda peers: one_by_one(AnimeVideo(peers / "realesrgan")),
}


def load_method(name: str, peers: Path) -> Method:
    """One of ENLARGERS behind RIFE, loaded from what `make data` put into `peers`."""
    rife, enlarge = Rife(peers / "rife"), ENLARGERS[name](peers)
    return lambda frames: enlarge(np.stack([*rife.interpolate(frames, INTERPOLATE)]))
