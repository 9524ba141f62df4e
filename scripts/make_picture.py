"""Make the README's picture: a frame of the sample clip, enlarged plainly and by VEnhancer.

It is cut out of the result that `make demo` leaves: `python scripts/make_picture.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from venhancer.video.clip import Clip
from venhancer.video.probe import probe
from venhancer.video.reading import read_frames

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "assets" / "butterfly.mp4"
RESULT = ROOT / "demo" / "butterfly_4x.mp4"
PICTURE = ROOT / "assets" / "before_after.jpg"

FRAME = 8  # of the sample: the butterfly passes the face
CROP = (110, 12, 366, 204)  # left, top, right, bottom in the result's pixels
ZOOM = 2  # both crops are shown this much larger, so that a reader sees their pixels
GAP = 8  # pixels of white between them
BEST_QUALITY = 92
MOST_BYTES = 150_000
WORDS = ("before: bicubic, 4x", "after: VEnhancer, 4x")
WORD_SIZE = 20


def make_picture(sample: Path, result: Path, target: Path) -> None:
    """Write one JPEG of at most MOST_BYTES: the crop before, and the crop after."""
    small, large = probe(sample), probe(result)
    factor = (large.frames - 1) // (small.frames - 1)  # the result has more frames a second
    before = read_picture(small, FRAME)
    after = read_picture(large, FRAME * factor)
    enlarged = before.resize(after.size, Image.Resampling.BICUBIC)
    save_small(beside([shown(enlarged, WORDS[0]), shown(after, WORDS[1])]), target)


def read_picture(clip: Clip, number: int) -> Image.Image:
    """Read one frame of a clip."""
    return Image.fromarray(next(read_frames(clip, number)))


def shown(picture: Image.Image, words: str) -> Image.Image:
    """Cut the crop out, enlarge it and write its caption at its lower edge."""
    left, top, right, bottom = CROP
    size = (ZOOM * (right - left), ZOOM * (bottom - top))
    zoomed = picture.crop(CROP).resize(size, Image.Resampling.BICUBIC)
    place = (10, size[1] - WORD_SIZE - 12)
    font = ImageFont.load_default(WORD_SIZE)
    draw = ImageDraw.Draw(zoomed)
    draw.text(place, words, "white", font, stroke_width=2, stroke_fill="black")
    return zoomed


def beside(pictures: Sequence[Image.Image]) -> Image.Image:
    """Put pictures of one size side by side, on white."""
    width, height = pictures[0].size
    total = width * len(pictures) + GAP * (len(pictures) - 1)
    joined = Image.new("RGB", (total, height), "white")
    for number, picture in enumerate(pictures):
        joined.paste(picture, (number * (width + GAP), 0))
    return joined


def save_small(picture: Image.Image, target: Path) -> None:
    """Save with the best quality that keeps the file under MOST_BYTES."""
    for quality in range(BEST_QUALITY, 0, -4):
        picture.save(target, quality=quality, optimize=True, subsampling=0)
        if target.stat().st_size <= MOST_BYTES:
            return


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "result", type=Path, nargs="?", default=RESULT, help="what `make demo` made"
    )
    parser.add_argument("--sample", type=Path, default=SAMPLE)
    parser.add_argument("--out", type=Path, default=PICTURE)
    args = parser.parse_args(argv)
    make_picture(args.sample, args.result, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
