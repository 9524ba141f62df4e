"""A student that does in few evaluations what its teacher does in many.

Progressive distillation (Salimans & Ho 2022), all halvings at once: from a diffused clip at one of
the student's steps, the teacher takes several small steps. The student learns the x_0 that takes
its solver to the same place in one step. The teacher's guidance is folded in (Meng et al. 2023), so
that the student needs one branch.

The paper's student is sampled by DDIM. Our runs use DPM-Solver++ (2M), which also uses the previous
evaluation. So the target x_0 solves the student's row of `solver_table` at eta = 0, which includes
the student's own evaluation of the previous step. A student with zero loss then ends where the
teacher ends, with the unchanged sampler. First and last steps use no previous evaluation: with one
or two evaluations, this is the paper's target.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from venhancer.config import Preset
from venhancer.diffusion.guidance import guide
from venhancer.diffusion.schedule import alpha_sigma, denoised_from, plan_steps
from venhancer.diffusion.solver import advance, solver_table
from venhancer.encoders.prompts import NEGATIVE, complete
from venhancer.model.denoiser import Denoiser
from venhancer.training.config import TrainingConfig
from venhancer.training.data.augmentation import Batch
from venhancer.training.objective import Diffused, DiffusionLoss, encode_batch

ConditionInputs = dict[str, Tensor | None]


def student_preset(preset: Preset, config: TrainingConfig) -> Preset:
    """Make the preset of a student's checkpoint, whose defaults sample it as it was taught."""
    defaults = dataclasses.replace(
        preset.defaults,
        steps=config.student_evaluations,
        solver="normal",
        eta=0.0,
        guidance=1.0,
        fast=dataclasses.replace(preset.defaults.fast, steps=None),
    )
    return dataclasses.replace(preset, defaults=defaults)


class Distillation:
    """The objective of a student; its network starts as the teacher's.

    Guidance changes what the UNet predicts: to fold it in, train with `trains_prior`.
    The error is that of `loss`, with the target instead of the truth: for a `v` model, the v-loss,
    which weights x_0 by SNR + 1; for a `sample` model, Charbonnier's. The perceptual part compares
    with the decoded target, not with the truth.
    """

    def __init__(self, loss: DiffusionLoss, teacher: Denoiser, preset: Preset) -> None:
        """teacher: on the loss's device, frozen here; preset: gives the guidance to fold in."""
        config, encoders = loss.config, loss.encoders
        device = loss.sigmas.device
        self.loss = loss
        self.teacher = teacher.requires_grad_(False).eval()
        self.guidance = preset.defaults.guidance if preset.model.unet.text_width else 1.0
        self.negative: Tensor | None = None
        if self.guidance != 1:
            assert encoders.text is not None
            self.negative = encoders.text([NEGATIVE])
        taught = plan_steps("normal", config.teacher_evaluations)
        own = plan_steps("normal", config.student_evaluations)
        self.stride = (len(taught) + 1) // (len(own) + 1)  # the teacher's steps per step
        self.timesteps = taught.timesteps.to(device)
        self.sigmas = taught.sigmas.float()
        self.teacher_table = solver_table(taught.sigmas, eta=0.0).to(device)
        self.table = solver_table(own.sigmas, eta=0.0).float()

    def __call__(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        """Compute the loss; network: the student, at one random step for all clips."""
        if self.guidance != 1:  # a run completes the student's prompts
            captions = [complete(caption) for caption in batch.captions]
            batch = dataclasses.replace(batch, captions=captions)
        seen = encode_batch(batch, self.loss.encoders, self.loss.sigmas, generator)
        conditions = seen.conditions(batch)
        step = int(torch.randint(len(self.table), (), generator=generator))
        x, target = self.teach(network, seen, conditions, step)
        noisy, timestep = self.show(x, step * self.stride)
        out = network(latents=noisy, timestep=timestep, **conditions)
        alpha, sigma = alpha_sigma(self.loss.sigmas, timestep, out.ndim)
        wanted = dataclasses.replace(seen, clean=target, noise=(noisy - alpha * target) / sigma)
        return self.loss.judge(out, noisy, wanted, timestep, generator)

    @torch.no_grad()
    def teach(
        self, network: nn.Module, seen: Diffused, conditions: ConditionInputs, step: int
    ) -> tuple[Tensor, Tensor]:
        """Compute the start of the student's `step`, and the x_0 to learn there: both b c f h w.

        Clips are diffused to that step, or to the previous one where the solver uses that one too.
        """
        looks_back = bool(self.table[step, 2])
        first = step - 1 if looks_back else step
        x = seen.clean + self.sigmas[first * self.stride] * seen.noise
        previous = torch.zeros_like(x)
        if looks_back:
            previous = self.denoise(network, x, first * self.stride, conditions)
            x = self.follow(x, first, conditions)
        reached = self.follow(x, step, conditions)
        keep, gain, back, _ = self.table[step]
        return x, (reached - keep * x - back * previous) / gain

    def follow(self, x: Tensor, step: int, conditions: ConditionInputs) -> Tensor:
        """Run the teacher from x at the student's `step` to the next one: b c f h w -> b c f h w.

        The first small step is of first order, since no evaluation precedes it.
        """
        first, is_last = step * self.stride, step == len(self.table) - 1
        x, previous = x.clone(), None
        for j in range(first, len(self.timesteps) if is_last else first + self.stride):
            denoised = self.denoise(self.guided, x, j, conditions)
            before = denoised if previous is None else previous
            x = advance(x, denoised, before, None, self.teacher_table[j])
            previous = denoised
        return x

    def guided(self, *, text: Tensor | None, **inputs: Tensor) -> Tensor:
        """Predict with the teacher, guided as in its runs; arguments as in `Denoiser.forward`."""
        out = self.teacher(text=text, **inputs)
        if self.negative is None:
            return out
        negative = self.negative.expand(len(out), -1, -1)
        return guide(out, self.teacher(text=negative, **inputs), self.guidance)

    def denoise(
        self, network: Callable[..., Tensor], x: Tensor, j: int, conditions: ConditionInputs
    ) -> Tensor:
        """Compute x_0 by a network at the teacher's step j, as a run evaluates it."""
        noisy, timestep = self.show(x, j)
        out = network(latents=noisy, timestep=timestep, **conditions)
        _, sigma = alpha_sigma(self.loss.sigmas, timestep, out.ndim)
        return denoised_from(self.loss.model.prediction, out, noisy, sigma)

    def show(self, x: Tensor, j: int) -> tuple[Tensor, Tensor]:
        """Make a network's inputs from x at the teacher's step j: scaled x, and timestep (b)."""
        return x * (1 + self.sigmas[j] ** 2).rsqrt(), self.timesteps[j].expand(len(x))
