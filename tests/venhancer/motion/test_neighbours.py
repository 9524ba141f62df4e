"""Neighbours in the hint: aligned, gated, at the right positions, and of the same scene only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.support.clips import described_clip
from tests.venhancer.motion.test_optical_flow import HEIGHT, WIDTH, picture, shifted
from venhancer.config import NANO
from venhancer.model.denoiser import make_denoiser
from venhancer.motion.neighbours import GAIN, Aligner, Key, Lattice, compare, needed_from, offsets
from venhancer.options import Options
from venhancer.pipeline.frames import Flow
from venhancer.pipeline.networks import LappedCodec, Networks
from venhancer.pipeline.pixels import pad, resize
from venhancer.planning.geometry import Geometry
from venhancer.planning.plan import make_plan
from venhancer.spans import Span

Frames = Sequence[NDArray[np.uint8]]
COUNT = 4
DOUBLE = Geometry(width=2 * WIDTH, height=2 * HEIGHT)


def key(frame: NDArray[np.uint8], geometry: Geometry = DOUBLE) -> Key:
    pixels = resize(frame, geometry.width, geometry.height, "bicubic")
    return Key.of(frame, pad(pixels, geometry, "reflect"))


def aligner(frames: Frames, geometry: Geometry = DOUBLE, count: int = COUNT) -> Aligner:
    """Make an aligner that has seen all frames of a scene of at most `count` + 1."""
    seen = Aligner(count, geometry)
    for number, frame in enumerate(frames):
        seen.add(number, key(frame, geometry))
    return seen


def parts(hint: Tensor, count: int = COUNT) -> tuple[Tensor, Tensor]:
    """Split a hint into differences (n 12 h w) and gates (n h w)."""
    differences, gates = hint.split([12 * count, count])
    return differences.unflatten(0, (count, 12)) / GAIN, gates


def test_neighbours_are_half_before_and_half_after() -> None:
    """Neighbours are in order of time, without the key frame itself."""
    assert offsets(4) == [-2, -1, 1, 2]
    assert offsets(2) == [-1, 1]
    assert offsets(0) == []


def test_a_still_scene_shows_nothing_new() -> None:
    """Differences are zero; the gates are open."""
    differences, gates = parts(aligner([picture()] * 5).hint(2))

    assert differences.shape == (COUNT, 12, HEIGHT // 2, WIDTH // 2)
    assert differences.abs().max() < 0.02
    assert gates.min() > 0.95


def test_a_plain_scene_can_trust_anything() -> None:
    """Without contrast, gates of equal frames are open too; the least difference closes them."""
    plain = torch.zeros(1, 3, 16, 16)
    trust = torch.ones(1, 1, 8, 8)

    same, other = (compare(plain, plain[:, None] + x, trust)[0, 12:] for x in (0.0, 0.03))

    assert same.min() == 1
    assert other.max() == 0


def test_a_moving_scene_is_aligned() -> None:
    """Frames shifted by three pixels per key frame are aligned, up to six, and gates are open."""
    frames = [shifted(3 * n, -n)[1] for n in range(-2, 3)]
    seen = aligner(frames)

    moved, _ = seen.look(2)
    own = seen.keys[2].half
    inner = (slice(12, -12), slice(16, -16))
    for place, offset in enumerate(offsets(COUNT)):
        left = np.abs(moved[place] - own)[inner].mean()
        before = np.abs(seen.keys[2 + offset].half - own)[inner].mean()
        assert left < 0.15 * before, offset
    _, gates = parts(seen.hint(2))
    assert gates[:, 10:-10, 10:-10].mean() > 0.9


def test_another_picture_is_gated_away() -> None:
    """A neighbour that cannot be aligned has closed gates."""
    frames = [picture(seed=1), picture(seed=1), picture(seed=1), picture(seed=9), picture(seed=1)]

    differences, gates = parts(aligner(frames).hint(2))

    strange = offsets(COUNT).index(1)
    assert gates[strange].mean() < 0.1
    assert gates[:strange].min() > 0.95
    assert differences[strange].abs().mean() < 0.01
    assert gates[strange + 1].mean() < 0.5  # reached by way of the strange one


@pytest.mark.parametrize(("number", "missing"), [(0, [0, 1]), (1, [0]), (4, [2, 3])])
def test_at_the_ends_of_a_scene_neighbours_are_closed(number: int, missing: list[int]) -> None:
    """Missing neighbours have zero differences and gates; the others are open."""
    frames = [shifted(n, 0)[1] for n in range(5)]

    differences, gates = parts(aligner(frames).hint(number))

    for place in range(COUNT):
        assert (not differences[place].any()) == (place in missing)
        assert (not gates[place].any()) == (place in missing)


def test_a_clip_of_one_frame_has_none() -> None:
    """All neighbour channels are zero."""
    hint = aligner([picture()]).hint(0)

    assert hint.shape == (13 * COUNT, HEIGHT // 2, WIDTH // 2)
    assert not hint.any()


def test_only_what_a_hint_needs_is_kept() -> None:
    """Kept key frames and flows do not grow with the scene, and each flow is computed once."""
    seen = Aligner(COUNT, DOUBLE)
    for number in range(9):
        seen.add(number, key(shifted(number % 5, 0)[1]))
        if number >= 2:
            seen.hint(number - 2)
            assert len(seen.keys) <= COUNT + 1
            assert len(seen.flows) <= 2 * COUNT


# positions


@pytest.mark.parametrize("step", [2, 4])
@pytest.mark.parametrize(
    ("geometry", "width", "height"),
    [
        (Geometry(width=192, height=144), 96, 72),
        (Geometry(width=100, height=50, left=8, right=20, top=4, bottom=10), 37, 21),
        (Geometry(width=72, height=48, right=8), 96, 64),
    ],
)
def test_positions_are_those_of_the_pixels(
    geometry: Geometry, width: int, height: int, step: int
) -> None:
    """A position is the middle of a square of output pixels, for every scale and padding."""
    lattice = Lattice.every(step, geometry, width, height)

    assert len(lattice.columns) == geometry.padded_width // step
    assert len(lattice.rows) == geometry.padded_height // step
    for k, found in enumerate(lattice.columns):
        pixels = [k * step + i - geometry.left for i in range(step)]  # of the unpadded output
        middles = [(x + 0.5) * width / geometry.width - 0.5 for x in pixels]
        assert found == pytest.approx(np.mean(middles), abs=1e-4)
    for k, found in enumerate(lattice.rows):
        pixels = [k * step + i - geometry.top for i in range(step)]
        middles = [(y + 0.5) * height / geometry.height - 0.5 for y in pixels]
        assert found == pytest.approx(np.mean(middles), abs=1e-4)


def test_values_are_read_between_the_pixels() -> None:
    """A ramp over the input gives its positions back; outside, the border's value."""
    geometry = Geometry(width=150, height=60, left=10, top=4)
    lattice = Lattice.every(2, geometry, 60, 24)
    rows, columns = np.mgrid[0:24, 0:60].astype(np.float32)

    found = lattice.read(np.stack([columns, rows], axis=-1))

    np.testing.assert_allclose(found[5, :, 0], lattice.columns.clip(0, 59), atol=0.02)
    np.testing.assert_allclose(found[:, 5, 1], lattice.rows.clip(0, 23), atol=0.02)


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry(width=240, height=180),
        Geometry(width=2 * WIDTH, height=2 * HEIGHT, left=24, right=8, top=12, bottom=20),
    ],
)
def test_padding_and_fractional_scales_keep_frames_aligned(geometry: Geometry) -> None:
    """A shift of input pixels is that many pixels times the scale, counted inside the padding."""
    seen = aligner([shifted(4, 2)[0], shifted(4, 2)[1]], geometry, count=2)

    moved, _ = seen.look(0)

    own, next_one = seen.keys[0].half, seen.keys[1].half
    top, left = geometry.top // 2 + 16, geometry.left // 2 + 16
    inner = (
        slice(top, top + geometry.height // 2 - 32),
        slice(left, left + geometry.width // 2 - 32),
    )
    assert np.abs(moved[1] - own)[inner].mean() < 0.2 * np.abs(next_one - own)[inner].mean()


# in a run


def test_a_hint_goes_back_to_the_start_of_its_scene() -> None:
    """Reading starts as many key frames earlier as the hint needs, but not in another scene."""
    assert needed_from(Span(10, 30), 20, 4) == 18
    assert needed_from(Span(10, 30), 11, 4) == 10
    assert needed_from(Span(10, 30), 20, 0) == 20


def keys_of(frames: Frames, first: int, scene: Span) -> list[Tensor]:
    """Return what the flow gives the sampler for a scene, from a key frame on."""
    clip = described_clip(len(frames), WIDTH, HEIGHT)
    plan = make_plan(clip, NANO, Options(scale=2.0))
    networks = Networks(make_denoiser(NANO.model), LappedCodec(NANO.model.latent_scale))
    flow = Flow(plan, networks, Options(scale=2.0), lambda *_: None)
    begin = needed_from(scene, first, NANO.model.neighbours)
    read: Iterator[NDArray[np.uint8]] = iter(frames[begin:])
    return list(flow._keys(read, scene, first))


def test_a_run_that_goes_on_sees_the_same() -> None:
    """Resumed at any key frame, the remaining hints and latents are equal bit for bit."""
    frames = [shifted(2 * n % 9, 0)[1] for n in range(6)]
    scene = Span(0, 6)

    whole = keys_of(frames, 0, scene)

    channels = NANO.model.unet.latent_channels + NANO.model.neighbour_channels
    assert [shown.shape[0] for shown in whole] == [channels] * 6
    for first in (1, 3, 5):
        rest = keys_of(frames, first, scene)
        assert len(rest) == 6 - first
        assert all(map(torch.equal, rest, whole[first:])), first


def test_nothing_is_seen_across_a_cut() -> None:
    """Frames of another scene change no hint of this one."""
    frames = [shifted(2 * n, 0)[1] for n in range(3)]
    same = [*frames, *(shifted(2 * n, 0)[1] for n in range(3, 6))]
    other = [*frames, *(picture(seed=5 + n) for n in range(3))]

    shown = [keys_of(clip, 0, Span(0, 3)) for clip in (same, other)]
    later = keys_of(other, 3, Span(3, 6))

    assert all(map(torch.equal, *shown))
    closed = later[0][NANO.model.unet.latent_channels :]
    differences, gates = parts(closed)
    assert not differences[:2].any()
    assert not gates[:2].any()


def test_a_clip_of_one_frame_runs() -> None:
    """The sampler gets its latents, followed by zeros."""
    [shown] = keys_of([picture()], 0, Span(0, 1))

    assert shown[: NANO.model.unet.latent_channels].any()
    assert not shown[NANO.model.unet.latent_channels :].any()
