"""What training shows the network: space-time augmentation, clips out of videos and photos."""

from __future__ import annotations

import dataclasses
import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from tests.clips import moving_frames
from tests.training_parts import SMALL, random_clip, write_media
from venhancer.errors import OptionError
from venhancer.training import augmentation, dataset
from venhancer.training.augmentation import Batch, make_batch
from venhancer.training.config import TrainingConfig
from venhancer.training.dataset import Clips

PAPER = TrainingConfig()
DRAWS = 8000


@pytest.fixture
def media(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(dataset, "BUFFER", 32)
    return write_media(tmp_path / "media")


def write_frames(path: Path, frames: list[Any]) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(24))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_strides_are_even_from_one_to_eight() -> None:
    """The paper: frame stride m uniform in 1..8."""
    rng = np.random.default_rng(0)

    drawn = [augmentation.sample_stride(PAPER, rng) for _ in range(DRAWS)]

    shares = np.bincount(drawn, minlength=9) / DRAWS
    assert shares[0] == 0
    assert np.abs(shares[1:] - 1 / 8).max() < 0.015


def test_scales_are_drawn_in_proportion_to_the_scale() -> None:
    """The paper: s in [1, 8], 4x to 8x as 1:2."""
    rng = np.random.default_rng(0)

    drawn = np.array([augmentation.sample_scale(PAPER, rng) for _ in range(DRAWS)])

    assert 1 <= drawn.min() < 1.2
    assert 7.99 < drawn.max() <= 8
    for s in (2, 4, 6):  # a density of s / 31.5
        assert abs((drawn < s).mean() - (s**2 - 1) / 63) < 0.02
    near_8, near_4 = (drawn > 7.5).sum(), ((drawn > 3.75) & (drawn < 4.25)).sum()
    assert 1.6 < near_8 / near_4 < 2.4


def test_noise_levels_are_the_papers_less_one() -> None:
    """t' is even in 1..300; the network is told 0..299."""
    rng = np.random.default_rng(0)

    drawn = np.array([augmentation.sample_noise_level(PAPER, rng) for _ in range(DRAWS)])

    assert set(drawn.tolist()) == set(range(300))
    assert np.abs(np.histogram(drawn, 10, (0, 300))[0] / DRAWS - 0.1).max() < 0.015


def test_a_tenth_of_the_captions_is_dropped() -> None:
    """The paper: text dropped with probability 0.1, else untouched."""
    rng = np.random.default_rng(0)

    kept = [augmentation.drop_text("a cat", PAPER, rng) for _ in range(DRAWS)]

    assert set(kept) == {"", "a cat"}
    assert abs(kept.count("") / DRAWS - 0.1) < 0.015


def test_degrading_is_bilinear_down_and_up() -> None:
    """Nothing at s = 1; at s = 4 detail is gone, a level and a slope are what they were."""
    slope = torch.linspace(-1, 1, 64).expand(2, 3, 64, 64)
    checks = (torch.arange(64)[:, None] + torch.arange(64)).remainder(2).float() * 2 - 1
    checks = checks.expand(2, 3, 64, 64)

    torch.testing.assert_close(augmentation.degrade(checks, 1.0, "bilinear"), checks)
    assert augmentation.degrade(checks, 4.0, "bilinear").abs().max() < 0.05
    inner = augmentation.degrade(slope, 4.0, "bilinear")[..., 8:-8]
    torch.testing.assert_close(inner, slope[..., 8:-8], atol=1e-4, rtol=0)


@pytest.mark.parametrize("frames", [5, 33])
@pytest.mark.parametrize("stride", range(1, 9))
def test_a_clip_ends_on_a_key_frame(stride: int, frames: int) -> None:
    """Key frames lie `stride` apart, the first and the last frame among them, and there are two."""
    config = dataclasses.replace(SMALL, frames=frames, strides=(stride,), stride_weights=(1,))
    clips = [(random_clip(frames=33), "")]

    batch = make_batch(clips, config, "bilinear", np.random.default_rng(0))

    length = batch.target.shape[1]
    keys = batch.is_key[0].nonzero().flatten().tolist()
    assert keys == list(range(0, length, stride))
    assert keys[-1] == length - 1 > 0
    assert frames - stride < length <= max(frames, stride + 1)


def test_a_batch_has_what_the_network_takes(media: Path) -> None:
    """Shapes, ranges and captions of a batch out of files."""
    batch = next(iter(Clips([media], dataclasses.replace(SMALL, batch=6))))

    frames = batch.target.shape[1]
    assert batch.target.shape == batch.hint.shape == (6, frames, 3, 32, 32)
    assert batch.is_key.shape == (6, frames)
    assert batch.scale.shape == batch.noise_level.shape == (6,)
    assert batch.noise_level.dtype == torch.int64
    assert batch.target.abs().max() <= 1
    assert set(batch.captions) <= {"", "waves that move to the right"}


def test_a_seed_decides_every_batch(media: Path) -> None:
    """The same seed, the same batches; another seed or start, others."""

    def first(seed: int, start_step: int = 0) -> list[Batch]:
        config = dataclasses.replace(SMALL, seed=seed)
        return list(itertools.islice(Clips([media], config, start_step=start_step), 3))

    one, two = first(1), first(1)

    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.target, b.target)
        assert torch.equal(a.hint, b.hint)
        assert torch.equal(a.noise_level, b.noise_level)
    for other in (first(2), first(1, start_step=1)):
        assert not torch.equal(one[0].scale, other[0].scale)


def test_photos_become_moving_clips(media: Path) -> None:
    """A virtual camera glides over a photo: every frame is another, without a cut."""
    rng = np.random.default_rng(0)

    clips = list(dataset.photo_clips(media / "photo.png", SMALL, rng))

    assert len(clips) == dataset.CLIPS_A_DECODE
    for clip in clips:
        assert clip.shape == (SMALL.frames, 3, 32, 32)
        assert clip.dtype == torch.uint8
        assert all(not torch.equal(a, b) for a, b in itertools.pairwise(clip))
        assert not dataset.has_cut(clip)


def test_cuts_are_left_out(tmp_path: Path) -> None:
    """No clip goes from one scene to the next, and both scenes give clips."""
    scene = moving_frames(10, 48, 48)
    frames = [frame // 4 for frame in scene] + [255 - frame // 4 for frame in scene]
    video = write_frames(tmp_path / "cut.mp4", frames)
    rng = np.random.default_rng(0)

    clips = [c for _ in range(3) for c in dataset.video_clips(video, SMALL, rng)]

    assert 0 < len(clips) < 3 * dataset.CLIPS_A_DECODE
    levels = [clip.float().mean(dim=(1, 2, 3)) for clip in clips]
    assert all(level.max() - level.min() < 20 for level in levels)
    assert {bool(level.mean() > 127) for level in levels} == {False, True}


def test_files_that_cannot_be_read_are_passed_over(media: Path) -> None:
    """A broken video, a broken photo and a text by the name of a video stop nobody."""
    (media / "broken.mp4").write_bytes((media / "a.mp4").read_bytes()[:500])
    (media / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    (media / "empty.avi").write_bytes(b"")

    batches = list(itertools.islice(Clips([media], SMALL), 4))

    assert len(batches) == 4


def test_media_too_small_for_the_crop_are_refused(
    media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line instead of a search without end."""
    monkeypatch.setattr(dataset, "PATIENCE", 5)

    with pytest.raises(OptionError, match="no clip of 640x480 and 5 frames"):
        next(iter(Clips([media], dataclasses.replace(SMALL, crop=(640, 480)))))
