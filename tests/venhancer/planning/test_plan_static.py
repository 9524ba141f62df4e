"""Plans for static shapes: windows and tiles of one fixed size, frames padded up to it."""

from __future__ import annotations

import dataclasses

import pytest

from tests.support.clips import described_clip, small_preset
from tests.support.training_parts import small_v_preset
from venhancer.config import RELEASED, Preset
from venhancer.contract import Shape
from venhancer.errors import OptionError
from venhancer.options import Options
from venhancer.planning.plan import Plan, make_plan, static_plans
from venhancer.video.clip import Clip

SHAPE = Shape(width=96, height=64, window=9)


def plan(
    source: Clip, shape: Shape = SHAPE, preset: Preset | None = None, **options: object
) -> Plan:
    return make_plan(source, preset or small_preset(), Options(**options), shape)  # type: ignore[arg-type]


def tiles_of(made: Plan) -> set[tuple[int, int]]:
    s = made.sampling
    return {(len(column), len(row)) for column in s.columns for row in s.rows}


@pytest.mark.parametrize(
    ("factor", "length"), [(1, 9), (2, 9), (3, 7), (4, 9), (5, 6), (6, 7), (7, 8), (8, 9)]
)
def test_windows_are_the_longest_that_the_network_takes(factor: int, length: int) -> None:
    """A window has whole strides between key frames, within the network's nine frames."""
    made = plan(described_clip(20), interpolate=factor)

    assert {len(window) for window in made.scenes[0].windows} == {length}
    assert made.scenes[0].windows[-1].stop == made.timeline.grid_frames


def test_a_short_clip_is_one_window() -> None:
    """The window has the clip's length: the network extends it."""
    assert [len(window) for window in plan(described_clip(4)).scenes[0].windows] == [4]


@pytest.mark.parametrize(
    ("size", "padded", "tiles"),
    [
        ((96, 64), (96, 64), 1),
        ((50, 32), (96, 64), 1),
        ((96, 65), (96, 72), 2),
        ((200, 64), (200, 64), 3),
        ((181, 121), (184, 128), 9),
    ],
)
def test_every_tile_is_the_frame_of_the_shape(
    size: tuple[int, int], padded: tuple[int, int], tiles: int
) -> None:
    """A smaller frame is padded at the right and the bottom; a larger one is tiled."""
    made = plan(described_clip(9, size[0] // 2, size[1] // 2), size=size)

    geometry = made.geometry
    assert (geometry.width, geometry.height) == size
    assert (geometry.padded_width, geometry.padded_height) == padded
    assert (geometry.left, geometry.top) == (0, 0)
    assert tiles_of(made) == {(96 // 4, 64 // 4)}
    assert made.parts == tiles
    assert made.latents[1:] == (padded[1] // 4, padded[0] // 4)


def test_an_autoencoder_takes_frames_of_any_size() -> None:
    """A smaller frame is padded, a larger one goes through in tiles of the network's size."""
    preset, shape = small_v_preset(), dataclasses.replace(SHAPE, height=48)

    assert plan(described_clip(9, 20, 20), shape, preset, scale=2).geometry.padded_width == 96
    assert plan(described_clip(), shape, preset, scale=2).geometry.padded_height > 48


def test_the_released_models_rows_need_no_tile_beyond_the_frame() -> None:
    """The shape of 1280x720 needs no tiles for a frame of 1280x720."""
    made = plan(described_clip(9, 320, 180), Shape(width=1280, height=720, window=9), RELEASED)

    assert made.parts == 1
    assert (made.geometry.padded_width, made.geometry.padded_height) == (1280, 720)


def test_the_shape_of_least_work_is_taken() -> None:
    """A small shape is taken if the frame fits, else a larger one rather than many tiles."""
    shapes = [
        Shape(width=w, height=h, window=f) for w, h in ((192, 128), (96, 64)) for f in (17, 9)
    ]
    for source, options, expected in (
        (described_clip(9), Options(), "96x64x9"),
        (described_clip(17), Options(), "96x64x17"),
        (described_clip(9, 96, 64), Options(), "192x128x9"),
        (described_clip(5), Options(interpolate=4), "96x64x17"),
    ):
        made = {str(static_plans(source, small_preset(), options, order)[0].shape)
                for order in (shapes, shapes[::-1])}  # fmt: skip
        assert made == {expected}


def test_shapes_that_cannot_do_it_are_passed_over() -> None:
    """A window too short for two key frames is skipped; if all are, the error names the largest."""
    short, long = (dataclasses.replace(SHAPE, window=window) for window in (5, 9))
    preset, options = small_v_preset(), Options(scale=2, interpolate=8)

    made = static_plans(described_clip(), preset, options, [short, long])

    assert [plan.shape for plan in made] == [long]
    with pytest.raises(OptionError, match="window=5 holds no two key frames"):
        static_plans(described_clip(), preset, options, [short])


def test_a_window_too_short_for_the_factor_is_refused() -> None:
    """The error names the shortest window that works."""
    with pytest.raises(OptionError, match=r"window=5 holds no two key frames .* take 9 or more"):
        plan(described_clip(), dataclasses.replace(SHAPE, window=5), interpolate=8)
