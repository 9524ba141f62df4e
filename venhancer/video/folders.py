"""Folders of numbered PNG files."""

import re
from pathlib import Path

import av

from venhancer.errors import VideoError
from venhancer.options import InputLimits
from venhancer.video.decode import decode
from venhancer.video.inputs import open_input
from venhancer.video.streams import video_stream


def numbered_pngs(folder: Path) -> list[Path]:
    """List PNG files whose names end in a number, in natural order, without hidden files."""
    files = [
        file
        for file in folder.iterdir()
        if re.fullmatch(r"[^.].*?\.png|\d\.png", file.name, re.IGNORECASE)
        and file.stem[-1].isdecimal()
    ]
    return sorted(files, key=_natural)


def _natural(file: Path) -> tuple[list[tuple[str, int]], str]:
    parts = re.findall(r"(\D*)(\d*)", file.stem)
    return [(text, int(number or 0)) for text, number in parts], file.name


def read_picture(file: Path, limits: InputLimits) -> av.VideoFrame:
    """Decode a picture; VideoError if it cannot be read."""
    with open_input(file, limits) as container:
        frames = decode(container, video_stream(container, file), limits=limits)
        frame, _ = next(frames, (None, None))
    if frame is None:
        raise VideoError(f"{file} is not an image that can be read")
    return frame
