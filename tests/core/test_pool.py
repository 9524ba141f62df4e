"""Pools: how they are made, what their samples are, and a training run on one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from tests.clips import small_preset, write_frames
from tests.core.test_motion import picture
from tests.training_parts import new_trainer
from venhancer import config as presets
from venhancer.config import NANO
from venhancer.contract import condition_inputs
from venhancer.errors import OptionError
from venhancer.neighbours import GAIN
from venhancer.training import __main__ as main
from venhancer.training import command, pool_maker
from venhancer.training.config import TrainingConfig
from venhancer.training.encoders import lapped_encoders
from venhancer.training.media import UnusableError
from venhancer.training.objective import DiffusionLoss
from venhancer.training.pool import FIELDS, NAME, Pool, PoolBatches, open_pool
from venhancer.training.pool_maker import PoolSettings, make_pool
from venhancer.training.pool_validation import PoolValidation
from venhancer.training.sources import find_media
from venhancer.weights import load_model

SETTINGS = PoolSettings(samples=12, crop=32, crops=4, part=6, flawed_share=0.5, seed=3)
FLAT = dataclasses.replace(NANO.model.unet, base_channels=16, blocks_per_level=1, repair_blocks=1)
PRESET = dataclasses.replace(NANO, model=dataclasses.replace(NANO.model, unet=FLAT))
CONFIG = TrainingConfig(
    frames=1,
    crop=(32, 32),
    strides=(1,),
    stride_weights=(1,),
    start_share=0.8,
    grid_weight=1.0,
    batch=4,
    micro_batch=2,
    learning_rate=3e-3,
    warmup_steps=1,
    steps=4,
    trains_prior=True,
    precision="float32",
    checkpoint_activations=False,
)


def silent(_: str) -> None:
    pass


def scenery(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """Coarse blotches, which a fourth of the size can show, with some detail that it cannot."""
    coarse = cv2.resize(picture(height // 4, width // 4, seed), (width, height), interpolation=2)
    mixed = 0.8 * coarse + 0.2 * picture(height, width, seed + 1).astype(float)
    return mixed.astype(np.uint8)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film in which the camera pans, and a photo."""
    folder = tmp_path_factory.mktemp("films")
    wide = scenery(480, 264, 1)
    frames = [np.ascontiguousarray(wide[:, 2 * n : 2 * n + 384]) for n in range(36)]
    write_frames(folder / "pan.mp4", frames)
    Image.fromarray(scenery(680, 512, 5)).save(folder / "photo.png")
    return folder


@pytest.fixture(scope="module")
def folder(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of two parts."""
    out = tmp_path_factory.mktemp("pools") / "pool"
    make_pool(find_media(films), out, NANO.model, SETTINGS, silent)
    return out


@pytest.fixture(scope="module")
def pool(folder: Path) -> Pool:
    return Pool(folder)


# how it is made


def test_a_pool_holds_what_was_asked_for(pool: Pool, folder: Path) -> None:
    """As many samples in parts of one size, and beside them how they were made."""
    assert len(pool) == 12
    assert sorted(path.name for path in folder.iterdir()) == [
        "part-0000.npz",
        "part-0001.npz",
        NAME,
    ]
    settings = json.loads((folder / NAME).read_text())
    assert settings == json.loads(json.dumps(dataclasses.asdict(SETTINGS)))
    shapes = {name: pool.arrays[name].shape[1:] for name in FIELDS}
    assert shapes == {
        "target": (3, 32, 32),
        "hint": (3, 32, 32),
        "aligned": (4, 3, 16, 16),
        "trust": (4, 8, 8),
        "scale": (),
        "level": (),
    }
    assert pool.arrays["scale"].min() >= 1.4
    assert pool.arrays["scale"].max() <= 8.1
    levels = set(pool.arrays["level"].tolist())
    assert 0 in levels
    assert max(levels) >= SETTINGS.levels[0]


def test_making_a_pool_goes_on(
    films: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken off in the second part: the first is there, and the rest comes as in one go."""
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
    for name, array in Pool(folder).arrays.items():
        assert np.array_equal(Pool(out).arrays[name], array), name


def test_a_pool_of_other_settings_is_left_alone(films: Path, folder: Path) -> None:
    """It may only grow."""
    before = (folder / NAME).read_text()

    with pytest.raises(OptionError, match="was made with other settings"):
        make_pool(
            find_media(films), folder, NANO.model, dataclasses.replace(SETTINGS, seed=4), silent
        )
    assert (folder / NAME).read_text() == before


def test_media_that_give_nothing_are_told(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some patience, rather than never."""

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
    """They move, and near ones are nearer than far ones."""
    keys = keys_from(films, kind)

    assert len(keys) == 5
    assert len({key.shape for key in keys}) == 1
    near, far = (np.abs(keys[0].astype(float) - keys[n]).mean() for n in (1, 4))
    assert 0 < near < far


def test_samples_line_up(films: Path) -> None:
    """Target, hint and neighbours show one place: any shift of one of them fits worse."""
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
    """Latents of the target and all that the network is shown of it, in their ranges."""
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
    levels = torch.from_numpy(pool.arrays["level"][:5])
    assert torch.equal(batch.noise_level, (levels - 1).clamp(min=0))
    assert batch.is_key.all()
    gates = batch.neighbours[:, 48:]
    assert gates.min() >= 0
    assert gates.max() <= 1


def test_samples_are_mirrored_as_a_whole(pool: Pool) -> None:
    """Target, hint and neighbours in the same way, in each of eight."""
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
    """b n f h w -> the pixels of the first neighbour's differences: b 3 2h 2w."""
    return torch.nn.functional.pixel_shuffle(neighbours[:, :12, 0], 2) / GAIN


def test_every_sample_comes_before_any_comes_again(pool: Pool) -> None:
    """A round is a permutation, the next one another; another rank's is another, too."""
    batches = iter(PoolBatches(pool, CONFIG))
    rounds = [[name for _ in range(6) for name in next(batches).names] for _ in range(2)]
    others = iter(PoolBatches(pool, CONFIG, rank=1, world=2))

    assert [len(set(names)) for names in rounds] == [12, 12]
    assert rounds[0] != rounds[1]
    assert [name for _ in range(6) for name in next(others).names] != rounds[0]


@pytest.mark.parametrize("position", [1, 5, 6, 8])
def test_the_order_goes_on(pool: Pool, position: int) -> None:
    """From any position, within a round or in the next one: the very batches that were left."""
    whole, rest = (iter(PoolBatches(pool, CONFIG, position=n)) for n in (0, position))
    for _ in range(position):
        next(whole)

    for _ in range(7):
        one, other = next(whole), next(rest)
        assert one.names == other.names
        assert torch.equal(one.target, other.target)


def test_a_pool_smaller_than_a_batch_is_one(pool: Pool) -> None:
    """All samples at once, again and again."""
    batches = iter(PoolBatches(pool, dataclasses.replace(CONFIG, batch=16, micro_batch=16)))

    assert [len(next(batches).names) for _ in range(3)] == [12, 12, 12]


# training on it


@pytest.fixture
def small_nano(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--preset nano` is a flat network that trains in no time."""
    monkeypatch.setitem(presets.PRESETS, "nano", PRESET)
    monkeypatch.setattr(command, "NANO_TRAINING", CONFIG)


def call(data: Path, run: Path, *more: str) -> int:
    return main.main(["--data", str(data), "-o", str(run), "--threads", "1", *more])


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "loss.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("small_nano")
def test_a_run_learns_and_goes_on(folder: Path, tmp_path: Path) -> None:
    """Twelve updates lower the loss, validated on a pool; in two halves they are the same bits."""
    check = ("--validate", str(folder))
    assert call(folder, tmp_path / "whole", "--steps", "12", *check) == 0
    assert call(folder, tmp_path / "halves", "--steps", "5") == 0
    assert call(folder, tmp_path / "halves", "--steps", "12", "--resume") == 0

    whole, halves = (losses(tmp_path / name) for name in ("whole", "halves"))
    weights = [tmp_path / name / "model.safetensors" for name in ("whole", "halves")]
    assert halves == whole
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert sum(whole[-3:]) < sum(whole[:3])
    assert load_model(weights[0], NANO)[1] == PRESET
    assert (tmp_path / "whole" / "best.safetensors").is_file()
    [line] = (tmp_path / "whole" / "validation.jsonl").read_text().splitlines()
    assert {cell["noise_level"] for cell in json.loads(line)["cells"]} == {0, 100}


@pytest.mark.usefixtures("small_nano")
def test_the_repair_learns_round_a_frozen_body(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On flawed samples; it goes on, bit for bit, with the file that the body came from alone."""
    assert call(folder, tmp_path / "body", "--steps", "3") == 0
    body = tmp_path / "body" / "model.safetensors"
    options = ("--weights", str(body), "--set", "trains_repair=True")

    assert call(folder, tmp_path / "whole", *options, "--steps", "4") == 0
    assert call(folder, tmp_path / "halves", *options, "--steps", "2") == 0
    capsys.readouterr()
    assert call(folder, tmp_path / "halves", *options[2:], "--steps", "4", "--resume") == 2
    assert "other frozen weights: name the same file" in refusal(capsys)
    assert call(folder, tmp_path / "halves", *options, "--steps", "4", "--resume") == 0

    whole, halves = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "halves"))
    before = load_file(body)
    for name, tensor in whole.items():
        assert torch.equal(tensor, halves[name]), name
        if not name.startswith("controller.repair"):
            assert torch.equal(tensor, before[name]), name
    assert whole["controller.repair.head.weight"].any()
    assert not before["controller.repair.head.weight"].any()


def test_clean_and_flawed_samples_can_be_told_apart(pool: Pool, folder: Path) -> None:
    """Together they are the pool."""
    flawed, clean = (Pool(folder, is_flawed) for is_flawed in (True, False))

    assert flawed.arrays["level"].min() > 0
    assert not clean.arrays["level"].any()
    assert len(flawed) + len(clean) == len(pool)


def test_a_pool_measures_a_network_always_alike(pool: Pool) -> None:
    """The same scores each time, and the network is left training."""
    measured = PoolValidation(pool, PRESET, CONFIG, lapped_encoders(2.0))
    model = new_trainer(PRESET, CONFIG).model

    first, again = (measured.measure(model) for _ in range(2))

    assert first == again
    assert all(score.psnr is not None and 10 < score.psnr < 60 for score in first.values())
    assert model.training


def test_the_loss_of_a_sample_of_a_pool_uses_its_neighbours(pool: Pool) -> None:
    """The objective shows the network what the batch holds."""
    seen: dict[str, Tensor] = {}
    batch = pool.batch(np.arange(2), None)

    def network(latents: Tensor, **conditions: Tensor) -> Tensor:
        seen.update(conditions)
        return latents

    sigmas = new_trainer(PRESET, CONFIG).model.sigmas
    loss = DiffusionLoss(PRESET.model, CONFIG, lapped_encoders(2.0), sigmas)
    loss(network, batch, torch.Generator().manual_seed(0))  # type: ignore[arg-type]

    assert seen["neighbours"] is batch.neighbours
    assert seen["hint"].shape == (2, 48, 1, 8, 8)


# what is refused


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_data_of_the_wrong_kind_is_one_line(
    folder: Path,
    films: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Films for a model with neighbours, a pool for one without, and pools that are none."""
    run, empty, other = tmp_path / "run", tmp_path / "empty", tmp_path / "other"
    for path in (empty, other):
        path.mkdir()
    (other / NAME).write_text("{}")
    for data, words in (
        (films, "trains on one pool"),
        (empty, "make it by `venhancer-train pool"),
        (other, "holds no clean samples"),
    ):
        assert call(data, run) == 2
        assert words in refusal(capsys)
    assert call(folder, run, "--validate", str(films), "--steps", "1") == 2
    assert f"--validate {films}" in refusal(capsys)
    monkeypatch.setitem(presets.PRESETS, "nano", small_preset())
    assert call(folder, run) == 2
    assert "is a pool of aligned key frames, and preset 'nano' sees none" in refusal(capsys)
    assert not run.exists()


def test_a_pool_of_other_neighbours_is_refused(folder: Path) -> None:
    """Both numbers are told."""
    model = dataclasses.replace(PRESET.model, neighbours=2)

    assert len(open_pool(folder, PRESET.model)) == 12
    with pytest.raises(OptionError, match="with 4 neighbours, the model sees 2"):
        open_pool(folder, model)


def test_the_command_makes_a_pool(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One part where few samples are asked for; latents and folders without media are refused."""
    out, empty = tmp_path / "pool", tmp_path / "empty"
    empty.mkdir()

    assert main.main(["pool", str(films), "-o", str(out), "--samples", "12"]) == 0
    assert [path.name for path in sorted(out.iterdir())] == ["part-0000.npz", NAME]
    assert len(Pool(out)) == 12
    assert capsys.readouterr().out == "12 samples\n"
    assert main.main(["pool", str(empty), "-o", str(out)]) == 2
    assert "no video and no photo below" in refusal(capsys)
    assert main.main(["pool", str(films), "-o", str(out), "--seed", "1"]) == 2
    assert "was made with other settings" in refusal(capsys)
