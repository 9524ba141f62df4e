"""The `venhancer-rt` command: its outputs, and one clear line for every user error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.clips import read_all, small_checkpoint, write_clip
from venhancer.video.probe import probe
from venhancer_rt.cli import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "in.mp4", 4)


@pytest.fixture
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("weights") / "small.safetensors")


def refused(capture: Capture, *arguments: object) -> str:
    """Run a command that must fail: exit code 2 and a single line on stderr, which is returned."""
    assert main([str(a) for a in arguments]) == 2
    error = capture.readouterr().err
    assert error.startswith("venhancer-rt: ")
    assert error.count("\n") == 1
    return error


def test_enhance(clip: Path, weights: Path, tmp_path: Path, capsys: Capture) -> None:
    """Size and frames double; the plan is printed, a comparison written, JSON is the last line."""
    out, compare = tmp_path / "out.mp4", tmp_path / "compare.png"
    arguments = ["enhance", clip, "-o", out, "--weights", weights, "--interpolate", 2]

    assert main([str(a) for a in [*arguments, "--compare", compare, "--json"]]) == 0

    frames = read_all(out)
    assert (len(frames), frames[0].shape) == (7, (64, 96, 3))
    lines = capsys.readouterr().out.splitlines()
    assert any("96x64" in line for line in lines)
    told = json.loads(lines[-1])
    assert told["output"] == {"size": [96, 64], "frames": 7, "fps": "48"}
    assert told["evaluations"] == 2
    assert told["seconds"]["denoise"] > 0
    assert compare.is_file()


def test_same_seed_same_file(clip: Path, weights: Path, tmp_path: Path) -> None:
    """Two runs write the same pictures; another seed writes others."""
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        arguments = ["enhance", clip, "-o", tmp_path / name, "--weights", weights, "--seed", seed]
        assert main([str(a) for a in arguments]) == 0

    first, again, other = (sorted((tmp_path / n).glob("*.png")) for n in "abc")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]
    assert [p.read_bytes() for p in first] != [p.read_bytes() for p in other]


def test_the_output_has_a_default_name(clip: Path, weights: Path) -> None:
    """The output lies beside the input."""
    assert main(["enhance", str(clip), "--weights", str(weights)]) == 0

    assert probe(clip.with_name("in_enhanced.mp4")).frames == 4


LONG = ["o" * 230, "o" * 251, "\N{BLACK HEART SUIT}" * 83]  # 255 bytes with a suffix


@pytest.mark.parametrize("stem", LONG)
def test_long_names_work(stem: str, clip: Path, weights: Path, tmp_path: Path) -> None:
    """A file of up to 255 bytes in its name, and a folder, are written; nothing is left."""
    for name in (f"{stem}.mp4", stem):
        arguments = ["enhance", clip, "-o", tmp_path / name, "--weights", weights, "--scale", "1"]
        assert main([str(a) for a in arguments]) == 0

    assert {p.name for p in tmp_path.iterdir()} == {"in.mp4", f"{stem}.mp4", stem}


@pytest.mark.parametrize("name", ["o" * 252 + ".mp4", "o" * 256, "\N{BLACK HEART SUIT}" * 86, ".."])
def test_names_that_cannot_be_are_refused(
    name: str, clip: Path, weights: Path, tmp_path: Path, capsys: Capture
) -> None:
    """The line says how long the name is; a path without a name is refused too."""
    error = refused(capsys, "enhance", clip, "-o", tmp_path / name, "--weights", weights)

    assert "has no name of its own" in error if name == ".." else f"{len(name.encode())} b" in error
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_the_default_name_of_a_long_one_is_shortened(clip: Path, weights: Path) -> None:
    """It fits the file system, ends as usual, and differs for inputs that begin alike."""
    for letter in "ab":
        name = f"{'o' * 245}{letter}.mp4"
        clip.with_name(name).write_bytes(clip.read_bytes())
        assert main(["enhance", str(clip.with_name(name)), "--weights", str(weights)]) == 0

    made = [p.name for p in clip.parent.iterdir() if p.name.endswith("_enhanced.mp4")]
    assert [len(name) for name in made] == [255, 255]


def test_plan(clip: Path, weights: Path, capsys: Capture) -> None:
    """`plan` prints sizes, windows, evaluations, work, memory, disk and time; it writes no file."""
    assert main(["plan", str(clip), "--weights", str(weights), "--fps", "60", "--json"]) == 0

    out = capsys.readouterr().out
    for word in ("input", "output", "frames", "windows", "steps", "work", "memory", "disk", "time"):
        assert f"\n{word}" in f"\n{out}"
    told = json.loads(out.splitlines()[-1])
    assert told["output"]["fps"] == "60"
    assert min(told["tflop"], told["memory_bytes"], told["seconds"]) > 0
    assert [p.name for p in clip.parent.iterdir()] == ["in.mp4"]


def test_fast_is_asked_for_and_told(clip: Path, weights: Path, capsys: Capture) -> None:
    """`--mode fast` takes the preset's shortcuts: less work, more memory; given options win."""
    words = ["plan", str(clip), "--weights", str(weights), "--json"]
    told = []
    for more in ([], ["--mode", "fast"], ["--mode", "fast", "--reuse", "1"]):
        assert main([*words, *more]) == 0
        out = capsys.readouterr().out
        told.append(json.loads(out.splitlines()[-1]))
        is_faster = told[-1]["reuse"] > 1
        assert ("\nfaster   1 of them reuse coarse features: not the frames" in out) == is_faster

    exact, fast, other = told
    assert [t["reuse"] for t in told] == [1, 2, 1]
    assert other["tflop"] == exact["tflop"] > fast["tflop"]
    assert fast["memory_bytes"] > exact["memory_bytes"]


def test_a_plan_fits_the_memory_that_is_given(clip: Path, weights: Path, capsys: Capture) -> None:
    """Smaller tiles or windows are chosen and reported; too little names the needed size."""
    words = ["plan", str(clip), "--weights", str(weights), "--scale", "8", "--json"]
    limit, taken = "8", []
    for _ in range(2):
        assert main([*words, "--memory", limit]) == 0
        told = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert told["memory_bytes"] <= told["memory_limit_bytes"]
        taken.append((told["window_frames"], *told["tile"]))
        limit = f"{(told['memory_bytes'] - 1000) / 1e9:.9f}"

    assert taken[1] < taken[0]
    assert main([*words, "--memory", "0.5"]) == 2
    assert "memory=0.5: the smallest plan (windows of" in capsys.readouterr().err


def test_without_a_limit_the_smallest_plan_is_taken_and_told(
    clip: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Free memory is only an estimate, so the run is not refused."""
    monkeypatch.setattr("venhancer.planning.fitting.free_memory", lambda device: 1_000_000_000)

    assert main(["plan", str(clip), "--preset", "released"]) == 0

    assert "of 0.9 GB" in (out := capsys.readouterr().out)
    assert "it may not fit" in out


@pytest.mark.parametrize("what", ["clip", "weights", "nano", "released"])
def test_info(what: str, clip: Path, weights: Path, capsys: Capture) -> None:
    """`info` describes a video, a checkpoint or a preset."""
    name = {"clip": clip, "weights": weights}.get(what, what)

    assert main(["info", str(name)]) == 0

    assert {"clip": "48x32", "weights": "parameters"}.get(
        what, "network"
    ) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scale", "9"], "scale=9: take a number from 1 to 8"),
        (["--scale", "0.5"], "scale=0.5: take a number from 1 to 8"),
        (["--size", "500x32"], "out of reach from 48x32: take a width from 48 to 384"),
        (["--interpolate", "9"], "interpolate=9: take a number from 1 to 8"),
        (["--fps", "12"], "take a rate from 24 to 192"),
        (["--preset", "huge"], "preset 'huge' is unknown: take nano, released, tiny"),
        (["--preset", "tiny"], "tiny preset is for tests"),
        (["--prompt", "a cat"], "no text encoder"),
        (["--refine", "301"], "refine=301: take a number from 0 to 300"),
        (["--detail", "9"], "detail=9: take a number from 1 to 8"),
        (["--steps", "3"], "steps=3 is too few for `fast`"),
        (["--reuse", "9"], "reuse=9: take a number from 1 to 8"),
        (["--guidance-interval", "800:200"], "guidance interval 800 to 200: take 0 to 999"),
        (
            ["--window", "2", "--interpolate", "4", "--new-frames", "model"],
            "window=2 holds no two key frames",
        ),
        (["--weights", "missing.safetensors"], "no weights at missing.safetensors"),
        (["--kernels", "triton"], "preset 'nano' has no layers that Triton fuses"),
    ],
)
def test_options_out_of_range(
    options: list[str], message: str, clip: Path, tmp_path: Path, capsys: Capture
) -> None:
    """The line has the given value and the allowed ones; nothing is written."""
    solver = [] if "--steps" not in options else ["--solver", "fast"]

    assert message in refused(capsys, "enhance", clip, "-o", tmp_path / "o.mp4", *options, *solver)

    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_a_codec_that_is_none(clip: Path, weights: Path, tmp_path: Path, capsys: Capture) -> None:
    """A bad codec is refused before the work, not after it."""
    arguments = ("enhance", clip, "-o", tmp_path / "o.mp4", "--weights", weights)

    assert "nothing" in refused(capsys, *arguments, "--codec", "nothing")

    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_asked_for_and_absent(clip: Path, weights: Path, capsys: Capture) -> None:
    """The line names an alternative."""
    found = refused(capsys, "enhance", clip, "--weights", weights, "--device", "cuda")

    assert "take --device cpu" in found


def test_inputs_that_are_none(tmp_path: Path, capsys: Capture) -> None:
    """A missing file, no video, an empty file and an empty folder are each refused in one line."""
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder").mkdir()

    for name in ("missing.mp4", "text.mp4", "empty.mp4", "folder"):
        assert name in refused(capsys, "enhance", tmp_path / name, "-o", tmp_path / "o.mp4")


def test_outputs_that_cannot_be(clip: Path, tmp_path: Path, capsys: Capture) -> None:
    """A missing folder, an existing file, and the input itself are refused as outputs."""
    (tmp_path / "old.mp4").write_bytes(b"old")

    assert "nowhere" in refused(capsys, "enhance", clip, "-o", tmp_path / "nowhere" / "o.mp4")
    assert "--overwrite" in refused(capsys, "enhance", clip, "-o", tmp_path / "old.mp4")
    assert "input itself" in refused(capsys, "enhance", clip, "-o", clip, "--overwrite")
    assert (tmp_path / "old.mp4").read_bytes() == b"old"


def test_a_cut_file_is_enhanced_as_far_as_it_goes(
    weights: Path, tmp_path: Path, capsys: Capture
) -> None:
    """All readable frames are enhanced, and the loss is reported."""
    whole = write_clip(tmp_path / "whole.mkv", 40, 64, 64)
    data = whole.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: int(len(data) * 0.6)])

    arguments = ["enhance", tmp_path / "cut.mkv", "-o", tmp_path / "o.mp4", "--weights", weights]
    assert main([str(a) for a in [*arguments, "--scale", "1"]]) == 0

    assert "damaged" in capsys.readouterr().out
    assert 5 < probe(tmp_path / "o.mp4").frames < 40


def test_a_wrong_checkpoint_names_its_first_wrong_tensors(
    clip: Path, tmp_path: Path, capsys: Capture
) -> None:
    """A file with tensors of something else is refused with their names."""
    from safetensors.torch import save_file

    save_file({"layer.weight": torch.zeros(2)}, tmp_path / "other.safetensors")

    found = refused(capsys, "enhance", clip, "--weights", tmp_path / "other.safetensors")

    assert "layer.weight" in found or "time_embed" in found


def test_an_interruption_leaves_nothing(
    clip: Path, weights: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while decoding leaves no output or temporary file, with the usual exit code."""

    def interrupt(*_: object) -> np.ndarray:
        raise KeyboardInterrupt

    monkeypatch.setattr("venhancer.pipeline.frames.to_pixels", interrupt)

    assert main(["enhance", str(clip), "--weights", str(weights)]) == 130
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_needs_no_torch(option: str) -> None:
    """`python -m venhancer_rt` is the same command, and its help is fast."""
    code = (
        "import sys, venhancer_rt.cli as c\n"
        f"try: c.main(['{option}'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules or 'av' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    command = [sys.executable, "-m", "venhancer_rt", option]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "venhancer-rt" in found
