"""Training on a pool: learning, measuring, and refusals by the commands."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.support.clips import small_preset
from tests.support.pool_parts import CONFIG, PRESET, write_pool, write_pool_media
from tests.support.training_parts import new_trainer
from venhancer import config as presets
from venhancer.config import NANO
from venhancer.errors import OptionError
from venhancer.training import __main__ as main
from venhancer.training import command
from venhancer.training.data.pool import NAME, Pool, open_pool
from venhancer.training.encoders import lapped_encoders
from venhancer.training.objective import DiffusionLoss
from venhancer.training.pool_validation import PoolValidation
from venhancer.weights.checkpoint import load_model


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pool_media(tmp_path_factory.mktemp("films"))


@pytest.fixture(scope="module")
def folder(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pool(films, tmp_path_factory.mktemp("pools") / "pool")


@pytest.fixture(scope="module")
def pool(folder: Path) -> Pool:
    return Pool(folder)


@pytest.fixture
def small_nano(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `--preset nano` a flat network that trains in no time."""
    monkeypatch.setitem(presets.PRESETS, "nano", PRESET)
    monkeypatch.setattr(command, "NANO_TRAINING", CONFIG)


def call(data: Path, run: Path, *more: str) -> int:
    return main.main(["--data", str(data), "-o", str(run), "--threads", "1", *more])


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "loss.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("small_nano")
def test_a_run_learns_and_goes_on(folder: Path, tmp_path: Path) -> None:
    """Twelve updates lower the loss, validated on a pool; two halves give the same bits."""
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
    """It learns from flawed samples, and resumes bit for bit, only with the body's own file."""
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
    """The two parts together are the pool."""
    flawed, clean = (Pool(folder, is_flawed) for is_flawed in (True, False))

    assert flawed.samples["level"].min() > 0
    assert not clean.samples["level"].any()
    assert len(flawed) + len(clean) == len(pool)


def test_a_pool_measures_a_network_always_alike(pool: Pool) -> None:
    """The scores are equal each time, and the network is in training mode afterwards."""
    measured = PoolValidation(pool, PRESET, CONFIG, lapped_encoders(2.0))
    model = new_trainer(PRESET, CONFIG).model

    first, again = (measured.measure(model) for _ in range(2))

    assert first == again
    assert all(score.psnr is not None and 10 < score.psnr < 60 for score in first.values())
    assert model.training


def test_the_loss_of_a_sample_of_a_pool_uses_its_neighbours(pool: Pool) -> None:
    """The objective passes the batch's neighbours to the network."""
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
    """Films for a model with neighbours, a pool for one without, and invalid pools are refused."""
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
    """The error has both numbers."""
    model = dataclasses.replace(PRESET.model, neighbours=2)

    assert len(open_pool(folder, PRESET.model)) == 12
    with pytest.raises(OptionError, match="with 4 neighbours, the model sees 2"):
        open_pool(folder, model)


def test_the_command_makes_a_pool(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Few samples make one part; latents and folders without media are refused."""
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
