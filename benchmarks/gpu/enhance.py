"""Is a whole run right? From file to file with NANO: graphs against eager, card against processor.

Runs that differ only in the use of graphs, or in where latents are held, must give the same bits.
"""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.frames import LEAST_PSNR, mean_and_least, psnr, write_clip
from benchmarks.gpu.records import Found, Recorder
from benchmarks.gpu.setting import Setting, card_peak
from benchmarks.interleaved import make_room
from benchmarks.measuring import ROOT
from venhancer import Options
from venhancer.options import Device, Dtype
from venhancer.pipeline import run as pipeline
from venhancer.pipeline.pixels import Frame
from venhancer.pipeline.state import NoJournal
from venhancer.planning.memory import need
from venhancer_rt.backends import Request, choose_backend

SAMPLE = ROOT / "assets" / "butterfly.mp4"
TILE = (320, 256)  # width, height in pixels
REPAIRED = 100  # `refine`: noise levels above 0 go through the repair


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run; with `host`, its latents are held in the host's memory."""

    name: str
    dtype: Dtype = "float16"
    uses_graphs: bool = True
    is_on_card: bool = True
    host: bool = False
    tile: tuple[int, int] | None = None
    refine: int | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two runs to compare, and the PSNR (dB) that the worst frame must reach; None: equal."""

    first: str
    second: str
    least: float | None = None


CASES = (
    Case(name="eager float32", dtype="float32", uses_graphs=False),
    Case(name="graph float32", dtype="float32"),
    Case(name="eager", uses_graphs=False),
    Case(name="graph"),
    Case(name="graph, again"),
    Case(name="graph, latents on the host", host=True),
    Case(name="eager, tiles", uses_graphs=False, tile=TILE),
    Case(name="graph, tiles", tile=TILE),
    Case(name="eager, repair", uses_graphs=False, refine=REPAIRED),
    Case(name="graph, repair", refine=REPAIRED),
    Case(name="graph bfloat16", dtype="bfloat16"),
    Case(name="processor", dtype="float32", is_on_card=False),
)
PAIRS = (
    Pair("eager float32", "graph float32"),
    Pair("eager", "graph"),
    Pair("graph", "graph, again"),
    Pair("graph", "graph, latents on the host"),
    Pair("eager, tiles", "graph, tiles"),
    Pair("eager, repair", "graph, repair"),
    Pair("processor", "eager float32", LEAST_PSNR),
    Pair("processor", "graph", LEAST_PSNR),
    Pair("processor", "graph bfloat16", 35.0),
)


class FrameList(NoJournal):
    """A journal that only keeps a run's 8-bit frames."""

    def __init__(self) -> None:
        self.frames_made: list[Frame] = []

    def add(self, frame: Frame) -> None:
        self.frames_made.append(frame.copy())


Made = dict[str, NDArray[np.uint8]]  # by the name of a case: f H W 3


def run_enhance(setting: Setting, recorder: Recorder) -> None:
    made: Made = {}
    with tempfile.TemporaryDirectory() as folder:
        source = SAMPLE
        if setting.is_small:
            source = Path(folder) / "in.mp4"
            write_clip(source, 3, 64, 48)
        for case in CASES[:2] if setting.is_small else CASES:
            work = partial(enhance, case, setting, source, Path(folder), made)
            recorder.attempt(case.name, work)
            make_room(setting.device)
    for pair in PAIRS:
        if pair.first in made and pair.second in made:
            recorder.tell(f"{pair.first} = {pair.second}", compare(pair, made))


def enhance(case: Case, setting: Setting, source: Path, folder: Path, made: Made) -> Found:
    """Do one run; its frames go to `made`."""
    device: Device = "cuda" if setting.device == "cuda" and case.is_on_card else "cpu"
    options = Options(
        device=device,
        dtype=case.dtype,
        scale=2.0 if setting.is_small else 4.0,
        interpolate=2,
        tile=case.tile,
        refine=case.refine,
    )
    backend = choose_backend(Request(source=source, options=options, uses_graphs=case.uses_graphs))
    plan = dataclasses.replace(backend.plan, holds_latents_on_host=case.host)
    networks, frames = backend.open(), FrameList()
    target, reports = folder / f"{case.name}.mp4", []

    def work() -> None:
        reports.append(pipeline.enhance(plan, target, networks, options, journal=frames))

    peak = card_peak(device, work)
    made[case.name] = np.stack(frames.frames_made)
    stages = {name: round(seconds, 3) for name, seconds in reports[0].seconds.items()}
    has_graphs = backend.capture is not None
    predicted = need(plan, device, backend.compute.dtype, has_graphs).total
    return {
        "frames": len(made[case.name]),
        "graphs": has_graphs,
        "nodes": dict(backend.capture.nodes) if backend.capture is not None else {},
        "seconds": round(reports[0].wall, 2),
        "stages": stages,
        "arrangement": plan.arrangement.words,
        **peak,
        "predicted_bytes": predicted,
    }


def compare(pair: Pair, made: Made) -> Found:
    """Tell if both runs are equal, and compute the PSNR of their frames."""
    a, b = made[pair.first], made[pair.second]
    is_equal = bool(np.array_equal(a, b))
    found = mean_and_least(psnr(*frames) for frames in zip(a, b, strict=True))
    is_right = is_equal if pair.least is None else found["least"] >= pair.least
    return {"equal": is_equal, "psnr": found, "right": is_right}
