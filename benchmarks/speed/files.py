"""Seconds to read and write a clip, without a network: this code against another checkout.

An 8-bit clip of 1280x720 with sound is probed, read, and written as H.264, in processes of both
checkouts in turns. The ratio is the median over rounds of this one's seconds to the other's.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks.measuring import ROOT, four, make_parser, report

MODULE = "benchmarks.speed.files"
SIZE = (1280, 720)
WORK = """
import sys, time
from pathlib import Path
from venhancer.video.probe import probe
from venhancer.video.reading import read_frames
from venhancer.video.writer import open_writer
source, target = map(Path, sys.argv[1:])
def work():
    clip = probe(source)
    size = {"width": clip.width, "height": clip.height}
    with open_writer(target, **size, fps=clip.fps, source=clip, overwrite=True) as writer:
        for frame, time in zip(read_frames(clip), clip.times, strict=True):
            writer.write(frame, time)
work()  # not counted
start = time.process_time(), time.perf_counter()
work()
print(time.process_time() - start[0], time.perf_counter() - start[1])
"""


def make_clip(path: Path, frames: int) -> None:
    """Write moving waves with sound, 24 frames a second."""
    y, x = np.mgrid[0 : SIZE[1], 0 : SIZE[0]]
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("libx264", rate=24), container.add_stream("aac", 48000)
        video.width, video.height = SIZE
        video.pix_fmt = "yuv420p"
        for k in range(frames):
            waves = (np.sin((x - 3 * k) / 9), np.cos((y + k) / 7), np.sin((x + y - k) / 13))
            pixels = np.stack([127 + 90 * w for w in waves], axis=-1).astype(np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            noise = np.random.default_rng(k).uniform(-0.1, 0.1, (2, 2000)).astype(np.float32)
            sound = av.AudioFrame.from_ndarray(noise, format="fltp", layout="stereo")
            sound.sample_rate = 48000
            container.mux(audio.encode(sound))
        for stream in (video, audio):
            container.mux(stream.encode(None))


def timed(checkout: Path, source: Path, target: Path) -> dict[str, float]:
    """Copy the clip in a process that imports `checkout` -> its CPU and wall seconds."""
    command = [sys.executable, "-c", WORK, str(source), str(target)]
    environment = {"PYTHONPATH": str(checkout), "PATH": ""}
    done = subprocess.run(
        command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    cpu, wall = map(float, done.stdout.split())
    return {"cpu": cpu, "wall": wall}


def measure(other: Path, frames: int, rounds: int) -> dict[str, Any]:
    """Time both checkouts in turns, every other round in reverse."""
    seconds: dict[str, list[dict[str, float]]] = {"this": [], "other": []}
    checkouts = {"this": ROOT, "other": other}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.mp4", Path(folder) / "out.mp4"
        make_clip(source, frames)
        for number in range(rounds):
            for name in sorted(checkouts, reverse=number % 2 == 0):
                seconds[name].append(timed(checkouts[name], source, target))
    return {
        "size": SIZE,
        "frames": frames,
        "rounds": rounds,
        "other_commit": commit_of(other),
        "seconds": {
            kind: {name: four(median(taken, kind)) for name, taken in seconds.items()}
            for kind in ("cpu", "wall")
        },
        "ratio": {kind: four(ratio(seconds, kind)) for kind in ("cpu", "wall")},
    }


def median(taken: list[dict[str, float]], kind: str) -> float:
    return statistics.median(seconds[kind] for seconds in taken)


def ratio(seconds: dict[str, list[dict[str, float]]], kind: str) -> float:
    """Compute the median over rounds of this code's seconds to the other's."""
    pairs = zip(seconds["this"], seconds["other"], strict=True)
    return statistics.median(this[kind] / other[kind] for this, other in pairs)


def commit_of(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("other", type=Path, help="a checkout of another commit")
    parser.add_argument("--frames", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    found = measure(args.other.resolve(), args.frames, args.rounds)
    report(MODULE, "cpu", found, args.out)


if __name__ == "__main__":
    main()
