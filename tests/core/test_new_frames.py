"""New frames made by motion: what each case looks like, and how a run is planned and written."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tests.clips import described_clip, moving_frames, small_preset, write_clip, write_frames
from tests.core.test_pipeline import Repeat
from venhancer import pipeline
from venhancer.between import Between
from venhancer.config import NANO, RELEASED, Preset
from venhancer.estimate import scene_flop
from venhancer.filling import Filling
from venhancer.options import Options
from venhancer.plan import Plan, make_plan, static_plans
from venhancer.video import probe, read_frames
from venhancer_rt import show

Picture = NDArray[np.uint8]
Scene = Callable[[float], NDArray[np.float32]]  # what is seen at a time: H W 3, 0 to 255
WIDTH, HEIGHT, SCALE = 256, 160, 4


def texture(seed: int = 0) -> NDArray[np.float32]:
    """Coarse and fine spots, twice as wide as what is seen."""
    rng = np.random.default_rng(seed)
    out = np.zeros((HEIGHT, 2 * WIDTH, 3), dtype=np.float32)
    for spread in (3, 8, 16):
        spots = cv2.GaussianBlur(rng.normal(size=out.shape).astype(np.float32), (0, 0), spread)
        out += 30 * spots / spots.std()
    return np.clip(128 + out, 0, 255)


def panned(picture: NDArray[np.float32], right: float) -> NDArray[np.float32]:
    by = np.array([[1, 0, right], [0, 1, 0]], dtype=np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(picture, by, (WIDTH, HEIGHT), flags=flags)


def lettering(text: str, place: tuple[int, int], size: int) -> NDArray[np.float32]:
    """Where there is text: H W 1, 0 to 1."""
    image = Image.new("L", (WIDTH, HEIGHT))
    ImageDraw.Draw(image).text(place, text, fill=255, font=ImageFont.load_default(size))
    return np.asarray(image).astype(np.float32)[..., None] / 255


def whole(values: NDArray[np.float32]) -> Picture:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def smaller(picture: Picture, factor: int = SCALE) -> Picture:
    size = picture.shape[1] // factor, picture.shape[0] // factor
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def psnr(made: NDArray[np.generic], true: NDArray[np.generic]) -> float:
    error = np.square(made.astype(float) - true.astype(float)).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def blend(first: Picture, second: Picture, time: float = 0.5) -> Picture:
    return whole((1 - time) * first.astype(np.float32) + time * second.astype(np.float32))


def made_of(scene: Scene, time: float = 0.5) -> tuple[Picture, Picture, Picture]:
    """The frame made between 0 and 1 of ideal key frames, the true one, and the plain mix."""
    first, true, second = (whole(scene(t)) for t in (0.0, time, 1.0))
    made = Between(smaller(first), smaller(second)).frame(time, first, second)
    return made, true, blend(first, second, time)


@pytest.mark.parametrize("time", [0.125, 0.5, 0.875])
def test_a_pan_is_followed(time: float) -> None:
    """At any time between, far nearer to the truth than the plain mix."""
    picture = texture()

    made, true, mixed = made_of(lambda t: panned(picture, 40 + 24 * t), time)

    inner = np.s_[:, 24:-24]
    assert psnr(made[inner], true[inner]) > 35
    assert psnr(made[inner], true[inner]) > psnr(mixed[inner], true[inner]) + 5


@pytest.mark.parametrize("right", [8, 16, 24])
def test_an_overlay_stays_put(right: int) -> None:
    """A logo over a pan is as near to the truth as the mix, and the rest much nearer."""
    picture, logo = texture(), lettering("LIVE", (90, 60), 40)
    seen = cv2.dilate((logo > 0.5).astype(np.uint8), np.ones((3, 3), dtype=np.uint8)) > 0

    made, true, mixed = made_of(lambda t: (1 - logo) * panned(picture, 40 + right * t) + 255 * logo)

    assert psnr(made[seen], true[seen]) > psnr(mixed[seen], true[seen]) - 1
    assert psnr(made, true) > psnr(mixed, true) + 3


def test_a_fade_stays_a_fade() -> None:
    """The brightness of a still picture lies between those of its sides, at every place."""
    picture = panned(texture(), 40)

    made, _, mixed = made_of(lambda t: picture * (1 - 0.5 * t), 0.25)

    assert abs(made.astype(int) - mixed).max() <= 3


def test_a_fade_over_a_pan_is_both() -> None:
    """Moved, and as bright as it should be."""
    picture = texture()

    made, true, mixed = made_of(lambda t: panned(picture, 40 + 16 * t) * (1 - 0.4 * t), 0.25)

    inner = np.s_[:, 24:-24]
    assert psnr(made[inner], true[inner]) > psnr(mixed[inner], true[inner]) + 5
    assert made[inner].mean() == pytest.approx(true[inner].mean(), abs=1)


def test_another_picture_that_shines_through_is_mixed() -> None:
    """A dissolve has no motion to follow."""
    first, second = panned(texture(), 40), panned(texture(1), 40)

    made, _, mixed = made_of(lambda t: (1 - t) * first + t * second)

    assert psnr(made, mixed) > 28


def test_a_flash_does_not_smear() -> None:
    """One bright frame of a still scene: nothing moves, the new frame is the mix of both."""
    picture = panned(texture(), 40)

    made, _, mixed = made_of(lambda t: picture if t < 1 else np.minimum(picture * 1.3 + 110, 255))

    assert psnr(made, mixed) > 35


def test_scrolling_text_stays_legible() -> None:
    """Letters are where they should be, once and not twice."""
    text = lettering("Directed by\nWritten by\nFilmed in", (20, 30), 24)
    up = [np.array([[1, 0, 0], [0, 1, 8 * t]], dtype=np.float32) for t in (0.0, 0.5, 1.0)]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = {
        t: cv2.warpAffine(text, m, (WIDTH, HEIGHT), flags=flags)
        for t, m in zip((0.0, 0.5, 1.0), up, strict=True)
    }

    made, true, mixed = made_of(lambda t: (20 + 220 * moved[t][..., None]) * np.ones(3, np.float32))

    assert psnr(made, true) > psnr(mixed, true) + 6


def test_repeated_frames_are_repeated() -> None:
    """Two equal input frames have no motion: between equal key frames there is the same again."""
    small, key = moving_frames(1, 48, 32)[0], moving_frames(1, 96, 64)[0]
    between = Between(small, small.copy())

    assert np.array_equal(between.frame(0.3, key, key), key)
    assert np.array_equal(between.frame(0.5, key, 255 - key), blend(key, 255 - key))
    deep = key.astype(np.uint16) * 257
    assert np.array_equal(between.frame(0.3, deep, deep), deep)


def test_deep_frames_are_as_shallow_ones() -> None:
    """16 bits over the whole range, in and out: the same picture, 257 times as fine."""
    first, second = (whole(panned(texture(), x)) for x in (40, 52))
    made = Between(smaller(first), smaller(second)).frame(0.5, first, second)
    pairs = [frame.astype(np.uint16) * 257 for frame in (smaller(first), smaller(second))]
    keys = [frame.astype(np.uint16) * 257 for frame in (first, second)]

    deep = Between(*pairs).frame(0.5, *keys)

    assert deep.dtype == np.uint16
    assert abs(deep.astype(float) / 257 - made).max() <= 0.51


def test_bright_and_dark_do_not_wrap_round() -> None:
    """Cubic overshoot beside black and white is cut off."""
    bars = np.repeat(np.arange(2 * WIDTH) // 16 % 2 * 255.0, 3).reshape(1, -1, 3)
    picture = np.broadcast_to(bars, (HEIGHT, 2 * WIDTH, 3)).astype(np.float32)

    made, true, _ = made_of(lambda t: panned(picture, 40 + 6 * t))

    assert np.mean(abs(made.astype(int) - true) > 200) < 0.01


@pytest.mark.parametrize(
    ("small", "large"),
    [((16, 16), (64, 64)), ((37, 23), (101, 35)), ((48, 32), (48, 32)), ((7, 5), (28, 20))],
)
def test_sizes(small: tuple[int, int], large: tuple[int, int]) -> None:
    """Tiny frames, odd ones, and enlargements that differ in width and height."""
    inputs, keys = (moving_frames(2, *size) for size in (small, large))

    made = Between(*inputs).frame(0.5, *keys)

    assert made.shape == keys[0].shape
    assert made.dtype == np.uint8
    assert psnr(made, blend(*keys)) > 15


def test_threads_do_not_change_a_bit() -> None:
    """OpenCV with one thread and with four gives the same frames."""
    first, second = (whole(panned(texture(), x)) for x in (40, 60))
    threads, made = cv2.getNumThreads(), []
    try:
        for count in (1, 4):
            cv2.setNumThreads(count)
            made.append(Between(smaller(first), smaller(second)).frame(0.25, first, second))
            assert cv2.getNumThreads() == count
    finally:
        cv2.setNumThreads(threads)

    assert np.array_equal(*made)


# --- the plan ----------------------------------------------------------------------------------


def planned(frames: int = 9, preset: Preset | None = None, **options: object) -> Plan:
    chosen = Options(**{"new_frames": "motion", **options})  # type: ignore[arg-type]
    return make_plan(described_clip(frames), preset or small_preset(), chosen)


@pytest.mark.parametrize("factor", [2, 3, 8])
def test_the_sampler_sees_key_frames_only(factor: int) -> None:
    """Its plan is that of a run without new frames; the timeline is that of one with them."""
    plan, keys_only = planned(interpolate=factor), planned(interpolate=1)

    assert plan.scenes == keys_only.scenes
    assert plan.sampling == keys_only.sampling
    assert plan.evaluations == keys_only.evaluations
    assert plan.latent_bytes == keys_only.latent_bytes
    assert plan.spool_bytes == keys_only.spool_bytes
    assert sum(scene_flop(plan, s) for s in plan.scenes) == sum(
        scene_flop(keys_only, s) for s in keys_only.scenes
    )
    assert plan.timeline == planned(interpolate=factor, new_frames="model").timeline
    assert plan.frames_by_motion == 8 * (factor - 1)
    assert len(plan.timeline.shown) == 9 + plan.frames_by_motion


def test_the_preset_chooses_who_makes_them() -> None:
    """nano: motion; released: the model, and motion by name; nothing to choose without any."""
    options = Options(interpolate=2, scale=2.0)
    clip = described_clip()

    assert make_plan(clip, NANO, options).is_by_motion
    assert not make_plan(clip, RELEASED, options).is_by_motion
    assert make_plan(clip, RELEASED, dataclasses.replace(options, new_frames="motion")).is_by_motion
    assert not make_plan(clip, NANO, dataclasses.replace(options, new_frames="model")).is_by_motion
    assert not make_plan(clip, NANO, dataclasses.replace(options, interpolate=1)).is_by_motion


def test_checkpoints_from_before_say_nothing_of_it() -> None:
    """Their new frames are made by the model."""
    fields = json.loads(NANO.to_json())
    del fields["defaults"]["new_frames"]

    assert Preset.from_json(json.dumps(fields)).defaults.new_frames == "model"
    assert Preset.from_json(NANO.to_json()).defaults.new_frames == "motion"


def test_the_plan_tells_it() -> None:
    """On a line of its own, with how many are made; and as JSON."""
    lines = show.plan_lines(planned(interpolate=4))

    assert "between  24 new frames by motion" in lines
    assert show.plan_json(planned(interpolate=4))["frames_by_motion"] == 24
    by_model = planned(interpolate=4, new_frames="model")
    assert not any("by motion" in line for line in show.plan_lines(by_model))
    assert show.plan_json(by_model)["new_frames"] == "model"


def test_static_windows_hold_key_frames() -> None:
    """With networks of five frames, nine input frames take the same windows at any factor."""
    from venhancer.contract import Shape

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
    """The plan of a real clip of 48x32, at its own size."""

    def make(frames: int = 5, cuts: tuple[int, ...] = (), **options: object) -> Plan:
        clip = probe(write_clip(tmp_path / "in.mp4", frames))
        chosen = {"new_frames": "motion", "scale": 1.0, **options}
        clip = dataclasses.replace(clip, cuts=cuts)
        return make_plan(clip, small_preset(), Options(**chosen))  # type: ignore[arg-type]

    return make


def test_nothing_is_made_across_a_cut(clip_of: Callable[..., Plan]) -> None:
    """The last frame of a scene is held; without scene cuts there is one scene."""
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
    """At a fractional rate, the grid frames that are written and no others."""
    plan = clip_of(9, fps=Fraction(36))

    grid = filled(plan, moving_frames(9, 48, 32))

    assert plan.timeline.gap == 3
    assert set(grid) == set(plan.timeline.shown)
    assert len(grid) < plan.timeline.grid_frames
    assert plan.frames_by_motion == sum(j % 3 > 0 for j in set(plan.timeline.shown))


def test_a_frame_depends_on_its_two_sides_alone(clip_of: Callable[..., Plan]) -> None:
    """A frame between is the same whatever came before."""
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
    """(n - 1) N + 1 come out; every stage is timed."""
    report = run(tmp_path, write_clip(tmp_path / "in.mp4", frames), interpolate=factor)

    assert len(list(written(tmp_path / "out"))) == (frames - 1) * factor + 1
    assert "between" in report.seconds


def test_new_frames_move(tmp_path: Path) -> None:
    """A run whose model does nothing: the frames between follow the pattern."""
    truth = moving_frames(9, 96, 64)
    source = write_frames(tmp_path / "in.mp4", truth[::2])

    run(tmp_path, source, interpolate=2)

    frames = list(written(tmp_path / "out"))
    inner = np.s_[:, 8:-8]
    for j in (1, 3, 5, 7):
        mixed = blend(frames[j - 1], frames[j + 1])
        assert psnr(frames[j][inner], truth[j][inner]) > psnr(mixed[inner], truth[j][inner])


def test_comparisons_get_every_frame(tmp_path: Path) -> None:
    """As many as are written."""
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
