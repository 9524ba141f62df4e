"""The baseline of the benchmarks: the release's path with the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.speed.plain_network import PlainModel
from tests.support.clips import small_preset
from tests.support.training_parts import small_v_preset
from venhancer.config import TINY, ModelConfig
from venhancer.model.denoiser import Denoiser, make_denoiser
from venhancer.sampling.evaluation import Model

CONFIGS = {
    "sample": small_preset().model,
    "v": small_v_preset().model,
    "tiny": TINY.model,
}


FRAMES = 5
TOLERANCE = 1e-4  # relative L2, in float32


def random_model(config: ModelConfig) -> Denoiser:
    """Make a model without a zero weight, whose filters are channels last as a checkpoint's are."""
    torch.manual_seed(0)
    model = make_denoiser(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
        nn.init.normal_(parameter, mean=float(parameter.ndim == 1) / 2, std=fan_in**-0.5)
    return model.to(memory_format=torch.channels_last)


def guided_step(model: Model) -> Tensor:
    """Compute both branches of one evaluation, with different texts."""
    generator = torch.Generator().manual_seed(0)
    unet = model.config.unet
    size = (1, unet.latent_channels, FRAMES, unet.size_step + unet.row_remainder, 16)
    latents, hint = (torch.randn(size, generator=generator) for _ in range(2))
    text = torch.randn(2, 7, unet.text_width, generator=generator) if unet.text_width else None
    prepared = model.prepare(
        hint=hint,
        is_key=(torch.arange(FRAMES) % 2 == 0).float()[None],
        noise_level=torch.tensor([20.0]),
        scale=torch.tensor([4.0]),
        text_features=model.prepare_text(text),
    )
    return model.step(latents, torch.tensor([300]), prepared)


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_the_baseline_computes_the_same_numbers(name: str) -> None:
    """The release's order of operations gives the same prediction of both branches."""
    model = random_model(CONFIGS[name])

    expected, found = guided_step(model), guided_step(PlainModel(model))

    assert (found - expected).norm() / expected.norm() <= TOLERANCE


@torch.inference_mode()
def test_no_convolution_of_the_baseline_is_channels_last() -> None:
    """Neither inputs nor filters are channels last: the baseline must not have our speed-up."""
    plain = PlainModel(random_model(CONFIGS["v"]))
    seen = []

    def look(conv: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(conv.weight, Tensor)
        pixels = conv.weight[0, 0].numel()
        seen.append(given[0].stride(-1) == 1 and conv.weight.stride(1) == pixels)

    for module in (*plain.controller.modules(), *plain.unet.modules()):
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            module.register_forward_pre_hook(look)
    guided_step(plain)

    assert seen
    assert all(seen)
