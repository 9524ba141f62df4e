"""Clips and photos of a pack: as much of the training and validation material as may travel.

A pool of NANO's samples takes runs of 17 true frames out of films of 384x264 and more, and views
of 512x384 out of photos: two seconds and a thousand pixels are enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
from PIL import Image, ImageOps

CLIP_SECONDS = 2.0
FILM_CLIPS = {"train": 10, "validation": 2}  # of each film, evenly spread
CRF = 24  # of x264
LONGEST_SIDE = 1280  # pixels of a clip: larger films are shrunk to it
PHOTO_SIDE, PHOTO_QUALITY = 1100, 87
FILMS = {".mp4", ".mpg", ".mov", ".mkv", ".webm"}
PHOTOS = {".jpg", ".jpeg", ".png"}


def fill(data: Path, pack: Path) -> None:
    """pack/train and pack/validation; files that are there already are kept."""
    for part, clips in FILM_CLIPS.items():
        (pack / part).mkdir(parents=True, exist_ok=True)
        for source in sorted((data / part).rglob("*")):
            kind = source.suffix.lower()
            if kind in FILMS:
                cut_film(source, pack / part, clips)
            elif kind in PHOTOS:
                shrink_photo(source, pack / part / f"{source.stem}.jpg")


def starts(duration: float, clips: int) -> Iterator[float]:
    """Seconds at which clips begin, no two of which overlap."""
    count = max(1, min(clips, int(duration / CLIP_SECONDS)))
    for number in range(count):
        yield number * duration / count


def cut_film(source: Path, folder: Path, clips: int) -> None:
    """Some clips of a film, encoded anew, without sound."""
    with av.open(str(source), "r") as film:
        duration = (film.duration or 0) / av.time_base
    for number, start in enumerate(starts(duration, clips)):
        target = folder / f"{source.stem}-{number:02d}.mp4"
        if not target.is_file():
            write_clip(source, start, target)


def write_clip(source: Path, start: float, target: Path) -> None:
    """CLIP_SECONDS of a film from `start` on, in 4:2:0 by x264."""
    temporary = target.with_suffix(".part")
    with av.open(str(source), "r") as film, av.open(str(temporary), "w", format="mp4") as clip:
        shown = film.streams.video[0]
        rate = Fraction(shown.average_rate or 24)
        width, height = fitted(shown.codec_context.width, shown.codec_context.height)
        options = {"crf": str(CRF), "preset": "slow"}
        made = clip.add_stream("libx264", rate=rate, options=options)
        made.width, made.height, made.pix_fmt = width, height, "yuv420p"
        film.seek(int(start * av.time_base))
        later = (f for f in film.decode(shown) if f.time is None or f.time >= start)
        for number, frame in enumerate(islice(later, round(CLIP_SECONDS * rate))):
            picture = frame.reformat(width, height, format="yuv420p")
            picture.pts, picture.time_base = number, 1 / rate
            clip.mux(made.encode(picture))
        clip.mux(made.encode(None))
    temporary.replace(target)


def fitted(width: int, height: int) -> tuple[int, int]:
    """At most LONGEST_SIDE pixels a side, and even."""
    share = min(1.0, LONGEST_SIDE / max(width, height))
    return 2 * round(share * width / 2), 2 * round(share * height / 2)


def shrink_photo(source: Path, target: Path) -> None:
    """A JPEG of at most PHOTO_SIDE pixels a side."""
    if target.is_file():
        return
    with Image.open(source) as photo:
        upright = ImageOps.exif_transpose(photo).convert("RGB")
    upright.thumbnail((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.LANCZOS)
    upright.save(target, quality=PHOTO_QUALITY)
