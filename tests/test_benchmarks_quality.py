"""Measuring quality: the peers' methods, whom a run compares, and what its figures say of nano."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import data, peer_methods, quality, report
from benchmarks.peer_basicvsr import BasicVsr
from benchmarks.peer_files import PeerError, module_of
from benchmarks.peer_methods import ENLARGERS
from benchmarks.quality_goals import goal_lines, judge_goals
from benchmarks.report_tables import QUESTIONS

ARCHITECTURE = """
import torch
from torch import nn

def flow_warp(features, flow):
    assert features.shape[2:] == flow.shape[1:3]
    return features

class BasicVSR(nn.Module):
    def __init__(self, num_block):
        super().__init__()
        self.num_feat = 2
        self.forward_trunk = nn.Conv2d(5, 2, 1)
        self.backward_trunk = nn.Conv2d(5, 2, 1)
        self.fusion = nn.Conv2d(4, 2, 1)
        self.upconv1 = nn.Conv2d(2, 8, 1)
        self.upconv2 = nn.Conv2d(2, 8, 1)
        self.conv_hr = nn.Conv2d(2, 2, 1)
        self.conv_last = nn.Conv2d(2, 3, 1)
        self.pixel_shuffle = nn.PixelShuffle(2)
        self.lrelu = nn.LeakyReLU(0.5)

    def get_flow(self, x):
        b, f, _, h, w = x.shape
        pairs = torch.arange(1.0, f).view(1, -1, 1, 1, 1).expand(b, -1, 2, h, w)
        return pairs, 10 * pairs
"""


@pytest.fixture
def basicvsr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BasicVsr:
    """The propagation round tiny modules that add up: every weight is 0.5, there is no bias."""
    for name in ("basicvsr", "basicvsr.basicvsr_arch"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in data.BASICVSR:
        (tmp_path / name).touch()
    (tmp_path / "basicvsr_arch.py").write_text(ARCHITECTURE)
    network = module_of(tmp_path, "basicvsr", "basicvsr_arch").BasicVSR(num_block=1)
    state = {n: torch.full_like(p, 0.5 * (p.ndim > 1)) for n, p in network.state_dict().items()}
    torch.save({"params": state}, tmp_path / data.BASICVSR[-1])
    return BasicVsr(tmp_path)


def test_basicvsr_makes_every_frame_of_all(basicvsr: BasicVsr) -> None:
    """Four times as large, out of itself and of what lies before and behind: sums tell whom."""
    levels = np.array([2, 4, 8])
    frames = np.broadcast_to(levels[:, None, None, None], (3, 5, 6, 3)).astype(np.uint8)

    made = basicvsr.enlarge(frames)

    before, behind = levels.cumsum(), levels[::-1].cumsum()[::-1]
    expected = 1.5 * (before + behind) + levels
    assert made.shape == (3, 20, 24, 3)
    assert (made == expected[:, None, None, None]).all()


def test_basicvsr_goes_along_the_motion_of_each_pair(
    basicvsr: BasicVsr, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forth by the flows in their order, back by those of the other way from the last one on."""
    flows = []

    def warp(features: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        flows.append(flow.mean().item())
        return features

    monkeypatch.setattr(basicvsr, "_warp", warp)
    basicvsr.enlarge(np.zeros((4, 4, 4, 3), np.uint8))

    assert flows == [1, 2, 3, 30, 20, 10]


def test_a_peer_enlarges_what_rife_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """All frames of twice the rate, old and new, go to the enlarger in their order."""
    mixing = SimpleNamespace(interpolate=lambda frames, factor: iter([1, 2, 3]))
    monkeypatch.setattr(peer_methods, "Rife", lambda folder: mixing)
    monkeypatch.setitem(ENLARGERS, "rife-span", lambda peers: lambda frames: 4 * frames)

    made = peer_methods.load_method("rife-span", Path("peers"))(np.zeros((2, 1, 1, 3), np.uint8))

    assert made.tolist() == [4, 8, 12]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ["bicubic", "lanczos-minterpolate", "nano"]),
        (["--peers"], ["bicubic", "lanczos-minterpolate", "nano", *ENLARGERS]),
        (["--methods", "nano,rife-span"], ["nano", "rife-span"]),
        (["--methods", "rife-span", "--peers"], [*ENLARGERS]),
    ],
)
def test_the_methods_that_run_are_those_asked(
    words: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--peers` adds all three to the rest, `--methods` takes any of them; nothing runs twice."""
    chosen: list[str] = []

    def first_clip(truth: Any, methods: dict[str, Any], lpips: Any) -> None:
        chosen.extend(methods)
        raise quality.QualityError("enough")

    monkeypatch.setattr(quality, "load_method", lambda name, peers: name)
    monkeypatch.setattr(quality, "load_clip", lambda clip, folder: None)
    monkeypatch.setattr(quality.metrics, "Lpips", lambda weights: None)
    monkeypatch.setattr(quality, "measure_clip", first_clip)

    assert quality.main(words) == 1
    assert chosen == expected


def test_an_unknown_method_is_refused() -> None:
    """By one line that names those there are, the peers too."""
    with pytest.raises(quality.QualityError, match=r"no method rife: .* rife-basicvsr"):
        quality.choose_methods(["rife"], {}, Path("peers"))


def test_a_run_ends_where_peers_were_not_fetched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is measured, with one line and the status of every other error."""
    assert quality.main(["--peers", "--data", str(tmp_path)]) == 1

    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "benchmarks.quality: IFNet_HDv3.py is missing: run `make data`\n"


@pytest.mark.parametrize("name", ENLARGERS)
def test_every_peer_says_which_file_is_missing(name: str, tmp_path: Path) -> None:
    """The enlarger's files are asked for like RIFE's."""
    with pytest.raises(PeerError, match=r"(param|arch_util\.py) is missing: run `make data`$"):
        ENLARGERS[name](tmp_path)


# --- goals --------------------------------------------------------------------------------------


def results(**nano: list[float]) -> dict[str, dict[str, dict[str, float]]]:
    """Three clips of which nano reaches every goal, but for the given figures of it."""
    own = {"lpips": [0.1] * 3, "vmaf": [80.0] * 3, "psnr_odd": [30.0] * 3, "ewarp": [1.0] * 3}
    own |= nano
    rivals = {
        "rife-span": {"lpips": 0.2},
        "rife-animevideov3": {"vmaf": 70.0},
        "lanczos-minterpolate": {"psnr_odd": 29.0},
        "truth": {"ewarp": 1.0},
    }
    clips = ("city", "bikes", "bbb")
    return {
        clip: {"nano": {key: values[index] for key, values in own.items()}, **rivals}
        for index, clip in enumerate(clips)
    }


def reached(found: dict[str, dict[str, dict[str, float]]]) -> list[bool]:
    """Of LPIPS, VMAF, PSNR of new frames and Ewarp."""
    goals = judge_goals(found)
    assert goals is not None
    return [goal["reached"] for goal in goals]


@pytest.mark.parametrize(
    ("nano", "expected"),
    [
        ({}, [True, True, True, True]),
        ({"lpips": [0.1, 0.3, 0.1]}, [True, True, True, True]),
        ({"lpips": [0.1, 0.2, 0.3]}, [False, True, True, True]),
        ({"vmaf": [90.0, 69.0, 69.0]}, [True, False, True, True]),
        ({"psnr_odd": [28.0, 29.0, 40.0]}, [True, True, False, True]),
        ({"ewarp": [0.0, 0.0, 1.1]}, [True, True, True, True]),
        ({"ewarp": [0.0, 0.0, 1.11]}, [True, True, True, False]),
    ],
)
def test_each_goal_is_judged_alone(nano: dict[str, list[float]], expected: list[bool]) -> None:
    """Better by the median of the clips, equal is not better; and hardly more flicker on each."""
    assert reached(results(**nano)) == expected


def test_flicker_counts_only_where_something_moves() -> None:
    """A clip whose truth stands still has no say, and without one that moves nothing is shown."""
    found = results(ewarp=[9.0, 1.0, 1.0])
    found["city"]["truth"] = {"ewarp": 0.5}

    assert reached(found)[-1]
    for rows in found.values():
        rows["truth"] = {"ewarp": 0.1}
    assert not reached(found)[-1]
    assert [*goal_lines(judge_goals(found))][-1].endswith("; ; -; NOT reached")


@pytest.mark.parametrize("method", ["nano", "rife-span", "rife-animevideov3"])
def test_without_a_rival_there_are_no_goals(method: str) -> None:
    """One clip on which it did not run is enough."""
    found = results()
    del found["bbb"][method]

    assert judge_goals(found) is None
    assert [*goal_lines(None)] == ["goals: none (need nano, the baselines and the peers)"]


def test_a_goal_is_told_with_its_figures() -> None:
    """Of every clip, the one that counts, and the word."""
    lines = [*goal_lines(judge_goals(results(lpips=[0.1, 0.15, 0.3])))]

    assert lines[0] == (
        "goal: lpips: nano - rife-span, median below 0; "
        "city -0.100, bikes -0.050, bbb 0.100; -0.050; reached"
    )


def test_the_page_shows_peers_and_goals() -> None:
    """A row for each method, a row for each goal; a file without goals says not measured."""
    found = results()
    file = {"machine": {"cpu": "a processor", "cores": 2}, "results": found}
    judged = {**file, "goals": judge_goals(found)}
    figures, goals = (q for q in QUESTIONS if q.benchmark == "quality")

    shown = report.table(figures, [judged])
    assert "| a processor, 2 threads | city | rife-span | - | - | - | - | - | 0.200 |" in shown
    assert "| vmaf: nano - rife-animevideov3, median above 0 | city 10.000, " in report.table(
        goals, [judged]
    )
    assert "| any | not measured | - | - | - |" in report.table(goals, [file])
