"""Whole runs with a colour fix, 16 bits and alpha: killed, they go on to the same frames."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

from tests.support.clips import moving_frames, small_checkpoint
from tests.support.processes import keep_every_state, run_and_die
from venhancer import Options
from venhancer.video.png import encode_png
from venhancer.video.probe import probe
from venhancer.video.reading import read_frames
from venhancer_rt import Enhancer, journal
from venhancer_rt.cli import main
from venhancer_rt.job import folder_of, read_job


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("weights") / "small.safetensors")


@pytest.fixture
def words(weights: Path, tmp_path: Path) -> list[str]:
    """The words of a run of nine pictures of 16 bits with alpha, but for its output."""
    (tmp_path / "in").mkdir()
    for k, frame in enumerate(moving_frames(9, 48, 32)):
        alpha = np.roll(frame[..., :1], 3 * k, axis=0)
        picture = np.concatenate([frame, alpha], axis=2).astype(np.uint16) * 257 + np.uint16(k)
        (tmp_path / "in" / f"{k:04d}.png").write_bytes(encode_png(picture))
    return [
        "enhance", str(tmp_path / "in"), "--weights", str(weights), "--interpolate", "2",
        "--scale", "1", "--window", "5", "--steps", "2", "--device", "cpu", "--dtype", "float32",
    ]  # fmt: skip


def pictures(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("*.png"))]


@pytest.mark.parametrize(
    ("fix", "new_frames"), [("wavelet", "model"), ("lab", "motion"), ("none", "motion")]
)
def test_killed_it_goes_on_to_the_same_frames(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fix: str, new_frames: str
) -> None:
    """The kept frames have 16 bits, and colours and alpha are read from the right frame on."""
    for name in ("SHORTEST_WAIT", "SHARE"):
        monkeypatch.setattr(journal, name, getattr(journal, name))  # restored afterwards
    keep_every_state()
    words = [*words, "--color-fix", fix, "--new-frames", new_frames]
    assert main([*words, "-o", str(tmp_path / "whole")]) == 0
    expected = pictures(tmp_path / "whole")
    assert len(expected) == 17
    assert (probe(tmp_path / "whole").depth, probe(tmp_path / "whole").has_alpha) == (16, True)

    target = tmp_path / "out"
    assert run_and_die([*words, "-o", str(target)], 17) == signal.SIGKILL
    state = read_job(folder_of(target))
    assert state is not None
    assert 0 < state.frames < 17
    assert main([*words, "-o", str(target), "--resume"]) == 0

    assert pictures(target) == expected


def test_another_colour_fix_is_another_run(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job of one fix is not gone on with by another."""
    target = ["-o", str(tmp_path / "out")]
    run_and_die([*words, *target, "--color-fix", "adain"], 17)

    assert main([*words, *target, "--color-fix", "lab", "--resume"]) == 2
    assert "color_fix was adain, is lab" in capsys.readouterr().err


def test_frames_of_16_bits_in_memory(weights: Path, tmp_path: Path) -> None:
    """They come out with 16 bits, and are those of a run from file to file."""
    frames = [frame.astype(np.uint16) * 257 + np.uint16(3) for frame in moving_frames(5, 48, 32)]
    (tmp_path / "in").mkdir()
    for k, frame in enumerate(frames):
        (tmp_path / "in" / f"{k:04d}.png").write_bytes(encode_png(frame))
    options = Options(weights=weights, scale=2, device="cpu", dtype="float32", color_fix="adain")

    with Enhancer(options) as enhancer:
        found = list(enhancer.frames(iter(frames)))
        enhancer.enhance(tmp_path / "in", tmp_path / "out")

    assert all(frame.dtype == np.uint16 for frame in found)
    assert np.array_equal(np.stack(found), np.stack(list(read_frames(probe(tmp_path / "out")))))
