"""Runs whose new frames are made by motion: their plans and their output."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.clips import (
    described_clip,
    moving_frames,
    small_preset,
    write_clip,
    write_frames,
)
from tests.venhancer.motion.test_between import Picture, blend, psnr
from tests.venhancer.pipeline.test_run import Repeat
from venhancer.config import NANO, RELEASED, Preset
from venhancer.contract import Shape
from venhancer.motion.between import Between
from venhancer.options import Options
from venhancer.pipeline import run as pipeline
from venhancer.pipeline.filling import Filling
from venhancer.planning.plan import Plan, make_plan, static_plans
from venhancer.video.delivery import Delivery
from venhancer.video.encoders import Encoding
from venhancer.video.probe import probe
from venhancer.video.reading import read_frames
from venhancer_rt import describe


def planned(frames: int = 9, preset: Preset | None = None, **options: object) -> Plan:
    chosen = Options(**{"new_frames": "motion", **options})  # type: ignore[arg-type]
    return make_plan(described_clip(frames), preset or small_preset(), chosen)


@pytest.mark.parametrize("factor", [2, 3, 8])
def test_the_sampler_sees_key_frames_only(factor: int) -> None:
    """The sampler's plan is that of a run without new frames; the timeline has the new frames."""
    plan, keys_only = planned(interpolate=factor), planned(interpolate=1)

    assert plan.scenes == keys_only.scenes
    assert plan.sampling == keys_only.sampling
    assert plan.evaluations == keys_only.evaluations
    assert plan.latent_bytes == keys_only.latent_bytes
    assert plan.job_bytes == keys_only.job_bytes
    assert plan.timeline == planned(interpolate=factor, new_frames="model").timeline
    assert plan.frames_by_motion == 8 * (factor - 1)
    assert len(plan.timeline.shown) == 9 + plan.frames_by_motion


def test_the_preset_chooses_who_makes_them() -> None:
    """nano uses motion; released uses the model, or motion if asked; without new frames neither."""
    options = Options(interpolate=2, scale=2.0)
    clip = described_clip()

    assert make_plan(clip, NANO, options).is_by_motion
    assert not make_plan(clip, RELEASED, options).is_by_motion
    assert make_plan(clip, RELEASED, dataclasses.replace(options, new_frames="motion")).is_by_motion
    assert not make_plan(clip, NANO, dataclasses.replace(options, new_frames="model")).is_by_motion
    assert not make_plan(clip, NANO, dataclasses.replace(options, interpolate=1)).is_by_motion


def test_checkpoints_from_before_say_nothing_of_it() -> None:
    """The new frames of older checkpoints are made by the model."""
    fields = json.loads(NANO.to_json())
    del fields["defaults"]["new_frames"]

    assert Preset.from_json(json.dumps(fields)).defaults.new_frames == "model"
    assert Preset.from_json(NANO.to_json()).defaults.new_frames == "motion"


def test_the_plan_tells_it() -> None:
    """The plan has a line with the number of frames made by motion, and JSON has it too."""
    encoding = Encoding(codec="libx264", pixel_format="yuv420p", depth=8)
    delivery = Delivery(encoding=encoding, notes=())
    lines = describe.plan_lines(planned(interpolate=4), delivery)

    assert "between  24 new frames by motion" in lines
    assert describe.plan_json(planned(interpolate=4))["frames_by_motion"] == 24
    by_model = planned(interpolate=4, new_frames="model")
    assert not any("by motion" in line for line in describe.plan_lines(by_model, delivery))
    assert describe.plan_json(by_model)["new_frames"] == "model"


def test_static_windows_hold_key_frames() -> None:
    """With networks of five frames, nine input frames have the same windows at any factor."""
    shapes = [Shape(width=96, height=64, window=5)]
    preset, clip = small_preset(), described_clip()
    plans = [
        static_plans(clip, preset, Options(interpolate=n, scale=2.0, new_frames="motion"), shapes)
        for n in (1, 2, 8)
    ]

    assert len({plan.scenes for (plan,) in plans}) == 1
    assert {len(window) for (plan,) in plans for s in plan.scenes for window in s.windows} == {5}


# --- from key frames to files ------------------------------------------------------------------


def filled(plan: Plan, keys: list[Picture]) -> dict[int, Picture]:
    filling = Filling(plan)
    try:
        return dict(pair for key in keys for pair in filling.add(key))
    finally:
        filling.close()


@pytest.fixture
def clip_of(tmp_path: Path) -> Callable[..., Plan]:
    """Make the plan of a real clip of 48x32, at its own size."""

    def make(frames: int = 5, cuts: tuple[int, ...] = (), **options: object) -> Plan:
        clip = probe(write_clip(tmp_path / "in.mp4", frames))
        chosen = {"new_frames": "motion", "scale": 1.0, **options}
        clip = dataclasses.replace(clip, cuts=cuts)
        return make_plan(clip, small_preset(), Options(**chosen))  # type: ignore[arg-type]

    return make


def test_nothing_is_made_across_a_cut(clip_of: Callable[..., Plan]) -> None:
    """A scene's last frame is repeated up to the cut; without scene cuts there is one scene."""
    keys = moving_frames(5, 48, 32)
    plan = clip_of(cuts=(2,), interpolate=3)

    grid = filled(plan, keys)

    assert sorted(grid) == list(range(13))
    assert plan.frames_by_motion == 6
    assert all(np.array_equal(grid[j], keys[1]) for j in (3, 4, 5))
    assert np.array_equal(grid[6], keys[2])
    assert not np.array_equal(grid[7], keys[2])
    across = filled(clip_of(cuts=(2,), interpolate=3, scene_cuts=False), keys)
    assert not np.array_equal(across[4], keys[1])


def test_frames_that_are_not_shown_are_not_made(clip_of: Callable[..., Plan]) -> None:
    """At a fractional rate, only the grid frames that are written are made."""
    plan = clip_of(9, fps=Fraction(36))

    grid = filled(plan, moving_frames(9, 48, 32))

    assert plan.timeline.key_stride == 3
    assert set(grid) == set(plan.timeline.shown)
    assert len(grid) < plan.timeline.grid_frames
    assert plan.frames_by_motion == sum(j % 3 > 0 for j in set(plan.timeline.shown))


def test_a_frame_depends_on_its_two_sides_alone(clip_of: Callable[..., Plan]) -> None:
    """A frame between is the same whatever came before its two sides."""
    plan, keys = clip_of(interpolate=2), moving_frames(5, 48, 32)
    inputs = list(read_frames(plan.source))

    grid = filled(plan, keys)

    for k in range(4):
        alone = Between(inputs[k], inputs[k + 1]).frame(0.5, keys[k], keys[k + 1])
        assert np.array_equal(grid[2 * k + 1], alone)


def run(tmp_path: Path, source: Path, **options: object) -> pipeline.Report:
    chosen = Options(**{"new_frames": "motion", "scale": 1.0, **options})  # type: ignore[arg-type]
    plan = make_plan(probe(source), small_preset(), chosen)
    return pipeline.enhance(plan, tmp_path / "out", Repeat(), chosen)


def written(folder: Path) -> Iterator[Picture]:
    for path in sorted(folder.glob("*.png")):
        yield np.asarray(Image.open(path))


@pytest.mark.parametrize("frames", [1, 2, 7])
@pytest.mark.parametrize("factor", [2, 3, 8])
def test_frame_counts(tmp_path: Path, frames: int, factor: int) -> None:
    """The output has (n - 1) N + 1 frames; every stage is timed."""
    report = run(tmp_path, write_clip(tmp_path / "in.mp4", frames), interpolate=factor)

    assert len(list(written(tmp_path / "out"))) == (frames - 1) * factor + 1
    assert "between" in report.seconds


def test_new_frames_move(tmp_path: Path) -> None:
    """If the model does nothing, the frames between follow the pattern's motion."""
    truth = moving_frames(9, 96, 64)
    source = write_frames(tmp_path / "in.mp4", truth[::2])

    run(tmp_path, source, interpolate=2)

    frames = list(written(tmp_path / "out"))
    inner = np.s_[:, 8:-8]
    for j in (1, 3, 5, 7):
        mixed = blend(frames[j - 1], frames[j + 1])
        assert psnr(frames[j][inner], truth[j][inner]) > psnr(mixed[inner], truth[j][inner])


def test_comparisons_get_every_frame(tmp_path: Path) -> None:
    """A comparison has as many frames as the output."""
    source = write_clip(tmp_path / "in.mp4", 3)

    run(tmp_path, source, interpolate=3, compare=tmp_path / "compare.mp4")

    assert probe(tmp_path / "compare.mp4").frames == 7


def test_the_input_is_closed_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second reader of the input ends with the run."""
    closed = []
    monkeypatch.setattr(Filling, "close", lambda self: closed.append(self))

    def fail(self: Filling, key: Picture) -> Iterator[tuple[int, Picture]]:
        raise RuntimeError("no frame between")

    monkeypatch.setattr(Filling, "add", fail)
    with pytest.raises(RuntimeError, match="no frame between"):
        run(tmp_path, write_clip(tmp_path / "in.mp4", 3), interpolate=2)

    assert len(closed) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]
