"""The loss: of right and wrong predictions, of grids, and the perceptual part."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from tests.support.clips import small_preset
from tests.support.training_parts import (
    SMALL,
    diffusion_loss,
    new_trainer,
    pooled_encode,
    some_batches,
)
from venhancer.diffusion.schedule import START, noise_schedule
from venhancer.errors import OptionError
from venhancer.training.encoders import Encoders, lapped_encoders
from venhancer.training.objective import (
    FLAT_SHARE,
    SMOOTH,
    Diffused,
    DiffusionLoss,
    flat_error,
    uneven_steps,
)


def test_a_right_prediction_has_the_least_loss() -> None:
    """A wrong x_0 costs its square, for `v` over sigma squared, which is the v-loss."""
    [batch] = some_batches(1)
    clean = pooled_encode(batch.target, torch.Generator())
    sigmas = noise_schedule().float()
    seen: list[Tensor] = []

    def value(prediction: str, error: float = 0.0) -> float:
        def network(latents: Tensor, timestep: Tensor, **_: Any) -> Tensor:
            sigma = sigmas[timestep][:, None, None, None, None]
            seen[:] = [sigma]
            x0 = clean + error
            return x0 if prediction == "sample" else ((1 - sigma**2).sqrt() * latents - x0) / sigma

        model = cast(Any, SimpleNamespace(prediction=prediction))
        loss = DiffusionLoss(model, SMALL, Encoders(pooled_encode), sigmas)
        return float(loss(cast(nn.Module, network), batch, torch.Generator().manual_seed(0)))

    assert value("v") < 1e-6
    assert value("sample") == pytest.approx(SMOOTH)
    assert value("sample", 0.5) == pytest.approx(0.5, rel=1e-2)
    assert value("v", 0.5) == pytest.approx(float((0.5 / seen[0]).square().mean()), rel=1e-3)


def test_a_perceptual_loss_sees_the_decoded_frames() -> None:
    """One frame of each clip is compared as a picture, and the weight applies."""
    [batch] = some_batches(1)
    preset = small_preset()
    trainer = new_trainer(preset)
    seen: list[Tensor] = []

    def perceive(made: Tensor, true: Tensor) -> Tensor:
        seen[:] = [made, true]
        return torch.full((len(made),), 3.0)

    def value(weight: float) -> float:
        config = dataclasses.replace(SMALL, perceptual_weight=weight)
        loss = dataclasses.replace(diffusion_loss(trainer), config=config, perceive=perceive)
        return float(loss(trainer.network, batch, torch.Generator().manual_seed(0)).detach())

    assert value(0.5) == pytest.approx(value(0.0) + 1.5, rel=1e-5)
    made, true = seen
    assert made.shape == true.shape == (2, 3, 32, 32)
    distances = (batch.target[:, None] - true[:, None]).abs().amax(dim=(-3, -2, -1))
    assert ((distances < 1e-5).sum(dim=(1, 2)) == 1).all()  # the truth is a frame of each clip


def test_a_perceptual_loss_sees_a_share_of_the_clips_and_a_part_of_a_frame() -> None:
    """The config sets the number of clips, at least one; both pictures have the same square."""
    preset = small_preset()
    decode = lapped_encoders(preset.model.latent_scale).decode
    clean = torch.randn(4, 48, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []

    def perceive(made: Tensor, true: Tensor) -> Tensor:
        seen[:] = [made, true]
        return torch.arange(len(made)).float()

    def look(share: float, crop: int, seed: int = 0) -> Tensor:
        config = dataclasses.replace(SMALL, perceptual_share=share, perceptual_crop=crop)
        encoders = Encoders(pooled_encode, decode=decode)
        loss = DiffusionLoss(preset.model, config, encoders, noise_schedule().float(), perceive)
        return loss.look(2 * clean, clean, torch.Generator().manual_seed(seed))

    assert look(0.5, 12) == 0.5  # the mean of 0 and 1
    made, true = seen
    assert made.shape == true.shape == (2, 3, 12, 12)
    torch.testing.assert_close(made, 2 * true)
    assert look(0.1, 0) == 0
    assert seen[0].shape == (1, 3, 32, 32)
    look(1.0, 100)
    assert seen[0].shape == (4, 3, 32, 32)
    squares = []
    for seed in range(4):
        look(0.25, 12, seed)
        squares.append(seen[1])
    assert not torch.equal(squares[0], squares[1])


def test_a_faint_pattern_costs_where_the_truth_is_flat() -> None:
    """False detail costs in full on a flat truth, hardly in a busy one; block means never cost."""
    flat = torch.zeros(1, 48, 2, 16, 16)
    busy = torch.randn(flat.shape, generator=torch.Generator().manual_seed(0))
    ripple = torch.zeros_like(flat)
    ripple[:, 7] = 0.01
    brighter = torch.zeros_like(flat)
    brighter[:, :3] = 1.0

    assert flat_error(flat, flat) == 0
    assert flat_error(flat + ripple, flat) == pytest.approx(0.01 / 45)
    assert flat_error(busy + ripple, busy) < 1e-6
    assert flat_error(flat + brighter, flat) == 0


def test_a_grid_is_told_from_detail() -> None:
    """Detail at fixed places of a block costs, in either direction; uniform detail does not."""
    rng = torch.Generator().manual_seed(0)
    true = torch.rand(2, 3, 128, 128, generator=rng)
    places = torch.arange(128) % 4 == 1
    busy = torch.rand(true.shape, generator=rng) / 4

    assert uneven_steps(true, true) == 0
    everywhere = uneven_steps(true + busy, true)
    for grid in (places, places[:, None]):
        assert uneven_steps(true + busy * grid, true) > 3 * everywhere
    ragged = true[..., :100, :92]
    assert uneven_steps(ragged, ragged) == 0


def test_a_grid_costs_what_its_weight_says() -> None:
    """Both penalties are added to the error of the prediction."""
    preset, sigmas = small_preset(), noise_schedule().float()
    clean, noise = torch.zeros(1, 48, 2, 16, 16), torch.zeros(1, 48, 2, 16, 16)
    out = torch.zeros_like(clean)
    out[:, 7] = 0.1
    seen, timestep = Diffused(clean, noise, clean, None), torch.tensor([500])
    encoders = lapped_encoders(preset.model.latent_scale)

    def value(weight: float) -> float:
        config = dataclasses.replace(SMALL, grid_weight=weight)
        loss = DiffusionLoss(preset.model, config, encoders, sigmas)
        return float(loss.judge(out, noise, seen, timestep, torch.Generator()))

    assert encoders.decode is not None
    steps = uneven_steps(*(encoders.decode(x[:, :, 0]) for x in (out, clean)))
    added = 3 * float(steps + FLAT_SHARE * flat_error(out, clean))
    assert float(steps) > 1e-3
    assert value(3.0) == pytest.approx(value(0.0) + added, rel=1e-5)
    config = dataclasses.replace(SMALL, grid_weight=1.0)
    with pytest.raises(OptionError, match=r"grid_weight=1\.0 needs a codec that decodes"):
        DiffusionLoss(preset.model, config, Encoders(pooled_encode), sigmas)


@pytest.mark.parametrize(
    ("share", "least", "most"), [(0.0, 0, 20), (0.8, 750, 850), (1.0, 1000, 1000)]
)
def test_so_many_clips_start_where_a_run_starts(share: float, least: int, most: int) -> None:
    """`start_share` of them start there, and the others anywhere below."""
    config = dataclasses.replace(SMALL, start_share=share)
    loss = DiffusionLoss(
        small_preset().model, config, Encoders(pooled_encode), noise_schedule().float()
    )

    drawn = loss.draw_timesteps(1000, torch.Generator().manual_seed(0))

    assert least <= int((drawn == START).sum()) <= most
    assert drawn.min() >= 0
    assert drawn.max() <= START
