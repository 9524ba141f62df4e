"""Distillation: the student's targets, tested on Gaussian data, and learning by networks."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, Literal, cast

import pytest
import torch
from torch import Tensor, nn

from tests.support.clips import TINY_UNET, described_clip, small_preset
from tests.support.models import SMALL_UNET
from venhancer.config import NANO, RELEASED, ModelConfig, Prediction, Preset
from venhancer.diffusion.guidance import guide
from venhancer.diffusion.schedule import alpha_sigma, noise_schedule, plan_steps
from venhancer.diffusion.solver import advance, solver_table
from venhancer.encoders.prompts import NEGATIVE, POSITIVE
from venhancer.errors import ConfigError
from venhancer.model.denoiser import Denoiser, make_denoiser
from venhancer.options import Options
from venhancer.planning.plan import make_plan
from venhancer.training.config import TrainingConfig
from venhancer.training.data.augmentation import Batch
from venhancer.training.distillation import Distillation, student_preset
from venhancer.training.encoders import Encoders, EncodeText
from venhancer.training.objective import SMOOTH, Diffused, DiffusionLoss

PREDICTIONS: tuple[Prediction, ...] = ("v", "sample")
SPREAD = 0.7  # of the Gaussian data
SIGMAS = noise_schedule().float()
SHAPE = (2, 48, 3, 6, 4)


def preset_of(prediction: Prediction) -> Preset:
    """Make a small preset without text."""
    spread = SMALL_UNET.model.residual_std if prediction == "sample" else 0.0
    model = ModelConfig(unet=TINY_UNET, prediction=prediction, residual_std=spread)
    return Preset(name="small", model=model)


class Linear(nn.Module):
    """A network whose x_0 is a multiple of its input; exact for Gaussian data with `spread`."""

    def __init__(self, prediction: Prediction, spread: float = SPREAD) -> None:
        super().__init__()
        self.prediction, self.spread = prediction, spread
        self.found: list[Tensor] = []  # every x_0

    def share(self, timestep: Tensor) -> Tensor:
        alpha, sigma = alpha_sigma(SIGMAS, timestep, 5)
        return alpha * self.spread**2 / (alpha**2 * self.spread**2 + sigma**2)

    def forward(self, latents: Tensor, timestep: Tensor, **_: Tensor) -> Tensor:
        alpha, sigma = alpha_sigma(SIGMAS, timestep, 5)
        self.found.append(self.share(timestep) * latents)
        is_sample = self.prediction == "sample"
        return self.found[-1] if is_sample else (alpha * latents - self.found[-1]) / sigma


class Solved(Linear):
    """The x_0 of each of the student's steps, as a multiple of its input."""

    def __init__(self, prediction: Prediction, shares: dict[int, float]) -> None:
        super().__init__(prediction)
        self.shares = shares

    def share(self, timestep: Tensor) -> Tensor:
        return torch.tensor([self.shares[t] for t in timestep.tolist()])[:, None, None, None, None]


def distillation(
    teacher: nn.Module, preset: Preset, text: EncodeText | None = None, **settings: Any
) -> Distillation:
    config = TrainingConfig(**settings)
    encoders = Encoders(lambda clips, _: clips, text)
    loss = DiffusionLoss(preset.model, config, encoders, SIGMAS)
    return Distillation(loss, cast(Denoiser, teacher), preset)


def some_batch(channels: int = SHAPE[1]) -> Batch:
    generator = torch.Generator().manual_seed(3)
    target, hint = torch.randn(2, SHAPE[0], channels, *SHAPE[2:], generator=generator)
    return Batch(
        target=target,
        hint=target + 0.3 * hint,
        is_key=torch.tensor([[1.0, 0.0, 1.0]] * 2),
        scale=torch.tensor([4.0, 2.0]),
        noise_level=torch.tensor([0, 100]),
        captions=["a cat", ""],
        names=["one", "two"],
        is_latent=True,
    )


def some_seen() -> Diffused:
    batch = some_batch()
    return Diffused(batch.target, torch.randn(SHAPE), batch.hint, None)


# what the student is asked


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("step", range(4))
def test_the_target_takes_the_student_where_the_teacher_gets(
    prediction: Prediction, step: int
) -> None:
    """The target gives the teacher's result through the solver's row, for any previous x_0."""
    objective = distillation(Linear(prediction), preset_of(prediction))
    student = Linear(prediction, spread=0.4)

    x, target = objective.teach(student, some_seen(), {"text": None}, step)

    previous = student.found[-1] if student.found else torch.full_like(x, 1e6)
    row = solver_table(plan_steps("normal", 4).sigmas, eta=0.0)[step]
    made = advance(x.clone(), target, previous, None, row)
    torch.testing.assert_close(made, objective.follow(x, step, {"text": None}))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_teacher_solves_the_equation(prediction: Prediction) -> None:
    """With many small steps, x of Gaussian data shrinks as its spread does, down to the end."""
    objective = distillation(Linear(prediction), preset_of(prediction), teacher_evaluations=399)
    x = torch.randn(SHAPE)
    sigmas = plan_steps("normal", 4).sigmas

    for step, (sigma, following) in enumerate(itertools.pairwise(sigmas.tolist())):
        ratio = ((SPREAD**2 + following**2) / (SPREAD**2 + sigma**2)) ** 0.5
        reached = objective.follow(x, step, {"text": None})
        torch.testing.assert_close(reached, ratio * x, rtol=0.02, atol=0)


def solved(objective: Distillation, prediction: Prediction) -> tuple[Solved, list[float]]:
    """Return the student without a loss, and the teacher's shrinkage of x from step to step."""
    steps = plan_steps("normal", 4)
    ones = torch.ones(1, 1, 1, 1, 1)
    ratios = [float(objective.follow(ones, step, {"text": None})) for step in range(4)]
    shares, before = {}, 0.0
    for step, (keep, gain, back, _) in enumerate(solver_table(steps.sigmas, eta=0.0).tolist()):
        share = (ratios[step] - keep - back * before) / gain
        shares[int(steps.timesteps[step])] = share * (1 + float(steps.sigmas[step]) ** 2) ** 0.5
        before = share / ratios[step]
    return Solved(prediction, shares), ratios


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_student_has_no_loss(prediction: Prediction) -> None:
    """The loss is zero or minimal at any step, and the sampler ends where the teacher ends."""
    objective = distillation(Linear(prediction), preset_of(prediction))
    student, ratios = solved(objective, prediction)
    steps, begun = plan_steps("normal", 4), torch.randn(SHAPE)
    x, previous = begun.clone(), torch.zeros(SHAPE)

    for seed in range(8):
        loss = objective(student, some_batch(), torch.Generator().manual_seed(seed))
        assert float(loss) == pytest.approx(SMOOTH if prediction == "sample" else 0, abs=1e-6)
    for step, row in enumerate(solver_table(steps.sigmas, eta=0.0)):
        noisy = x * (1 + float(steps.sigmas[step]) ** 2) ** -0.5
        student(noisy, steps.timesteps[step].expand(len(x)))
        x = advance(x, student.found[-1], previous, None, row)
        previous = student.found[-1]

    torch.testing.assert_close(x, begun * torch.tensor(ratios).prod(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("evaluations", "taught"), [(1, 15), (4, 14)])
def test_the_noisy_end_is_finite(prediction: Prediction, evaluations: int, taught: int) -> None:
    """Targets are finite where hardly any signal is left; the student may have a single step."""
    objective = distillation(
        Linear(prediction),
        preset_of(prediction),
        student_evaluations=evaluations,
        teacher_evaluations=taught,
    )

    x, target = objective.teach(Linear(prediction), some_seen(), {"text": None}, 0)

    assert x.std() > 10
    assert target.abs().max() < 10


class Prompted(nn.Module):
    """A network whose v depends on the text, b l d."""

    def forward(self, latents: Tensor, timestep: Tensor, text: Tensor, **_: Tensor) -> Tensor:
        return latents * text.mean(dim=(1, 2))[:, None, None, None, None].sin()


def test_guidance_is_folded_in() -> None:
    """The target has both branches; captions are completed as a run completes prompts."""
    asked: list[str] = []

    def encode_text(captions: list[str]) -> Tensor:
        asked.extend(captions)
        return torch.tensor([float(len(caption)) for caption in captions])[:, None, None]

    class Guided(Prompted):
        def forward(self, latents: Tensor, timestep: Tensor, text: Tensor, **_: Tensor) -> Tensor:
            out = [Prompted.forward(self, latents, timestep, t) for t in (text, negative)]
            return guide(out[0], out[1], RELEASED.defaults.guidance)

    negative = encode_text([NEGATIVE]).expand(len(some_batch(4).target), 1, 1)
    unguided = dataclasses.replace(
        RELEASED, defaults=dataclasses.replace(RELEASED.defaults, guidance=1.0)
    )
    seen = dataclasses.replace(some_seen(), text=encode_text(["a", "of two"]))
    conditions: dict[str, Tensor | None] = {"text": seen.text}
    folded = distillation(Prompted(), RELEASED, encode_text)
    alone = distillation(Guided(), unguided, encode_text)
    plain = distillation(Prompted(), unguided, encode_text)
    asked.clear()

    for step in range(4):
        targets = [d.teach(Prompted(), seen, conditions, step)[1] for d in (folded, alone, plain)]
        torch.testing.assert_close(targets[0], targets[1])
        assert not torch.allclose(targets[0], targets[2])
    folded(Prompted(), some_batch(4), torch.Generator().manual_seed(0))

    assert asked == [f"a cat {POSITIVE}", POSITIVE]


# learning


def small_model(prediction: Prediction, seed: int) -> Denoiser:
    torch.manual_seed(seed)
    model = make_denoiser(preset_of(prediction).model)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_teacher_stays_as_it_is(prediction: Prediction) -> None:
    """It gets no gradient, and every weight of the student gets one."""
    teacher, student = small_model(prediction, 0), small_model(prediction, 1)
    objective = distillation(teacher, preset_of(prediction))

    objective(student, some_batch(), torch.Generator().manual_seed(0)).backward()

    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_updates_lower_the_loss(prediction: Prediction) -> None:
    """A second-order step and the last step both learn, on one batch and noise."""
    objective = distillation(small_model(prediction, 0), preset_of(prediction))
    student = small_model(prediction, 0)
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-4)

    def loss() -> Tensor:
        drawn = (torch.Generator().manual_seed(seed) for seed in (1, 8))  # step 1, step 3
        return torch.stack([objective(student, some_batch(), g) for g in drawn]).mean()

    losses = []
    for _ in range(4):
        losses.append(loss())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()

    assert losses[-1] < losses[0]


# what is exported, what is refused


@pytest.mark.parametrize("preset", [RELEASED, NANO, small_preset()])
def test_a_run_samples_a_student_as_it_was_taught(preset: Preset) -> None:
    """Its checkpoint has few evenly spaced steps of the ODE, without guidance."""
    config = TrainingConfig(student_evaluations=2, teacher_evaluations=14)

    carried = student_preset(preset, config)
    read = Preset.from_json(carried.to_json())

    assert read == carried
    assert read.model == preset.model
    has_shortcuts = preset.model.unet.has_coarse_features
    modes: tuple[Literal["exact", "fast"], ...] = ("exact", "fast") if has_shortcuts else ("exact",)
    for mode in modes:
        sampling = make_plan(described_clip(), read, Options(mode=mode)).sampling
        assert sampling.schedule.timesteps.tolist() == plan_steps("normal", 2).timesteps.tolist()
        assert (sampling.eta, sampling.guidance) == (0.0, 1.0)


@pytest.mark.parametrize(("student", "teacher"), [(4, 14), (4, 19), (2, 14), (1, 15), (3, 15)])
def test_the_student_steps_are_some_of_the_teachers(student: int, teacher: int) -> None:
    """A student step is a fixed number of teacher steps; the last one is longer for both."""
    objective = distillation(
        Linear("v"), preset_of("v"), student_evaluations=student, teacher_evaluations=teacher
    )
    own = plan_steps("normal", student)

    assert torch.equal(objective.timesteps[:: objective.stride][:student], own.timesteps)
    sigmas = objective.sigmas[:: objective.stride][:student]
    torch.testing.assert_close(sigmas, own.sigmas[:-1].float())


def test_uneven_steps_are_refused() -> None:
    """The message names numbers that work."""
    with pytest.raises(ConfigError, match="take 14 or 19"):
        TrainingConfig(student_evaluations=4, teacher_evaluations=16)


def test_a_perceptual_part_compares_with_the_target() -> None:
    """Its weight applies, and its reference is the decoded target of the teacher."""
    base = distillation(Linear("sample"), preset_of("sample"))
    seen: list[torch.Tensor] = []

    def perceive(made: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        seen[:] = [made, true]
        return torch.full((len(made),), 2.0)

    loss = dataclasses.replace(
        base.loss,
        config=dataclasses.replace(base.loss.config, perceptual_weight=0.5),
        encoders=dataclasses.replace(base.loss.encoders, decode=lambda latents: latents),
        perceive=perceive,
    )
    objective = Distillation(loss, cast(Denoiser, Linear("sample")), preset_of("sample"))
    student, batch = Linear("sample", spread=0.4), some_batch()

    def value(of: Distillation) -> float:
        return float(of(student, batch, torch.Generator().manual_seed(0)))

    assert value(objective) == pytest.approx(value(base) + 1.0, rel=1e-4)
    made, true = seen
    truth = batch.target
    assert (true[:, :, None] - truth).abs().amax(dim=(1, 3, 4)).min() > 1e-3
    assert (made - true).abs().max() > 1e-3
