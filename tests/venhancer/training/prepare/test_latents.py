"""The latents stored by `venhancer-train prepare --latents` are those that training computes."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.clips import write_frames
from tests.support.film_parts import CONFIG, RULES, fill, scene
from tests.support.training_parts import pooled_encode
from venhancer.config import NANO
from venhancer.diffusion.schedule import noise_schedule
from venhancer.errors import OptionError
from venhancer.training.data import shards
from venhancer.training.data.augmentation import Take, degrade, make_batch
from venhancer.training.data.dataset import Clips
from venhancer.training.data.latents import pack_latents, read_latents, read_text
from venhancer.training.data.media import Extent, UnusableError, read_centre
from venhancer.training.data.sources import open_sources
from venhancer.training.encoders import Encoders, load_encoders
from venhancer.training.objective import encode_batch
from venhancer.training.prepare.latents import LatentMaker

VERSIONS = 3
NANO_RULES = dataclasses.replace(RULES, latents=VERSIONS)


def encode_text(captions: list[str]) -> Tensor:
    """Encode text for tests: b 3 8."""
    lengths = torch.tensor([len(caption) for caption in captions], dtype=torch.float32)
    return lengths[:, None, None].expand(-1, 3, 8).contiguous()


def parts_of(folder: Path, clip: int) -> shards.Members:
    """Find the positions of a sample's members."""
    found = {}
    for shard in folder.glob("*.tar"):
        found |= shards.index_shard(shard)
    return found[f"{clip:08}"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare two clips with NANO's latents."""
    folder = tmp_path_factory.mktemp("latents")
    write_frames(folder / "a.mp4", scene(1, 24) + scene(2, 24))
    (folder / "a.txt").write_text("blotches")
    maker = LatentMaker(load_encoders(NANO, "cpu"), CONFIG, NANO.model.upsampling, VERSIONS)
    fill(folder / "a.mp4", folder / "shards", maker, NANO_RULES)
    return folder / "shards"


def test_stored_latents_are_what_encoding_gives(prepared: Path) -> None:
    """Truth and hints agree at the stored scales, to float16."""
    parts = parts_of(prepared, 1)
    frames = read_centre(io.BytesIO(parts["mp4"].read()), CONFIG)
    encoders = load_encoders(NANO, "cpu")
    config = dataclasses.replace(CONFIG, frames=24)  # the whole clip
    seen = set()

    for seed in range(12):
        rng = np.random.default_rng(seed)
        target, hint, scale = read_latents(parts[shards.LATENTS], config, rng)
        seen.add(scale)
        true = frames.float() / 127.5 - 1
        shown = degrade(true, scale, NANO.model.upsampling)  # CONFIG: always bilinear downscaling
        for latents, pixels in ((target, true), (hint, shown)):
            wanted = encoders.pixels(pixels[None], torch.Generator())[0].transpose(0, 1)
            assert (latents.float() - wanted).abs().max() < 5e-3

    assert len(seen) == VERSIONS
    assert all(1 <= scale <= CONFIG.max_scale for scale in seen)


def test_the_objective_meets_the_same(prepared: Path) -> None:
    """Batches of latents and of pixels have the same keys, noise, text and clean latents."""
    config = dataclasses.replace(CONFIG, strides=(2,), stride_weights=(1,), clean_share=1.0)
    parts = parts_of(prepared, 0)
    encoders, sigmas = load_encoders(NANO, "cpu"), noise_schedule().float()
    target, hint, scale = read_latents(parts[shards.LATENTS], config, np.random.default_rng(0))
    start = int(np.random.default_rng(0).integers(24 - config.longest + 1))
    frames = read_centre(io.BytesIO(parts["mp4"].read()), config)[start:]

    batches = [
        make_batch([take], config, NANO.model.upsampling, np.random.default_rng(1))
        for take in (Take("a", target, "b", hint=hint, scale=scale), Take("a", frames, "b"))
    ]

    assert [batch.is_latent for batch in batches] == [True, False]
    assert batches[0].scale.item() == pytest.approx(scale)
    latent, pixel = (
        encode_batch(batch, encoders, sigmas, torch.Generator().manual_seed(0)) for batch in batches
    )
    assert batches[0].is_key.equal(batches[1].is_key)
    assert latent.noise.equal(pixel.noise)
    assert (latent.clean - pixel.clean).abs().max() < 5e-3
    assert latent.shown.shape == pixel.shown.shape


def test_the_loader_gives_latents(prepared: Path) -> None:
    """Latents are b c f h w, with captions and scales, and the same after a resume."""
    source = open_sources([prepared])
    config = dataclasses.replace(CONFIG, micro_batch=2)

    batches = [b for b, _ in zip(Clips(source, config, needs_text=True), range(3), strict=False)]

    for batch in batches:
        frames = batch.is_key.shape[1]
        assert batch.is_latent
        assert batch.target.shape == batch.hint.shape == (2, 48, frames, 8, 8)
        assert batch.target.dtype == torch.float32
        assert set(batch.captions) <= {"", "blotches"}
        assert batch.text is None
    again = next(iter(Clips(source, config, position=2)))
    assert again.target.equal(batches[2].target)
    assert again.scale.equal(batches[2].scale)


def test_text_is_stored_with_its_absence(tmp_path: Path) -> None:
    """A model with text stores an embedding for each caption, and one for a dropped caption."""
    write_frames(tmp_path / "a.mp4", scene(1, 24))
    (tmp_path / "a.txt").write_text("blotches")
    maker = LatentMaker(Encoders(pooled_encode, encode_text), CONFIG, "bilinear", 1)
    fill(tmp_path / "a.mp4", tmp_path / "out", maker, dataclasses.replace(RULES, latents=1))
    source = open_sources([tmp_path / "out"])

    for drop, caption in ((0.0, "blotches"), (1.0, "")):
        batch = next(iter(Clips(source, dataclasses.replace(CONFIG, text_drop=drop))))
        assert batch.captions == [caption] * len(batch.captions)
        assert batch.target.shape[1] == 4
        assert batch.text is not None
        assert batch.text.equal(encode_text(batch.captions))


def file_of(folder: Path, frames: int, crop: tuple[int, int] = (32, 32)) -> Extent:
    """Make latents whose values encode frame and hint numbers, inside a larger file."""
    target = torch.arange(frames).float()[:, None, None, None].expand(-1, 4, 2, 3)
    hints = torch.stack([target + 100 * n for n in (1, 2)])
    content = pack_latents(target, hints, [1.5, 3.0], crop)
    (folder / "file").write_bytes(b"before" + content + b"after")
    return Extent(folder / "file", len(b"before"), len(content))


def test_only_the_frames_asked_for_are_read(tmp_path: Path) -> None:
    """Any run of frames can be read, of the truth and of one matching hint."""
    media = file_of(tmp_path, 12)
    starts, scales = set(), set()

    for seed in range(30):
        target, hint, scale = read_latents(media, CONFIG, np.random.default_rng(seed))
        first = int(target[0, 0, 0, 0])
        assert target.shape == hint.shape == (CONFIG.longest, 4, 2, 3)
        assert target[:, 0, 0, 0].tolist() == list(range(first, first + CONFIG.longest))
        assert (hint - target).unique().tolist() == [100 if scale == 1.5 else 200]
        starts.add(first)
        scales.add(scale)

    assert starts == set(range(8))
    assert scales == {1.5, 3.0}


def test_latents_that_do_not_fit_are_told(tmp_path: Path) -> None:
    """Short or damaged latents are skipped; another crop is refused, since all have it."""
    rng = np.random.default_rng(0)

    with pytest.raises(UnusableError, match="too short: 3 frames where a clip takes 5"):
        read_latents(file_of(tmp_path, 3), CONFIG, rng)
    with pytest.raises(OptionError, match="latents of 64x32 pixels, and training takes 32x32"):
        read_latents(file_of(tmp_path, 12, (64, 32)), CONFIG, rng)
    (tmp_path / "junk").write_bytes(b"\4\0\0\0\0\0\0\0junk")
    with pytest.raises(UnusableError, match="cannot be read"):
        read_latents(Extent(tmp_path / "junk"), CONFIG, rng)
    with pytest.raises(UnusableError, match="its text cannot be read"):
        read_text(Extent(tmp_path / "junk"))
    whole = file_of(tmp_path, 12)
    whole.path.write_bytes(whole.path.read_bytes()[:1000])
    with pytest.raises(UnusableError, match="cannot be read"):
        read_latents(whole, CONFIG, rng)


def test_latents_and_videos_do_not_mix(prepared: Path) -> None:
    """A micro-batch is of one kind, so all data must be."""
    with pytest.raises(OptionError, match="some of the data are latents and some are not"):
        open_sources([prepared, prepared.parent])
