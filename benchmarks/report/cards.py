"""Parts of the pages about cards: projected cost, the commands to run, and results of runs.

A run is a folder of benchmarks/results/card/, named CARD-COMMIT, written by
`benchmarks.gpu.records`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from benchmarks.gpu.records import (
    COMMIT_LETTERS,
    Step,
    figures,
    machine_of,
    read_results,
    read_steps,
)
from benchmarks.report.tables import NONE, markdown
from benchmarks.speed.ceiling import evaluation_flop
from venhancer.config import RELEASED
from venhancer.options import Options
from venhancer.planning.cards import CARDS
from venhancer.planning.cost import plan_flop
from venhancer.planning.plan import Plan, make_plan
from venhancer.video.clip import Clip
from venhancer.video.colour import Colour

# --- projection -----------------------------------------------------------------------------------


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
PROJECTION = "Projection, not a measurement"
PROJECTION_COLUMNS = (
    *("card", "TFLOP/s", "frames", "TFLOP"),
    *(f"seconds at {share:.0%}" for share in SHARES),
    *("windows of a minute", "evaluations of a minute"),
    *(f"hours for a minute at {share:.0%}" for share in SHARES),
)


def minute(window: int) -> Plan:
    """Plan a minute at 24 frames a second without a cut, from 640x360 to 1280x720."""
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


def projection_rows() -> Iterator[tuple[str, ...]]:
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


def projection_section() -> str:
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
    return f"## {PROJECTION}\n\n{about}\n\n{markdown(PROJECTION_COLUMNS, projection_rows())}"


# --- commands -------------------------------------------------------------------------------------


COMMANDS = "Commands for each card"
ABOUT_COMMANDS = """\
They write to [results/](results/); `python -m benchmarks.report` then fills the rows. The engines
are of the released model at random weights, on which speed does not depend; `tensorrt-rtx` does not
know the H200. On an L4 (24 GB) the ways of an evaluation do not fit beside each other, hence one at
a time, and not the release's path."""
BUILDERS = {
    "A100": ("tensorrt-rtx", "tensorrt"),
    "L4": ("tensorrt-rtx", "tensorrt"),
    "H200": ("tensorrt",),
}
WAYS = ("eager", "compiled", "graph")  # variants of `denoise_step`
RANDOM = "bundles/random"
STEP_COMMAND = "python -m benchmarks.speed.denoise_step --device cuda"
SHAPE = "--preset released --size 1280x720 --window 16"


def commands(card: str) -> Iterator[str]:
    """Yield the commands in order; the last one measures engines beside PyTorch."""
    name = card.lower()
    yield from one_at_a_time(name) if card == "L4" else ("make bench-gpu",)
    yield f"python -m benchmarks.random_models {RANDOM}"
    for builder in BUILDERS[card]:
        bundle = f"bundles/released-{name}-{builder}"
        given = f"{SHAPE} --weights {RANDOM}/random.safetensors"
        yield (
            f"VENHANCER_VAE={RANDOM} VENHANCER_TEXT_ENCODER={RANDOM} venhancer-export "
            f"build-engines {given} --gpu {name} --builder {builder} -o {bundle}"
        )
        beside = "--variant graph" if card == "L4" else "--baseline pytorch"
        file = out("denoise_step", f"{name}_{builder}")
        yield f"{STEP_COMMAND} {given} {beside} --bundle {bundle} {file}"


def one_at_a_time(name: str) -> Iterator[str]:
    """Yield the commands of `make bench-gpu` that fit a small card."""
    yield f"python -m benchmarks.speed.ceiling --device cuda {out('ceiling', name)}"
    for way in WAYS:
        yield f"{STEP_COMMAND} {SHAPE} --variant {way} {out('denoise_step', f'{name}_{way}')}"
    for module, options in (
        ("questions.candidates", ""),
        ("speed.vae", " --size 1280x720 --frames 1 --frames 3"),
        ("speed.end_to_end", " --preset released"),
    ):
        file = out(module.rpartition(".")[2], name)
        yield f"python -m benchmarks.{module} --device cuda{options} {file}"


def out(module: str, name: str) -> str:
    return f"--out benchmarks/results/{module}_cuda_{name}.json"


def commands_section() -> str:
    listed = (
        f"{card}:\n\n" + "\n".join(f"    {command}" for command in commands(card))
        for card in BUILDERS
    )
    return f"## {COMMANDS}\n\n{ABOUT_COMMANDS}\n\n" + "\n\n".join(listed)


# --- runs -----------------------------------------------------------------------------------------


FOLDER = "card"  # in the results' folder
RUNS = "What did runs on a card find?"
ABOUT_RUNS = (
    "Runs of [gpu/card_run.sh](gpu/card_run.sh), step by step; [gpu/README.md](gpu/README.md) says "
    "how they are made. The figures are those of one process each, not of turns."
)
NO_RUN = "No card has run it yet."
STAGES = {
    "A": "right: captures, kernels, whole runs and golden arrays on the card",
    "B": "fast: one evaluation of the released model at 720p, the autoencoder, a profile",
    "C": "train: updates of NANO, and a run of some minutes",
    "D": "the rest: candidates layer by layer, whole films of both models",
}
STEPS = {  # names from card_run.sh
    "A": ("environment", "captures", "kernels", "enhance", "graphs", "golden"),
    "B": (
        *("profile", "denoise", "denoise_bfloat16", "codec", "denoise_plain"),
        "denoise_compiled",
    ),
    "C": ("update", "pool", "train"),
    "D": ("candidates", "end_to_end", "end_to_end_released"),
}
WAITING = "waiting"
BEGIN, END = "<!-- stages: by python -m benchmarks.report -->", "<!-- end of stages -->"


@dataclass(frozen=True, slots=True)
class CardRun:
    """One run that was kept."""

    name: str
    machine: Mapping[str, Any]
    steps: Sequence[Step]
    results: Sequence[Mapping[str, Any]]

    @property
    def card(self) -> str:
        return str(self.machine["device"]["name"])

    @property
    def commit(self) -> str:
        return self.name.rpartition("-")[2][:COMMIT_LETTERS]

    def of_stage(self, stage: str) -> list[Step]:
        return [step for step in self.steps if step.stage == stage]


def read_runs(folder: Path) -> list[CardRun]:
    """Read all runs below the results' folder, the newest last."""
    found = []
    for path in sorted(p for p in (folder / FOLDER).glob("*") if p.is_dir()):
        results = read_results(path)
        found.append(CardRun(path.name, machine_of(results), read_steps(path), results))
    return sorted(found, key=lambda run: str(run.machine["date"]))


def status(stage: str, runs: Sequence[CardRun]) -> str:
    """Say if the newest run with that stage has done all its steps, or that no run has it."""
    own = [run for run in runs if run.of_stage(stage)]
    if not own:
        return WAITING
    run = own[-1]
    done = {step.name for step in run.of_stage(stage) if step.is_done}
    rest = [name for name in STEPS[stage] if name not in done]
    where = f"{run.card} at {run.commit}"
    return f"on {where} all but {', '.join(rest)}" if rest else f"done on {where}"


def stage_table(runs: Sequence[CardRun]) -> str:
    """Format a line for every stage, with the command that runs it."""
    rows = [
        (stage, what, f"`bash benchmarks/gpu/card_run.sh {stage}`", status(stage, runs))
        for stage, what in STAGES.items()
    ]
    return markdown(("stage", "what it answers", "command", "status"), rows)


def with_stages(page: str, runs: Sequence[CardRun]) -> str:
    """Rewrite the table of stages between the two marks of the page."""
    before, _, rest = page.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise SystemExit(f"the page lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n{stage_table(runs)}\n{END}{after}"


def runs_section(runs: Sequence[CardRun]) -> str:
    """Render the section on runs of benchmarks/README.md."""
    parts = [part for run in runs for part in run_tables(run)]
    return "\n\n".join([f"## {RUNS}", ABOUT_RUNS, *(parts or [NO_RUN])])


def run_tables(run: CardRun) -> Iterator[str]:
    """Yield the place of a run, the end of every step, and the results."""
    versions = ", ".join(f"{name} {text}" for name, text in run.machine["versions"].items())
    yield f"### {run.card}, commit {run.commit}, {run.machine['date']}\n\n{versions}"
    yield markdown(
        ("stage", "step", "exit status", "seconds", "limit"),
        ((s.stage or NONE, s.name, s.code, s.seconds, s.limit) for s in run.steps),
    )
    yield markdown(
        ("step", "what", "found"),
        ((r["step"], r["what"], figures(r)) for r in run.results if r is not run.machine),
    )
