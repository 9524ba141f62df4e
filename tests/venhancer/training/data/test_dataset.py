"""Batches of training: space-time augmentation, and a loader that can be resumed."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.support import training_parts
from tests.support.clips import write_clip
from tests.support.training_parts import random_clip, write_media
from venhancer.errors import OptionError
from venhancer.training.config import TrainingConfig
from venhancer.training.data import augmentation, dataset
from venhancer.training.data.augmentation import Batch, Take, make_batch
from venhancer.training.data.dataset import Clips
from venhancer.training.data.sources import Sample, open_sources

PAPER = TrainingConfig()
DRAWS = 8000


SMALL = dataclasses.replace(training_parts.SMALL, clips_a_decode=1, micro_batch=1)
MANY = dataclasses.replace(SMALL, clips_a_decode=6, batch=4, micro_batch=4)  # crops of each decode


@pytest.fixture
def media(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(dataset, "BLOCK_DECODES", 4)  # six micro-batches of MANY in a block
    return write_media(tmp_path / "media")


def stream_of(folder: Path, config: TrainingConfig = SMALL, **place: int) -> Clips:
    return Clips(open_sources([folder]), config, **place)


def loaded(clips: Clips, workers: int, count: int) -> list[Batch]:
    """Load training batches with so many worker processes."""
    loader = DataLoader(clips, batch_size=None, num_workers=workers)
    return list(itertools.islice(loader, count))


def assert_same(one: Sequence[Batch], two: Sequence[Batch]) -> None:
    for a, b in zip(one, two, strict=True):
        assert (a.names, a.captions) == (b.names, b.captions)
        for name in ("target", "hint", "is_key", "scale", "noise_level"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name


def test_strides_are_even_from_one_to_eight() -> None:
    """The paper: frame stride m is uniform in 1..8."""
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
    """t' is uniform in 1..300; the network is given 0..299."""
    rng = np.random.default_rng(0)

    drawn = np.array([augmentation.sample_noise_level(PAPER, rng) for _ in range(DRAWS)])

    assert set(drawn.tolist()) == set(range(300))
    assert np.abs(np.histogram(drawn, 10, (0, 300))[0] / DRAWS - 0.1).max() < 0.015


def test_a_tenth_of_the_captions_is_dropped() -> None:
    """The paper: text is dropped with probability 0.1, else unchanged."""
    rng = np.random.default_rng(0)

    kept = [augmentation.drop_text("a cat", PAPER, rng) for _ in range(DRAWS)]

    assert set(kept) == {"", "a cat"}
    assert abs(kept.count("") / DRAWS - 0.1) < 0.015


def test_degrading_is_bilinear_down_and_up() -> None:
    """s = 1 changes nothing; s = 4 removes detail, and keeps constant and linear pictures."""
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
    """Key frames are `stride` apart, include the first and last frame, and are at least two."""
    config = dataclasses.replace(SMALL, frames=frames, strides=(stride,), stride_weights=(1,))
    takes = [Take("clip", random_clip(frames=33))]

    batch = make_batch(takes, config, "bilinear", np.random.default_rng(0))

    length = batch.target.shape[1]
    keys = batch.is_key[0].nonzero().flatten().tolist()
    assert keys == list(range(0, length, stride))
    assert keys[-1] == length - 1 > 0
    assert frames - stride < length <= max(frames, stride + 1)


def test_a_batch_has_what_the_network_takes(media: Path) -> None:
    """A batch from files has shapes, ranges, captions and names, and its loading time."""
    batch = next(iter(stream_of(media, MANY)))

    frames = batch.target.shape[1]
    assert batch.target.shape == batch.hint.shape == (4, frames, 3, 32, 32)
    assert batch.is_key.shape == (4, frames)
    assert batch.scale.shape == batch.noise_level.shape == (4,)
    assert batch.noise_level.dtype == torch.int64
    assert batch.target.abs().max() <= 1
    assert set(batch.captions) <= {"", "waves that move to the right"}
    assert {Path(name).name for name in batch.names} <= {"a.mp4", "b.mkv", "photo.png"}
    assert batch.seconds > 0
    assert not batch.is_latent
    assert batch.text is None


def test_a_seed_decides_every_batch(media: Path) -> None:
    """The same seed gives the same batches; another seed, origin, rank or world size, others."""

    def first(seed: int = 1, **place: int) -> list[Batch]:
        config = dataclasses.replace(MANY, seed=seed)
        return list(itertools.islice(stream_of(media, config, **place), 2))

    one = first()

    assert_same(one, first())
    others = [first(2), first(origin=1), first(rank=1, world=2), first(world=2)]
    for other in others:
        assert not torch.equal(one[0].scale, other[0].scale)


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_a_resumed_loader_goes_on_bit_for_bit(media: Path, workers: int) -> None:
    """It resumes inside a block or between two, with any number of workers."""
    count, stops = (16, (1, 5, 6, 9, 12)) if workers == 0 else (9, (5,))
    whole = loaded(stream_of(media, MANY), workers, count)

    assert len({tuple(batch.scale.tolist()) for batch in whole}) == count
    for k in stops:
        resumed = loaded(stream_of(media, MANY, position=k), workers, min(4, count - k))
        assert_same(whole[k : k + 4], resumed)


@pytest.mark.parametrize("workers", [1, 2])
def test_whole_clips_resume_too(media: Path, workers: int) -> None:
    """With one clip a decode, a block is a micro-batch, and any of them can be the first."""
    config = dataclasses.replace(SMALL, micro_batch=2)
    whole = loaded(stream_of(media, config), workers, 8)

    for k in (1, 2, 5):
        assert_same(whole[k:], loaded(stream_of(media, config, position=k), workers, 8 - k))


def test_whole_blocks_are_passed_over_without_decoding(
    media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream resumed after a hundred blocks decodes only its next two blocks."""
    read: list[str] = []
    takes = Sample.takes

    def counted(sample: Sample, *rest: Any) -> Any:
        read.append(sample.name)
        return takes(sample, *rest)

    monkeypatch.setattr(Sample, "takes", counted)

    next(iter(stream_of(media, MANY, position=600)))

    assert 0 < len(read) < 3 * dataset.BLOCK_DECODES


def test_the_crops_of_a_decode_are_spread(tmp_path: Path) -> None:
    """A batch mixes several decodes; otherwise one video would fill many batches."""
    for n in range(8):
        write_clip(tmp_path / f"{n}.mp4", 8, 48, 48)

    batches = itertools.islice(stream_of(tmp_path, MANY), 24)

    assert np.mean([len(set(batch.names)) for batch in batches]) > 2


def test_what_cannot_be_used_is_skipped_and_told_once(media: Path) -> None:
    """A broken video, a renamed text, a short and a small video are each skipped with a reason."""
    (media / "broken.mp4").write_bytes((media / "a.mp4").read_bytes()[:500])
    (media / "text.mp4").write_text("no video at all\n" * 200)
    write_clip(media / "short.mp4", 3, 64, 48)
    write_clip(media / "small.mp4", 24, 24, 24)

    batches = list(itertools.islice(stream_of(media), 40))

    told = [line for batch in batches for line in batch.skipped]
    reasons = {Path(name).name: why for name, _, why in (line.partition(": ") for line in told)}
    assert len(told) == len(reasons) == 4
    assert reasons["broken.mp4"].startswith("cannot be read")
    assert reasons["text.mp4"].startswith("cannot be read")
    assert reasons["short.mp4"] == "too short: 3 frames where a clip takes 5"
    assert reasons["small.mp4"] == "too small: 24x24 where a crop takes 32x32"
    assert {Path(n).name for b in batches for n in b.names} == {"a.mp4", "b.mkv", "photo.png"}


def test_media_too_small_for_the_crop_are_refused(
    media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is one line, instead of an endless search."""
    monkeypatch.setattr(dataset, "PATIENCE", 5)

    with pytest.raises(OptionError, match=r"no clip of 640x480 and 5 frames .*\(too small: "):
        next(iter(stream_of(media, dataclasses.replace(SMALL, crop=(640, 480)))))


def test_a_model_with_text_wants_captions(media: Path) -> None:
    """One caption is enough, since the others count as dropped; without any, data are refused."""
    Clips(open_sources([media]), SMALL, needs_text=True)

    (media / "a.txt").write_text(" \n")
    with pytest.raises(OptionError, match=r"no sample has one: write a \.txt beside"):
        Clips(open_sources([media]), SMALL, needs_text=True)
