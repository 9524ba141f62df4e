"""The quality benchmark: its methods and clips, and rows taken from earlier files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.peers.methods import ENLARGERS, cannot
from benchmarks.quality import __main__ as quality
from benchmarks.quality import methods
from benchmarks.quality.clips import (
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
from benchmarks.quality.methods import bicubic_repeat
from benchmarks.quality.rows import borrow, cells, measure_clip
from tests.support.clips import moving_frames, write_clip


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

    monkeypatch.setattr(methods, "load_method", lambda name, *_: name)
    monkeypatch.setattr(quality, "load_clip", lambda clip, folder: np.zeros((17, 8, 8, 3)))
    monkeypatch.setattr(quality.metrics, "Lpips", lambda weights: None)
    monkeypatch.setattr(quality, "measure_clip", first_clip)

    assert quality.main(words) == 1
    assert chosen == expected


def test_an_unknown_method_is_refused() -> None:
    """The error is one line that names all known methods, the peers too."""
    with pytest.raises(QualityError, match=r"no method rife: .* rife-basicvsr"):
        methods.choose_methods(["rife"], {}, Path("peers"))


def test_a_run_ends_where_peers_were_not_fetched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run ends before any measurement, with one line and the usual exit status for errors."""
    assert quality.main(["--peers", "--data", str(tmp_path)]) == 1

    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "benchmarks.quality: IFNet_HDv3.py is missing: run `make data`\n"


def test_peers_of_one_scale_are_left_out_by_name() -> None:
    """BasicVSR and animevideov3 have weights for 4x only; other scales run without them."""
    names = ["rife-basicvsr", "rife-animevideov3", "bicubic"]

    made = methods.choose_methods(names, {}, Path("peers"), Setting(3, 2))

    assert [*made] == ["bicubic"]
    assert all("4x only" in cannot(name, 3) for name in names[:2])
    assert not any(cannot(name, 4) for name in names)


@pytest.mark.parametrize(("scale", "interpolate"), [(2, 1), (2, 2), (3, 3), (8, 2), (4, 4)])
def test_the_baselines_make_what_is_asked(scale: int, interpolate: int) -> None:
    """The baselines give the number and size of the cut truth; without new frames, no figure."""
    setting = Setting(scale, interpolate)
    truth = cut_to_fit(np.stack(moving_frames(17, 133, 119)), setting)

    chosen = methods.choose_methods(["bicubic"], {}, Path("peers"), setting)
    rows, _ = measure_clip(truth, chosen, lambda made, true: 0.5, setting)

    assert degrade(truth, setting).shape[1] * scale == truth.shape[1]
    assert not any(side % 2 for side in degrade(truth, setting).shape[1:3])
    assert ("psnr_odd" in rows["bicubic"]) == (interpolate > 1)
    assert rows["truth"]["pixels"] == truth.shape[1] * truth.shape[2]
    new = cells(rows["bicubic"], columns=("PSNR new", "SSIM new"))
    assert (new == ["-", "-"]) == (interpolate == 1)


def test_the_usual_sizes_are_not_cut() -> None:
    """At 4x size and 2x frames the three clips are used whole."""
    for height, width in ((720, 1280), (272, 640)):
        truth = np.zeros((17, height, width, 3), np.uint8)
        assert cut_to_fit(truth, MAIN).shape == truth.shape


def test_settings_are_asked_in_one_word() -> None:
    """A setting is the size factor and the frame factor in one word; anything else is one line."""
    assert quality.parse_settings("2x1,4x4") == [Setting(2, 1), Setting(4, 4)]
    for words in ("4", "2x", "1x2", "4x9"):
        with pytest.raises(QualityError):
            quality.parse_settings(words)


# --- clips --------------------------------------------------------------------------------------


def test_held_out_places_are_others_of_the_same_files() -> None:
    """Held-out places have the clips' names, and are well apart from those for choosing weights."""
    for chosen, held in zip(CLIPS, HELD_OUT, strict=True):
        assert chosen.name == held.name
        assert chosen.size == held.size
        assert abs(chosen.start_seconds - held.start_seconds) > 2


def test_a_clip_of_the_user_keeps_its_shape(tmp_path: Path) -> None:
    """The clip starts where asked, is never enlarged, and is named if it is missing."""
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
    """Write a results file with one clip."""
    rows = {
        "nano": {"lpips": 9.0},
        "rife-span": {"lpips": 0.2, "seconds_per_frame": 1.0, "file_seconds": 2.0},
        "truth": {"ewarp": 1.0},
    }
    found = {"clips": {"bbb": {"start_seconds": 43.0}}, "results": {"bbb": rows}, **entry}
    path.write_text(json.dumps(found))
    return path


def test_rows_of_peers_are_borrowed_without_their_seconds(tmp_path: Path) -> None:
    """Borrowed rows exclude the truth and the methods that run anew."""
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
    """The clip, its place, the setting and the rival must be those of the run."""
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
    """The processor is used unless another device is named; a missing card gives one line."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    assert quality.build_parser().parse_args([]).device == "cpu"
    assert quality.main(["--device", "cuda"]) == 1
    assert capsys.readouterr().err.startswith("benchmarks.quality: --device cuda: PyTorch finds")
