"""Small models on the paper card, and their sampling runs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from tests.support.clips import small_preset
from tests.support.sampler_parts import GAP, nothing, sampling, scene
from tests.support.training_parts import TEXT_WIDTH, small_v_preset
from venhancer.config import Preset
from venhancer.model.denoiser import make_denoiser
from venhancer.planning.capacity import capacity_for
from venhancer.planning.plan import Sampling
from venhancer.planning.windows import Scene
from venhancer.sampling.evaluation import Conditions, Model
from venhancer.sampling.latents import Latents
from venhancer.sampling.sampler import Placement, Sampler
from venhancer.spans import Span
from venhancer.weights.checkpoint import load_model, save_checkpoint

FRAMES, WINDOW = 13, 9  # two windows
WHOLE, TILES = (Span(0, 8),), (Span(0, 6), Span(2, 8))
PLAIN, TEXTUAL = small_preset(), small_v_preset()


def write_random(path: Path, preset: Preset) -> Path:
    """Write a checkpoint without a zero layer."""
    torch.manual_seed(0)
    model = make_denoiser(preset.model)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    save_checkpoint(path, model, preset)
    return path


def on_card(path: Path, preset: Preset) -> Model:
    return load_model(path, preset, device="cuda")[0]


def plan_of(preset: Preset, rows: tuple[Span, ...], reuse: int) -> Sampling:
    """Make a plan with fresh noise at each step, guided if the preset has text."""
    guidance = 7.5 if preset.model.unet.text_width else 1.0
    return sampling(WINDOW, steps=2, rows=rows, reuse=reuse, guidance=guidance)


def text_of(preset: Preset) -> Tensor | None:
    """Make features of a prompt and of a negative one."""
    if not preset.model.unet.text_width:
        return None
    return torch.randn(2, 3, TEXT_WIDTH, generator=torch.Generator().manual_seed(2))


def key_latents(preset: Preset) -> Tensor:
    size = (preset.model.unet.latent_channels, 8, 8)
    return torch.randn((FRAMES - 1) // GAP + 1, *size, generator=torch.Generator().manual_seed(1))


def make_sampler(
    model: Model, preset: Preset, plan: Sampling, placement: Placement, held_on: str
) -> tuple[Sampler, Scene]:
    shown = scene(FRAMES, plan.window)
    size = (preset.model.unet.latent_channels, 8, 8)
    latents = Latents(capacity_for((shown,), len(plan.schedule)), size, held_on)
    conditions = Conditions(0, 2.0, text_of(preset))
    return Sampler(model, plan, conditions, latents, placement), shown


def sampled(
    model: Model, preset: Preset, plan: Sampling, placement: Placement, held_on: str = "cuda"
) -> Tensor:
    """Sample x_0 of the whole scene: f c h w, on the CPU."""
    with torch.inference_mode():
        own, shown = make_sampler(model, preset, plan, placement, held_on)
        made = list(own.run(shown, iter(key_latents(preset)), 0, nothing))
        return torch.cat(made).cpu()
