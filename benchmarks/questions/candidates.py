"""Speed-ups that change no result, each compared with what it would replace.

Layers have random weights and their real shapes; the ways of one case are timed in alternation. The
layers are those of 3D-UNets. On a CPU they are TINY's at a small size, on one thread: several
threads wait for each other, which takes long if other work uses a core. On CUDA they are the
released model's at 720p x 16 frames in both branches. NANO's flat body has none of these layers: it
is measured whole, with freed memory kept or not, and in `denoise_step` (torch.compile, CUDA
graphs).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.interleaved import Worker, given_task, run_ways, serve
from benchmarks.measuring import Work, make_parser, report, save
from benchmarks.questions import layers, networks
from benchmarks.questions.layers import Setting
from benchmarks.questions.pairs import Case, difference, fill, measure
from benchmarks.speed.denoise_variants import Task, make_evaluation, repeated
from venhancer.config import NANO, RELEASED, TINY
from venhancer.device import choose_device, choose_dtype, keep_freed_memory
from venhancer.weights.checkpoint import embedded_checkpoint, load_model

MODULE = "benchmarks.questions.candidates"
WINDOWS = {TINY.name: (9,), RELEASED.name: (16, 32)}  # of temporal attention
EVALUATED = (
    1280,
    720,
    NANO.defaults.window,
)  # NANO's width, height and frames, for the measurement with freed memory kept
MEMORY = {"given back": False, "kept": True}


def settings(device: str) -> Iterator[Setting]:
    """Yield models and their input sizes; on a CPU small enough to measure in a minute or two."""
    common: dict[str, Any] = {"device": device, "dtype": choose_dtype("auto", device)}
    if device == "cuda":
        yield Setting(preset=RELEASED, latent=(90, 160), frames=16, codec=(720, 1280), **common)
        return
    yield Setting(preset=TINY, latent=(10, 16), frames=9, codec=(48, 48), **common)


def cases(setting: Setting) -> Iterator[Case]:
    yield from layers.layer_cases(setting)
    yield from layers.attention_cases(setting, WINDOWS[setting.preset.name])
    yield from networks.cases(setting)


def prepare_evaluation(is_kept: bool, out: str) -> tuple[Work, Mapping[str, Any]]:
    """Prepare one evaluation by NANO in a process of its own; its result goes to the file `out`."""
    if is_kept:
        keep_freed_memory()
    weights, dtype = embedded_checkpoint(NANO.name), choose_dtype("auto", "cpu")
    task = Task(
        variant="eager",
        preset=NANO.name,
        shape=EVALUATED,
        dtype=str(dtype),
        device="cpu",
        weights=str(weights),
        out=out,
    )
    evaluation = make_evaluation(load_model(weights, NANO, dtype=dtype)[0], task)
    evaluate = repeated(task, evaluation, is_guided=False)
    work = torch.inference_mode()(evaluate)
    work()
    torch.save(evaluation.x0, out)
    return work, {}


def measure_memory(rounds: int) -> dict[str, Any]:
    """Measure NANO with large blocks returned to the kernel by the C library, or kept by it."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / name for name in MEMORY}
        tasks = {
            name: {"device": "cpu", "is_kept": is_kept, "out": str(files[name])}
            for name, is_kept in MEMORY.items()
        }
        ways = run_ways({n: partial(Worker, MODULE, task) for n, task in tasks.items()}, rounds)
        made = {name: torch.load(file) for name, file in files.items() if file.is_file()}
        for name, way in ways.items():
            rows.append({"way": name, **way.row()})
            if way.seconds:
                rows[-1]["difference"] = difference([made[name]], [*made.values()][:1])
    fill(rows, {name: way.seconds for name, way in ways.items()})
    layer = "an evaluation of {}x{} x {}".format(*EVALUATED)
    return {"candidate": "freed memory", "model": NANO.name, "layer": layer, "rows": rows}


def measure_all(device: str, rounds: int) -> Iterator[dict[str, Any]]:
    if device == "cpu":
        yield measure_memory(rounds)
        keep_freed_memory()  # as the product does
    for setting in settings(device):
        for case in cases(setting):
            yield {**measure(case, device, rounds), "model": setting.preset.name}


def table(case: dict[str, Any]) -> str:
    """Format a case for the terminal."""
    lines = [f"{case['candidate']}, {case['model']}: {case['layer']}"]
    for row in case["rows"]:
        if "failed" in row:
            lines.append(f"  {row['way']:26} {row['failed']}")
            continue
        ms, faster = row["ms"], row.get("times_faster", {"median": 1, "least": 1, "most": 1})
        lines.append(
            f"  {row['way']:26} {ms['median']:8.4g} ms ({ms['least']:.4g} to {ms['most']:.4g})  "
            f"x {faster['median']:.2f} ({faster['least']:.2f} to {faster['most']:.2f})  "
            f"difference {row['difference']:.1e}"
        )
    return "\n".join(lines)


def main() -> None:
    torch.set_num_threads(1)
    child = given_task()
    if child is not None:
        serve(partial(prepare_evaluation, child["is_kept"], child["out"]), child["device"])
        return
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    device = choose_device(args.device)
    torch.manual_seed(0)
    measured: list[dict[str, Any]] = []
    dtype = str(choose_dtype("auto", device)).removeprefix("torch.")
    found = {"rounds": args.rounds, "dtype": dtype, "cases": measured}
    for case in measure_all(device, args.rounds):
        measured.append(case)
        print(table(case), flush=True)
        save(MODULE, device, found, args.out)
    report(MODULE, device, found, args.out)


if __name__ == "__main__":
    main()
