"""The network: static inputs, hints at key frames only, equal results of both calling ways."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.support.clips import TINY_UNET, small_preset
from venhancer.config import TINY, ModelConfig, UNetConfig
from venhancer.contract import model_inputs
from venhancer.errors import ConfigError
from venhancer.model.denoiser import Denoiser, fill_between_keys, make_denoiser
from venhancer.model.layers import GroupNorm, clip_view

SMALL = small_preset().model


def inputs(config: ModelConfig, frames: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    unet = config.unet
    sizes = {"b": 1, "f": frames, "h": 8 + unet.row_remainder, "w": 8, "l": 7}
    made = {
        spec.name: torch.randn(spec.shape(sizes), generator=generator)
        for spec in model_inputs(config)
    }
    made["is_key"] = (torch.arange(frames) % 2 == 0).float()[None]
    made["timestep"] = torch.tensor([300])
    made["noise_level"], made["scale"] = torch.tensor([20.0]), torch.tensor([4.0])
    return made


def randomised(config: ModelConfig) -> Denoiser:
    torch.manual_seed(0)
    model = make_denoiser(config).eval()
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
        torch.nn.init.normal_(parameter, std=fan_in**-0.5)
        if parameter.ndim == 1:
            parameter.data += 0.5
    return model


@pytest.mark.parametrize("config", [SMALL, TINY.model], ids=["sample", "v"])
def test_what_stands_between_key_frames_is_ignored(config: ModelConfig) -> None:
    """The hint matters at key frames only, and there it does."""
    model, given = randomised(config), inputs(config)
    with torch.inference_mode():
        out = model(**given)
        between = given["hint"] + (1 - given["is_key"])[:, None, :, None, None]
        on_keys = given["hint"] + given["is_key"][:, None, :, None, None]
        torch.testing.assert_close(model(**{**given, "hint": between}), out)
        assert not torch.allclose(model(**{**given, "hint": on_keys}), out, atol=1e-3)


@pytest.mark.parametrize("config", [SMALL, TINY.model], ids=["sample", "v"])
def test_preparing_once_changes_nothing(config: ModelConfig) -> None:
    """`prepare` followed by `step` gives the result of `forward`."""
    model, given = randomised(config), inputs(config)
    latents, timestep = given.pop("latents"), given.pop("timestep")
    with torch.inference_mode():
        whole = model(latents=latents, timestep=timestep, **given)
        text_features = model.prepare_text(given.pop("text", None))
        prepared = model.prepare(**given, text_features=text_features)
        stepped = model.step(latents, timestep, prepared)
        assert torch.equal(stepped, whole)


def test_branches_share_what_precedes_the_text() -> None:
    """One clip with two texts gives the result of two clips, for fewer operations."""
    model, given = randomised(TINY.model), inputs(TINY.model)
    text = torch.cat([given.pop("text"), torch.zeros(1, 7, TINY.model.unet.text_width)])

    def predict(clips: int) -> tuple[Tensor, int]:
        shown = {name: torch.cat([x] * clips) for name, x in given.items()}
        latents, timestep = shown.pop("latents"), shown.pop("timestep")
        prepared = model.prepare(**shown, text_features=model.prepare_text(text))
        with FlopCounterMode(display=False) as counter:
            out = model.step(latents, timestep, prepared)
        return out, int(counter.get_total_flops())

    with torch.inference_mode():
        shared, flop = predict(1)
        apart, whole = predict(2)

    assert not torch.allclose(shared[:1], shared[1:], atol=1e-3)
    torch.testing.assert_close(shared, apart, atol=1e-5, rtol=1e-5)
    assert flop < whole


@pytest.mark.parametrize("name", ["noise_level", "scale"])
def test_the_controller_listens(name: str) -> None:
    """The conditioning scale of the key frames changes the prediction."""
    model, given = randomised(SMALL), inputs(SMALL)
    with torch.inference_mode():
        out = model(**given)
        assert not torch.allclose(model(**{**given, name: given[name] + 3}), out, atol=1e-4)


def test_filling_between_key_frames() -> None:
    """Values are linear in time between two key frames, and the nearest one's beyond the ends."""
    hint = torch.tensor([9.0, 1.0, 9.0, 9.0, 4.0, 9.0]).reshape(1, 1, 6, 1, 1)
    is_key = torch.tensor([[0.0, 1, 0, 0, 1, 0]])

    filled = fill_between_keys(hint, is_key)

    torch.testing.assert_close(filled.flatten(), torch.tensor([1.0, 1, 2, 3, 4, 4]))


def test_sizes_that_do_not_fit_are_refused() -> None:
    """The message has both numbers."""
    with pytest.raises(ConfigError, match=r"level 0 has 50 channels.*norm_groups=32"):
        UNetConfig(base_channels=50)
    with pytest.raises(ConfigError, match="text_width=0"):
        UNetConfig(text_width=0)


def test_every_size_comes_from_the_configuration() -> None:
    """A network with another width, depth and channel count runs, with its own padding rule."""
    config = ModelConfig(
        unet=UNetConfig(
            latent_channels=6,
            base_channels=24,
            multipliers=(1, 2, 3),
            blocks_per_level=1,
            spatial_levels=(1,),
            temporal_levels=(0, 2),
            head_channels=12,
            first_temporal_heads=3,
            text_width=40,
            norm_groups=6,
            temporal_convs=3,
            extra_rows=1,
        )
    )
    assert (config.unet.size_step, config.unet.row_remainder) == (4, 2)
    given = inputs(config)

    assert randomised(config)(**given).shape == given["latents"].shape
    assert TINY_UNET.row_remainder == 0


@pytest.mark.parametrize("branches", [1, 2])
def test_a_clip_stays_channels_last(branches: int) -> None:
    """Its view needs no copy, and a group norm of the view keeps the layout."""
    x = torch.randn(branches * 5, 16, 6, 8).contiguous(memory_format=torch.channels_last)

    clip = clip_view(x, 5)
    normalised = torch.nn.functional.group_norm(clip, 8)

    assert clip.data_ptr() == x.data_ptr()
    assert torch.equal(clip[0, :, 3].reshape(16, 6, 8), x[3])
    assert normalised.is_contiguous(memory_format=torch.channels_last)
    assert not normalised.is_contiguous()


@pytest.mark.parametrize("size", [(6, 8), (32, 32)])
def test_small_frames_are_normalised_alike(size: tuple[int, int]) -> None:
    """Both implementations give the same numbers, in the same layout."""
    x = torch.randn(5, 16, *size).contiguous(memory_format=torch.channels_last)
    norm = GroupNorm(8, 16)

    out = norm(x)

    torch.testing.assert_close(out, torch.nn.functional.group_norm(x, 8))
    assert out.is_contiguous(memory_format=torch.channels_last)
