"""Process of the fuzz test: enhances mutated files and reports how each run ended.

Arguments: a folder to work in, the first seed, the number of seeds. Writes one JSON line a seed.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import sys
import traceback
from pathlib import Path

import pytest

from tests.support.identity import without_networks
from tests.support.paths import CONTAINERS
from venhancer_rt.cli import main

SOURCES = (
    "23976.mkv", "alpha.mov", "anim.webp", "apng.png", "bar.mp4", "grayhevc.mp4", "hdr10.mp4",
    "odd.mp4", "resize.ts", "screen.mkv", "tracks.mkv", "twovideo.mkv", "wma.wmv", "dvb.ts",
)  # fmt: skip
TARGETS = ("out.mp4", "out.mkv", "out.mov", "out.avi", "frames")
LONGEST = 64  # bytes that one mutation touches


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Change, remove, repeat or cut off some bytes; headers are changed more often."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        if not changed:
            break
        reach = len(changed) if chance.random() < 0.5 else min(len(changed), 600)
        place, length = chance.randrange(reach), chance.randint(1, LONGEST)
        match chance.randrange(5):
            case 0:
                changed[place] ^= 1 << chance.randrange(8)
            case 1:
                changed[place : place + length] = chance.randbytes(length)
            case 2:
                del changed[place : place + length]
            case 3:
                changed[place:place] = changed[place : place + length]
            case 4 if chance.random() < 0.3:
                del changed[place:]
    return bytes(changed)


def ended(folder: Path, seed: int) -> dict[str, object]:
    """Enhance a mutated file, and tell how that ended and what was left in the folder."""
    chance = random.Random(seed)
    name, target = chance.choice(SOURCES), chance.choice(TARGETS)
    source = folder / name
    source.write_bytes(mutated((CONTAINERS / name).read_bytes(), chance))
    arguments = ["enhance", str(source), "-o", str(folder / target), "--scale", "1"]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([*arguments, "--preset-speed", "fast", "--memory", "2"])
        except BaseException:
            code, _ = -1, err.write(traceback.format_exc())
    left = sorted(path.name for path in folder.iterdir() if path != source)
    for path in folder.iterdir():
        if path.is_dir():
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
        else:
            path.unlink()
    told = {"seed": seed, "name": name, "target": target, "code": code}
    return {**told, "err": err.getvalue(), "left": left}


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        without_networks(patch)
        for number in range(int(sys.argv[2]), int(sys.argv[2]) + int(sys.argv[3])):
            sys.stdout.write(json.dumps(ended(Path(sys.argv[1]), number)) + "\n")
            sys.stdout.flush()
