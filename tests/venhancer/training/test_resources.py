"""The plan of a run: predicted memory against measured, sharding, and advice."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.clips import TINY_UNET, small_preset
from venhancer.config import RELEASED, ModelConfig, Preset
from venhancer.errors import ConfigError, DeviceError, OptionError
from venhancer.model.denoiser import make_denoiser
from venhancer.planning.activations import LiveBytes
from venhancer.planning.cards import CARDS, Card
from venhancer.planning.cost import sample_inputs
from venhancer.training import resources
from venhancer.training.config import TrainingConfig
from venhancer.training.counting import MicroBatch, MicroBatchCost, count_work
from venhancer.training.parallel import checkpoint_activations
from venhancer.training.resources import GIB, card_named, describe, plan_training

CONFIG = TrainingConfig(
    frames=5,
    crop=(64, 64),
    strides=(1, 2),
    stride_weights=(1, 3),
    batch=8,
    trains_prior=True,
    checkpoint_activations=False,
)
BATCH = MicroBatch(
    model=small_preset().model,
    kind="cpu",
    clips=2,
    frames=5,
    rows=16,
    columns=16,
    trains_prior=False,
    is_half=False,
    is_checkpointed=False,
)
A_CARD = Card("card", 8.0, 100.0, 50.0)


def attentive_preset() -> Preset:
    """Make a preset of the released kind, with text and attention over space."""
    unet = dataclasses.replace(
        TINY_UNET, latent_channels=4, spatial_levels=(0,), text_width=16, extra_rows=1
    )
    return Preset(name="attentive", model=ModelConfig(unet=unet))


@pytest.fixture
def cheap_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the codec's count of operations, which would import packages."""
    monkeypatch.setattr(resources, "codec_flop", lambda height, width: height * width)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the activations' count: so many GiB a clip, a third of them if checkpointed."""

    def work(batch: MicroBatch) -> MicroBatchCost:
        peak = batch.clips * GIB // (3 if batch.is_checkpointed else 1)
        return MicroBatchCost(saved=peak // 2, peak=peak, flop=10**12 * batch.clips)

    monkeypatch.setattr(resources, "count_work", work)


def really_saved(batch: MicroBatch) -> tuple[int, int]:
    """Measure the bytes that autograd saves, and the peak of live bytes, on real data."""
    model = make_denoiser(batch.model)
    model.unet.requires_grad_(batch.trains_prior)
    model.time_embedding.requires_grad_(batch.trains_prior)
    if batch.is_checkpointed:
        checkpoint_activations(model)
    inputs = sample_inputs(batch.model, batch.frames, batch.rows, batch.columns, batch.clips)
    outside = {x.untyped_storage().data_ptr() for x in (*model.parameters(), *inputs.values())}
    storages: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in outside:
            storages[storage.data_ptr()] = storage.nbytes()
        return x

    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    is_half = batch.is_half
    with LiveBytes() as memory, torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            out = model(**inputs)
        saved = sum(storages.values())
        torch.autograd.backward(out.float().square().mean())
        del out
    return saved, memory.peak


@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_the_count_is_what_autograd_keeps(is_checkpointed: bool) -> None:
    """Counted on shapes alone, the bytes equal those of a real forward and backward."""
    batch = dataclasses.replace(BATCH, is_checkpointed=is_checkpointed)

    counted = count_work(batch)
    saved, peak = really_saved(batch)

    assert counted.peak == peak
    assert counted.saved == saved or is_checkpointed  # blocks hold their inputs themselves


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_checkpointing_trades_memory_for_work(kind: Any) -> None:
    """Much less is kept, and one more forward pass is computed."""
    kept = count_work(dataclasses.replace(BATCH, kind=kind))
    twice = count_work(dataclasses.replace(BATCH, kind=kind, is_checkpointed=True))

    assert twice.saved < 0.4 * kept.saved
    assert twice.peak < 0.6 * kept.peak
    assert 1.1 < twice.flop / kept.flop < 1.5
    assert kept.flop == count_work(dataclasses.replace(BATCH, kind="cpu")).flop


def test_a_frozen_prior_takes_less() -> None:
    """Its encoder has no backward pass, and its weights no gradients."""
    both = count_work(dataclasses.replace(BATCH, trains_prior=True))
    frozen = count_work(BATCH)

    assert frozen.flop < 0.8 * both.flop
    assert frozen.saved < both.saved


def test_attention_keeps_no_scores() -> None:
    """On CUDA activations grow linearly with the pixels, though attention is between all pixels."""
    changes = {"model": attentive_preset().model, "kind": "cuda", "rows": 34, "is_half": True}
    small = dataclasses.replace(BATCH, **changes)
    large = dataclasses.replace(small, columns=32)

    assert count_work(large).saved == pytest.approx(2 * count_work(small).saved, rel=0.03)
    assert count_work(large).flop > 2.2 * count_work(small).flop


def parts(sharding: Any, devices: int, **changes: Any) -> dict[str, int]:
    config = dataclasses.replace(CONFIG, sharding=sharding, **changes)
    return plan_training(small_preset(), config, devices, A_CARD).memory


@pytest.mark.usefixtures("counted")
def test_weights_are_held_as_the_trainer_holds_them() -> None:
    """Trained weights are float32 with gradient, two moments and average; frozen ones bfloat16."""
    model = make_denoiser(small_preset().model)
    learning = sum(p.numel() for p in model.controller.parameters())
    frozen = sum(p.numel() for p in model.unet.parameters())
    embedding = sum(p.numel() for p in model.time_embedding.parameters())

    found = parts("none", 1, trains_prior=False)

    assert found["weights, learning"] == found["gradients"] == 4 * learning
    assert found["moments of AdamW"] == 8 * learning
    assert found["averaged weights"] == 4 * learning
    assert found["weights, frozen"] == 2 * frozen + 4 * embedding
    plan = plan_training(small_preset(), dataclasses.replace(CONFIG, trains_prior=False), 1, A_CARD)
    assert plan.checkpoint_bytes == 16 * learning
    assert plan.export_bytes == 2 * (learning + frozen + embedding)


@pytest.mark.usefixtures("counted")
def test_sharding_divides_what_it_says() -> None:
    """Moments and average are divided by all devices; weights too, or whole beside the share.

    Gradients are divided in updates of one micro-batch, activations never.
    """
    alone, ddp = parts("none", 1), parts("none", 4)
    whole = alone["weights, learning"]

    assert ddp["gradients"] == 2 * whole  # and DDP's buckets
    for sharding in ("optimizer", "parameters"):
        found = parts(sharding, 4, batch=4)
        assert found["moments of AdamW"] == pytest.approx(2 * whole / 4, abs=1)
        assert found["averaged weights"] == found["gradients"] == pytest.approx(whole / 4, abs=1)
        assert found["activations"] == alone["activations"]
        assert parts(sharding, 4, batch=8)["gradients"] == whole
    assert parts("optimizer", 4)["weights, learning"] == pytest.approx(whole * 1.25, abs=1)
    assert parts("parameters", 4)["weights, learning"] == pytest.approx(whole / 4, abs=1)
    assert 0 < parts("parameters", 4)["weights, gathered"] < 2 * whole
    assert parts("parameters", 1) == alone


@pytest.mark.usefixtures("counted")
def test_advice_is_given_where_memory_is_short() -> None:
    """The first settings that fit are suggested; none if it fits, a note if nothing helps."""
    config = dataclasses.replace(CONFIG, micro_batch=2)
    plan = plan_training(small_preset(), config, 2, A_CARD)
    assert plan.is_fitting
    assert plan.advice is None
    tight = Card("tight", (plan.total - 1) / GIB, 100.0, 50.0)

    short = plan_training(small_preset(), config, 2, tight)

    assert short.advice == "it fits with --set checkpoint_activations=True"
    assert "DOES NOT FIT" in describe(short)
    advised = dataclasses.replace(config, checkpoint_activations=True)
    assert plan_training(small_preset(), advised, 2, tight).is_fitting
    hopeless = plan_training(small_preset(), config, 2, Card("toy", 0.1, 1.0, 1.0))
    assert hopeless.advice == "no setting makes it fit: take devices with more memory"


@pytest.mark.usefixtures("cheap_codec", "counted")
def test_time_counts_network_and_codec() -> None:
    """Assumed shares of the peak rates are used, and the text says so."""
    config = dataclasses.replace(CONFIG, crop=(64, 80), steps=100)
    plan = plan_training(attentive_preset(), config, 2, A_CARD)
    keys = (5 + 3 * 3) / 4  # a stride of 2 three times as often as of 1
    assert plan.codec_flop == (5 + keys) * 64 * 80

    seconds = plan.denoiser_flop / 100e12 + plan.codec_flop / 50e12
    assert plan.clips_per_second == pytest.approx(2 * 0.4 / seconds)
    assert plan.days == pytest.approx(100 * 8 / plan.clips_per_second / 86400)
    assert "assumed 40% of the card's peak" in describe(plan)
    read = json.loads(plan.to_json())
    assert read["total"] == plan.total
    assert read["memory"] == plan.memory


@pytest.mark.usefixtures("counted")
def test_a_codec_that_cannot_be_counted_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the plan is printed without diffusers."""

    def refuse(height: int, width: int) -> int:
        raise DeviceError("diffusers is not installed")

    monkeypatch.setattr(resources, "codec_flop", refuse)

    text = describe(
        plan_training(attentive_preset(), dataclasses.replace(CONFIG, crop=(64, 80)), 1, A_CARD)
    )

    assert "the codec not counted" in text


def test_what_cannot_be_planned_is_refused() -> None:
    """A crop the network cannot take, an indivisible batch and an unknown card are refused."""
    with pytest.raises(OptionError, match=r"crop=68x64 .* take 72x64"):
        plan_training(small_preset(), dataclasses.replace(CONFIG, crop=(68, 64)), 1, A_CARD)
    with pytest.raises(ConfigError, match="cannot be divided among 3 devices"):
        plan_training(small_preset(), CONFIG, 3, A_CARD)
    with pytest.raises(OptionError, match="--card A1000 is unknown: take A100-40G"):
        card_named("A1000", "cpu")
    assert card_named("a100-80g", "cpu") is CARDS["A100-80G"]


def test_this_machine_is_a_card_too() -> None:
    """A CPU's memory is what is free, its rate a measured one."""
    card = card_named(None, "cpu")

    assert card.kind == "cpu"
    assert card.memory_gib > 0
    assert card.float32_tflops > 0


@pytest.mark.slow
@pytest.mark.usefixtures("cheap_codec")
def test_the_paper_s_run_fits_its_cards() -> None:
    """Batch 256 on 16 A100 of 80 GB fits; a few thousand updates take some days."""
    plan = plan_training(RELEASED, TrainingConfig(steps=2_000), 16, CARDS["A100-80G"])

    assert plan.is_fitting
    assert 1 < plan.days < 10
