"""A run from file to file, with networks that do nothing: sizes, times, no leftovers."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.support.clips import (
    moving_frames,
    read_all,
    small_preset,
    write_clip,
    write_frames,
)
from venhancer.errors import OptionError, OutputError
from venhancer.model import lapped
from venhancer.options import Options
from venhancer.pipeline import run as pipeline
from venhancer.pipeline import sink
from venhancer.pipeline.frames import QUEUE
from venhancer.pipeline.pixels import Frame, resize, to_pixels
from venhancer.pipeline.run import Report
from venhancer.planning.plan import Plan, make_plan
from venhancer.planning.windows import Scene
from venhancer.video.probe import probe
from venhancer.video.reading import read_frames

PRESET = small_preset()
EMPTY = torch.zeros(0)
SCALE = PRESET.model.latent_scale


class RepeatSampler:
    """A sampler that gives every grid frame the key frame before it, all at a scene's last step."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def first_key(self, scene: Scene, taken: int) -> int:
        return 0

    def run(
        self, scene: Scene, keys: Iterator[Tensor], taken: int, progress: Callable[[], None]
    ) -> Iterator[Tensor]:
        shown = torch.stack(list(islice(keys, len(scene.keys))))
        for _ in range(len(scene.windows) * self.steps - 1):
            yield shown[:0]
        yield shown[[j // scene.key_stride for j in range(scene.frames)]]

    def tensors(self) -> Mapping[str, Tensor]:
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        raise AssertionError


class Repeat:
    """Networks that do nothing."""

    device = "cpu"

    def encode_text(self, prompt: str, *, is_guided: bool) -> Tensor | None:
        return None

    def encode(self, plan: Plan, frames: Tensor, first: int) -> Tensor:
        return lapped.encode(frames, SCALE)

    def sampler(self, plan: Plan, text: Tensor | None) -> RepeatSampler:
        return RepeatSampler(len(plan.sampling.schedule))

    def decode(self, plan: Plan, latents: Tensor) -> Tensor:
        return lapped.decode(latents, SCALE)


Run = Callable[..., Report]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Enhance a clip of 48x32 with `Repeat`."""

    def enhance(
        frames: int = 5,
        target: str = "out.mp4",
        shape: tuple[int, int] = (48, 32),
        **options: object,
    ) -> Report:
        clip = probe(write_clip(tmp_path / "in.mp4", frames, *shape))
        chosen = Options(**{"refine": 0, **options})  # type: ignore[arg-type]
        plan = make_plan(clip, PRESET, chosen)
        return pipeline.enhance(plan, tmp_path / target, Repeat(), chosen)

    return enhance


@pytest.mark.parametrize("scale", [1.0, 1.5, 2.0, 3.7])
def test_the_frame_has_exactly_the_size_asked_for(run: Run, scale: float) -> None:
    """The network's padding does not change the output's size."""
    report = run(scale=scale)

    height, width = read_all(report.output)[0].shape[:2]
    assert (width, height) == (round(48 * scale), round(32 * scale))


def test_an_exact_size_is_honoured(run: Run) -> None:
    """Odd numbers and another aspect ratio work too."""
    report = run(size=(101, 35))

    assert read_all(report.output)[0].shape == (35, 101, 3)


@pytest.mark.parametrize("frames", [1, 2, 7])
@pytest.mark.parametrize("factor", [1, 2, 3, 5])
def test_frame_counts(run: Run, frames: int, factor: int) -> None:
    """One frame, two and a prime: (n - 1) N + 1 come out, at N times the rate."""
    report = run(frames, interpolate=factor, scale=1.0)

    written = probe(report.output)
    assert written.frames == (frames - 1) * factor + 1
    assert abs(written.duration - Fraction(frames, 24)) <= Fraction(1, 24)


def test_a_fractional_rate(run: Run) -> None:
    """From 24 to 60 frames a second the duration stays within one output frame."""
    report = run(9, fps=Fraction(60), scale=1.0)

    written = probe(report.output)
    assert written.fps == 60
    assert abs(written.duration - Fraction(9, 24)) <= Fraction(1, 60)
    assert report.plan.timeline.timing_error == 0


def test_what_comes_out_is_what_went_in(run: Run, tmp_path: Path) -> None:
    """The result is exactly the enlarged input, after padding, codec and cropping."""
    report = run(3, "frames", scale=1.5, shape=(50, 38))

    files = sorted((tmp_path / "frames").glob("*.png"))
    source = read_frames(probe(tmp_path / "in.mp4"))
    for file, frame in zip(files, source, strict=True):
        expected = to_pixels(resize(frame, 75, 57, "bicubic"))[0]
        found = np.asarray(Image.open(file)).astype(int)
        assert abs(found - expected).max() <= 1
    assert report.seconds.keys() >= {"read", "encode", "denoise", "decode", "write"}


def test_folders_of_pictures(tmp_path: Path) -> None:
    """Numbered files give numbered files."""
    (tmp_path / "in").mkdir()
    for k, frame in enumerate(moving_frames(3, 40, 24)):
        Image.fromarray(frame).save(tmp_path / "in" / f"{k:04d}.png")
    options = Options(interpolate=2, scale=2.0)
    plan = make_plan(probe(tmp_path / "in"), PRESET, options)

    pipeline.enhance(plan, tmp_path / "out", Repeat(), options)

    assert len(list((tmp_path / "out").glob("*.png"))) == 5


@pytest.mark.parametrize("name", ["compare.png", "compare.mp4"])
def test_comparisons(run: Run, tmp_path: Path, name: str) -> None:
    """A picture or a video has the enlarged input at the left and the result at the right."""
    run(3, interpolate=2, compare=tmp_path / name)

    is_picture = name.endswith("png")
    shown = np.asarray(Image.open(tmp_path / name)) if is_picture else read_all(tmp_path / name)[0]
    assert shown.shape == (64, 192, 3)
    left, right = shown[:, :96].astype(int), shown[:, 96:].astype(int)
    assert abs(left - right).mean() < 8  # bilinear against bicubic
    assert is_picture or len(read_all(tmp_path / name)) == 5


class Broken(Repeat):
    """Networks that fail while frames are being written."""

    def decode(self, plan: Plan, latents: Tensor) -> Tensor:
        raise RuntimeError("out of order")


@pytest.mark.parametrize("target", ["out.mp4", "frames"])
def test_a_failure_leaves_nothing_behind(tmp_path: Path, target: str) -> None:
    """Neither a partial output nor a temporary file is left."""
    clip = probe(write_clip(tmp_path / "in.mp4", 3))
    options = Options(compare=tmp_path / "compare.mp4")
    plan = make_plan(clip, PRESET, options)

    with pytest.raises(RuntimeError, match="out of order"):
        pipeline.enhance(plan, tmp_path / target, Broken(), options)

    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_no_space_is_told_before_any_work(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line has the free and the needed bytes."""
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    with pytest.raises(OutputError, match="0 MB free, the output may need"):
        run()


def test_the_input_is_not_overwritten(tmp_path: Path) -> None:
    """Even --overwrite does not allow it."""
    path = write_clip(tmp_path / "in.mp4", 2)
    before, options = path.read_bytes(), Options(overwrite=True)
    plan = make_plan(probe(path), PRESET, options)

    with pytest.raises(OutputError, match="is the input itself"):
        pipeline.enhance(plan, path, Repeat(), options)

    assert path.read_bytes() == before


def test_a_prompt_needs_a_text_encoder(run: Run) -> None:
    """The refusal names the preset that has one."""
    with pytest.raises(OptionError, match=r"has no text encoder.*--preset released"):
        run(prompt="a cat")


def test_released_geometry_clamps_and_pads_as_theirs(run: Run) -> None:
    """The option for parity gives at least 720 lines, pads to 1280x720 and makes s an integer."""
    clip_report = run(1, geometry="released", padding="white", scale=2.5)

    geometry = clip_report.plan.geometry
    assert (geometry.width, geometry.height) == (1080, 720)
    assert (geometry.left, geometry.right) == (100, 100)
    assert clip_report.plan.conditioning_scale == 8.0


def test_nothing_is_interpolated_across_a_cut(run: Run, tmp_path: Path) -> None:
    """The last frame of a scene is repeated until the next scene; --no-scene-cuts blends."""
    frames = [np.full((32, 48, 3), 40 + 160 * (k >= 3), dtype=np.uint8) for k in range(6)]
    clip = dataclasses.replace(probe(write_frames(tmp_path / "cut.mp4", frames)), cuts=(3,))
    options = Options(interpolate=4, scale=1.0, refine=0)
    plan = make_plan(clip, PRESET, options)

    pipeline.enhance(plan, tmp_path / "out.mp4", Repeat(), options)

    means = [frame.mean() for frame in read_all(tmp_path / "out.mp4")]
    assert len(means) == 21
    assert [mean < 100 for mean in means] == [True] * 12 + [False] * 9
    assert [len(scene.keys) for scene in plan.scenes] == [3, 3]
    across = make_plan(clip, PRESET, dataclasses.replace(options, scene_cuts=False))
    assert len(across.scenes) == 1


def test_reading_and_writing_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow writer stops the decoder: no more frames wait than the queue holds."""
    made, written, waiting = [0], [0], [0]

    class Counting(Repeat):
        def decode(self, plan: Plan, latents: Tensor) -> Tensor:
            made[0] += 1
            waiting.append(made[0] - written[0])
            return super().decode(plan, latents)

    def slow(self: sink.Files, frame: Frame, moment: Fraction) -> None:
        time.sleep(0.005)
        written[0] += 1
        add(self, frame, moment)

    add = sink.Files.add
    monkeypatch.setattr(sink.Files, "add", slow)
    options = Options(scale=1.0, refine=0, interpolate=1, window=2)
    plan = make_plan(probe(write_clip(tmp_path / "in.mp4", 40)), PRESET, options)

    pipeline.enhance(plan, tmp_path / "out", OneByOne(Counting()), options)

    assert written[0] == 40
    assert max(waiting) <= QUEUE + 2


class OneByOne(Repeat):
    """A sampler that gives frames at every window step, as the real one does."""

    def __init__(self, networks: Repeat) -> None:
        self.decode = networks.decode  # type: ignore[method-assign]

    def sampler(self, plan: Plan, text: Tensor | None) -> RepeatSampler:
        return Trickle(len(plan.sampling.schedule))


class Trickle(RepeatSampler):
    def run(
        self, scene: Scene, keys: Iterator[Tensor], taken: int, progress: Callable[[], None]
    ) -> Iterator[Tensor]:
        turns = len(scene.windows) * self.steps
        for turn in range(turns):
            first, last = (scene.frames * (turn + k) // turns for k in (0, 1))
            yield torch.stack([next(keys) for _ in range(first, last)]) if last > first else EMPTY
