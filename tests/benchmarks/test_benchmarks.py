"""Measuring: what is told of it stands in a results file, and turns are fair."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shlex
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import cards, denoise_step, memory, pairs, projection, report, scaling
from benchmarks.denoise_step import table
from benchmarks.random_models import random_model, write_checkpoint
from benchmarks.timing import save, speed_up, spread
from benchmarks.turns import Worker, WorkerError, in_turns
from benchmarks.ways import run_ways
from tests.support.models import SMALL_UNET
from venhancer.weights.checkpoint import load_model
from venhancer_export.cli import build_parser

COMMIT = 40 * "a"


def step_result(card: str) -> dict[str, Any]:
    """What `denoise_step` writes, of one variant."""
    row = {
        "variant": "graph",
        "dtype": "float16",
        "seconds": {"median": 1.25, "least": 1.2, "most": 1.3},
        "ceiling_share": 0.52,
        "times_faster": 2.5,
        "peak_bytes": 21_500_000_000,
        "relative_error": 0.0011,
    }
    failed = {"variant": "compiled", "dtype": "float16", "failed": "OutOfMemoryError: none left"}
    cases = [{"size": "1280x720", "window": 32, "flop": 516e12, "rows": [row, failed]}]
    return {
        "benchmark": "benchmarks.denoise_step",
        "command": "python -m benchmarks.denoise_step",
        "commit": COMMIT,
        "date": "2026-01-01",
        "versions": {"torch": "2.13.0"},
        "machine": {"cpu": "a processor", "cores": 16},
        "device": {"name": card},
        "preset": "released",
        "cases": cases,
    }


def test_the_page_is_what_the_results_say() -> None:
    """benchmarks/README.md is generated: after a change, run `python -m benchmarks.report`."""
    assert report.README.read_text(encoding="utf-8") == report.render(report.RESULTS)


def test_a_card_is_not_measured_until_there_is_a_file(tmp_path: Path) -> None:
    """A results file fills the rows of its card, and those of no other."""
    (tmp_path / "denoise_step_cuda.json").write_text(
        json.dumps(step_result("NVIDIA A100-SXM4-80GB"))
    )
    [section] = [part for part in report.render(tmp_path).split("\n## ") if "x_0" in part]

    assert "| NVIDIA A100-SXM4-80GB | released, 1280x720 x 32 | 516 | graph |" in section
    assert "OutOfMemoryError: none left" in section
    assert "| A100 |" not in section
    assert "| H200 | not measured |" in section
    assert f"commit {COMMIT[:10]}, 2026-01-01" in section


@pytest.mark.parametrize("card", cards.BUILDERS)
def test_the_commands_of_a_card_are_understood(card: str) -> None:
    """By the parsers of those that have one, and every benchmark is there."""
    for command in cards.commands(card):
        words = [word for word in shlex.split(command) if "=" not in word]
        if words[0] == "venhancer-export":
            assert build_parser().parse_args(words[1:]).gpu == [card.lower()]
        elif words[0] == "python":
            assert importlib.util.find_spec(words[2]) is not None
        if "benchmarks.denoise_step" in words:
            assert denoise_step.build_parser().parse_args(words[3:]).window == [16]


@pytest.mark.parametrize("window", projection.WINDOWS)
def test_the_projection_counts_what_a_run_would_do(window: int) -> None:
    """Windows of a minute overlap by about half, and each has as many evaluations as steps."""
    plan = projection.minute(window)

    assert (plan.geometry.width, plan.geometry.height) == (1280, 720)
    assert 1.5 < plan.windows * window / projection.MINUTE < 2.1
    assert plan.evaluations == 2 * plan.windows * 14


def test_the_terminal_shows_every_variant() -> None:
    """Its figures, or why there are none."""
    [case] = step_result("NVIDIA H200")["cases"]
    shown = table(case)

    assert "1.25 s" in shown
    assert "52.0 % of the ceiling" in shown
    assert "OutOfMemoryError" in shown


def test_a_speed_up_is_of_pairs() -> None:
    """A slow spell that meets both of a pair changes nothing."""
    assert speed_up([2.0, 20.0, 2.2], [1.0, 10.0, 1.0]) == 2.0
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "least": 1.0, "most": 3.0}


class Turn:
    """A worker that takes no time and notes when it was asked; it fails at its `last` turn."""

    def __init__(self, name: str, noted: list[str], last: int = 99, lacks: bool = False) -> None:
        self.name = name
        self.noted = noted
        self.left = last
        self.lacks = lacks
        self.told = {"peak_bytes": 7}

    def turn(self) -> float:
        self.noted.append(self.name)
        self.left -= 1
        if not self.left:
            raise WorkerError("OutOfMemoryError: none left", self.lacks)
        return 1.0

    def close(self) -> None:
        self.noted.append(f"-{self.name}")


def test_the_order_of_turns_changes_every_round() -> None:
    """Nobody always comes after the same one."""
    noted: list[str] = []
    workers: Any = {name: Turn(name, noted) for name in "abc"}

    taken = in_turns(workers, 2)

    assert "".join(noted) == "abccba"
    assert taken.seconds == {name: [1.0, 1.0] for name in "abc"}
    assert not taken.failed


def test_who_fails_has_no_more_turns() -> None:
    """Its seconds pair with nobody's, so they are dropped too; the others take all theirs."""
    noted: list[str] = []
    workers: Any = {name: Turn(name, noted, last=2 if name == "b" else 99) for name in "abc"}

    taken = in_turns(workers, 3)

    assert "".join(noted) == "abccbaac"
    assert taken.seconds == {"a": [1.0] * 3, "c": [1.0] * 3}
    assert str(taken.failed["b"]) == "OutOfMemoryError: none left"


def test_who_lacked_memory_is_measured_alone() -> None:
    """After the others have ended; who failed otherwise is not tried again."""
    noted: list[str] = []
    tries = {"a": [99], "b": [1, 99], "c": [1]}

    def start(name: str) -> Any:
        return Turn(name, noted, last=tries[name].pop(0), lacks=name == "b")

    found = run_ways({name: partial(start, name) for name in tries}, 2)

    assert "".join(noted) == "abca-a-b-cbb-b"
    assert found["a"].seconds == found["b"].seconds == [1.0, 1.0]
    assert found["a"].row() == {"peak_bytes": 7}
    assert found["b"].row() == {"peak_bytes": 7, "alone": True}
    assert found["c"].row() == {"peak_bytes": 7, "failed": "OutOfMemoryError: none left"}


def test_a_process_that_was_killed_may_have_lacked_memory() -> None:
    """The kernel ends such processes by a signal."""
    worker = Worker.__new__(Worker)
    worker._process = subprocess.Popen(["bash", "-c", "kill -KILL $$"], stdout=subprocess.PIPE)

    assert worker._ended().lacks_memory


def test_a_way_that_fails_in_its_turn_says_so_in_its_row() -> None:
    """In one process too: the first way keeps its milliseconds."""
    calls: list[int] = []

    def fail_late() -> torch.Tensor:
        calls.append(1)
        if len(calls) > pairs.WARM_UPS + 1:
            raise RuntimeError("no memory\nand more")
        time.sleep(pairs.TURN)
        return torch.ones(2)

    def make() -> pairs.Ways:
        return {"first": pairs.Way(lambda: torch.ones(2)), "late": pairs.Way(fail_late)}

    first, late = pairs.measure(pairs.Case("candidate", "layer", make), "cpu", 2)["rows"]

    assert first["ms"]["median"] > 0
    assert late["failed"] == "RuntimeError: no memory"
    assert "ms" not in late


def test_what_was_found_is_written_after_every_case(tmp_path: Path) -> None:
    """A file is whole at any time, and says of what it is."""
    for count in (1, 2):
        save("benchmarks.vae", "cpu", {"cases": [0] * count}, tmp_path / "vae.json")
        found = json.loads((tmp_path / "vae.json").read_text())
        assert (found["benchmark"], len(found["cases"])) == ("benchmarks.vae", count)
    assert [path.name for path in tmp_path.iterdir()] == ["vae.json"]


def test_a_run_on_a_card_has_the_peak_of_the_card() -> None:
    """The memory of the process counts where no card did the work."""
    assert memory.peak({"peak_bytes": 5, "device_bytes": 9}) == 9
    assert memory.peak({"peak_bytes": 5}) == 5
    assert memory.card_peak("cpu") == {}


def test_a_run_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line of its errors; runs of other lengths go on."""
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nOutOfMemoryError: none left\n")
    monkeypatch.setattr(memory.subprocess, "run", lambda *_, **__: failed)

    run = memory.measure(60, None, "cuda")

    assert run == {"failed": "OutOfMemoryError: none left"}
    assert memory.line(run) == "OutOfMemoryError: none left"


def test_random_weights_are_the_same_in_every_process(tmp_path: Path) -> None:
    """Made on the device or written to a file, in any precision: the same float16 numbers."""
    made = random_model(SMALL_UNET, torch.float32, "cpu").state_dict()
    write_checkpoint(tmp_path / "random.safetensors", SMALL_UNET, seed=0)
    read = load_model(tmp_path / "random.safetensors", SMALL_UNET)[0].state_dict()
    half = random_model(SMALL_UNET, torch.bfloat16, "cpu").state_dict()

    assert made.keys() == read.keys() == half.keys()
    for name, weight in made.items():
        assert torch.equal(weight, read[name])
        assert torch.equal(weight.to(half[name].dtype), half[name])


def test_a_worker_that_fails_says_why() -> None:
    """Its error reaches the parent in one line, and its process is gone."""
    point = {"frames": 2, "size": [32, 32], "window": 2}
    task = {"point": point, "device": "cpu", "weights": "nowhere.safetensors"}

    with pytest.raises(
        WorkerError, match=r"WeightsError: no weights at nowhere\.safetensors"
    ) as found:
        Worker("benchmarks.scaling", task)
    assert not found.value.lacks_memory


def test_ranks_share_the_cores_and_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its part of the threads and a card; a frame's seconds are over all ranks' frames."""
    seen: list[dict[str, str]] = []

    class Rank:
        def __init__(self, module: str, task: Any, variables: dict[str, str]) -> None:
            seen.append(variables)
            seconds = 3.0 + len(variables.get("CUDA_VISIBLE_DEVICES", ""))
            stages = {"denoise": 2.0}
            self.told = {"seconds": seconds, "output_frames": 8, "flop": 1e12, "stages": stages}

        def close(self) -> None:
            return None

    monkeypatch.setattr(scaling, "Worker", Rank)
    monkeypatch.setattr("torch.get_num_threads", lambda: 4)
    point = scaling.Point(frames=9, size=(32, 32), window=9, ranks=2)

    rates = {"matmul": {name: {"tflops": 4.0} for name in ("float32", "bfloat16")}}
    row = scaling.measure(point, "cpu", None, rates)

    shares = [{"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": str(n)} for n in range(2)]
    assert sorted(seen, key=str) == shares
    assert row["seconds_per_output_frame"] == 4.0 / 16
    alone = scaling.measure(dataclasses.replace(point, ranks=1), "cpu", None, rates)
    assert (seen[-1], alone["seconds_per_output_frame"]) == ({}, 3.0 / 8)
    assert (row["ceiling_share"], alone["ceiling_share"]) == (0.25, 0.125)
    assert [p.ranks for p in scaling.points("cpu")["ranks"]] == [1, 2, 4]
