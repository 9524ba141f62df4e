"""Deinterlacing by FFmpeg's `bwdif`, which sees one frame before and one after."""

from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
from av.filter import Graph

REACH = 2  # frames before one that its result needs, with a margin


def deinterlaced(frames: Iterable[av.VideoFrame], is_double: bool) -> Iterator[av.VideoFrame]:
    """Deinterlace frames: one for each, or with `is_double` one for each field.

    Frames that are not marked as interlaced pass unchanged, unless fields are wanted.
    """
    graph: Graph | None = None
    for frame in frames:
        if graph is None:
            graph = _make_graph(frame, is_double)
        graph.push(frame)
        yield from _pulled(graph)
    if graph is not None:
        graph.push(None)
        yield from _pulled(graph)


def _make_graph(frame: av.VideoFrame, is_double: bool) -> Graph:
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=frame.time_base or Fraction(1, 1000),
    )
    modes = "mode=send_field:deint=all" if is_double else "mode=send_frame:deint=interlaced"
    bwdif, sink = graph.add("bwdif", modes), graph.add("buffersink")
    source.link_to(bwdif)
    bwdif.link_to(sink)
    graph.configure()
    return graph


def _pulled(graph: Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            frame = graph.pull()
        except (BlockingIOError, EOFError):
            return
        assert isinstance(frame, av.VideoFrame)
        yield frame


def field_times(times: tuple[Fraction, ...], end: Fraction) -> tuple[Fraction, ...]:
    """Compute the times of the fields: each frame's own, and halfway to the next frame."""
    later = (*times[1:], end)
    return tuple(t for a, b in zip(times, later, strict=True) for t in (a, (a + b) / 2))
