"""Scene cuts: precision, recall and cost of `probe`, beside FFmpeg's scdet at its own threshold.

Each case joins single shots of the given clips in a new order, spoils them, encodes them anew and
asks for the joins, to the frame. A clip named in LABELS is a film: its cuts, found by eye, divide
it into shots, and it is also measured as it is. Other clips are taken as one shot each.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe_run
from venhancer.video.probe import probe
from venhancer.video.scene_cuts import CutFinder

LABELS = {  # by eye; fades and the iris that ends bbb are no cuts
    "bbb.mp4": (
        *(16, 44, 103, 153, 179, 222, 258, 328, 372, 387, 493, 532, 556, 761, 918),
        *(1231, 1268, 1443, 1479, 1531, 1590),
    ),
    "bikes.mp4": (30, 76, 137, 187, 242),
}
SIZE = (320, 192)
LENGTHS = (8, 49)  # frames of a shot in the joined clips
SCDET_THRESHOLD = 10.0  # FFmpeg's default

Frames = NDArray[np.uint8]  # f H W 3
Cuts = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """How the shots are spoilt; `pan` in pixels a frame, `noise` in 8-bit steps."""

    name: str
    brightness: float = 1.0
    noise: float = 0.0
    crf: int = 20
    pan: int = 0
    repeats: int = 1
    flash: bool = False
    flicker: float = 0.0


CASES = (
    Case("as they are"),
    Case("dark, 1/4", brightness=0.25),
    Case("dark, 1/10", brightness=0.1),
    Case("noise 10", noise=10),
    Case("noise 25", noise=25),
    Case("dark 1/4, noise 10", brightness=0.25, noise=10),
    Case("crf 38", crf=38),
    Case("pan 8 of 320 pixels", pan=8),
    Case("pan 24 of 320 pixels", pan=24),
    Case("on twos", repeats=2),
    Case("pan 8, on threes", pan=8, repeats=3),
    Case("a flash in each shot", flash=True),
    Case("flicker of 15 %", flicker=0.15),
)


def shots(path: Path) -> Iterator[Frames]:
    """Up to LENGTHS frames of each shot of a clip."""
    with av.open(str(path)) as container:
        frames = [
            f.reformat(*SIZE, format="rgb24").to_ndarray()
            for f in islice(container.decode(video=0), 2000)
        ]
    for start, stop in pairwise((0, *LABELS.get(path.name, ()), len(frames))):
        yield np.stack(frames[start:stop][: LENGTHS[1]])


def spoil(shot: Frames, case: Case, rng: np.random.Generator) -> Frames:
    """One shot as the case wants it: cut to a random length, moved, lit, repeated, noisy."""
    x = shot[: rng.integers(*LENGTHS)].astype(np.float32)
    if case.pan:  # over the picture and its mirror image, so that there is always more of it
        wide = np.concatenate([x, x[:, :, ::-1]], axis=2)
        x = np.stack([np.roll(f, -case.pan * n, axis=1)[:, : SIZE[0]] for n, f in enumerate(wide)])
    x *= case.brightness * (1 + case.flicker * rng.uniform(-1, 1, (len(x), 1, 1, 1)))
    if case.flash:
        x[len(x) // 2] = x[len(x) // 2] * 0.2 + 204
    x = x.repeat(case.repeats, axis=0)
    x += case.noise * rng.standard_normal(x.shape, np.float32)
    return x.clip(0, 255).astype(np.uint8)


def join(parts: list[Frames], case: Case, path: Path) -> Cuts:
    """Encode the shots of a case, in a random order, and return where they meet."""
    rng = np.random.default_rng(0)
    cuts, count = [], 0
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=24, options={"crf": str(case.crf)})
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for n in rng.permutation(len(parts)):
            cuts.append(count)
            for image in spoil(parts[n], case, rng):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
                count += 1
        out.mux(stream.encode(None))
    return tuple(cuts[1:])


def ours(path: Path) -> Cuts:
    return probe(path).cuts


def scdet(path: Path) -> Cuts:
    """FFmpeg's filter; needs PyAV 18.1 to read its scores."""
    cuts = []
    with av.open(str(path)) as container:
        graph = av.filter.Graph()
        source = graph.add_buffer(template=container.streams.video[0])
        nodes = source, graph.add("scdet"), graph.add("buffersink")
        graph.link_nodes(*nodes).configure()
        for n, frame in enumerate(container.decode(video=0)):
            graph.push(frame)
            scores: dict[str, str] = getattr(graph.pull(), "metadata", {})
            if float(scores.get("lavfi.scd.score", 0)) >= SCDET_THRESHOLD:
                cuts.append(n)
    return tuple(cuts)


def score(found: Cuts, true: Cuts) -> dict[str, Any]:
    """Precision and recall to the frame, and what went wrong."""
    hits = len(set(found) & set(true))
    return {
        "precision": round(hits / len(found), 4) if found else None,
        "recall": round(hits / len(true), 4) if true else None,
        "false": sorted(set(found) - set(true)),
        "missed": sorted(set(true) - set(found)),
    }


def cost(path: Path) -> dict[str, float]:
    """Processor milliseconds a frame: of the decoder, and of looking for cuts."""
    finder, looking, frames = CutFinder(), 0.0, 0
    begun = time.process_time()
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            start = time.process_time()
            finder.add(frame)
            looking += time.process_time() - start
            frames += 1
    decoding = time.process_time() - begun - looking
    return {
        "decode_ms": round(1000 * decoding / frames, 3),
        "cuts_ms": round(1000 * looking / frames, 3),
        "added": round(looking / decoding, 3),
    }


FINDERS: dict[str, Callable[[Path], Cuts]] = {"venhancer": ours, "scdet": scdet}


def row(name: str, path: Path, true: Cuts) -> dict[str, Any]:
    """Every finder on one file, printed as a line of the table."""
    result: dict[str, Any] = {"name": name, "cuts": len(true)}
    line = f"{name:24}{len(true):5}"
    for finder, find in FINDERS.items():
        told = result[finder] = score(find(path), true)
        line += f"{told['precision'] or 0:11.3f}{told['recall'] or 0:8.3f}"
    print(line, flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    print(f"{'':24} cuts" + "".join(f"{finder:>11}  recall" for finder in FINDERS))
    films = [path for path in args.clips if path.name in LABELS]
    rows = [row(path.name, path, LABELS[path.name]) for path in films]
    parts = [shot for path in args.clips for shot in shots(path) if len(shot) >= LENGTHS[0]]
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            path = Path(folder) / "joined.mp4"
            rows.append(row(case.name, path, join(parts, case, path)))
    result = {
        **describe_run("benchmarks.scenes"),
        "clips": [path.name for path in args.clips],
        "rows": rows,
        "cost": {path.name: cost(path) for path in args.clips},
    }
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
