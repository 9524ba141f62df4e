"""Write frames at their own times: a video file or a folder of numbered PNG files.

Everything is written beside the target under a hidden name and renamed at the very end.
A failure before that leaves nothing behind.
"""

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
from av.container import OutputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream
from typing_extensions import Self

from venhancer.errors import OptionError, OutputError, ShapeError, VideoError
from venhancer.options import Audio, Speed
from venhancer.video.carriage import choose_tracks
from venhancer.video.clip import Clip
from venhancer.video.colour import LIMITED, UNSPECIFIED, Colour, Picture
from venhancer.video.encoders import Encoding, choose_encoding, quiet
from venhancer.video.png import encode_png
from venhancer.video.stamps import AnyPacket
from venhancer.video.target import (
    check_existing,
    check_target,
    fitted_name,
    hidden_name,
    is_folder_target,
    name_limit,
    speaking_errors,
    sweep,
)
from venhancer.video.tracks import TrackCopier
from venhancer.video.yuv import YUVMaker

_MIN_TICKS, _MAX_TICKS = 48_000, 1_000_000  # of the output's clock, per second
_KEEP_NEGATIVE_TIMES = {"avoid_negative_ts": "disabled"}  # else early sound shifts the video


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
    pixel_format: str | None = None,
    speed: Speed = "medium",
    audio: Audio = "copy",
    has_alpha: bool = False,
    end: Fraction | None = None,
) -> "VideoWriter | FolderWriter":
    """Open a context manager with `write(frame, time)`; the output appears at a successful end.

    width, height: of the frames, pixels, any size. fps: nominal rate. source: gives depth, colour
    tags, HDR metadata, sound, subtitles and the clock; None for 8-bit video alone.
    crf, codec, pixel_format, speed: see `choose_encoding`; ignored for a folder.
    audio: how sound is written. has_alpha: frames are H W 4. end: seconds, when the last frame
    ends; None: with the source, or after the length of a frame.
    Raises OutputError for the path, OptionError for what cannot be encoded so.
    """
    check_target(path, overwrite)
    sweep(path)
    encoding = choose_encoding(
        path,
        source,
        width,
        height,
        codec=codec,
        pixel_format=pixel_format,
        crf=crf,
        speed=speed,
        has_alpha=has_alpha,
    )
    if has_alpha and not encoding.keeps_alpha:
        raise OptionError(
            f"{encoding.codec} in {path.suffix} does not keep alpha: take prores_ks in .mov, "
            "ffv1 in .mkv or --alpha black"
        )
    shape = (height, width, 4 if has_alpha else 3)
    if is_folder_target(path):
        return FolderWriter(path, shape, overwrite, source.colour if source else Colour())
    writer = VideoWriter(path, shape, overwrite)
    try:
        writer.start(fps=fps, source=source, encoding=encoding, audio=audio, end=end)
    except BaseException:
        writer.abort()
        raise
    return writer


class _Writer:
    """Base class of both writers: the hidden temporary path, checks, and clean-up."""

    def __init__(self, path: Path, shape: tuple[int, int, int], overwrite: bool) -> None:
        self.path, self.shape, self.overwrite = path, shape, overwrite
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

    def write(self, frame: Picture, time: Fraction) -> None:
        """Add one frame; time in seconds, later than the one before.

        frame: RGB, H W 3, or H W 4 with alpha; uint8, or uint16 over its whole range
        Raises ShapeError for another size, OutputError where the disk refuses.
        """
        if frame.shape != self.shape:
            raise ShapeError(f"frames should be {self.shape}, got {frame.shape}")
        if frame.dtype not in (np.uint8, np.uint16):
            raise ShapeError(
                f"frames should be uint8 or uint16, got {frame.dtype}: scale them to 0 to 255"
            )
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

    def _write(self, frame: Picture, time: Fraction) -> None:
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
    _origin = Fraction(0)  # time of the source that is 0 in the output

    def start(
        self,
        *,
        fps: Fraction,
        source: Clip | None,
        encoding: Encoding,
        audio: Audio,
        end: Fraction | None,
    ) -> None:
        """Open encoder and file, add the tracks to copy, write the header."""
        colour = source.working_colour if source else Colour().resolved(self.shape[0])
        self._fps, self._source, self._end = fps, source, end
        self._is_avi = self.path.suffix.lower() == ".avi"
        self._yuv = YUVMaker(encoding.pixel_format, colour)
        self._tick = self._choose_tick(fps, source)
        self._pending: av.VideoFrame | None = None
        self._durations: dict[int, int] = {}
        with speaking_errors(self.path):
            self._open(encoding, audio)

    def _choose_tick(self, fps: Fraction, source: Clip | None) -> Fraction:
        """Choose a tick that makes the rate and, if possible, every time of the source exact."""
        if self._is_avi:
            return 1 / fps
        return clock_tick(fps, source.times if source else ())

    def _open(self, encoding: Encoding, audio: Audio) -> None:
        quiet(encoding.codec)
        options = _KEEP_NEGATIVE_TIMES if self.path.suffix.lower() == ".mkv" else {}
        name = str(self._temporary.absolute())
        self._container = av.open(name, "w", container_options=options)
        stream = self._container.add_stream(encoding.codec, rate=self._fps, time_base=self._tick)
        assert isinstance(stream, VideoStream)
        self._stream = stream
        self._open_encoder(stream.codec_context, encoding)
        self._copy_tracks(self._container, audio)
        try:
            self._container.start_encoding()
        except av.error.ArgumentError as error:
            message = f"{self.path.suffix} cannot hold video of {encoding.codec}"
            raise OptionError(message) from error

    def _copy_tracks(self, container: OutputContainer, audio: Audio) -> None:
        """Add the source's other tracks; the earliest track of all begins at 0."""
        if self._source is None:
            return
        carriage = choose_tracks(self._source, self.path, audio)
        self._origin = carriage.origin
        if not self._source.is_folder:
            self._copier = TrackCopier(self._source.path, container, carriage)

    def _open_encoder(self, context: VideoCodecContext, encoding: Encoding) -> None:
        colour = self._yuv.colour
        assert colour.matrix is not None
        context.height, context.width = self.shape[:2]
        context.pix_fmt = encoding.pixel_format
        context.colorspace, context.color_range = colour.matrix, colour.range or LIMITED
        context.color_primaries = colour.primaries or UNSPECIFIED
        context.color_trc = colour.transfer or UNSPECIFIED
        context.sample_aspect_ratio = self._source.sample_aspect if self._source else Fraction(1)
        context.options = dict(encoding.options)
        if encoding.tag:
            context.codec_tag = encoding.tag
        is_variable = self._source is not None and self._source.is_variable
        if self._is_avi or (self.path.suffix.lower() in (".mp4", ".mov") and is_variable):
            context.max_b_frames = 0  # the first stores no presentation times, the others no end
        try:
            context.open()
        except av.error.FFmpegError as error:
            told = ", ".join(f"{name}={value}" for name, value in encoding.options.items())
            raise OptionError(
                f"{encoding.codec} refuses {context.width}x{context.height} "
                f"{encoding.pixel_format} with {told}: {error.strerror}"
            ) from error

    def _write(self, frame: Picture, time: Fraction) -> None:
        video = self._yuv.make(frame)
        time -= self._origin
        video.pts, video.time_base = round(time / self._tick), self._tick
        previous, self._pending = self._pending, video
        if previous is not None:
            assert previous.pts is not None
            video.pts = max(video.pts, previous.pts + 1)
            self._mux(self._encode(previous, video.pts - previous.pts))
        if self._copier is not None:
            self._copier.pump(time)

    def _encode(self, frame: av.VideoFrame, duration: int) -> list[AnyPacket]:
        """Encode a frame; AVI numbers its frames, so there it is repeated for as long as it lasts.

        duration: in ticks
        """
        assert frame.pts is not None
        count, each = (duration, 1) if self._is_avi else (1, duration)
        packets: list[AnyPacket] = []
        for pts in range(frame.pts, frame.pts + count):
            frame.pts, self._durations[pts] = pts, each
            packets += self._stream.encode(frame)
        return packets

    def _mux(self, packets: Sequence[AnyPacket]) -> None:
        assert self._container is not None
        for packet in packets:
            if packet.pts is not None:
                packet.duration = self._durations.pop(packet.pts, 0) or packet.duration
            self._container.mux_one(packet)

    def _finish(self) -> None:
        assert self._container is not None and self._pending is not None
        last, duration = self._pending, max(1, round(self._last_duration() / self._tick))
        packets = [*self._encode(last, duration), *self._stream.encode(None)]
        if packets and packets[-1].pts != last.pts:  # MP4 ends with the last packet, not frame
            shown = packets[-1].pts or 0
            usual = self._durations.get(shown, 0)
            self._durations[shown] = max(
                usual, usual + duration - round(1 / self._fps / self._tick)
            )
        self._mux(packets)
        if self._copier is not None:
            self._copier.pump()
        self._container.close()
        self._stop()

    def _last_duration(self) -> Fraction:
        """Choose the last frame's duration: up to the known end, or as in the source."""
        step = 1 / self._fps
        if self._end is not None and self._last is not None:
            return self._end - self._last
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

    def __init__(
        self, path: Path, shape: tuple[int, int, int], overwrite: bool, colour: Colour
    ) -> None:
        super().__init__(path, shape, overwrite)
        self._colour = colour

    def _write(self, frame: Picture, time: Fraction) -> None:
        self._temporary.mkdir(exist_ok=True)
        file = self._temporary / f"{self.frames + 1:06d}.png"
        file.write_bytes(encode_png(frame, self._colour))

    def _rename(self) -> None:
        if not self.path.is_dir():
            super()._rename()
            return
        ending = f".{uuid4().hex[:6]}.old"
        room = name_limit(self.path.absolute().parent) - len(ending) - 1
        old = self.path.with_name(f".{fitted_name(self.path.name, room)}{ending}")
        self.path.rename(old)
        try:
            super()._rename()
        except BaseException:
            old.rename(self.path)
            raise
        shutil.rmtree(old, ignore_errors=True)


def write_frames(path: Path, frames: Iterable[Picture], fps: Fraction) -> None:
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
