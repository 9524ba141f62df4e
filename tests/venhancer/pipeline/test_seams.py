"""Joins of windows and tiles: the definition of a seam, and that the built-in model has none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.clips import moving_frames, small_preset, write_clip
from venhancer import Options, enhance
from venhancer.pipeline.seams import NO_SEAMS, SeamMeter, borders
from venhancer.planning.plan import Plan, make_plan
from venhancer.spans import Span
from venhancer.video.probe import probe


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Plan 17 frames of 96x64 in three windows of 9 and two columns of tiles."""
    clip = probe(write_clip(tmp_path / "in.mp4", 17, 96, 64))
    options = Options(scale=1.0, window=9, tile=(64, 64), refine=0)
    return make_plan(clip, small_preset(), options)


def measure(plan: Plan, frames: list[np.ndarray]) -> tuple[float, float]:
    meter = SeamMeter(plan)
    for frame in frames:
        meter.add(frame)
    found = meter.seams()
    assert found.windows is not None
    assert found.tiles is not None
    return found.windows, found.tiles


def test_windows_meet_halfway() -> None:
    """The border of two overlapping spans is in the middle of their overlap."""
    assert borders([Span(0, 9), Span(4, 13), Span(8, 17)]) == [6, 10]
    assert borders([Span(0, 9)]) == []


def test_an_even_motion_has_no_seam(plan: Plan) -> None:
    """A uniform motion of any size is no seam."""
    windows, tiles = measure(plan, moving_frames(17, 96, 64))

    assert windows == pytest.approx(1, abs=0.05)
    assert tiles == pytest.approx(1, abs=0.25)


def test_a_jump_between_windows_is_found(plan: Plan) -> None:
    """A brightness step of five at one join is found."""
    [join, _] = borders(plan.scenes[0].windows)[:2]
    frames = [f + np.uint8(5 * (j >= join)) for j, f in enumerate(moving_frames(17, 96, 64))]

    assert measure(plan, frames)[0] > 1.1


def test_a_line_between_tiles_is_found(plan: Plan) -> None:
    """A brightness step of twenty at one tile border is found."""
    [border] = borders(plan.sampling.columns)
    x = 4 * border
    frames = [
        f + np.uint8(20) * (np.arange(96) >= x)[None, :, None] for f in moving_frames(17, 96, 64)
    ]

    assert measure(plan, [f.astype(np.uint8) for f in frames])[1] > 1.5


def test_padding_moves_the_border(plan: Plan) -> None:
    """Borders are counted in latents, which include the padding; the frame does not."""
    geometry = dataclasses.replace(plan.geometry, left=8, width=80, right=8)
    shifted = dataclasses.replace(plan, geometry=geometry)
    x = 4 * borders(plan.sampling.columns)[0] - 8
    frame = np.zeros((64, 80, 3), dtype=np.uint8)
    frame[:, x:] = 20

    assert measure(shifted, [frame] * 17)[1] > 10


def test_the_built_in_model_leaves_no_seam(tmp_path: Path) -> None:
    """With default windows and tiles, a moving clip changes at most 5 % more at a join.

    Tile borders are compared with the same model's frames in one piece.
    """
    clip = write_clip(tmp_path / "in.mp4", 13, 96, 64)
    options = Options(scale=2.0, window=5, tile=(128, 128), overwrite=True)

    report = enhance(clip, tmp_path / "out.mp4", options)

    assert report.plan.parts > 4
    assert report.seams.windows is not None
    assert report.seams.tiles is not None
    assert report.seams.windows <= 1.05
    whole = enhance(clip, tmp_path / "whole", dataclasses.replace(options, tile=(256, 128)))
    assert whole.seams.tiles is None
    frames = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "whole").glob("*.png"))]
    assert report.seams.tiles <= 1.05 * measure(report.plan, frames)[1]


def test_one_window_has_no_joins(tmp_path: Path) -> None:
    """Without joins nothing is measured."""
    report = enhance(write_clip(tmp_path / "in.mp4", 3), tmp_path / "out.mp4", Options(scale=1.0))

    assert report.seams == NO_SEAMS
