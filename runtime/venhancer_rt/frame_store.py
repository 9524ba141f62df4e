"""Frame store: frames that have left a run, kept losslessly in its folder until the run ends.

It writes pieces `frames-FIRST.store`; FIRST is the number of the piece's first frame. A piece is a
header, then for each frame the length and the CRC-32 of its packet, and the packet. The codec is
MagicYUV, which keeps RGB bit by bit at every size and stores the size of the frame. It has 8 bits:
a frame of 16 bits is stored as one of twice the height, the high bytes above the low bytes. The
header says which kind of frames a piece holds.

The pieces are no Matroska files: FFmpeg's Matroska muxer writes whole clusters and an index at the
end, so a piece could be settled only by closing it, and its demuxer checks no CRC unless asked to.
When the process is killed, our records lose at most the packet that is being written and what
Python's write buffer still holds, some KiB.

The codec was chosen by this table, measured with FFmpeg 8.1 on one core of a busy AMD EPYC: ms to
encode and to decode a frame, and the compressed size. "x4" is butterfly.mp4 enlarged to 640x360,
"live" two camera clips of 1280x720, "noisy" one of them with grain of 1.5 levels.

                     x4               live              noisy
    MagicYUV          3    3   29 %     7    8   22 %     7   10   52 %
    FFV1              9   11   23 %    31   23   13 %    50   55   45 %   no frames 1 pixel wide
    Ut Video          2    2   28 %     9    8   22 %     9   11   50 %   cannot read odd noise
    FFVHUFF           2    3   36 %     7   14   38 %     7   14   55 %
    H.264, qp 0       4    6   19 %    13   20   18 %    20   46   52 %   not in every FFmpeg
    PNG, level 1      9    4   47 %    29   13   30 %    51   21   61 %

The same for 16 bits, as CPU time. "10 bits" are the live clips in 10 bits, which are spread over
the whole range; "noisy" are these with grain of 2 levels of 1023, and "16 bits" have grain of 32
levels of 65535.

                     10 bits 640x360  10 bits 1280x720 noisy 1280x720   16 bits 1280x720
    MagicYUV, twice   6    6   36 %    22   20   23 %    21   24   50 %    22   29   74 %
    FFV1             34   40   30 %    88  100   19 %   189  220   48 %   225  281   58 %
    FFVHUFF, left     4    8   78 %    15   27   65 %    17   34   94 %    17   29   83 %
    FFVHUFF, tables  22   12   47 %    41   33   34 %    47   36   52 %    53   51   66 %
    PNG, level 1     22    7   42 %    52   19   23 %   129   37   54 %   162   41   78 %

FFV1 refuses frames of 1x7 in 16 bits too. "tables" are new Huffman tables for every frame.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, TypeAlias

import av
import numpy as np
from av.codec import CodecContext
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from venhancer.errors import VEnhancerError
from venhancer.pipeline.pixels import Frame

FrameType: TypeAlias = "np.dtype[np.uint8] | np.dtype[np.uint16]"
_BYTE = np.dtype(np.uint8)
_HEADER = struct.Struct("<8sQ")  # magic of the kind of frames, number of the first frame
_MAGIC: dict[FrameType, bytes] = {_BYTE: b"VEFRAME1", np.dtype(np.uint16): b"VEFRAME2"}
_RECORD = struct.Struct("<II")  # bytes of the packet, CRC-32 of the packet


class FrameStoreError(VEnhancerError):
    """A piece that is missing, cut short, changed or of other frames."""


class FrameStore:
    """Writer of frames (uint8 or uint16 H W 3, all of one size and type) into pieces.

    pieces, frames: those that the resumed run had settled; other pieces are removed.
    If the disk refuses a write, `OSError` is raised, and only `close` may follow. A frame of
    another type than the first one, or than the settled pieces hold, is a FrameStoreError.
    """

    def __init__(self, folder: Path, pieces: Sequence[str] = (), frames: int = 0) -> None:
        self.folder, self.frames = folder, frames
        self._pieces = list(pieces)
        self._file: BinaryIO | None = None
        self._encoder: _Encoder | None = None
        self._kind = _kind(folder / pieces[0]) if pieces else None  # set by the first frame
        for path in folder.glob("frames-*.store"):
            if path.name not in pieces:
                path.unlink()

    def add(self, frame: Frame) -> None:
        """Write a frame; it is safe from the next `settle` on."""
        if self._kind is None:
            self._kind = frame.dtype
        if frame.dtype != self._kind or frame.dtype not in _MAGIC:
            raise FrameStoreError(
                f"{self.folder} holds frames of {self._kind}, got {frame.dtype}: "
                "all should be uint8, or all uint16"
            )
        image = _as_bytes(frame)
        if self._encoder is None:
            self._encoder = _Encoder(image.shape[1], image.shape[0])
        packet = self._encoder.encode(image)
        if self._file is None:
            self._file = (self.folder / f"frames-{self.frames:09d}.store").open("wb")
            self._file.write(_HEADER.pack(_MAGIC[frame.dtype], self.frames))
        self._file.write(_RECORD.pack(len(packet), zlib.crc32(packet)))
        self._file.write(packet)
        self.frames += 1

    def settle(self) -> tuple[str, ...]:
        """Close the open piece once its bytes are on the disk; return all names, in order."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            _sync_folder(self.folder)
            self._file.close()
            self._pieces.append(Path(self._file.name).name)
            self._file = None
        return tuple(self._pieces)

    def close(self) -> None:
        """Remove the piece that is not settled."""
        if self._file is not None:
            with suppress(OSError):  # the rest of its buffer may not fit on the disk
                self._file.close()
            with suppress(OSError):
                Path(self._file.name).unlink()
            self._file = None


def read(folder: Path, pieces: Sequence[str], frames: int) -> Iterator[Frame]:
    """Read the first `frames` frames of a run, all that `pieces` hold, one at a time.

    Raises FrameStoreError, naming the file, if the pieces do not hold exactly these.
    """
    bounds = [*(_first(folder, piece) for piece in pieces), frames]
    if bounds[0] != 0:
        raise FrameStoreError(f"{folder}: the first {bounds[0]} frames are missing")
    kind = _kind(folder / pieces[0]) if pieces else None
    for piece, (first, after) in zip(pieces, pairwise(bounds), strict=True):
        assert kind is not None
        yield from _read_piece(folder / piece, kind, first, after)


def _first(folder: Path, piece: str) -> int:
    match = re.fullmatch(r"frames-(\d{9,})\.store", piece)
    if match is None:
        raise FrameStoreError(f"{folder / piece} is no name of a piece of frames")
    return int(match[1])


def _kind(path: Path) -> FrameType:
    """Read the type of a piece's frames from its header."""
    with _speaking_errors(path), path.open("rb") as file:
        magic = file.read(len(_MAGIC[_BYTE]))
    kinds = [kind for kind, known in _MAGIC.items() if known == magic]
    if not kinds:
        raise FrameStoreError(f"{path} does not begin as a piece of frames would")
    return kinds[0]


def _read_piece(path: Path, kind: FrameType, first: int, after: int) -> Iterator[Frame]:
    with _speaking_errors(path), path.open("rb") as file:
        decoder = CodecContext.create("magicyuv", "r")
        assert isinstance(decoder, VideoCodecContext)
        decoder.thread_count = 1  # more would hold frames back
        size = os.fstat(file.fileno()).st_size
        if file.read(_HEADER.size) != _HEADER.pack(_MAGIC[kind], first):
            raise FrameStoreError(
                f"{path} does not begin as the frames from {first} on would, of {kind}"
            )
        for number in range(first, after):
            (frame,) = decoder.decode(av.Packet(_read_packet(file, size, number)))
            image = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
            yield image if kind == _BYTE else _of_bytes(image)
        if file.tell() != size:
            raise FrameStoreError(f"{path} holds more than the frames from {first} to {after - 1}")


def _as_bytes(frame: Frame) -> NDArray[np.uint8]:
    """Put the high bytes of a frame of 16 bits above its low bytes; return others as they are."""
    if frame.dtype == _BYTE:
        return np.ascontiguousarray(frame)
    height = frame.shape[0]
    image = np.empty((2 * height, *frame.shape[1:]), np.uint8)
    np.right_shift(frame, 8, out=image[:height], casting="unsafe")
    np.bitwise_and(frame, 255, out=image[height:], casting="unsafe")
    return image


def _of_bytes(image: NDArray[np.uint8]) -> Frame:
    """Join the high bytes above and the low bytes below to a frame of 16 bits."""
    height = image.shape[0] // 2
    frame = image[:height].astype(np.uint16)
    frame <<= 8
    frame |= image[height:]
    return frame


def _read_packet(file: BinaryIO, size: int, number: int) -> bytes:
    """Read the packet of a frame from a file of `size` bytes."""
    record = file.read(_RECORD.size)
    if len(record) == _RECORD.size:
        length, checksum = _RECORD.unpack(record)
        packet = file.read(min(length, size))
        if len(packet) == length and zlib.crc32(packet) == checksum:
            return packet
    raise FrameStoreError(f"{file.name} is cut short or changed at frame {number}")


@contextmanager
def _speaking_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FrameStoreError(f"{path} cannot be read: {reason}") from error


class _Encoder:
    """Encoder of RGB frames of 8 bits into packets of MagicYUV."""

    def __init__(self, width: int, height: int) -> None:
        self._scaler = VideoReformatter()
        try:
            codec = CodecContext.create("magicyuv", "w")
        except ValueError as error:
            raise OSError("this FFmpeg has no MagicYUV") from error
        assert isinstance(codec, VideoCodecContext)
        codec.width, codec.height, codec.pix_fmt = width, height, "gbrp"
        codec.time_base = Fraction(1, 24)  # required, but not used
        codec.options = {"pred": "median"}
        codec.thread_count = 1  # more would hold frames back
        self._codec = codec

    def encode(self, frame: NDArray[np.uint8]) -> bytes:
        image = av.VideoFrame.from_ndarray(frame, format="rgb24")
        try:
            (packet,) = self._codec.encode(self._scaler.reformat(image, format="gbrp"))
        except av.error.FFmpegError as error:
            raise OSError(error.errno, f"a frame could not be encoded: {error}") from error
        return bytes(packet)


def _sync_folder(folder: Path) -> None:
    """Write the folder's own entries to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
