"""RIFE and SPAN from file to file, on the processor: RIFE makes frames, SPAN enlarges them."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from benchmarks.peer_files import PEERS
from benchmarks.peer_ncnn import Span
from benchmarks.peer_rife import Rife
from venhancer.pipeline.frames import QUEUE
from venhancer.pipeline.pixels import Frame
from venhancer.pipeline.queues import ahead, behind
from venhancer.pipeline.stopwatch import Stopwatch
from venhancer.planning.timeline import interpolated
from venhancer.video.probe import probe, read_frames
from venhancer.video.writer import open_writer


def load(scale: int, folder: Path = PEERS) -> tuple[Rife, Span]:
    """Both; PeerError where they were not fetched."""
    return Rife(folder / "rife"), Span(scale, folder / "span")


def enhance(
    source: Path, target: Path, scale: int, factor: int, folder: Path = PEERS
) -> dict[str, float]:
    """RIFE at the size of the input, then SPAN -> seconds per stage.

    Read ahead, written behind and encoded as our own frames are.
    """
    watch, writing = Stopwatch(), Stopwatch()
    with watch("load"):
        rife, span = load(scale, folder)
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
