"""Methods out of networks of others: RIFE makes new frames, then another enlarges them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from math import prod
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.baselines import resize
from benchmarks.metrics import Frames
from benchmarks.peer_basicvsr import SCALE, BasicVsr
from benchmarks.peer_ncnn import AnimeVideo, NcnnEnlarger, Span
from benchmarks.peer_rife import Rife
from venhancer.pipeline.pixels import Frame

Method = Callable[[Frames], Frames]

SPAN_CHAINS = ((2,), (4,), (4, 2))  # one after the other, from the smallest product on


def one_by_one(network: NcnnEnlarger) -> Method:
    return lambda frames: np.stack([*map(network.enlarge, frames)])


def span_chain(scale: int) -> tuple[int, ...]:
    """The networks of SPAN that make frames at least as large as asked."""
    return next(chain for chain in SPAN_CHAINS if prod(chain) >= scale)


def span(peers: Path, scale: int) -> Method:
    """SPAN's x2 and x4 networks, after each other; then made smaller to the scale."""
    chain = span_chain(scale)
    networks = [Span(factor, peers / "span") for factor in chain]
    smaller = scale / prod(chain)

    def enlarge(frame: Frame) -> Frame:
        large = reduce(lambda made, network: network.enlarge(made), networks, frame)
        return large if smaller == 1 else resize(large, smaller, Image.Resampling.BICUBIC)

    return lambda frames: np.stack([*map(enlarge, frames)])


ENLARGERS: Mapping[str, Callable[[Path, int], Method]] = {
    "rife-span": span,
    "rife-basicvsr": lambda peers, scale: BasicVsr(peers / "basicvsr").enlarge,
    "rife-animevideov3": lambda peers, scale: one_by_one(AnimeVideo(peers / "realesrgan")),
}


def cannot(name: str, scale: int) -> str:
    """The reason why a peer does not run at that scale; empty where it does."""
    if name == "rife-span" or scale == SCALE:
        return ""
    return f"cannot: its weights are for {SCALE}x only"


def note_of(name: str, scale: int, interpolate: int) -> str:
    """The way in which a peer reaches scale and frames, where that is not plain from its name."""
    said = [] if interpolate > 1 else ["no new frames, so without RIFE"]
    chain = span_chain(scale)
    if name == "rife-span" and chain != (scale,):
        said.append("SPAN " + ", then ".join(f"x{factor}" for factor in chain))
        if prod(chain) != scale:
            said[-1] += f", then made smaller to {scale}x by antialiased bicubic"
    return "; ".join(said) if name in ENLARGERS else ""


def load_method(name: str, peers: Path, scale: int = SCALE, interpolate: int = 2) -> Method:
    """One of ENLARGERS, behind RIFE where there are new frames; loaded from `peers`."""
    rife = Rife(peers / "rife") if interpolate > 1 else None
    enlarge = ENLARGERS[name](peers, scale)
    if rife is None:
        return enlarge
    return lambda frames: enlarge(np.stack([*rife.interpolate(frames, interpolate)]))
