"""Methods made of third-party networks: RIFE makes new frames, another network enlarges all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import reduce
from math import prod
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.peers.networks import PEERS, SCALE, AnimeVideo, BasicVsr, NcnnEnlarger, Rife, Span
from benchmarks.quality.clips import resize
from benchmarks.quality.metrics import Frames
from venhancer.pipeline.frames import QUEUE
from venhancer.pipeline.pixels import Frame
from venhancer.pipeline.queues import ahead, behind
from venhancer.pipeline.stopwatch import Stopwatch
from venhancer.planning.timeline import interpolated
from venhancer.video.probe import probe
from venhancer.video.reading import read_frames
from venhancer.video.writer import open_writer

Method = Callable[[Frames], Frames]

SPAN_CHAINS = ((2,), (4,), (4, 2))  # networks to apply in order; sorted by total scale


def one_by_one(network: NcnnEnlarger) -> Method:
    return lambda frames: np.stack([*map(network.enlarge, frames)])


def span_chain(scale: int) -> tuple[int, ...]:
    """Choose the networks of SPAN that make frames at least as large as asked."""
    return next(chain for chain in SPAN_CHAINS if prod(chain) >= scale)


def span(peers: Path, scale: int) -> Method:
    """Apply SPAN's x2 and x4 networks in sequence, then shrink the result to the scale."""
    chain = span_chain(scale)
    networks = [Span(factor, peers / "span") for factor in chain]
    smaller = scale / prod(chain)

    def enlarge(frame: Frame) -> Frame:
        made = reduce(lambda made, network: network.enlarge(made), networks, frame)
        large = np.asarray(made, np.uint8)
        return large if smaller == 1 else resize(large, smaller, Image.Resampling.BICUBIC)

    return lambda frames: np.stack([*map(enlarge, frames)])


ENLARGERS: Mapping[str, Callable[[Path, int], Method]] = {
    "rife-span": span,
    "rife-basicvsr": lambda peers, scale: BasicVsr(peers / "basicvsr").enlarge,
    "rife-animevideov3": lambda peers, scale: one_by_one(AnimeVideo(peers / "realesrgan")),
}


def cannot(name: str, scale: int) -> str:
    """Return the reason why a peer does not run at that scale; empty if it does."""
    if name == "rife-span" or scale == SCALE:
        return ""
    return f"cannot: its weights are for {SCALE}x only"


def note_of(name: str, scale: int, interpolate: int) -> str:
    """Describe how a peer reaches scale and frames, if its name does not make that plain."""
    said = [] if interpolate > 1 else ["no new frames, so without RIFE"]
    chain = span_chain(scale)
    if name == "rife-span" and chain != (scale,):
        said.append("SPAN " + ", then ".join(f"x{factor}" for factor in chain))
        if prod(chain) != scale:
            said[-1] += f", then made smaller to {scale}x by antialiased bicubic"
    return "; ".join(said) if name in ENLARGERS else ""


def load_method(name: str, peers: Path, scale: int = SCALE, interpolate: int = 2) -> Method:
    """Load one of ENLARGERS from `peers`, behind RIFE if there are new frames."""
    rife = Rife(peers / "rife") if interpolate > 1 else None
    enlarge = ENLARGERS[name](peers, scale)
    if rife is None:
        return enlarge
    return lambda frames: enlarge(np.stack([*rife.interpolate(frames, interpolate)]))


# --- from file to file ----------------------------------------------------------------------------


def load_rife_span(scale: int, folder: Path = PEERS) -> tuple[Rife, Span]:
    """Load both; PeerError if they were not fetched."""
    return Rife(folder / "rife"), Span(scale, folder / "span")


def enhance_file(
    source: Path, target: Path, scale: int, factor: int, folder: Path = PEERS
) -> dict[str, float]:
    """Enhance with RIFE at the size of the input, then SPAN -> seconds per stage.

    Reading ahead, writing behind and encoding are those of our own runs.
    """
    watch, writing = Stopwatch(), Stopwatch()
    with watch("load"):
        rife, span = load_rife_span(scale, folder)
    clip = probe(source)
    timeline = interpolated(clip, factor)
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
