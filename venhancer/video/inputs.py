"""Open video files safely: local files of known formats, with frames of a bounded size.

FFmpeg also opens playlists, addresses and scripts, which can name any other file of the machine.
"""

import re
from pathlib import Path

import av
from av.container import InputContainer

from venhancer.errors import VideoError
from venhancer.options import USUAL_LIMITS, InputLimits

_READABLE = (  # of FFmpeg: each is one file, which names no other file
    "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts", "mpeg", "mpegvideo", "m4v",
    "h264", "hevc", "vvc", "av1", "obu", "ivf", "flv", "asf", "asf_o", "ogg", "mxf", "gxf", "rm",
    "nut", "dv", "vc1", "swf", "wtv", "yuv4mpegpipe", "mjpeg", "mjpeg_2000", "avs2", "avs3",
    "cavsvideo", "dirac", "nsv", "nuv", "ivr", "roq", "bink", "smk", "flic", "gif", "apng",
    "png_pipe", "jpeg_pipe", "webp_pipe", "bmp_pipe", "tiff_pipe", "jpegxl_pipe", "jpegxl_anim",
    "exr_pipe", "dpx_pipe",
)  # fmt: skip
_SETTINGS = {"protocol_whitelist": "file", "format_whitelist": ",".join(_READABLE)}
_PICTURES = {  # by the first bytes; else a name with % in it would be taken as a pattern
    b"\x89PNG\r\n\x1a\n": "png_pipe",
    b"\xff\xd8\xff": "jpeg_pipe",
    b"BM": "bmp_pipe",
    b"II*\0": "tiff_pipe",
    b"MM\0*": "tiff_pipe",
}
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"[playlist]", b"v=0\r\n", b"v=0\n")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*:/|(concat|subfile|data|pipe|crypto|cache|file)[:,]", re.I)
_HEAD = 4096  # bytes that tell the kind of a picture


def refuse_address(path: Path) -> None:
    """Raise VideoError for a URL or another address that FFmpeg would open."""
    if _ADDRESS.match(str(path)) and not path.exists():
        shown = re.sub(r"^(\w{2,}):/(?=[^/])", r"\1://", str(path))  # a Path drops a slash
        raise VideoError(f"{shown} is an address, not a file: download it, and give the file")


def open_input(path: Path, limits: InputLimits = USUAL_LIMITS) -> InputContainer:
    """Open a file; VideoError for what is no video, and for what would open other files.

    limits: of frames that are decoded
    """
    head = _read_head(path)
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(_PLAYLISTS):
        raise VideoError(f"{path} is a playlist, which names other files: give the video itself")
    picture = _picture_format(path, head)
    settings = {**_SETTINGS, "max_pixels": str(limits.pixels)}
    try:
        container = av.open(
            f"file:{path.absolute()}",
            format=picture,
            options=settings,
            metadata_errors="replace",  # old files have titles in other encodings
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = _reason(error)
        raise VideoError(f"{path} cannot be read as video (cut short?): {reason}") from error
    if picture is None and container.format.name not in _READABLE:  # FFmpeg before 8 checks less
        name = container.format.name
        container.close()
        raise VideoError(f"{path} is {name}, not video")
    return container


def _reason(error: Exception) -> str:
    if isinstance(error, av.error.ArgumentError):
        return "it is in none of the video formats that are opened"
    return str(getattr(error, "strerror", None) or error)


def _read_head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError as error:
        raise VideoError(f"{path} cannot be read: {error.strerror}") from error


def _picture_format(path: Path, head: bytes) -> str | None:
    """Return FFmpeg's name of a picture's format; None for other files."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        if b"ANIM" in head:
            raise VideoError(
                f"{path} is an animated WebP, which FFmpeg cannot decode: convert it to APNG, "
                "GIF or MP4"
            )
        return "webp_pipe"
    found = next((name for magic, name in _PICTURES.items() if head.startswith(magic)), None)
    return "apng" if found == "png_pipe" and b"acTL" in head else found
