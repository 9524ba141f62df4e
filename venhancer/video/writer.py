"""Write frames at their own times: a video file or a folder of numbered PNG files.

Everything is written beside the target under a hidden name and renamed at the very end.
A failure before that leaves nothing behind.
"""

import logging
import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import chain
from math import lcm
from pathlib import Path
from types import TracebackType
from uuid import uuid4

import av
import numpy as np
from av.codec import Codec, CodecContext
from av.container import OutputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream
from numpy.typing import NDArray
from typing_extensions import Self

from venhancer.errors import OptionError, OutputError, ShapeError, VideoError
from venhancer.video.clip import Clip
from venhancer.video.colour import Colour, YUVMaker
from venhancer.video.decode import AnyPacket
from venhancer.video.target import (
    check_existing,
    check_target,
    hidden_name,
    is_folder_target,
    speaking_errors,
    sweep,
)
from venhancer.video.tracks import TrackCopier

__all__ = ["FolderWriter", "VideoWriter", "check_target", "open_writer"]

logger = logging.getLogger(__name__)

_MIN_TICKS, _MAX_TICKS = 48_000, 1_000_000  # of the output's clock, per second
_MAX_CRF = 63  # of AV1; H.264 and H.265 stop at 51
_KEEP_NEGATIVE_TIMES = {"avoid_negative_ts": "disabled"}  # else early sound shifts the video
_OPTIONS = {  # `faster` takes half the time of `medium`, for as many bytes (measured at 720p)
    "libx264": {"preset": "faster"},
    "libx265": {"preset": "faster", "x265-params": "log-level=error"},
}


def open_writer(  # noqa: PLR0913  a public interface
    path: Path,
    *,
    width: int,
    height: int,
    fps: Fraction,
    source: Clip | None,
    crf: int = 17,
    codec: str | None = None,
    overwrite: bool = False,
) -> "VideoWriter | FolderWriter":
    """Open a context manager with `write(frame, time)`; the output appears at a successful end.

    width, height: of the frames, pixels, any size. fps: nominal rate, also the length of the
    last frame. source: gives colour tags, sound, subtitles and the clock; None for none.
    crf, codec: quality (0 best) and encoder, ignored for a folder.
    Raises OutputError for the path, OptionError for crf or codec.
    """
    check_target(path, overwrite)
    sweep(path)
    if is_folder_target(path):
        if source is not None and (source.audio or source.subtitles):
            logger.warning("sound and subtitles are left out: %s is a folder of PNG files", path)
        return FolderWriter(path, width, height, overwrite)
    writer = VideoWriter(path, width, height, overwrite)
    try:
        writer.start(fps=fps, source=source, crf=crf, codec=codec or "libx264")
    except BaseException:
        writer.abort()
        raise
    return writer


class _Writer:
    """Base class of both writers: the hidden temporary path, checks, and clean-up."""

    def __init__(self, path: Path, width: int, height: int, overwrite: bool) -> None:
        self.path, self.width, self.height, self.overwrite = path, width, height, overwrite
        self.frames = 0
        self._last: Fraction | None = None
        self._temporary = hidden_name(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.abort()
            return
        try:
            self.close()
        except BaseException:
            self.abort()
            raise

    def write(self, frame: NDArray[np.uint8], time: Fraction) -> None:
        """Add one frame: uint8 H W 3 RGB; time in seconds, later than the one before.

        Raises ShapeError for another size, OutputError where the disk refuses.
        """
        if frame.shape != (self.height, self.width, 3):
            raise ShapeError(
                f"frames should be ({self.height}, {self.width}, 3), got {frame.shape}"
            )
        if frame.dtype != np.uint8:
            raise ShapeError(f"frames should be uint8, got {frame.dtype}: scale them to 0 to 255")
        if self._last is not None and time <= self._last:
            raise ValueError(f"frame times must increase, got {time} after {self._last}")
        with speaking_errors(self.path):
            self._write(frame, time)
        self._last = time
        self.frames += 1

    def close(self) -> None:
        """Finish the output and give it its name. Called at the end of the `with` block."""
        if not self.frames:
            raise OutputError(f"{self.path} was given no frame, so it is not written")
        with speaking_errors(self.path):
            self._finish()
            check_existing(self.path, self.overwrite)
            self._rename()

    def abort(self) -> None:
        """Remove all that was written so far."""
        self._stop()
        if self._temporary.is_dir():
            shutil.rmtree(self._temporary, ignore_errors=True)
        else:
            with suppress(OSError):  # report the error that led here, not this one
                self._temporary.unlink()

    def _write(self, frame: NDArray[np.uint8], time: Fraction) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        """Flush; nothing to do for a folder."""

    def _rename(self) -> None:
        self._temporary.replace(self.path)

    def _stop(self) -> None:
        """Close what is open, whatever its state; must not raise."""


class VideoWriter(_Writer):
    """Writer that encodes frames into a video file; made by `open_writer`."""

    _container: OutputContainer | None = None
    _copier: TrackCopier | None = None

    def start(self, *, fps: Fraction, source: Clip | None, crf: int, codec: str) -> None:
        """Open encoder and file, add the tracks to copy, write the header."""
        colour = source.working_colour if source else Colour().resolved(self.height)
        pixel_format = _pixel_format(codec, crf, self.width, self.height)
        self._fps, self._source = fps, source
        self._yuv = YUVMaker(pixel_format, colour)
        self._tick = self._choose_tick(fps, source)
        self._pending: av.VideoFrame | None = None
        self._durations: dict[int, int] = {}
        with speaking_errors(self.path):
            self._open(codec, crf, colour)

    def _choose_tick(self, fps: Fraction, source: Clip | None) -> Fraction:
        """Choose a tick that makes the rate and, if possible, every time of the source exact."""
        if self.path.suffix.lower() == ".avi":
            logger.warning("AVI numbers its frames: times are rounded and may be a frame late")
            return 1 / fps
        return clock_tick(fps, source.times if source else ())

    def _open(self, codec: str, crf: int, colour: Colour) -> None:
        if codec == "libsvtav1":
            os.environ.setdefault("SVT_LOG", "1")  # the only way to silence it
        options = _KEEP_NEGATIVE_TIMES if self.path.suffix.lower() == ".mkv" else {}
        name = str(self._temporary.absolute())
        self._container = av.open(name, "w", container_options=options)
        self._stream = self._add_video(self._container, codec, crf, colour)
        if self._source is not None and not self._source.is_folder:
            self._copier = TrackCopier(self._source.path, self._container)
        try:
            self._container.start_encoding()
        except av.error.ArgumentError as error:
            raise OptionError(f"{self.path.suffix} cannot hold video of {codec}") from error

    def _add_video(
        self, container: OutputContainer, codec: str, crf: int, colour: Colour
    ) -> VideoStream:
        try:
            stream = container.add_stream(codec, rate=self._fps, time_base=self._tick)
        except ValueError as error:
            raise OptionError(f"{self.path.suffix} cannot hold video of {codec}") from error
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        context.width, context.height = self.width, self.height
        context.pix_fmt = self._yuv.pixel_format
        context.colorspace, context.color_range = colour.matrix or 2, colour.range or 1
        context.color_primaries, context.color_trc = colour.primaries or 2, colour.transfer or 2
        context.sample_aspect_ratio = self._source.sample_aspect if self._source else Fraction(1)
        context.options = {"crf": str(crf), **_OPTIONS.get(codec, {})}
        if self.path.suffix.lower() == ".avi":
            context.max_b_frames = 0  # AVI stores no presentation times
        try:
            context.open()
        except av.error.FFmpegError as error:
            raise OptionError(
                f"{codec} refuses {self.width}x{self.height} {context.pix_fmt} at crf {crf}: "
                f"{error.strerror}"
            ) from error
        return stream

    def _write(self, frame: NDArray[np.uint8], time: Fraction) -> None:
        video = self._yuv.make(frame)
        video.pts, video.time_base = round(time / self._tick), self._tick
        previous, self._pending = self._pending, video
        if previous is not None:
            assert previous.pts is not None
            video.pts = max(video.pts, previous.pts + 1)
            self._encode(previous, video.pts - previous.pts)
        if self._copier is not None:
            self._copier.pump(time)

    def _encode(self, frame: av.VideoFrame, duration: int) -> None:
        assert frame.pts is not None
        self._durations[frame.pts] = duration
        self._mux(self._stream.encode(frame))

    def _mux(self, packets: Sequence[AnyPacket]) -> None:
        assert self._container is not None
        for packet in packets:
            if packet.pts is not None:
                packet.duration = self._durations.pop(packet.pts, 0) or packet.duration
            self._container.mux_one(packet)

    def _finish(self) -> None:
        assert self._container is not None and self._pending is not None
        self._encode(self._pending, max(1, round(self._last_duration() / self._tick)))
        self._mux(self._stream.encode(None))
        if self._copier is not None:
            self._copier.pump()
        self._container.close()
        self._stop()

    def _last_duration(self) -> Fraction:
        """Choose the last frame's duration: the source's, if both videos end together."""
        step = 1 / self._fps
        if self._source is None or self._last is None:
            return step
        rest = self._source.end - self._last
        is_last = self._last == self._source.times[-1]
        return rest if rest > 0 and (is_last or rest <= 2 * step) else step

    def _stop(self) -> None:
        for part in (self._copier, self._container):
            with suppress(av.error.FFmpegError, OSError, ValueError):
                if part is not None:
                    part.close()
        self._copier = self._container = None


class FolderWriter(_Writer):
    """Writer of 000001.png, 000002.png, ... into a folder, without times; see `open_writer`."""

    def _write(self, frame: NDArray[np.uint8], time: Fraction) -> None:
        self._temporary.mkdir(exist_ok=True)
        file = self._temporary / f"{self.frames + 1:06d}.png"
        file.write_bytes(encode_png(frame))

    def _rename(self) -> None:
        if not self.path.is_dir():
            super()._rename()
            return
        old = self.path.with_name(f".{self.path.name}.{uuid4().hex[:6]}.old")
        self.path.rename(old)
        try:
            super()._rename()
        except BaseException:
            old.rename(self.path)
            raise
        shutil.rmtree(old, ignore_errors=True)


def write_frames(path: Path, frames: Iterable[NDArray[np.uint8]], fps: Fraction) -> None:
    """Write frames (H W 3) at a constant rate, to a file or a folder of PNG files.

    VideoError where there is none; ShapeError where one has another size than the first.
    """
    waiting = iter(frames)
    first = next(waiting, None)
    if first is None:
        raise VideoError("there are no frames to write")
    height, width = first.shape[:2]
    writer = open_writer(path, width=width, height=height, fps=fps, source=None, overwrite=True)
    with writer:
        for number, frame in enumerate(chain([first], waiting)):
            writer.write(frame, number / fps)


def encode_png(frame: NDArray[np.uint8]) -> bytes:
    """Encode uint8 H W 3 RGB as the bytes of a PNG file, lightly compressed.

    A 720p frame takes 40 ms, against 226 ms by default for a file 3 % smaller.
    """
    context = CodecContext.create("png", "w")
    assert isinstance(context, VideoCodecContext)
    context.height, context.width = frame.shape[:2]
    context.pix_fmt, context.time_base = "rgb24", Fraction(1, 24)
    context.options = {"compression_level": "1", "pred": "up"}
    image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    return b"".join(bytes(p) for p in (*context.encode(image), *context.encode(None)))


def clock_tick(fps: Fraction, times: tuple[Fraction, ...]) -> Fraction:
    """Choose the seconds per tick, such that `fps` and all `times` are whole ticks.

    Where that takes more than a million ticks per second, times are rounded.
    """
    ticks = fps.numerator
    for denominator in {time.denominator for time in times}:
        ticks = lcm(ticks, denominator)
        if ticks > _MAX_TICKS:
            ticks = fps.numerator if not times or fps.numerator > _MAX_TICKS else _MAX_TICKS
            break
    while ticks < _MIN_TICKS:
        ticks *= 2
    return Fraction(1, min(ticks, _MAX_TICKS))


def _pixel_format(codec: str, crf: int, width: int, height: int) -> str:
    """Choose yuv420p, or yuv444p for odd sizes, which yuv420p cannot hold exactly."""
    try:
        encoder = Codec(codec, "w")
    except (av.error.FFmpegError, ValueError) as error:
        raise OptionError(f"{codec!r} is no encoder of this FFmpeg, try libx264") from error
    if encoder.type != "video":
        raise OptionError(f"{codec!r} encodes {encoder.type}, not video")
    if not 0 <= crf <= _MAX_CRF:
        raise OptionError(f"crf should be between 0 and {_MAX_CRF}, got {crf}")
    wanted = "yuv444p" if width % 2 or height % 2 else "yuv420p"
    formats = [f.name for f in encoder.video_formats or ()]
    if formats and wanted not in formats:
        raise OptionError(f"{codec} cannot encode {width}x{height}: it has no {wanted}")
    return wanted
