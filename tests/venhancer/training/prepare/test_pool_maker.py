"""Pools: how they are made, and their samples and batches."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.support.pool_parts import CONFIG, SETTINGS, silent, write_pool, write_pool_media
from venhancer.config import NANO
from venhancer.contract import condition_inputs
from venhancer.errors import OptionError
from venhancer.motion.neighbours import GAIN
from venhancer.training.data.media import UnusableError
from venhancer.training.data.pool import FIELDS, NAME, Pool, PoolBatches
from venhancer.training.data.sources import find_media
from venhancer.training.encoders import lapped_encoders
from venhancer.training.prepare import pool_maker
from venhancer.training.prepare.pool_maker import make_pool


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pool_media(tmp_path_factory.mktemp("films"))


@pytest.fixture(scope="module")
def folder(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pool(films, tmp_path_factory.mktemp("pools") / "pool")


@pytest.fixture(scope="module")
def pool(folder: Path) -> Pool:
    return Pool(folder)


# how it is made


def test_a_pool_holds_what_was_asked_for(pool: Pool, folder: Path) -> None:
    """The pool has the samples asked for, in parts of one size, and a record of its settings."""
    assert len(pool) == 12
    assert sorted(path.name for path in folder.iterdir()) == [
        "part-0000.npz",
        "part-0001.npz",
        NAME,
    ]
    settings = json.loads((folder / NAME).read_text())
    assert settings == json.loads(json.dumps(dataclasses.asdict(SETTINGS)))
    shapes = {name: pool.samples[name].shape[1:] for name in FIELDS}
    assert shapes == {
        "target": (3, 32, 32),
        "hint": (3, 32, 32),
        "aligned": (4, 3, 16, 16),
        "trust": (4, 8, 8),
        "scale": (),
        "level": (),
    }
    assert pool.samples["scale"].min() >= 1.4
    assert pool.samples["scale"].max() <= 8.1
    levels = set(pool.samples["level"].tolist())
    assert 0 in levels
    assert max(levels) >= SETTINGS.levels[0]


def test_making_a_pool_goes_on(
    films: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a stop in the second part, the first is kept, and the rest equals one run's."""
    out, whole = tmp_path / "pool", pool_maker.write_part
    media = find_media(films)

    def fail(folder: Path, number: int, crops: Any) -> None:
        if number == 1:
            (folder / "part-0001.part").write_bytes(b"half of it")
            raise KeyboardInterrupt
        whole(folder, number, crops)

    monkeypatch.setattr(pool_maker, "write_part", fail)
    with pytest.raises(KeyboardInterrupt):
        make_pool(media, out, NANO.model, SETTINGS, silent)
    assert len(Pool(out)) == SETTINGS.part
    first = (out / "part-0000.npz").stat().st_mtime_ns

    monkeypatch.setattr(pool_maker, "write_part", whole)
    make_pool(media, out, NANO.model, SETTINGS, silent)

    assert (out / "part-0000.npz").stat().st_mtime_ns == first
    for name, array in Pool(folder).samples.items():
        assert np.array_equal(Pool(out).samples[name], array), name


def test_a_pool_of_other_settings_is_left_alone(films: Path, folder: Path) -> None:
    """A pool may only grow."""
    before = (folder / NAME).read_text()

    with pytest.raises(OptionError, match="was made with other settings"):
        make_pool(
            find_media(films), folder, NANO.model, dataclasses.replace(SETTINGS, seed=4), silent
        )
    assert (folder / NAME).read_text() == before


def test_media_that_give_nothing_are_told(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error comes after some attempts, instead of an endless search."""

    def refuse(*_: Any) -> Any:
        raise UnusableError("too small")

    for name in ("_film_keys", "_photo_keys"):
        monkeypatch.setattr(pool_maker, name, refuse)
    with pytest.raises(OptionError, match="none of 200 films and photos in a row"):
        make_pool(find_media(films), tmp_path / "pool", NANO.model, SETTINGS, silent)


def keys_from(films: Path, kind: str) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    [sample] = [s for s in find_media(films) if s.kind == kind]
    draw = pool_maker._photo_keys if kind == "photo" else pool_maker._film_keys
    return next(iter(draw(sample, rng)))


@pytest.mark.parametrize("kind", ["photo", "video"])
def test_key_frames_are_five_in_a_row(films: Path, kind: str) -> None:
    """They move, and near ones are more similar than far ones."""
    keys = keys_from(films, kind)

    assert len(keys) == 5
    assert len({key.shape for key in keys}) == 1
    near, far = (np.abs(keys[0].astype(float) - keys[n]).mean() for n in (1, 4))
    assert 0 < near < far


def test_samples_line_up(films: Path) -> None:
    """Target, hint and neighbours are aligned: any shift of one of them fits worse."""
    settings = dataclasses.replace(SETTINGS, flawed_share=0.0, mild_share=0.0, crops=3, crop=64)
    keys = keys_from(films, "video")

    for crop in pool_maker._crops(keys, NANO.model, settings, np.random.default_rng(2)):
        target, hint = (torch.from_numpy(x).float() for x in (crop.target, crop.hint))
        for axis in (1, 2):
            for shift in (-2, 2):
                assert psnr(target, hint) > psnr(target, hint.roll(shift, axis)) + 0.5
        half = torch.nn.functional.avg_pool2d(target, 2)
        for aligned, trust in zip(crop.aligned, crop.trust, strict=True):
            moved = torch.from_numpy(aligned).float()
            if trust.mean() < 200:
                continue
            for axis in (1, 2):
                for shift in (-2, 2):
                    assert psnr(half, moved) > psnr(half, moved.roll(shift, axis)) + 0.5
    assert crop.scale > 1
    assert crop.level == 0


def psnr(a: Tensor, b: Tensor) -> float:
    inner = (..., slice(4, -4), slice(4, -4))
    return float(-10 * torch.log10(((a - b)[inner] / 255).square().mean()))


# its batches


def test_a_batch_is_what_the_contract_says(pool: Pool) -> None:
    """A batch has the target's latents and the network's inputs, in their ranges."""
    batch = pool.batch(np.arange(5), None)
    sizes = {"b": 5, "f": 1, "h": 8, "w": 8}
    wanted = {spec.name: spec.shape(sizes) for spec in condition_inputs(NANO.model)}

    assert batch.target.shape == batch.hint.shape == (5, 1, 3, 32, 32)
    assert lapped_encoders(2.0).pixels(batch.hint, torch.Generator()).shape == wanted["hint"]
    assert batch.neighbours is not None
    assert batch.neighbours.shape == wanted["neighbours"]
    for name in ("is_key", "noise_level", "scale"):
        assert getattr(batch, name).shape == wanted[name], name
    assert batch.target.min() >= -1
    assert batch.target.max() <= 1
    levels = pool.samples["level"][:5]
    assert torch.equal(batch.noise_level, (levels - 1).clamp(min=0))
    assert batch.is_key.all()
    gates = batch.neighbours[:, 48:]
    assert gates.min() >= 0
    assert gates.max() <= 1


def test_samples_are_mirrored_as_a_whole(pool: Pool) -> None:
    """Target, hint and neighbours are mirrored alike, in each of eight ways."""
    plain = pool.batch(np.arange(3), None)
    assert plain.neighbours is not None
    ways = set()
    for seed in range(40):
        turned = pool.batch(np.arange(3), np.random.default_rng(seed))
        assert turned.neighbours is not None
        found = [way for way in range(8) if torch.equal(turned.target, flipped(plain.target, way))]
        assert len(found) == 1
        ways |= set(found)
        assert torch.equal(turned.hint, flipped(plain.hint, found[0]))
        own, wanted = (differences(x) for x in (turned.neighbours, plain.neighbours))
        torch.testing.assert_close(own, flipped(wanted, found[0]), atol=1e-5, rtol=0)
    assert ways == set(range(8))


def flipped(x: Tensor, way: int) -> Tensor:
    x = x.flip(-1) if way & 1 else x
    x = x.flip(-2) if way & 2 else x
    return x.transpose(-1, -2) if way & 4 else x


def differences(neighbours: Tensor) -> Tensor:
    """Convert the first neighbour's differences to pixels: b n f h w -> b 3 2h 2w."""
    return torch.nn.functional.pixel_shuffle(neighbours[:, :12, 0], 2) / GAIN


def test_every_sample_comes_before_any_comes_again(pool: Pool) -> None:
    """A round is a permutation; the next round and other ranks have others."""
    batches = iter(PoolBatches(pool, CONFIG))
    rounds = [[name for _ in range(6) for name in next(batches).names] for _ in range(2)]
    others = iter(PoolBatches(pool, CONFIG, rank=1, world=2))

    assert [len(set(names)) for names in rounds] == [12, 12]
    assert rounds[0] != rounds[1]
    assert [name for _ in range(6) for name in next(others).names] != rounds[0]


@pytest.mark.parametrize("position", [1, 5, 6, 8])
def test_the_order_goes_on(pool: Pool, position: int) -> None:
    """From any position, within a round or in the next one, the remaining batches are the same."""
    whole, rest = (iter(PoolBatches(pool, CONFIG, position=n)) for n in (0, position))
    for _ in range(position):
        next(whole)

    for _ in range(7):
        one, other = next(whole), next(rest)
        assert one.names == other.names
        assert torch.equal(one.target, other.target)


def test_a_pool_smaller_than_a_batch_is_one(pool: Pool) -> None:
    """A batch has all samples at once, again and again."""
    batches = iter(PoolBatches(pool, dataclasses.replace(CONFIG, batch=16, micro_batch=16)))

    assert [len(next(batches).names) for _ in range(3)] == [12, 12, 12]
