"""Colours that are taken from the input: values, frames between, going on, smaller plans."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.clips import moving_frames, small_checkpoint
from tests.venhancer.pipeline.in_memory import deep_frames, given, made, resumed
from tests.venhancer.pipeline.test_out_of_memory import Scarce, on_host
from tests.venhancer.pipeline.test_run import Repeat
from venhancer.config import NANO, RELEASED, ColorFix
from venhancer.options import Options
from venhancer.pipeline import colour_fix
from venhancer.pipeline.colour_fix import InputColours, dither, give, low_band, take
from venhancer.pipeline.pixels import resize, to_pixels
from venhancer.planning.plan import Plan, make_plan

FIXES = ("wavelet", "adain", "lab")
TINT = torch.tensor([0.2, -0.1, 0.05])[:, None, None]
LEVEL = 2 / 255  # a grey level of 255


def picture(seed: int = 0, height: int = 48, width: int = 64) -> Tensor:
    """Make coarse and fine detail within the range: 1 3 H W."""
    generator = torch.Generator().manual_seed(seed)
    coarse = F.interpolate(torch.rand(1, 3, 6, 8, generator=generator), (height, width))
    return coarse + 0.3 * torch.rand(1, 3, height, width, generator=generator) - 0.65


# --- values ------------------------------------------------------------------------------------


def warmer(frame: Tensor) -> Tensor:
    return frame + TINT


def duller(frame: Tensor) -> Tensor:
    return 0.7 * frame + TINT


def yellower(frame: Tensor) -> Tensor:
    scale, offset = (torch.tensor(x)[:, None, None] for x in ((0.8, 0.9, 0.9), (0.1, 0.02, 0.1)))
    return colour_fix.from_lab(colour_fix.to_lab(frame) * scale + offset)


@pytest.mark.parametrize(
    ("fix", "tint"),
    [("wavelet", warmer), ("adain", warmer), ("adain", duller), ("lab", yellower)],
)
def test_a_tinted_result_gets_the_colours_of_its_source(
    fix: ColorFix, tint: Callable[[Tensor], Tensor]
) -> None:
    """A change of the kind that a fix corrects is undone within a hundredth of a grey level."""
    source = picture()

    found = give(fix, tint(source), take(fix, source))

    assert (tint(source) - source).abs().max() > 10 * LEVEL
    assert (found - source).abs().max() < 0.01 * LEVEL


@pytest.mark.parametrize("fix", FIXES)
def test_new_detail_is_kept(fix: ColorFix) -> None:
    """The result keeps its own detail; only its mean colours become those of the source.

    Means in CIELAB are not means in RGB.
    """
    source = picture()
    detail = 0.05 * torch.where(torch.arange(64) % 2 == 0, 1.0, -1.0)

    found = give(fix, warmer(source) + detail, take(fix, source))

    assert (found - source).mean((2, 3)).abs().max() < (4 if fix == "lab" else 0.5) * LEVEL
    change = found - source
    assert (change[..., 1:] - change[..., :-1]).abs().mean() == pytest.approx(0.1, rel=0.2)


def test_the_low_band_is_five_dilated_blurs() -> None:
    """It equals the convolutions written out, and keeps a constant picture as it is."""
    frame = picture()
    expected, kernel = frame, torch.tensor([0.25, 0.5, 0.25]).expand(3, 1, 1, 3)
    for distance in (1, 2, 4, 8, 16):
        wide = F.pad(expected, (distance,) * 4, mode="replicate")
        wide = F.conv2d(wide, kernel, dilation=distance, groups=3)
        expected = F.conv2d(wide, kernel.mT, dilation=distance, groups=3)

    assert torch.allclose(low_band(frame), expected, atol=1e-6)
    assert torch.equal(low_band(torch.full_like(frame, 0.3)), torch.full_like(frame, 0.3))
    assert low_band(torch.zeros(1, 3, 3, 2)).shape == (1, 3, 3, 2)  # smaller than the kernel


@pytest.mark.parametrize(
    ("colour", "lab"),
    [
        ((255, 255, 255), (100.0, 0.0, 0.0)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((119, 119, 119), (50.03, 0.0, 0.0)),
    ],
)
def test_cielab(colour: tuple[int, int, int], lab: tuple[float, float, float]) -> None:
    """Known colours have their known values, within 0.05."""
    frame = (torch.tensor(colour) / 127.5 - 1)[None, :, None, None]

    assert 100 * colour_fix.to_lab(frame).flatten() == pytest.approx(torch.tensor(lab), abs=0.05)


def test_cielab_and_back() -> None:
    """Every value comes back, those beyond the range too."""
    frame = 1.2 * (2 * torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) - 1)

    back = colour_fix.from_lab(colour_fix.to_lab(frame))

    assert (back - frame).abs().max() < 1e-4


def test_a_flat_result_stays_flat() -> None:
    """A spread that is nearly zero is not blown up to that of the source."""
    flat = 1e-4 * picture()

    found = give("adain", flat, take("adain", picture(1)))

    assert found.std((2, 3)).max() < LEVEL


# --- dithering ---------------------------------------------------------------------------------


@pytest.mark.parametrize("largest", [255, 65535])
def test_dithering_is_less_than_half_a_level(largest: int) -> None:
    """Whole levels stay as they are, and the mean too."""
    noise = dither(90, 160, largest) * largest / 2

    assert noise.abs().max() < 0.451
    assert noise.abs().max() > 0.4
    assert abs(noise.mean()) < 0.001


def test_dithering_depends_on_the_position_alone() -> None:
    """A larger frame begins with the pattern of a smaller one."""
    assert torch.equal(dither(90, 160, 255)[:40, :50], dither(40, 50, 255))


def test_dithering_keeps_levels_between() -> None:
    """A flat area halfway between two levels has the right mean after rounding."""
    flat = torch.full((1, 3, 64, 64), 100.3 / 127.5 - 1)

    assert to_pixels(flat).mean() == 100
    assert to_pixels(flat + dither(64, 64, 255)).mean() == pytest.approx(100.3, abs=0.05)


# --- runs --------------------------------------------------------------------------------------


class Tinted(Repeat):
    """Networks that change the colours and do nothing else."""

    def decode(self, plan: Plan, latents: Tensor) -> Tensor:
        return super().decode(plan, latents) + TINT


@pytest.mark.parametrize("fix", ["wavelet", "adain"])
@pytest.mark.parametrize("scale", [1.0, 1.7])
def test_a_run_gives_the_colours_of_the_input(
    monkeypatch: pytest.MonkeyPatch, fix: ColorFix, scale: float
) -> None:
    """Networks that only tint give the enlarged input, within one level; without a fix, tinted."""
    source = given(monkeypatch, moving_frames(5, 48, 32))
    expected = [
        to_pixels(resize(f, round(48 * scale), round(32 * scale), "bicubic")) for f in source.frames
    ]

    found = made(source.plan(scale=scale, color_fix=fix), Tinted())
    without = made(source.plan(scale=scale, color_fix="none"), Tinted())

    assert abs(found.astype(int) - np.concatenate(expected)).max() <= 1
    assert abs(without.astype(int) - np.concatenate(expected)).mean() > 10


@pytest.mark.parametrize("fix", FIXES)
@pytest.mark.parametrize("frames", [moving_frames, deep_frames])
def test_an_identity_stays_one(
    monkeypatch: pytest.MonkeyPatch,
    fix: ColorFix,
    frames: Callable[..., list[np.ndarray]],
) -> None:
    """If nothing is to be fixed, no value changes, but for rounding at 16 bits."""
    source = given(monkeypatch, frames(4, 48, 32))

    found = made(source.plan(color_fix=fix), Repeat())

    assert found.dtype == source.frames[0].dtype
    tolerance = 0 if found.dtype == np.uint8 else 1
    assert abs(found.astype(int) - np.stack(source.frames)).max() <= tolerance


def test_without_a_fix_the_input_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """`none` costs nothing."""
    source = given(monkeypatch, moving_frames(3, 48, 32))

    made(source.plan(color_fix="none"), Repeat())
    assert source.opened_at == [0]
    made(source.plan(color_fix="adain"), Repeat())
    assert source.opened_at == [0, 0, 0]


def test_the_preset_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the option the preset's default counts."""
    clip = given(monkeypatch, moving_frames(2, 48, 32)).clip

    for preset in (NANO, RELEASED):
        plan = make_plan(clip, preset, Options(scale=2.0))
        assert plan.color_fix == preset.defaults.color_fix
    assert make_plan(clip, RELEASED, Options(color_fix="none")).color_fix == "none"


# --- frames between key frames -----------------------------------------------------------------


@pytest.mark.parametrize("fix", FIXES)
def test_frames_between_get_a_mix(monkeypatch: pytest.MonkeyPatch, fix: ColorFix) -> None:
    """A frame three quarters of the way gets that share of what the later key frame has."""
    source = given(monkeypatch, moving_frames(3, 48, 32))
    plan = source.plan(color_fix=fix, interpolate=4, new_frames="model")
    taken = [take(fix, resize(f, 48, 32, "bicubic")) for f in source.frames]
    frame = picture(1, 32, 48)

    found = InputColours(plan, "cpu").fix(frame, 7)

    expected = give(fix, frame, 0.25 * taken[1] + 0.75 * taken[2]) + dither(32, 48, 255)
    assert torch.allclose(found, expected, atol=1e-5)


def test_going_back_and_starting_late_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The input is opened at the key frame before, in whatever order frames are asked for."""
    source = given(monkeypatch, moving_frames(6, 48, 32))
    plan = source.plan(color_fix="wavelet", interpolate=3, new_frames="model")
    frames = torch.cat([picture(k, 32, 48) for k in range(16)])
    in_order = InputColours(plan, "cpu")
    whole = torch.cat([in_order.fix(frames[k : k + 3], k) for k in range(0, 16, 3)])
    assert source.opened_at == [0]

    again, late = in_order.fix(frames[4:9], 4), InputColours(plan, "cpu").fix(frames[13:], 13)

    assert torch.equal(again, whole[4:9])
    assert torch.equal(late, whole[13:])
    assert source.opened_at == [0, 1, 4]


def test_no_colours_cross_a_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames up to a cut have the colours of their own scene."""
    frames = [np.full((32, 48, 3), 40 + 160 * (k >= 3), dtype=np.uint8) for k in range(6)]
    source = given(monkeypatch, frames)

    plan = source.plan(cuts=(3,), color_fix="wavelet", interpolate=4, new_frames="model")

    assert made(plan, Tinted()).mean((1, 2, 3)).tolist() == [40] * 12 + [200] * 9


# --- going on ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("weights") / "small.safetensors")


SETTINGS = [
    pytest.param(fix, frames, id=f"{fix}-{name}")
    for fix, (name, frames) in itertools.product(
        ("none", *FIXES), (("8", moving_frames), ("16", deep_frames))
    )
    if (fix, name) != ("none", "8")  # other tests do that
]
RUN = {"window": 5, "interpolate": 2, "scale": 1.5, "steps": 2, "eta": 1.0, "new_frames": "model"}


@pytest.mark.parametrize(("fix", "frames"), SETTINGS)
def test_a_run_that_goes_on_gives_the_same_bits(
    fix: ColorFix,
    frames: Callable[..., list[np.ndarray]],
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cut off anywhere, in 8 bits and in 16, with any fix."""
    source = given(monkeypatch, frames(9, 48, 32))
    plan = source.plan(color_fix=fix, **RUN)
    whole = made(plan, Scarce(weights))

    for calls in (13, 20):
        assert np.array_equal(resumed(plan, Scarce(weights), calls), whole)


@pytest.mark.parametrize(("fix", "frames"), SETTINGS)
@pytest.mark.parametrize("failing", [{"steps": {8}}, {"decodes": {1}}, {"decodes": {4, 6}}])
def test_less_memory_gives_the_same_bits(
    fix: ColorFix,
    frames: Callable[..., list[np.ndarray]],
    failing: dict[str, set[int]],
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fallback plan repeats a window step: colours are taken from the right frames again."""
    source = given(monkeypatch, frames(9, 48, 32))
    plan = source.plan(color_fix=fix, **RUN)
    fallbacks = [on_host(plan), dataclasses.replace(on_host(plan))]

    found = made(plan, Scarce(weights, **failing), fallbacks=fallbacks)

    assert np.array_equal(found, made(plan, Scarce(weights)))
