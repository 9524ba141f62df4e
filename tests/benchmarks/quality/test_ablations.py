"""The built-in model's response to its conditions, and how it is judged and reported."""

from __future__ import annotations

import statistics
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from benchmarks.quality import ablations
from benchmarks.quality.ablations import enhancer, is_rising, left, resized
from benchmarks.quality.clips import noisy
from benchmarks.quality.metrics import Frames, high_frequency_energy, psnr
from benchmarks.quality.pictures import save_sheet
from benchmarks.report import __main__ as report
from benchmarks.report.quality_tables import QUALITY
from tests.benchmarks.result_parts import step_result
from tests.support.clips import moving_frames
from tests.support.paths import BUTTERFLY
from venhancer.errors import OptionError


@pytest.fixture(scope="module")
def butterfly() -> Frames:
    """Load nine frames of a film, 96x64."""
    with av.open(str(BUTTERFLY)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    return np.stack(frames[:9])[:, 8:72, 40:136]


# what the built-in model does


def test_the_more_s_is_told_the_more_detail(butterfly: Frames) -> None:
    """NANO: high-frequency energy rises with the downscaling that it is told, on one input."""
    low, enhance = resized(butterfly[:2], 1 / 2), enhancer("cpu")

    energies = [
        statistics.fmean(
            high_frequency_energy(frame, 0.125) for frame in enhance(low, scale=4.0, detail=told)
        )
        for told in (2, 4, 6)
    ]

    assert is_rising(energies), energies


def test_the_more_noise_the_less_is_left_of_an_artefact(butterfly: Frames) -> None:
    """NANO: noise on the key frames removes an added artefact faster than it fades the picture."""
    clean, enhance = resized(butterfly[:2], 1 / 2), enhancer("cpu")
    inputs = clean, noisy(clean)

    shares = [
        left(inputs, [enhance(low, scale=4.0, refine=level) for low in inputs])["artefact_left"]
        for level in (0, 100, 300)
    ]

    assert is_rising([-value for value in shares]), shares


def test_key_frames_are_closer_than_new_ones(butterfly: Frames) -> None:
    """NANO: at the input's size, key frames equal the input, and new ones are less exact."""
    low = resized(butterfly, 1 / 2)

    made = enhancer("cpu")(low[::4], scale=2.0, interpolate=4)

    near = np.array([psnr(*pair) for pair in zip(resized(made, 1 / 2), low, strict=True)])
    is_key = np.arange(len(near)) % 4 == 0
    assert near[is_key].min() > 30
    assert near[is_key].min() > near[~is_key].max()


# how it is judged


def test_a_fading_picture_removes_no_artefact(butterfly: Frames) -> None:
    """An artefact's remainder is its share of the output divided by the picture's share."""
    clean = butterfly[:1, ::4, ::4]
    flawed = noisy(clean)
    large = [resized(frames, ablations.SCALE) for frames in (clean, flawed)]

    faded = left((clean, flawed), [frames // 2 for frames in large])
    cured = left((clean, flawed), [large[0], large[0]])

    assert faded["picture_left"] == pytest.approx(0.5, abs=0.01)
    assert faded["artefact_left"] == pytest.approx(1, abs=0.02)
    assert cured == {"picture_left": pytest.approx(1), "artefact_left": 0}


def rows(details: tuple[int, int], shares: tuple[int, int], lpips_new: int) -> ablations.Rows:
    """Make a clip's rows, two settings each; refining helps a noisy input and harms a clean one."""
    figures = {"psnr_key": 2, "psnr_new": 1, "ssim_key": 2, "ssim_new": 1, "lpips_key": 1}
    first, second = shares
    return {
        "told s": {f"{k}": {"detail": value} for k, value in enumerate(details)},
        "refine": {
            "noisy input, 0": {"artefact_left": first, "psnr": 20, "lpips": 0.5},
            "clean input, 0": {"psnr": 30, "lpips": 0.1},
            "noisy input, 100": {"artefact_left": second, "psnr": 21, "lpips": 0.4},
            "clean input, 100": {"psnr": 29, "lpips": 0.2},
        },
        "frames": {"3x": {**figures, "lpips_new": lpips_new}},
    }


def test_claims_are_computed() -> None:
    """Claims are judged by the means and clip by clip; an equal figure is not a larger one."""
    good, bad = rows((1, 2), (2, 1), 2), rows((1, 1), (1, 4), 1)
    bad["refine"]["noisy input, 100"]["psnr"] = 20
    bad["refine"]["clean input, 100"]["psnr"] = 30

    found = ablations.judge({"good": good, "bad": bad})

    detail, repaired, noise, clean, keys, looks = found.values()
    assert detail == {"holds": True, "clips": {"good": True, "bad": False}}
    assert repaired == {"holds": True, "clips": {"good": True, "bad": False}}
    assert noise == {"holds": False, "clips": {"good": True, "bad": False}}
    assert clean == {"holds": True, "clips": {"good": True, "bad": False}}
    assert keys == {"holds": True, "clips": {"good": True, "bad": True}}
    assert looks == {"holds": True, "clips": {"good": True, "bad": False}}
    assert "yes by the mean, in 1 of 2 clips" in ablations.claim_line("More", detail)


def test_refining_is_studied_on_a_noisy_and_on_a_clean_input() -> None:
    """Both inputs are studied side by side at every level, in the order of the sheet."""
    seen = []

    def enhance(low: Frames, **options: float) -> Frames:
        seen.append((options["refine"], float(np.diff(low.astype(float), axis=2).std()) > 30))
        return resized(low, ablations.SCALE)

    source = np.stack(moving_frames(8, 320, 192))
    found = ablations.noise_levels(source, enhance, lambda made, true: 0.0)

    assert [*found][:4] == [
        "noisy input, 0",
        "clean input, 0",
        "noisy input, 50",
        "clean input, 50",
    ]
    assert seen[:2] == [(0, True), (0, False)]
    assert found["clean input, 0"].row["psnr"] > found["noisy input, 0"].row["psnr"]


def test_a_study_that_the_model_refuses_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other studies are made, and claims about the refused one are not."""

    def refuse(*_: object) -> None:
        raise OptionError("detail: this model knows none")

    monkeypatch.setattr(ablations, "STUDIES", {"told s": refuse, "size": lambda *_: {}})

    made = ablations.studied(None, None, None)

    assert made == {"size": {}}
    assert "told s: left out, detail: this model knows none" in capsys.readouterr().out
    assert ablations.judge({"clip": {"size": {}}}) == {}


def test_the_page_tells_claims_and_pictures() -> None:
    """The page has a row for each setting and a line for each claim; without a file it says so."""
    clip = rows((1, 2), (2, 2), 2)
    for row in (*clip["told s"].values(), *clip["refine"].values()):
        row |= {"psnr": 20.0, "ssim": 0.5, "lpips": 0.5, "detail": row.get("detail", 1)}
    clip["frames"]["3x"] |= {"detail_key": 1, "detail_new": 1}
    found = {"mean": clip, "claims": ablations.judge({"c": clip}), "pictures": ["told.jpg"]}
    [question] = [q for q in QUALITY if q.benchmark == "ablations"]
    result = {**step_result("NVIDIA H200"), **found}

    table, reading = report.table(question, [result]), "\n".join(question.reading(result))

    assert "| any | not measured |" in report.table(question, [])
    assert "| told s | 1 | 20.00 | 0.500 | 0.500 | 2.000 | - | - |" in table
    assert "| frames | 3x | 2.00 / 1.00 | 2.000 / 1.000 | 1.000 / 2.000 |" in table
    assert "left of the noise: no by the mean, in 0 of 1 clips" in reading
    assert "![told.jpg](pictures/told.jpg)" in reading


def test_a_sheet_shows_every_frame(tmp_path: Path, butterfly: Frames) -> None:
    """Frames of different sizes are shown two in a row, all at one size; none is made smaller."""
    large = np.full((1280, 1920, 3), 9, np.uint8)
    large[480:800, 720:1200] = 200
    frames = {"a": butterfly[0], "b": butterfly[0, ::2, ::2], "c": large}

    save_sheet(tmp_path / "new" / "sheet.jpg", frames)

    with Image.open(tmp_path / "new" / "sheet.jpg") as sheet:
        assert sheet.size == (960, 2 * (320 + 22))
        assert np.asarray(sheet)[-320:, :480].min() > 190
