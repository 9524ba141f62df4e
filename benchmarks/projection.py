"""What cards would take at a share of their peak: arithmetic, no measurement."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from benchmarks.ceiling import evaluation_flop
from benchmarks.report_tables import markdown
from venhancer.config import RELEASED
from venhancer.options import Options
from venhancer.planning.cards import CARDS
from venhancer.planning.cost import plan_flop
from venhancer.planning.plan import Plan, make_plan
from venhancer.video.colour import Colour
from venhancer.video.probe import Clip

PEAKS = {
    "A100": CARDS["A100-80G"].half_tflops,
    "L4": CARDS["L4"].half_tflops,
    "H200": CARDS["H200"].half_tflops,
    "H200, matrix products": 790,
}  # TFLOP/s, float16, dense
SHARES = (0.35, 0.55)
WINDOWS = (16, 24, 32)
FPS = 24
MINUTE = 60 * FPS  # frames
TITLE = "Projection, not a measurement"
COLUMNS = (
    *("card", "TFLOP/s", "frames", "TFLOP"),
    *(f"seconds at {share:.0%}" for share in SHARES),
    *("windows of a minute", "evaluations of a minute"),
    *(f"hours for a minute at {share:.0%}" for share in SHARES),
)


def minute(window: int) -> Plan:
    """A minute at 24 frames a second without a cut, from 640x360 to 1280x720, as it would run."""
    clip = Clip(
        path=Path("minute.mp4"),
        width=640,
        height=360,
        times=tuple(Fraction(k, FPS) for k in range(MINUTE)),
        fps=Fraction(FPS),
        is_variable=False,
        end=Fraction(60),
        codec="h264",
        pixel_format="yuv420p",
        colour=Colour(),
    )
    return make_plan(clip, RELEASED, Options(scale=2.0, window=window))


def rows() -> Iterator[tuple[str, ...]]:
    plans = {window: minute(window) for window in WINDOWS}
    for card, peak in PEAKS.items():
        for window, plan in plans.items():
            _, latent_rows, columns = plan.latents
            flop = evaluation_flop(RELEASED.model, window, latent_rows, columns)
            whole = plan_flop(plan, "cuda")
            rates = [share * peak * 1e12 for share in SHARES]
            yield (
                card,
                str(peak),
                str(window),
                f"{flop / 1e12:.0f}",
                *(f"{flop / rate:.2f}" for rate in rates),
                str(plan.windows),
                str(plan.parts * len(plan.sampling.schedule)),
                *(f"{whole / rate / 3600:.2f}" for rate in rates),
            )


def section() -> str:
    steps = len(minute(WINDOWS[0]).sampling.schedule)
    shares = " and ".join(f"{share:.0%}" for share in SHARES)
    about = (
        "One guided evaluation of the released model at 1280x720, and a minute of video "
        f"({MINUTE} frames of 640x360, twice the size, no cut): operations counted from the graph, "
        f"windows and evaluations ({steps} steps) from the plan that a run would follow, over "
        f"{shares} (assumed) of a peak. Peaks are of dense float16, as in NVIDIA's data sheets; "
        "790 is noted for large matrix products on an H200, but not by these benchmarks. Without "
        "the autoencoder, text and files."
    )
    return f"## {TITLE}\n\n{about}\n\n{markdown(COLUMNS, rows())}"
