"""Frames of 16 bits from the reader to the writer, and frames of 8 bits as they always were."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tests.support.clips import moving_frames, small_checkpoint, small_preset
from tests.venhancer.pipeline.in_memory import deep_frames, given, made, resumed
from tests.venhancer.pipeline.test_out_of_memory import Scarce
from tests.venhancer.pipeline.test_run import Repeat
from venhancer.motion.between import Between
from venhancer.motion.fades import Levels
from venhancer.motion.mixing import Recipe, mix
from venhancer.options import Options
from venhancer.pipeline import run as pipeline
from venhancer.pipeline.pixels import Frame, resize, to_pixels
from venhancer.pipeline.seams import SeamMeter
from venhancer.planning.plan import Plan, make_plan
from venhancer.video.png import encode_png
from venhancer.video.probe import probe
from venhancer.video.reading import read_frames

KINDS = (np.uint8, np.uint16)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("weights") / "small.safetensors")


# --- pixels ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_comes_back(kind: type[np.generic]) -> None:
    """All values of 8 and of 16 bits survive the way to [-1, 1] and back."""
    top = np.iinfo(kind).max
    values = np.arange(top + 1).astype(kind).reshape(16, -1)
    frame = np.stack([values, values[::-1], values], axis=-1)

    found = to_pixels(resize(frame, frame.shape[1], 16, "bicubic"), kind)[0]

    assert found.dtype == kind
    assert np.array_equal(found, frame)


@pytest.mark.parametrize("kind", KINDS)
def test_values_beyond_the_range_are_clipped(kind: type[np.generic]) -> None:
    """They become black and white, and do not wrap around."""
    values = torch.tensor([-1.5, -1.0, 0.0, 1.0, 1.5]).expand(1, 3, 1, 5)
    top = np.iinfo(kind).max

    found = to_pixels(values, kind)[0, 0, :, 0]

    assert found.tolist() == [0, 0, (top + 1) // 2, top, top]


def test_both_depths_mean_the_same() -> None:
    """A frame of 8 bits, and the same in 16, are enlarged alike."""
    frame = moving_frames(1, 48, 32)[0]

    shallow, deep = (resize(f, 75, 57) for f in (frame, frame.astype(np.uint16) * 257))

    assert torch.allclose(shallow, deep, atol=1e-6)


# --- runs --------------------------------------------------------------------------------------


def test_an_identity_keeps_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that do nothing change no value by more than one of 65536."""
    source = given(monkeypatch, deep_frames(4))

    found = made(source.plan(), Repeat())

    assert found.dtype == np.uint16
    assert abs(found.astype(int) - np.stack(source.frames)).max() <= 1


def test_8_bits_stay_8_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of 8 bits come out as they went in, with the same type."""
    source = given(monkeypatch, moving_frames(4, 48, 32))

    found = made(source.plan(), Repeat())

    assert found.dtype == np.uint8
    assert np.array_equal(found, np.stack(source.frames))


def test_both_depths_give_one_picture(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a model and new frames by motion, 16 bits are 257 times 8, but for rounding."""
    options = {"interpolate": 2, "new_frames": "motion", "scale": 2.0}
    frames = moving_frames(5, 48, 32)
    shallow = made(given(monkeypatch, frames).plan(**options), Scarce(weights))

    source = given(monkeypatch, [frame.astype(np.uint16) * 257 for frame in frames])
    deep = made(source.plan(**options), Scarce(weights))

    assert deep.dtype == np.uint16
    assert abs(deep / 257 - shallow).max() <= 1.5
    assert len(np.unique(deep)) > 4 * 256  # not 8 bits that were spread


def test_16_bits_by_motion_go_on(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of 16 bits that was cut off goes on to the same bits, the new frames too."""
    source = given(monkeypatch, deep_frames(9))
    options = {"interpolate": 2, "new_frames": "motion", "window": 5}
    plan = source.plan(**options)

    for calls in (13, 16):
        found = resumed(plan, Scarce(weights), calls)
        assert np.array_equal(found, made(plan, Scarce(weights)))


def test_pictures_of_16_bits(tmp_path: Path) -> None:
    """A folder of 16-bit PNG files gives one; the picture of the comparison has 16 bits too."""
    (tmp_path / "in").mkdir()
    for k, frame in enumerate(deep_frames(3)):
        (tmp_path / "in" / f"{k:04d}.png").write_bytes(encode_png(frame))
    options = Options(scale=1.0, refine=0, compare=tmp_path / "compare.png")
    source = given_plan(tmp_path / "in", options)

    pipeline.enhance(source, tmp_path / "out", Repeat(), options)

    found = list(read_frames(probe(tmp_path / "out")))
    assert abs(np.stack(found).astype(int) - np.stack(deep_frames(3))).max() <= 1
    with av.open(str(tmp_path / "compare.png")) as container:
        shown = next(container.decode(video=0))
    assert (shown.format.name, shown.width) == ("rgb48be", 96)
    both = shown.to_ndarray()
    assert abs(both[:, :48].astype(int) - both[:, 48:]).max() <= 1


def test_videos_of_more_than_8_bits(tmp_path: Path) -> None:
    """A comparison in a video file has as many bits as the output."""
    (tmp_path / "in").mkdir()
    for k, frame in enumerate(deep_frames(3, 64, 48)):
        (tmp_path / "in" / f"{k:04d}.png").write_bytes(encode_png(frame))
    options = Options(scale=1.0, refine=0, compare=tmp_path / "compare.mp4")

    pipeline.enhance(given_plan(tmp_path / "in", options), tmp_path / "o.mp4", Repeat(), options)

    depths = [probe(tmp_path / name).depth for name in ("o.mp4", "compare.mp4")]
    assert depths[0] == depths[1] > 8


def given_plan(folder: Path, options: Options) -> Plan:
    return make_plan(probe(folder), small_preset(), options)


# --- measures ----------------------------------------------------------------------------------


def test_seams_are_in_grey_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same jump counts the same at both depths."""
    frames = moving_frames(17, 96, 64)
    found = []
    for factor in (1, 257):
        kind = KINDS[factor > 1]
        source = given(monkeypatch, [frame.astype(kind) * kind(factor) for frame in frames])
        meter = SeamMeter(source.plan(window=9, tile=(64, 64)))
        for frame in source.frames:
            meter.add(frame)
        found.append(meter.seams())

    assert found[0].windows == pytest.approx(found[1].windows)
    assert found[0].tiles == pytest.approx(found[1].tiles)


# --- frames between ----------------------------------------------------------------------------


def keys_of(seed: int = 0) -> tuple[Frame, Frame]:
    rng = np.random.default_rng(seed)
    first, second = (rng.integers(0, 65536, (40, 50, 3)).astype(np.uint16) for _ in range(2))
    return first, second


@pytest.mark.parametrize("time", [0.125, 0.5, 0.7])
def test_the_plain_mix_is_exact(time: float) -> None:
    """Every value is the mean of both in 16 bits, rounded to the nearest."""
    first, second = keys_of()
    exact = (1 - time) * first.astype(float) + time * second.astype(float)

    found = mix(None, time, first, second)

    assert found.dtype == np.uint16
    assert abs(found - exact).max() <= 0.51


def test_a_moved_frame_keeps_its_low_bits() -> None:
    """Moved by whole pixels, values are fetched as they are, and faded in 16 bits."""
    first, _ = keys_of()
    flow = np.zeros((40, 50, 2), np.float32)
    flow[..., 0] = 3
    ones, none = np.ones((40, 50), np.float32), np.zeros((40, 50), np.float32)

    moved = mix(Recipe((flow, flow), (ones, none)), 0.5, first, first[::-1].copy())
    assert np.array_equal(moved[:, :-3], first[:, 3:])

    half, shift = np.full(3, 0.5, np.float32), np.full(3, 10.0, np.float32)
    levels = Levels(half, shift), Levels(half, shift)
    faded = mix(Recipe((flow, flow), (ones, none), levels), 0.5, first, first)
    assert abs(faded[:, :-3] - (0.5 * first[:, 3:].astype(float) + 2570)).max() <= 0.51


def test_a_fade_is_as_fine_as_the_input() -> None:
    """A fade of a still picture gives the mix of both sides; within half a level of 255."""
    small = deep_frames(1)[0]
    darker = (small * 0.6).astype(np.uint16)

    found = Between(small, darker).frame(0.25, small, darker)

    exact = 0.75 * small.astype(float) + 0.25 * darker.astype(float)
    assert found.dtype == np.uint16
    assert abs(found - exact).max() <= 128
    assert len(np.unique(found)) > 1000
