"""Measuring quality: the peers' methods, and which of them a run compares."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from benchmarks import data, peer_methods, quality, quality_methods
from benchmarks.baselines import bicubic_repeat
from benchmarks.peer_basicvsr import BasicVsr
from benchmarks.peer_files import PeerError, module_of
from benchmarks.peer_methods import ENLARGERS, cannot, note_of
from benchmarks.quality_borrowed import borrow
from benchmarks.quality_clips import (
    CLIPS,
    HELD_OUT,
    MAIN,
    QualityError,
    Setting,
    cut_to_fit,
    degrade,
    extra_clip,
    load_clip,
)
from benchmarks.quality_table import cells
from tests.support.clips import moving_frames, write_clip

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
    monkeypatch.setitem(ENLARGERS, "rife-span", lambda peers, scale: lambda f: scale * f)

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

    def first_clip(truth: Any, methods: dict[str, Any], *_: Any) -> None:
        chosen.extend(methods)
        raise QualityError("enough")

    monkeypatch.setattr(quality_methods, "load_method", lambda name, *_: name)
    monkeypatch.setattr(quality, "load_clip", lambda clip, folder: np.zeros((17, 8, 8, 3)))
    monkeypatch.setattr(quality.metrics, "Lpips", lambda weights: None)
    monkeypatch.setattr(quality, "measure_clip", first_clip)

    assert quality.main(words) == 1
    assert chosen == expected


def test_an_unknown_method_is_refused() -> None:
    """By one line that names those there are, the peers too."""
    with pytest.raises(QualityError, match=r"no method rife: .* rife-basicvsr"):
        quality_methods.choose_methods(["rife"], {}, Path("peers"))


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
        ENLARGERS[name](tmp_path, 4)


# --- sizes and rates ----------------------------------------------------------------------------


class Doubling:
    """A network that repeats pixels, as SPAN's would be loaded."""

    loaded: ClassVar[list[int]] = []

    def __init__(self, factor: int, folder: Path) -> None:
        self.factor = factor
        self.loaded.append(factor)

    def enlarge(self, frame: Any) -> Any:
        return frame.repeat(self.factor, axis=0).repeat(self.factor, axis=1)


@pytest.mark.parametrize(
    ("scale", "networks", "note"),
    [
        (2, [2], ""),
        (3, [4], "SPAN x4, then made smaller to 3x by antialiased bicubic"),
        (4, [4], ""),
        (8, [4, 2], "SPAN x4, then x2"),
    ],
)
def test_span_reaches_every_scale(
    scale: int, networks: list[int], note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own weights where it has any, else by a way that is told beside its name."""
    monkeypatch.setattr(Doubling, "loaded", [])
    monkeypatch.setattr(peer_methods, "Span", Doubling)

    made = peer_methods.load_method("rife-span", Path("peers"), scale, 1)(
        np.zeros((2, 6, 8, 3), np.uint8)
    )

    assert made.shape == (2, 6 * scale, 8 * scale, 3)
    assert Doubling.loaded == networks
    assert note_of("rife-span", scale, 2) == note
    assert "without RIFE" in note_of("rife-span", scale, 1)


def test_peers_of_one_scale_are_left_out_by_name() -> None:
    """BasicVSR and animevideov3 have weights for 4x only; the run goes on without them."""
    names = ["rife-basicvsr", "rife-animevideov3", "bicubic"]

    made = quality_methods.choose_methods(names, {}, Path("peers"), Setting(3, 2))

    assert [*made] == ["bicubic"]
    assert all("4x only" in cannot(name, 3) for name in names[:2])
    assert not any(cannot(name, 4) for name in names)


@pytest.mark.parametrize(("scale", "interpolate"), [(2, 1), (2, 2), (3, 3), (8, 2), (4, 4)])
def test_the_baselines_make_what_is_asked(scale: int, interpolate: int) -> None:
    """As many frames, as large, after the truth was cut; without new frames there is no figure."""
    setting = Setting(scale, interpolate)
    truth = cut_to_fit(np.stack(moving_frames(17, 133, 119)), setting)

    methods = quality_methods.choose_methods(["bicubic"], {}, Path("peers"), setting)
    rows, _ = quality.measure_clip(truth, methods, lambda made, true: 0.5, setting)

    assert degrade(truth, setting).shape[1] * scale == truth.shape[1]
    assert not any(side % 2 for side in degrade(truth, setting).shape[1:3])
    assert ("psnr_odd" in rows["bicubic"]) == (interpolate > 1)
    assert rows["truth"]["pixels"] == truth.shape[1] * truth.shape[2]
    new = cells(rows["bicubic"], columns=("PSNR new", "SSIM new"))
    assert (new == ["-", "-"]) == (interpolate == 1)


def test_the_usual_sizes_are_not_cut() -> None:
    """At 4x size and 2x frames all of the three clips is used."""
    for height, width in ((720, 1280), (272, 640)):
        truth = np.zeros((17, height, width, 3), np.uint8)
        assert cut_to_fit(truth, MAIN).shape == truth.shape


def test_settings_are_asked_in_one_word() -> None:
    """Times the size, times the frames; anything else is one line."""
    assert quality.parse_settings("2x1,4x4") == [Setting(2, 1), Setting(4, 4)]
    for words in ("4", "2x", "1x2", "4x9"):
        with pytest.raises(QualityError):
            quality.parse_settings(words)


# --- clips --------------------------------------------------------------------------------------


def test_held_out_places_are_others_of_the_same_files() -> None:
    """By the same names, well apart from those that weights are chosen by."""
    for chosen, held in zip(CLIPS, HELD_OUT, strict=True):
        assert chosen.name == held.name
        assert chosen.size == held.size
        assert abs(chosen.start_seconds - held.start_seconds) > 2


def test_a_clip_of_the_user_keeps_its_shape(tmp_path: Path) -> None:
    """It starts where asked, is never enlarged, and is named where it is missing."""
    path = tmp_path / "mine.mp4"
    write_clip(path, 25, 64, 48)

    clip = extra_clip(f"{path}@0.1")

    assert (clip.name, clip.start_seconds) == ("mine", 0.1)
    assert load_clip(clip, tmp_path / "none").shape == (17, 48, 64, 3)
    with pytest.raises(QualityError, match=r"^none\.mp4 is missing$"):
        load_clip(extra_clip(str(tmp_path / "none.mp4")), tmp_path)
    with pytest.raises(QualityError, match="`soon` are no seconds"):
        extra_clip("mine.mp4@soon")


# --- borrowed rows ------------------------------------------------------------------------------


def earlier(path: Path, **entry: Any) -> Path:
    """A results file with one clip."""
    rows = {
        "nano": {"lpips": 9.0},
        "rife-span": {"lpips": 0.2, "seconds_per_frame": 1.0, "file_seconds": 2.0},
        "truth": {"ewarp": 1.0},
    }
    found = {"clips": {"bbb": {"start_seconds": 43.0}}, "results": {"bbb": rows}, **entry}
    path.write_text(json.dumps(found))
    return path


def test_rows_of_peers_are_borrowed_without_their_seconds(tmp_path: Path) -> None:
    """Those that run anew, and the truth, are not taken from the file."""
    path = earlier(tmp_path / "q.json")

    assert borrow(path, MAIN, [CLIPS[2]], ["nano"]) == {"bbb": {"rife-span": {"lpips": 0.2}}}


@pytest.mark.parametrize(
    ("entry", "clip", "setting", "message"),
    [
        ({}, CLIPS[0], MAIN, "has no city"),
        ({}, HELD_OUT[2], MAIN, r"has no bbb from 11\.5 s"),
        ({}, CLIPS[2], Setting(2, 2), "has nothing at 2x space, 2x time"),
        ({"results": {"bbb": {"nano": {}}}}, CLIPS[2], MAIN, "has no row of rife-span"),
    ],
)
def test_rows_of_other_frames_are_not_borrowed(
    entry: dict[str, Any], clip: Any, setting: Setting, message: str, tmp_path: Path
) -> None:
    """The clip, its place, the setting and the rival have to be those of the run."""
    with pytest.raises(QualityError, match=message):
        borrow(earlier(tmp_path / "q.json", **entry), setting, [clip], ["nano"])


def test_weights_are_compared_by_one_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nano runs alone; its row, the rival's, six goals and the number are all that is printed."""
    monkeypatch.setattr(quality.metrics, "Lpips", lambda weights: lambda made, true: 0.1)
    truth = np.stack(moving_frames(17, 128, 96))
    monkeypatch.setattr(quality, "load_clip", lambda clip, folder: truth)
    plain = {"nano": lambda low: bicubic_repeat(low, 4, 2)}
    monkeypatch.setattr(quality, "choose_methods", lambda *_: plain)
    monkeypatch.setattr(quality, "file_seconds", lambda *_: 17.0)
    rival = {"psnr_even": 1.0, "psnr_odd": 1.0, "vmaf": 0.0, "lpips": 0.2, "grid": 1e9, "ewarp": 99}
    path = earlier(tmp_path / "q.json", results={"bbb": {"rife-span": rival}})
    words = ["--methods", "nano", "--clips", "bbb", "--peers-from", str(path)]

    assert quality.main([*words, "--out", str(tmp_path / "new.json")]) == 0

    told = capsys.readouterr().out.splitlines()
    assert [line.split("|")[2].strip() for line in told[2:4]] == ["nano", "rife-span"]
    assert sum(line.startswith("goal: ") for line in told) == 6
    assert told[-1].startswith("score 5.0000: 5 of 5 goals reached")
    assert json.loads((tmp_path / "new.json").read_text())["score"] == 5


def test_the_device_is_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The processor unless another is named; a card that is not there is told in one line."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    assert quality.build_parser().parse_args([]).device == "cpu"
    assert quality.main(["--device", "cuda"]) == 1
    assert capsys.readouterr().err.startswith("benchmarks.quality: --device cuda: PyTorch finds")
