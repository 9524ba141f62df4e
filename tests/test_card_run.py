"""The run on a card: dry on a processor, with steps that fail, and what its results become."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import report, report_card
from benchmarks.gpu import (
    codec,
    denoise,
    enhance,
    golden,
    graphs,
    keep,
    pack,
    pack_media,
    pack_perceptual,
    pool,
    profile,
    update,
)
from benchmarks.gpu.records import RESULTS, STEPS, Recorder, read_results, read_steps
from benchmarks.gpu.setting import Setting
from benchmarks.gpu.table import lines
from benchmarks.machine import ROOT
from benchmarks.waves import write_clip
from venhancer.config import NANO
from venhancer.training.perceptual import VGG16, Lpips

SCRIPT = ROOT / "benchmarks" / "gpu" / "card_run.sh"
DRY = Setting(device="cpu", dtype="float32", is_small=True)
COMMIT = 40 * "b"
INTERPRETER = """#!/bin/bash
case "$*" in
    *"benchmarks.gpu golden"*) echo "no golden arrays here" >&2; exit 3 ;;
    *"benchmarks.gpu enhance"*) kill -KILL $$ ;;
    *"benchmarks.gpu codec"*) exec sleep 60 ;;
esac
exec "{python}" "$@"
"""


def run_script(folder: Path, stages: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The script as on a card, but for an interpreter with which some steps fail or hang."""
    interpreter = folder / "python"
    interpreter.write_text(INTERPRETER.format(python=sys.executable))
    interpreter.chmod(0o755)
    out = {"OUT": str(folder / "out"), "PYTHON": str(interpreter), "PACK": str(folder)}
    environment = {**os.environ, **out, "DEVICE": "cpu", "OMP_NUM_THREADS": "1", **variables}
    command = ["bash", str(SCRIPT), *stages]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def dry(module: Any, folder: Path, setting: Setting = DRY) -> list[dict[str, Any]]:
    """The results of a step in this process; a wrong or failed one is an error."""
    recorder = Recorder(module.STEP, folder)
    module.run(setting, recorder)
    found = read_results(folder)
    assert recorder.is_right, found
    return found


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run in which one step is killed and one fails."""
    folder = tmp_path_factory.mktemp("run")
    done = run_script(folder, "A", ONLY="golden enhance environment", COMMIT=COMMIT)
    assert done.returncode == 0, done.stderr
    (folder / "printed").write_text(done.stdout)
    return folder


def test_a_step_that_fails_does_not_stop_the_rest(script: Path) -> None:
    """Every process has its own end, and results that were there stay."""
    found = {step.name: step.code for step in read_steps(script / "out")}

    assert found == {"environment": "0", "enhance": "137", "golden": "3"}
    assert {r["step"] for r in read_results(script / "out")} == {"environment"}


def test_a_step_that_hangs_is_ended(tmp_path: Path) -> None:
    """At its limit, which is told; the next one begins."""
    run_script(tmp_path, "BA", ONLY="codec golden", STEP_S="1")

    assert [step.code for step in read_steps(tmp_path / "out")] == ["124", "3"]


def test_the_log_and_the_table_tell_of_every_step(script: Path) -> None:
    """The log has each command with its end; the table comes last."""
    log = (script / "out" / "run.log").read_text()
    printed = (script / "printed").read_text()

    assert "##### A environment: exit status 0" in log
    assert "##### A golden: exit status 3" in log
    assert "no golden arrays here" in printed
    assert "environment: ceiling: matmul" in printed.splitlines()[-1]


def test_a_run_without_time_skips_by_name(tmp_path: Path) -> None:
    """No step is begun that could not end; the table is there all the same."""
    done = run_script(tmp_path, "AB", RUN_S="5", COMMIT=COMMIT)

    assert done.returncode == 0
    assert {step.code for step in read_steps(tmp_path / "out")} == {"skipped"}


def test_the_stages_are_those_of_the_script(tmp_path: Path) -> None:
    """The report waits for no step that the script does not have, and for all that it has."""
    run_script(tmp_path, "ABCD", RUN_S="5")
    found = read_steps(tmp_path / "out")
    (tmp_path / "train").mkdir()
    run_script(tmp_path, "C", RUN_S="5")
    found += read_steps(tmp_path / "out")

    for stage, names in report_card.STEPS.items():
        assert {step.name for step in found if step.stage == stage} == set(names)


def test_the_released_arrays_are_compared(tmp_path: Path) -> None:
    """The tiny model's outputs are right to rounding."""
    [found] = dry(golden, tmp_path)

    assert found["outputs"] == golden.DRY_OUTPUTS
    assert found["relative_error"] < 1e-5


def test_runs_are_compared_frame_by_frame(tmp_path: Path) -> None:
    """Two runs of the same give equal frames, and that is told."""
    found = dry(enhance, tmp_path)

    assert found[-1]["what"] == "eager float32 = graph float32"
    assert found[-1]["equal"]


def test_graphs_hold_the_network_or_the_whole_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The three ways differ in what they capture and in nothing that they compute."""
    captured: list[int] = [0]

    def count(work: Any) -> Any:
        captured[-1] += 1
        return work

    monkeypatch.setattr(graphs, "as_it_is", count)
    monkeypatch.setattr(graphs, "shapes", lambda _: [graphs.Shape(NANO, 3, 4, 4)])
    measure = graphs.measure

    def measured(*args: Any) -> Any:
        captured.append(0)
        return measure(*args)

    monkeypatch.setattr(graphs, "measure", measured)
    found = dry(graphs, tmp_path)

    assert [r["what"].rpartition(": ")[2] for r in found] == ["none", "network only", "whole step"]
    assert captured[1] == 0
    assert captured[2] == 1
    assert captured[3] > 1


def test_ways_of_an_evaluation_are_compared_with_the_exact_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The release's order of operations gives the same but for rounding."""
    monkeypatch.setattr(denoise, "evaluation_flop", lambda *_: 10**12)  # counting takes long
    setting = Setting(device="cpu", dtype="float32", is_small=True, ways=("exact", "plain"))
    exact, plain = dry(denoise, tmp_path, setting)

    assert exact["relative_error"] == 0
    assert 0 < plain["relative_error"] < 1e-4
    assert plain["tflop"] == exact["tflop"] == 1.0


def test_updates_are_timed(tmp_path: Path) -> None:
    """On a batch that lies on the device; the noise that the host draws is timed beside it."""
    eager, noise = dry(update, tmp_path)

    assert eager["clips_a_second"] > 0
    assert noise["ms"] > 0


def test_the_codec_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the work that the benchmark of the codec prepares; that takes long."""
    monkeypatch.setattr(codec, "prepare", lambda task: (lambda: None, {"peak_bytes": 7}))
    monkeypatch.setattr(codec, "codec_flop", lambda task: 10**12)

    found = dry(codec, tmp_path)

    assert [r["what"] for r in found] == [f"{w}, 1 at a time, plain" for w in ("encode", "decode")]
    assert found[0]["peak_bytes"] == 7


def test_events_are_recorded() -> None:
    """Each operation with its own time and how often it was done."""
    square = torch.ones(8, 8)

    events = profile.recorded(lambda: [square @ square for _ in range(3)], "cpu")

    [product] = [event for event in events if event.key == "aten::mm"]
    assert product.count == 3
    assert profile.milliseconds(product) > 0


def test_kernels_have_kinds() -> None:
    """By the words that libraries name them with; milliseconds and launches add up."""
    rows = [(2.0, 3, "flash_fwd_kernel"), (1.0, 1, "nchwToNhwcKernel"), (4.0, 2, "fmha_x")]

    found = profile.by_kind(rows)

    assert list(found) == ["attention", "layout copy"]
    assert found["attention"] == {"ms": 6.0, "launches": 5}


def test_a_failure_is_a_result(tmp_path: Path) -> None:
    """The step goes on after it, and its exit status says that something failed."""

    def fail() -> dict[str, Any]:
        raise RuntimeError("no memory")

    recorder = Recorder("golden", tmp_path)
    recorder.attempt("first", fail)
    recorder.attempt("second", lambda: {"error": 0.5})

    first, second = read_results(tmp_path)
    assert first["failed"] == "RuntimeError: no memory"
    assert second["error"] == 0.5
    assert not recorder.is_right


def kept_run(folder: Path, steps: list[tuple[str, str, str]], what: str = "exact") -> Path:
    """A folder as a run on a card brings it back."""
    folder.mkdir(parents=True)
    machine = {
        "device": {"name": "NVIDIA H200"},
        "versions": {"torch": "2.11.0"},
        "commit": "",
        "date": "2026-01-02",
    }
    found = [
        {"step": "environment", "what": "machine", "at": 0.1, **machine},
        {"step": "denoise", "what": what, "at": 3.0, "seconds": [1.25], "reserved_bytes": 21e9},
    ]
    (folder / RESULTS).write_text("".join(json.dumps(line) + "\n" for line in found) + '{"cut')
    rows = [("stage", "step", "code", "seconds", "limit"), *((*s, "9", "60") for s in steps)]
    (folder / STEPS).write_text("".join("\t".join(row) + "\n" for row in rows))
    return folder


def test_a_stage_is_done_when_all_its_steps_are(tmp_path: Path) -> None:
    """Until then the table names the steps that are left; steps that ran again count."""
    steps = [("B", name, "0") for name in report_card.STEPS["B"]]
    run = kept_run(tmp_path / "first", [*steps[:-1], (*steps[-1][:2], "124")])
    target = tmp_path / "card" / keep.folder_name(keep.machine_of(read_results(run)), COMMIT)
    keep.keep(run, target)
    before = report_card.status("B", report_card.read_runs(tmp_path))
    keep.keep(kept_run(tmp_path / "again", steps[-1:], "plain"), target)
    runs = report_card.read_runs(tmp_path)

    assert before == "on NVIDIA H200 at bbbbbbbbbb all but denoise_plain"
    assert report_card.status("B", runs) == "done on NVIDIA H200 at bbbbbbbbbb"
    assert report_card.status("A", runs) == "waiting"
    assert len(runs[0].steps) == len(steps)
    assert {r["what"] for r in runs[0].results} == {"machine", "exact", "plain"}


def test_the_page_has_the_figures_of_a_run(tmp_path: Path) -> None:
    """A section for each run, with steps and results; without any it says so."""
    kept_run(tmp_path / "card" / "nvidia-h200-bbbbbbbbbb", [("B", "denoise", "0")])

    page = report_card.section(report_card.read_runs(tmp_path))

    assert "### NVIDIA H200, commit bbbbbbbbbb, 2026-01-02" in page
    assert "| denoise | exact | seconds 1.25, reserved_bytes 21.00 GB |" in page
    assert report_card.NO_RUN in report_card.section([])
    assert "denoise: exact: seconds 1.25" in "\n".join(
        lines(tmp_path / "card" / "nvidia-h200-bbbbbbbbbb")
    )


def test_the_list_of_stages_is_what_the_runs_say() -> None:
    """GPU_TODO.md holds a generated table: after a run, `python -m benchmarks.report`."""
    assert report.GPU_TODO.read_text(encoding="utf-8") == report.render_todo(report.RESULTS)


def test_a_run_without_a_commit_is_not_kept() -> None:
    """Figures that belong to no commit are worth nothing."""
    machine = {"device": {"name": "NVIDIA H200"}, "commit": ""}

    with pytest.raises(SystemExit, match="--commit"):
        keep.folder_name(machine, "")


def test_a_pack_above_the_limit_is_an_error(tmp_path: Path) -> None:
    """The parts are told one by one, and the message says what to do."""
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "a.whl").write_bytes(bytes(2**20))
    found = pack.sizes(ROOT, tmp_path)

    assert found["wheels"] == 2**20
    assert found["tree"] > 2**20
    assert "wheels 1.0" in pack.check_size(found, 100)
    with pytest.raises(pack.PackError, match=r"MiB of 1: tree .*leave parts out"):
        pack.check_size(found, 1)


def test_the_tree_fits_beside_what_travels() -> None:
    """Forty-one MiB are wheels: what git holds may not grow into the rest."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    assert pack.tree_bytes(ROOT) < 20 * 2**20


def test_wheels_have_the_versions_of_the_constraints() -> None:
    """A package without a pin is refused by name."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    found = list(pack.pins(text, pack.PACKAGES))

    assert all(re.fullmatch(r"[\w-]+==[\d.]+", pin) for pin in found)
    assert pack.is_wheel_of("lazy_importer-0.1.0-py3-none-any.whl", "lazy-importer==0.1.0")
    with pytest.raises(pack.PackError, match="nothing"):
        list(pack.pins(text, ["nothing"]))


def test_clips_of_a_pack_are_short_and_small(tmp_path: Path) -> None:
    """Films become clips of two seconds, photos small JPEGs; what is there is kept."""
    for part in ("train", "validation"):
        (tmp_path / "data" / part).mkdir(parents=True)
    write_clip(tmp_path / "data" / "train" / "film.mp4", 100, 64, 48)
    Image.new("RGB", (2200, 100)).save(tmp_path / "data" / "train" / "photo.png")

    pack_media.fill(tmp_path / "data", tmp_path / "pack")

    made = sorted(path.name for path in (tmp_path / "pack" / "train").iterdir())
    assert made == ["film-00.mp4", "film-01.mp4", "photo.jpg"]
    assert Image.open(tmp_path / "pack" / "train" / "photo.jpg").size == (1100, 50)
    assert list(pack_media.starts(4.2, 12)) == [0.0, 2.1]
    assert pack_media.fitted(1920, 1081) == (1280, 720)


def test_the_first_layers_of_lpips_are_lpips_of_these() -> None:
    """The reduced file is read like the whole; later features add nothing, and no NaN."""
    random = np.random.default_rng(0)
    widths = [3, 4, 4, 5, 5, 6, 6, 6, 7, 7, 7, 8, 8, 8]

    def layer(number: int) -> dict[str, Any]:
        shape = (3, 3, widths[number], widths[number + 1])
        kernel = random.standard_normal(shape).astype(np.float32) / 4
        return {"kernel": kernel, "bias": np.zeros(widths[number + 1], np.float32)}

    tree = {VGG16.name: {f"Conv_{n}": layer(n) for n in range(13)}}
    for number, tap in enumerate(VGG16.taps):
        kernel = np.ones((1, 1, widths[tap + 1], 1), np.float32)
        tree[f"NetLinLayer_{number}"] = {"Conv_0": {"kernel": kernel}}
    small = pack_perceptual.reduced(tree)

    frames = torch.rand(2, 3, 32, 32, requires_grad=True)
    distance = as_lpips(small)(frames, torch.rand(2, 3, 32, 32))
    distance.sum().backward()

    assert small[VGG16.name]["Conv_6"]["kernel"].shape == (3, 3, 6, 6)
    assert small[VGG16.name]["Conv_12"]["kernel"].shape == (3, 3, 1, 1)
    assert (distance > 0).all()
    assert frames.grad is not None
    assert bool(frames.grad.isfinite().all())


def as_lpips(tree: dict[str, Any]) -> Lpips:
    """The distance with these weights, by way of the file that it reads."""
    import pickle
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vgg16.ckpt"
        path.write_bytes(pickle.dumps(tree, protocol=4))
        return Lpips(path, VGG16)


def test_a_pool_is_put_together_from_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process has a share and a seed; the parts have one numbering."""
    seeds: list[int] = []

    class Process:
        def wait(self) -> int:
            return 0

    def start(media: Path, out: Path, samples: int, seed: int) -> Process:
        seeds.append(seed)
        out.mkdir(parents=True)
        (out / "pool.json").write_text("{}")
        (out / "part-0000.npz").write_text(f"{media.name} {samples}")
        return Process()

    monkeypatch.setattr(pool, "start", start)
    pool.make(tmp_path, tmp_path / "out", 3, {"train": 10, "validation": 5})

    made = sorted((tmp_path / "out" / "train").glob("part-*.npz"))
    assert [path.read_text() for path in made] == ["train 4", "train 3", "train 3"]
    assert seeds == [0, 1, 2, pool.VALIDATION_SEED]
    assert (tmp_path / "out" / "validation" / "pool.json").is_file()
