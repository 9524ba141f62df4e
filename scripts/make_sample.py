"""Make the clip that `make demo` enhances: two seconds of Big Buck Bunny, small and at 12 fps.

It is taken from the validation half of the film, which is not used for training; see `make data`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from venhancer.errors import VEnhancerError
from venhancer.video.probe import probe
from venhancer.video.reading import read_frames
from venhancer.video.writer import open_writer

START = 1299  # frame of data/validation/bbb.mp4: the butterfly flies past the rabbit
FRAMES, EVERY = 25, 2
WIDTH, HEIGHT = 160, 90
FPS = Fraction(12)
CRF = 12


def make_sample(source: Path, target: Path) -> None:
    """Take every second frame, eight times smaller; the film's own frames lie between them."""
    clip = probe(source)
    frames = islice(read_frames(clip, START), 0, FRAMES * EVERY, EVERY)
    with open_writer(
        target, width=WIDTH, height=HEIGHT, fps=FPS, source=None, crf=CRF, overwrite=True
    ) as writer:
        for number, frame in enumerate(frames):
            small = Image.fromarray(frame).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
            writer.write(np.asarray(small), number / FPS)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--film", type=Path, default=Path("data/validation/bbb.mp4"))
    parser.add_argument("-o", "--out", type=Path, default=Path("assets/butterfly.mp4"))
    args = parser.parse_args(argv)
    try:
        make_sample(args.film, args.out)
    except VEnhancerError as error:
        print(f"make_sample: {error}", file=sys.stderr)
        return 2
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
