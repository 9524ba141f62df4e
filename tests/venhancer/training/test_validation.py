"""Validation: its scores, its reproducibility, and its sample videos."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.support.clips import moving_frames, read_all, small_preset, write_clip
from venhancer.config import Preset
from venhancer.errors import OptionError
from venhancer.model.denoiser import Denoiser, make_denoiser
from venhancer.training.config import TrainingConfig
from venhancer.training.data.held_out import HeldOut, read_held_out
from venhancer.training.data.samples import sampling_networks, write_samples
from venhancer.training.encoders import Encoders, lapped_encoders
from venhancer.training.parallel import checkpoint_activations, halve_frozen
from venhancer.training.validation import (
    GRID,
    Cell,
    Score,
    Validation,
    describe,
    from_record,
    picture,
    to_record,
    worst,
)

CONFIG = TrainingConfig(
    frames=5, crop=(32, 32), strides=(1, 2), stride_weights=(1, 1), precision="float32"
)
CELLS = (Cell(1, 2, 0), Cell(2, 4, 100), Cell(4, 8, 250))


def held_out(count: int = 2, frames: int = 5) -> list[HeldOut]:
    moving = [torch.from_numpy(frame) for frame in moving_frames(frames + count, 32, 32)]
    clips = [torch.stack(moving[i : i + frames]).permute(0, 3, 1, 2) for i in range(count)]
    return [HeldOut(f"clip{i}", clip, "") for i, clip in enumerate(clips)]


def random_model(preset: Preset) -> Denoiser:
    torch.manual_seed(0)
    model = make_denoiser(preset.model)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02)
    return model


def validation(count: int = 2) -> Validation:
    preset = small_preset()
    encoders = lapped_encoders(preset.model.latent_scale)
    return Validation(held_out(count), preset, CONFIG, encoders, CELLS)


class Known(nn.Module):
    """Predicts v of pixels that it knows, off by `error`; counts its calls."""

    def __init__(self, clean: Tensor, sigmas: Tensor, error: float = 0.0) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.clean, self.sigmas, self.error = clean, sigmas, error
        self.calls = 0

    def forward(self, *, latents: Tensor, timestep: Tensor, **_: Any) -> Tensor:
        assert not self.training
        self.calls += 1
        sigma = self.sigmas[timestep][:, None, None, None, None]
        clean = self.clean[:, :, : latents.shape[2]]
        return ((1 - sigma**2).sqrt() * latents - clean) / sigma + self.error


def test_the_grid_covers_what_training_shows() -> None:
    """The grid has strides 1 to 8, scales 2 to 8, three noise levels; short clips omit strides."""
    assert len(GRID) == 36
    assert Cell(8, 8, 250) in GRID

    measured = Validation(held_out(), small_preset(), CONFIG, lapped_encoders(2.0))

    assert {cell.stride for cell in measured.cells} == {1, 2, 4}
    with pytest.raises(OptionError, match="too short"):
        Validation(held_out(), small_preset(), CONFIG, lapped_encoders(2.0), [Cell(8, 2, 0)])


def test_the_same_weights_measure_the_same() -> None:
    """Scores are equal bit for bit, whatever was drawn in between; other weights have others."""
    model = random_model(small_preset()).train()
    first = validation(count=1).measure(model)
    torch.rand(3)

    assert validation(count=1).measure(model) == first
    assert model.training
    with torch.no_grad():
        model.unet.head.weight.mul_(1.5)
    assert validation(count=1).measure(model) != first


def test_processes_share_the_work() -> None:
    """Together they do all cells and clips, with equal numbers of forwards, and the same scores."""
    measured = validation(count=1)
    model = random_model(small_preset())
    whole = measured.measure_share(model, 0, 1)

    shares = [measured.measure_share(model, rank, 2) for rank in range(2)]

    assert {key: score for share in shares for key, score in share.items()} == whole
    assert len(whole) == 3
    assert [len(share) for share in shares] == [2, 2]
    many = [measured.measure_share(model, rank, 5) for rank in range(5)]
    assert [len(share) for share in many] == [1] * 5


def test_processes_tell_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process ends up with all scores."""
    measured, model = validation(count=1), random_model(small_preset())
    other = measured.measure_share(model, 1, 2)

    def gather(parts: list[Any], own: Any) -> None:
        parts[:] = [own, other]

    monkeypatch.setattr(dist, "all_gather_object", gather)

    assert measured.measure(model, rank=0, world=2) == measured.measure(model)


def test_the_loss_is_the_objective() -> None:
    """A `v` model's loss is zero for a right prediction, else the square of its error."""
    preset = small_preset()
    model = dataclasses.replace(preset.model, prediction="v", residual_std=0.0)
    preset = dataclasses.replace(preset, model=model)
    captions: list[list[str]] = []

    def encode_text(texts: list[str]) -> Tensor:
        captions.append(texts)
        return torch.zeros(len(texts), 1, 4)

    pixels = lapped_encoders(2.0).pixels
    [clip] = held_out(1)
    measured = Validation([clip], preset, CONFIG, Encoders(pixels, encode_text), CELLS)
    clean = pixels(clip.frames[None].float() / 127.5 - 1, torch.Generator())
    sigmas = random_model(small_preset()).sigmas

    right = measured.measure(Known(clean, sigmas))
    wrong = measured.measure(Known(clean, sigmas, error=0.5))

    assert all(score.loss < 1e-5 for score in right.values())
    assert [score.loss for score in wrong.values()] == pytest.approx([0.25] * 3, rel=1e-2)
    assert all(score.psnr is None for score in right.values())
    assert captions[0] == [clip.caption]


def test_what_decodes_has_a_psnr() -> None:
    """It has one if decoding costs nothing; an untrained network's is finite and poor."""
    scores = validation(count=1).measure(random_model(small_preset()))

    assert all(score.psnr is not None and 0 < score.psnr < 60 for score in scores.values())


def some_scores(factor: float = 1.0) -> dict[Cell, Score]:
    cells = itertools.product((1, 2), (2, 4, 8), (0, 100))
    return {
        Cell(*cell): Score(factor * (1 + i), 30.0 if i else None) for i, cell in enumerate(cells)
    }


def test_the_worst_cell_is_told() -> None:
    """It has the largest loss, or the smallest improvement since the first validation."""
    scores = some_scores()
    later = {
        cell: dataclasses.replace(score, loss=score.loss / 2) for cell, score in scores.items()
    }
    later[Cell(1, 4, 0)] = Score(2.9)

    assert worst(scores) == (Cell(2, 8, 100), 12.0)
    assert worst(later, scores) == (Cell(1, 4, 0), pytest.approx(2.9 / 3))
    text = describe(later, scores)
    assert "worst stride 1, 4x, noise level 0: 0.967 of its first loss" in text
    assert text.count("noise level 100\n") == 1
    assert "2x" in text and "30.00 dB" in text


def test_a_record_is_read_back() -> None:
    """A line of validation.jsonl holds every score, and no psnr if there is none."""
    record = to_record(250, some_scores())

    assert from_record(record) == some_scores()
    assert record["step"] == 250
    assert record["mean"] == pytest.approx(6.5)
    assert "psnr" not in record["cells"][0]
    assert "psnr" in record["cells"][1]


def test_the_picture_darkens_with_the_loss() -> None:
    """Each cell is a square: white if its loss has not improved on the first validation."""
    first, later = some_scores(), some_scores(0.5)
    later[Cell(2, 8, 100)] = Score(24.0)

    drawn = picture(later, first)

    assert drawn.shape == (2 * 24, 6 * 24, 3)
    assert drawn[0, 0, 0] == 127
    assert drawn[-1, -1, 0] == 255


def test_held_out_clips_are_the_same_each_time(tmp_path: Path) -> None:
    """They are the centres of the first frames, by name; small and short videos are left out."""
    write_clip(tmp_path / "b.mp4", 12, 64, 48)
    write_clip(tmp_path / "a.mp4", 12, 64, 48, fps="48")
    write_clip(tmp_path / "short.mp4", 3, 64, 48)
    write_clip(tmp_path / "small.mp4", 12, 24, 48)
    (tmp_path / "b.txt").write_text("waves\n")

    clips = read_held_out(tmp_path, CONFIG)

    assert [(clip.name, clip.caption) for clip in clips] == [("a", ""), ("b", "waves")]
    assert all(clip.frames.shape == (5, 3, 32, 32) for clip in clips)
    decoded = torch.from_numpy(read_all(tmp_path / "a.mp4")[2]).permute(2, 0, 1)
    assert torch.equal(clips[0].frames[1], decoded[:, 8:40, 16:48])  # every other at 48 fps
    assert len(read_held_out(tmp_path, CONFIG, count=1)) == 1
    longer = read_held_out(tmp_path, CONFIG, frames=9)
    assert [len(clip.frames) for clip in longer] == [6, 9]
    with pytest.raises(OptionError, match="no video of 128x128"):
        read_held_out(tmp_path, dataclasses.replace(CONFIG, crop=(128, 128)))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_samples_show_input_output_and_truth(tmp_path: Path, precision: Any) -> None:
    """They are side by side, as long as the truth; made with the present weights of training."""
    preset = small_preset()
    model = random_model(preset)
    if precision == "bf16":
        halve_frozen(model.requires_grad_(False))
        checkpoint_activations(model)
    config = dataclasses.replace(CONFIG, precision=precision)
    [clip] = held_out(1, frames=6)

    [sample] = write_samples(
        sampling_networks(model, config), preset, [clip], tmp_path / "samples", 250
    )

    assert sample.path == tmp_path / "samples" / "step-00000250_clip0.mp4"
    assert [path.name for path in sample.path.parent.iterdir()] == [sample.path.name]
    shown = read_all(sample.path)
    assert len(shown) == 5
    assert sample.still.shape == shown[0].shape == (32, 96, 3)
    true = clip.frames[2].permute(1, 2, 0).numpy()
    assert (sample.still[:, 64:] == true).all()
    assert (sample.still[:, :32] != true).any()
