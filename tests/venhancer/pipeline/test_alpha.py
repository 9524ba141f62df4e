"""Alpha of the input in the output: values, motion, cuts, going on, the comparison."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.clips import moving_frames, small_checkpoint, small_preset
from tests.venhancer.motion.test_between import panned, texture, whole
from tests.venhancer.pipeline.in_memory import deep_frames, given, made, resumed
from tests.venhancer.pipeline.test_out_of_memory import Scarce
from tests.venhancer.pipeline.test_run import Repeat
from venhancer.motion.between import Between
from venhancer.options import Options
from venhancer.pipeline import run as pipeline
from venhancer.pipeline.alpha import AlphaPlanes, over_black
from venhancer.pipeline.pixels import Frame
from venhancer.planning.plan import make_plan
from venhancer.video.png import encode_png
from venhancer.video.probe import probe
from venhancer.video.reading import read_alpha, read_frames


def halves(count: int, top: int = 255) -> list[Frame]:
    """Make planes that are opaque at the left and nearly transparent at the right."""
    plane = np.full((32, 48), top // 5, np.uint8 if top == 255 else np.uint16)
    plane[:, :24] = top
    return [plane.copy() for _ in range(count)]


@pytest.mark.parametrize("scale", [1.0, 2.0, 1.7])
@pytest.mark.parametrize("top", [255, 65535])
def test_flat_regions_have_exact_values(
    monkeypatch: pytest.MonkeyPatch, scale: float, top: int
) -> None:
    """Enlarged by any factor, at both depths; the colours are not changed by it."""
    frames = moving_frames(3, 48, 32) if top == 255 else deep_frames(3)
    source = given(monkeypatch, frames, halves(3, top))

    found = made(source.plan(scale=scale), Repeat())
    without = made(given(monkeypatch, frames).plan(scale=scale), Repeat())

    middle, beside = round(24 * scale), round(3 * scale)
    assert found.shape == (3, round(32 * scale), round(48 * scale), 4)
    assert found.dtype == frames[0].dtype
    assert (found[:, :, : middle - beside, 3] == top).all()
    assert (found[:, :, middle + beside :, 3] == top // 5).all()
    assert np.array_equal(found[..., :3], without)


def test_overshoot_is_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside an edge from transparent to opaque, bicubic values stay within the range."""
    planes = [plane * np.uint8(plane == 255) for plane in halves(1)]
    source = given(monkeypatch, moving_frames(1, 48, 32), planes)

    found = made(source.plan(scale=4.0), Repeat())[0, 0, :, 3].astype(int)

    assert (np.diff(found) <= 0).all()
    assert (found[0], found[-1]) == (255, 0)


@pytest.mark.parametrize("new_frames", ["model", "motion"])
def test_alpha_moves_with_the_colours(monkeypatch: pytest.MonkeyPatch, new_frames: str) -> None:
    """Between key frames an edge is where the colours' motion has carried it, sharp."""
    picture = texture()
    frames = [whole(panned(picture, 40 + 16 * k)) for k in range(2)]
    planes = [whole(255.0 * (panned(picture, 40 + 16 * k)[..., 0] > 128)) for k in range(2)]
    true = whole(255.0 * (panned(picture, 48)[..., 0] > 128)).astype(int)
    source = given(monkeypatch, frames, planes)

    found = made(source.plan(interpolate=2, new_frames=new_frames), Repeat())[..., 3]

    assert np.array_equal(found[::2], np.stack(planes))
    mixed = (planes[0].astype(int) + planes[1]) // 2
    inner = np.s_[:, 24:-24]
    assert abs(found[1].astype(int) - true)[inner].mean() < 0.2 * abs(mixed - true)[inner].mean()
    moved = Between(*frames).plane(0.5, *planes)
    assert np.array_equal(found[1], moved)


def test_alpha_does_not_fade_with_the_colours() -> None:
    """If the picture gets darker, equal alpha on both sides stays what it is."""
    first = whole(panned(texture(), 40))
    second = whole(0.6 * panned(texture(), 52))
    between, plane = Between(first, second), np.full(first.shape[:2], 200, np.uint8)
    assert between.fade is not None

    assert (between.plane(0.5, plane, plane) == 200).all()


@pytest.mark.parametrize("new_frames", ["model", "motion"])
def test_alpha_is_held_up_to_a_cut_or_a_pause(
    monkeypatch: pytest.MonkeyPatch, new_frames: str
) -> None:
    """Nothing is blended across it; frames that are held keep their alpha."""
    planes = [np.full((32, 48), 40 + 160 * (k >= 3), dtype=np.uint8) for k in range(6)]
    source = given(monkeypatch, moving_frames(6, 48, 32), planes)
    expected = [40] * 12 + [200] * 9

    for clip in (
        dataclasses.replace(source.clip, cuts=(3,)),
        dataclasses.replace(source.clip, pauses=(3,)),
    ):
        options = Options(scale=1.0, interpolate=4, new_frames=new_frames)  # type: ignore[arg-type]
        plan = make_plan(clip, small_preset(), options)
        assert made(plan, Repeat())[..., 3].mean((1, 2)).tolist() == expected
    across = source.plan(interpolate=4, new_frames=new_frames)
    assert 40 < made(across, Repeat())[10, ..., 3].mean() < 200


def test_a_fractional_rate_has_alpha_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grid frames that are not shown are not asked for."""
    planes = [np.full((32, 48), 20 * k, dtype=np.uint8) for k in range(9)]
    source = given(monkeypatch, moving_frames(9, 48, 32), planes)
    plan = source.plan(fps=Fraction(36), new_frames="motion")

    found = made(plan, Repeat())[..., 3].mean((1, 2))

    wanted = [20 * number / plan.timeline.key_stride for number in plan.timeline.shown]
    assert found == pytest.approx(wanted, abs=0.51)


def test_opaque_alpha_costs_no_motion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between equal planes the plane is repeated, and no flow is computed."""
    source = given(monkeypatch, moving_frames(3, 48, 32), halves(3))
    planes = AlphaPlanes(source.plan(interpolate=2))

    found = [planes.at(number) for number in range(5)]

    assert planes.between is None
    assert all(np.array_equal(plane, found[0]) for plane in found)


def test_alpha_over_black_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames that were read over black have three channels."""
    source = given(monkeypatch, moving_frames(3, 48, 32), halves(3))
    clip = dataclasses.replace(source.clip, is_over_black=True)
    plan = make_plan(clip, small_preset(), Options(scale=1.0))

    assert made(plan, Repeat()).shape == (3, 32, 48, 3)


@pytest.mark.parametrize("top", [255, 65535])
def test_a_run_that_goes_on_has_the_same_alpha(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, top: int
) -> None:
    """The journal has the colours only, and alpha is made again."""
    weights = small_checkpoint(tmp_path / "small.safetensors")
    frames = moving_frames(9, 48, 32) if top == 255 else deep_frames(9)
    planes = [np.roll(plane, 2 * k, axis=1) for k, plane in enumerate(halves(9, top))]
    plan = given(monkeypatch, frames, planes).plan(
        interpolate=2, new_frames="motion", window=5, color_fix="wavelet"
    )

    found = resumed(plan, Scarce(weights), 16)

    assert found.shape[-1] == 4
    assert np.array_equal(found, made(plan, Scarce(weights)))


def test_over_black() -> None:
    """Half transparent colours are half as bright, in 8 bits and in 16."""
    frame = np.full((2, 2, 3), 200, np.uint8)
    plane = np.array([[255, 0], [128, 51]], np.uint8)

    assert over_black(frame, plane)[..., 0].tolist() == [[200, 0], [100, 40]]
    deep = over_black(frame.astype(np.uint16) * 257, plane.astype(np.uint16) * 257)
    assert deep[..., 0].tolist() == [[51400, 0], [25801, 10280]]


@pytest.mark.parametrize("target", ["out", "out.mov", "out.mkv"])
def test_files_with_alpha(tmp_path: Path, target: str) -> None:
    """Pictures and videos hold it; the comparison shows both sides over black."""
    (tmp_path / "in").mkdir()
    for k, (frame, plane) in enumerate(zip(moving_frames(3, 48, 32), halves(3), strict=True)):
        picture = np.concatenate([frame, plane[..., None]], axis=2)
        (tmp_path / "in" / f"{k:04d}.png").write_bytes(encode_png(picture))
    options = Options(scale=2.0, refine=0, compare=tmp_path / "compare.png")
    plan = make_plan(probe(tmp_path / "in"), small_preset(), options)

    pipeline.enhance(plan, tmp_path / target, Repeat(), options)

    clip = probe(tmp_path / target)
    assert clip.has_alpha
    plane, frame = next(read_alpha(clip)), next(read_frames(clip))
    share = plane.astype(float) / np.iinfo(plane.dtype).max
    assert share[:, :40] == pytest.approx(1.0, abs=0.005)
    assert share[:, 56:] == pytest.approx(0.2, abs=0.005)
    shown = np.asarray(Image.open(tmp_path / "compare.png")).astype(int)
    assert shown.shape == (64, 192, 3)
    assert abs(shown[:, :96] - shown[:, 96:]).mean() < 8  # bilinear against bicubic
    bright = frame.astype(float) / np.iinfo(frame.dtype).max
    assert abs(shown[:, 160:] / 255 - 0.2 * bright[:, 64:]).mean() < 0.01
