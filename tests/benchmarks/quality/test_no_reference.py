"""Metrics without a true picture, the clips that are fetched, and the report."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from benchmarks.quality import no_reference
from benchmarks.quality.clips import resize
from benchmarks.quality.methods import bicubic_repeat
from benchmarks.quality.metrics import Frames, MetricError
from benchmarks.quality.no_reference import Brisque, Niqe, fit
from benchmarks.report import __main__ as report
from benchmarks.report.quality_tables import QUALITY
from scripts import data, data_generated
from tests.benchmarks.result_parts import step_result
from tests.support.clips import moving_frames

RANDOM = np.random.default_rng(0)


def noise_picture() -> Frames:
    """Make a picture of 192x192 with detail everywhere."""
    return RANDOM.integers(0, 256, (192, 192, 3), dtype=np.uint8)


def blurred(frame: Frames) -> Frames:
    small = resize(frame, 1 / 4, Image.Resampling.BICUBIC)
    return resize(small, 4, Image.Resampling.BICUBIC)


@pytest.fixture
def niqe(tmp_path: Path) -> Niqe:
    """Make a NIQE for which `noise_picture` is natural."""
    y = np.rint(noise_picture() @ np.array([65.481, 128.553, 24.966]) / 255 + 16)
    half = y.reshape(96, 2, 96, 2).mean(axis=(1, 3))
    found = np.hstack([Niqe.features(y, 96), Niqe.features(half, 48)])
    mean = found.mean(axis=0)[None]
    np.savez(tmp_path / "niqe.npz", mu_pris_param=mean, cov_pris_param=np.eye(36))
    return Niqe(tmp_path / "niqe.npz")


# the metrics


def test_a_fit_finds_the_distribution() -> None:
    """The fitted power of a Gaussian is 2, of a Laplacian 1; left and right spreads may differ."""
    gauss, laplace = RANDOM.normal(0, 3, 100_000), RANDOM.laplace(0, 1, 100_000)
    skewed = np.where(gauss < 0, gauss, 2 * gauss)

    found = fit(np.stack([gauss, laplace]))
    uneven = fit(skewed[None])

    assert found.power == pytest.approx([2, 1], rel=0.05)
    assert found.left == pytest.approx([3, np.sqrt(2)], rel=0.05)
    assert abs(found.mean).max() < 0.05
    assert uneven.right / uneven.left == pytest.approx([2], rel=0.05)
    assert uneven.mean > 1


def test_niqe_is_a_distance_from_natural_pictures(niqe: Niqe) -> None:
    """Another picture of the same statistics has a small distance, a blurred one a large one."""
    picture = noise_picture()

    assert niqe(picture) < 1
    assert niqe(blurred(picture)) > 3 * niqe(picture)
    with pytest.raises(MetricError, match="100x100 is too small"):
        niqe(picture[:100, :100])


def test_brisque_is_the_machine_on_the_features(tmp_path: Path) -> None:
    """With one support vector, the score there is its weight less rho; farther off it is less."""
    picture = noise_picture()
    y = picture @ np.array([0.2125, 0.7154, 0.0721]) / 255
    half = cv2.resize(y, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_CUBIC)
    features = np.concatenate([Brisque.features(y), Brisque.features(half)])
    ranges = {"min_": [-1.0] * 36, "max_": [1.0] * 36}  # no scaling
    (tmp_path / "ranges.pickle").write_bytes(pickle.dumps(ranges))
    entries = " ".join(f"{k}:{v}" for k, v in enumerate(features, 1))
    lines = ["svm_type epsilon_svr", "gamma 0.05", "rho -10", "SV", f"50 {entries}"]
    (tmp_path / "svm.txt").write_text("\n".join(lines) + "\n")

    brisque = Brisque(tmp_path / "svm.txt", tmp_path / "ranges.pickle")

    assert brisque(picture) == pytest.approx(60)
    assert 10 < brisque(blurred(picture)) < 59


def test_missing_parameters_are_one_line(tmp_path: Path) -> None:
    """The line names the missing file, and the command that fetches it."""
    for make in (lambda: Niqe(tmp_path / "x"), lambda: Brisque(tmp_path / "x", tmp_path / "y")):
        with pytest.raises(MetricError, match="x is missing: run `make bench-generated`"):
            make()


# the clips


def test_generated_clips_are_not_part_of_the_data() -> None:
    """`make data` fetches none of their packages, and each clip has a path of its own."""
    usual = {package.name for package in data.PACKAGES}
    picks = [pick.target for package in data_generated.PACKAGES for pick in package.picks]

    assert usual.isdisjoint(package.name for package in data_generated.PACKAGES)
    assert {f"generated/{name}.webp" for name in no_reference.CLIPS} <= set(picks)
    assert len(set(picks)) == len(picks)


def test_the_first_frames_of_a_clip_are_read(tmp_path: Path) -> None:
    """The first frames of an animated WebP are read in order; a missing file is one line."""
    frames = [Image.fromarray(frame) for frame in moving_frames(12, 48, 32)]
    frames[0].save(tmp_path / "c.webp", save_all=True, append_images=frames[1:], lossless=True)

    read = no_reference.load(tmp_path / "c.webp")

    assert read.shape == (9, 32, 48, 3)
    assert (read[8] == np.asarray(frames[8])).all()
    with pytest.raises(MetricError, match=r"none\.webp is missing"):
        no_reference.load(tmp_path / "none.webp")


# what is told


def darkened(low: Frames) -> Frames:
    """Enlarge the frames, with black new frames between them."""
    made = bicubic_repeat(low, 2, 2)
    made[1::2] = 0
    return made


@pytest.fixture
def found() -> dict[str, Any]:
    """Measure two clips by an enlarging method, and by one that also makes black new frames."""
    judges = {"niqe": lambda frame: frame.mean(), "brisque": lambda frame: frame.max()}
    methods = {"bicubic": lambda low: bicubic_repeat(low, 2, 2), "nano": darkened}
    clips = {}
    for name in ("a", "b"):
        low = np.stack(moving_frames(3, 48, 32))
        clips[name], _ = no_reference.measure(low, judges, methods)
    return {"clips": clips, "median": no_reference.median(clips)}


def test_new_frames_count_apart(found: dict[str, Any]) -> None:
    """Key frames that equal the enlarged input get its figures, whatever the new ones are."""
    plain, nano = found["median"]["bicubic"], found["median"]["nano"]

    assert (nano["niqe_key"], nano["brisque_key"]) == (plain["niqe_key"], plain["brisque_key"])
    assert (nano["niqe_new"], nano["brisque_new"]) == (0, 0)
    assert nano["ewarp"] == plain["ewarp"] > 0
    assert nano["tdiff"] == 0
    assert nano["seconds_per_frame"] > 0 < plain["seconds_per_frame"]


def test_others_are_judged_too() -> None:
    """Baselines and RIFE + SPAN run unless the user names others; an unknown method is one line."""
    assert no_reference.build_parser().parse_args([]).methods == (
        "bicubic,lanczos-minterpolate,rife-span,nano"
    )


def test_a_run_tells_every_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A clip goes from its file to its lines and crops; a missing part ends the run in one line."""
    frames = [Image.fromarray(frame) for frame in moving_frames(9, 96, 64)]
    (tmp_path / "generated").mkdir()
    frames[0].save(
        tmp_path / "generated" / "svd.webp", save_all=True, append_images=frames[1:], lossless=True
    )
    words = ["--data", str(tmp_path), "--clips", "svd", "--device", "cpu", "--methods", "bicubic"]

    assert no_reference.main(words) == 1
    assert "niqe.npz is missing" in capsys.readouterr().err
    monkeypatch.setattr(no_reference, "load_judges", lambda folder: {"niqe": np.mean})
    assert no_reference.main([*words, "--pictures", str(tmp_path / "crops")]) == 0

    assert "svd 96x64 bicubic: niqe_key" in capsys.readouterr().out
    with Image.open(tmp_path / "crops" / "svd.png") as sheet:
        assert sheet.height > 2 * 22


def test_the_page_tells_every_clip(found: dict[str, Any]) -> None:
    """The page has rows of each clip and of the median, and a summary; without a file, a note."""
    [question] = [q for q in QUALITY if q.benchmark == "no_reference"]
    for rows in found["clips"].values():
        rows["nano"]["ewarp"] = rows["bicubic"]["ewarp"] - 1
    result = {**step_result("NVIDIA H200"), **found}

    table, reading = report.table(question, [result]), "".join(question.reading(result))

    assert "| any | not measured |" in report.table(question, [])
    assert table.count("| bicubic |") == table.count("| nano |") == 3
    assert "NIQE of key frames lower than bicubic: in 0 of 2 clips, median +0.00" in reading
    assert "Ewarp lower than bicubic: in 2 of 2 clips, median -1.00" in reading
