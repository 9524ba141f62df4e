"""The flat body: its configuration, its inputs, and that it treats frames separately."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.clips import described_clip
from tests.support.models import SMALL_UNET
from venhancer.config import NANO, RELEASED, ModelConfig, Preset
from venhancer.diffusion.schedule import alpha_sigma, noise_schedule
from venhancer.errors import ConfigError, OptionError, WeightsError
from venhancer.model.denoiser import Denoiser, FlatDenoiser, make_denoiser
from venhancer.options import Options
from venhancer.planning.cards import CARDS
from venhancer.planning.cost import estimate, sample_inputs
from venhancer.planning.plan import make_plan
from venhancer.sampling.evaluation import Conditions
from venhancer.sampling.latents import Latents
from venhancer.sampling.sampler import Placement, Sampler
from venhancer.training import __main__ as main
from venhancer.training import resources
from venhancer.training.config import NANO_TRAINING, TrainingConfig
from venhancer.training.counting import MicroBatch, MicroBatchCost, count_work
from venhancer.training.parallel import choose_learning
from venhancer.training.resources import describe, plan_training
from venhancer.training.trainer import initialise
from venhancer.weights.checkpoint import load_model, load_prior, save_checkpoint

FLAT = dataclasses.replace(NANO.model.unet, base_channels=16, blocks_per_level=2, repair_blocks=1)
MODEL = dataclasses.replace(NANO.model, unet=FLAT)
PRESET = dataclasses.replace(NANO, model=MODEL)
SIZE = (3, 6, 5)  # frames, rows, columns
PLAIN = dataclasses.replace(MODEL, unet=dataclasses.replace(FLAT, repair_blocks=0))
TOLD = ("neighbours", "noise_level", "scale")


def randomised(config: ModelConfig = MODEL) -> Denoiser:
    """Make a small flat model without a zero layer."""
    torch.manual_seed(0)
    model = make_denoiser(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model


def inputs(seed: int = 1) -> dict[str, Any]:
    """Make the inputs of one clip whose frames are all key frames, slightly diffused."""
    generator = torch.Generator().manual_seed(seed)
    given = sample_inputs(MODEL, *SIZE)
    for name in ("latents", "hint", "neighbours"):
        given[name] = torch.randn(given[name].shape, generator=generator)
    given["timestep"][:] = 600
    given["noise_level"][:] = 100
    given["scale"][:] = 4
    return given


def changed(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Change one of the inputs: neighbours, noise level or scale."""
    return {**given, name: given[name] + (1 if name == "neighbours" else 3)}


# the configuration


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text_width": 16}, "none of text_width"),
        ({"temporal_levels": (0,), "norm_groups": 8}, "none of temporal_levels, norm_groups"),
        ({"extra_rows": 1}, "none of extra_rows"),
        ({"multipliers": (1, 2)}, "give multipliers=(1,)"),
        ({"multipliers": (2,)}, "give multipliers=(1,)"),
    ],
)
def test_a_flat_body_has_one_level_and_nothing_else(changes: dict[str, Any], words: str) -> None:
    """Options that it does not have are refused by name."""
    with pytest.raises(ConfigError, match=re.escape(words)):
        dataclasses.replace(FLAT, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"neighbours": 3}, "neighbours=3: take as many before as after"),
        ({"neighbours": -2}, "neighbours=-2: take as many before as after"),
        ({"unet": SMALL_UNET.model.unet}, "neighbours=4: only a flat body sees any"),
        ({"prediction": "v", "residual_std": 0.0}, "predicts a `sample` of the `lapped` codec"),
        ({"codec": "autoencoder"}, "predicts a `sample` of the `lapped` codec"),
    ],
)
def test_models_that_cannot_be_are_refused(changes: dict[str, Any], words: str) -> None:
    """Neighbours come in pairs and for a flat body; such a body predicts samples of its codec."""
    with pytest.raises(ConfigError, match=re.escape(words)):
        dataclasses.replace(MODEL, **changes)


def test_the_built_in_model_is_small() -> None:
    """It has about a million weights, a third of them in its repair."""
    with torch.device("meta"):
        model = make_denoiser(NANO.model)
    count = sum(p.numel() for p in model.parameters())

    assert isinstance(model, FlatDenoiser)
    assert 1.2e6 < count < 1.5e6
    assert NANO.model.neighbour_channels == 52
    assert NANO.model.unet.size_step == 1


def test_a_configuration_from_before_there_were_bodies() -> None:
    """A checkpoint that names no body has a UNet without neighbours."""
    text = RELEASED.to_json().replace('"body": "unet", ', "").replace('"neighbours": 0, ', "")

    assert "body" not in text
    assert "neighbours" not in text
    assert Preset.from_json(text) == RELEASED


# what it computes


def test_frames_are_seen_one_by_one() -> None:
    """Changing the second frame's latents and hint changes only the second frame of the result."""
    model, given = randomised(), inputs()
    other = {name: x.clone() for name, x in given.items()}
    for name in ("latents", "hint", "neighbours"):
        other[name][:, :, 1] += 1

    with torch.inference_mode():
        first, second = model(**given), model(**other)

    assert torch.equal(first[:, :, [0, 2]], second[:, :, [0, 2]])
    assert not torch.allclose(first[:, :, 1], second[:, :, 1], atol=0.1)


@pytest.mark.parametrize("name", TOLD)
def test_what_it_is_told_reaches_the_result(name: str) -> None:
    """Neighbours, noise level and downscaling each change the result."""
    model, given = randomised(), inputs()
    if name == "noise_level":  # it also sets the hint's brightness
        given["hint"].zero_()

    with torch.inference_mode():
        assert not torch.allclose(model(**changed(name, given)), model(**given), atol=1e-3)


@pytest.mark.parametrize("name", TOLD)
def test_a_new_model_has_to_learn_what_it_is_told(name: str) -> None:
    """Before the first update no condition changes the result; after a few all do."""
    torch.manual_seed(0)
    model = make_denoiser(MODEL)
    initialise(model, TrainingConfig(trains_prior=True))
    given = inputs()
    if name == "noise_level":
        given["hint"].zero_()
    target = torch.randn(given["latents"].shape, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def key_stride() -> float:
        with torch.inference_mode():
            return float((model(**changed(name, given)) - model(**given)).abs().max())

    assert key_stride() == 0
    for _ in range(6):
        optimizer.zero_grad()
        (model(**given) - target).square().mean().backward()
        optimizer.step()
    assert key_stride() > 1e-5


def test_the_dimming_of_a_diffused_hint_is_undone() -> None:
    """The anchor is the hint divided by its alpha, so it is as bright as the clean one."""
    model, given = randomised(PLAIN), inputs()
    clean = given["hint"]
    alpha, _ = alpha_sigma(noise_schedule().float(), given["noise_level"].long(), 5)
    conditions = {k: given[k] for k in ("is_key", "noise_level", "scale", "neighbours")}

    with torch.inference_mode():
        prepared = model.prepare(hint=alpha * clean, **conditions)

    assert 0.9 < float(alpha) < 0.99
    torch.testing.assert_close(prepared.anchor, clean)


def test_what_is_clean_is_not_repaired() -> None:
    """A clean clip gets the bits of the model without repair; noisy clips of its batch do not."""
    model, plain = randomised(), randomised(PLAIN)
    plain.load_state_dict(
        {k: v for k, v in model.state_dict().items() if not k.startswith("controller.repair")}
    )
    given = {name: x.repeat(2, *[1] * (x.ndim - 1)) for name, x in inputs().items()}

    def key_stride(*levels: float) -> list[float]:
        told = {**given, "noise_level": torch.tensor(levels)}
        with torch.inference_mode():
            return [float(x.abs().max()) for x in model(**told) - plain(**told)]

    assert key_stride(0, 0) == [0, 0]
    clean, noisy = key_stride(0, 100)
    assert clean < 1e-5  # of another batch size, so from other kernels
    assert noisy > 0.01


def test_repair_and_body_learn_one_at_a_time() -> None:
    """`trains_repair` says which part learns; a new repair changes nothing."""
    for is_repair in (False, True):
        model = make_denoiser(MODEL)
        choose_learning(model, trains_prior=True, trains_repair=is_repair)
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad == (name.startswith("controller.repair") == is_repair)
    new = make_denoiser(MODEL).controller.repair
    assert new is not None
    assert not new(torch.randn(1, 100, 4, 4), torch.randn(1, 64)).any()


@pytest.mark.parametrize("body", ["unet", "flat"])
def test_only_a_flat_body_has_a_repair(body: str) -> None:
    """A flat body may have a repair, no other body may."""
    if body == "unet":
        with pytest.raises(ConfigError, match="repair_blocks=2: only a flat body has any"):
            dataclasses.replace(SMALL_UNET.model.unet, repair_blocks=2)
    else:
        assert make_denoiser(PLAIN).controller.repair is None


def run(steps: int, keys: list[Tensor]) -> Tensor:
    """Sample x_0 of the key frames: f c h w."""
    plan = make_plan(described_clip(len(keys), 12, 8), PRESET, Options(steps=steps, scale=2.0))
    latents = Latents(plan.capacity, plan.latents, "cpu", MODEL.neighbour_channels)
    sampler = Sampler(randomised(), plan.sampling, Conditions(0, 2.0), latents, Placement())
    [scene] = plan.scenes
    with torch.inference_mode():
        return torch.cat(list(sampler.run(scene, iter(keys), 0, lambda: None)))


@pytest.mark.parametrize("steps", [1, 4])
def test_it_is_sampled_in_one_step_or_several(steps: int) -> None:
    """Windows have any number of frames; neighbours follow the latents of the key frames."""
    generator = torch.Generator().manual_seed(0)
    channels = 48 + MODEL.neighbour_channels
    keys = list(torch.randn(5, channels, 4, 6, generator=generator))

    out = run(steps, keys)
    blind = run(steps, [torch.cat([k[:48], 0 * k[48:]]) for k in keys])

    assert out.shape == (5, 48, 4, 6)
    assert out.isfinite().all()
    assert not torch.allclose(out, blind, atol=1e-3)


# what it has not


def test_there_is_nothing_to_reuse() -> None:
    """More than one step of `reuse` is refused, as is a fast mode that would be no faster."""
    clip = described_clip()

    assert make_plan(clip, PRESET, Options(reuse=1)).sampling.reuse == 1
    with pytest.raises(OptionError, match="no coarse features to reuse"):
        make_plan(clip, PRESET, Options(reuse=2, steps=4))
    with pytest.raises(OptionError, match="has no shortcuts"):
        make_plan(clip, PRESET, Options(mode="fast"))


def test_a_run_has_a_cost() -> None:
    """Operations and time are counted as for other bodies; a CPU repairs only noisy key frames."""
    clean, noisy = (make_plan(described_clip(), PRESET, Options(refine=r)) for r in (0, 100))
    cost = estimate(clean, "cpu", torch.float32)

    assert 0 < cost.tflop < estimate(noisy, "cpu", torch.float32).tflop
    assert cost.seconds > 0


def test_the_released_layout_has_no_names_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reading, writing and using it as a prior are refused; the message says what to do."""
    released = tmp_path / "released.pt"
    names = "input_blocks.0.0.weight", "VideoControlNet.input_hint_block.weight"
    torch.save({name: torch.zeros(1) for name in names}, released)
    for load in (load_model, load_prior):
        with pytest.raises(WeightsError, match="this model is flat: take the --preset"):
            load(released, PRESET)
    ours = tmp_path / "ours.safetensors"
    save_checkpoint(ours, randomised(), PRESET)

    assert main.main(["convert", str(ours), "-o", str(tmp_path / "out.pt")]) == 2
    error = capsys.readouterr().err
    assert "is of preset 'nano', which has no released layout" in error
    assert error.count("\n") == 1


# its training, before it runs


def test_blocks_can_be_computed_twice() -> None:
    """Checkpointed activations take less memory and more work."""
    batch = MicroBatch(
        model=NANO.model,
        kind="cpu",
        clips=2,
        frames=1,
        rows=16,
        columns=16,
        trains_prior=True,
        is_half=False,
        is_checkpointed=False,
    )
    kept, twice = (
        count_work(dataclasses.replace(batch, is_checkpointed=is_checkpointed))
        for is_checkpointed in (False, True)
    )

    assert twice.saved < 0.7 * kept.saved
    assert twice.flop > 1.1 * kept.flop


def test_a_run_on_a_pool_is_planned() -> None:
    """A sample is one frame; sharded weights are gathered a block at a time."""
    card = CARDS["L4"]

    plan = plan_training(NANO, NANO_TRAINING, 1, card)
    sharded = dataclasses.replace(NANO_TRAINING, sharding="parameters", micro_batch=4)

    repair = dataclasses.replace(NANO_TRAINING, trains_repair=True)
    learning = plan.memory["weights, learning"]
    assert learning > 2 * plan.memory["weights, frozen"]
    assert plan_training(NANO, repair, 1, card).memory["weights, learning"] < learning / 1.5
    assert plan.is_fitting
    assert "; 1 frame of 128x128" in describe(plan)
    one = count_work(
        MicroBatch(
            model=NANO.model,
            kind="cuda",
            clips=8,
            frames=1,
            rows=32,
            columns=32,
            trains_prior=True,
            is_half=True,
            is_checkpointed=False,
        )
    )
    assert plan.denoiser_flop == pytest.approx(one.flop / 8)
    assert 0 < plan_training(NANO, sharded, 2, card).memory["weights, gathered"] < 0.8e6


def test_a_unet_is_planned_with_its_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan counts as many frames as the longest clip has."""
    monkeypatch.setattr(resources, "count_work", lambda batch: MicroBatchCost(1, 1, batch.frames))
    config = TrainingConfig(frames=5, crop=(64, 64), strides=(1, 2), stride_weights=(1, 1), batch=1)

    assert plan_training(SMALL_UNET, config, 1, CARDS["L4"]).frames == 5
