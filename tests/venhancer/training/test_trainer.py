"""Training: the effect of an update, of a crash, and refusals."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.clips import small_preset
from tests.support.training_parts import (
    SMALL,
    diffusion_loss,
    encode_text,
    encoders_of,
    new_trainer,
    pooled_encode,
    small_v_preset,
    some_batches,
)
from venhancer.config import TINY, Preset
from venhancer.diffusion.schedule import noise_schedule
from venhancer.errors import OptionError, TrainingError, WeightsError
from venhancer.model.attention import SpatialTransformer
from venhancer.model.denoiser import to_frames
from venhancer.training import checkpoints
from venhancer.training.config import TrainingConfig
from venhancer.training.encoders import Encoders
from venhancer.training.loop import TrainingRun, train
from venhancer.training.objective import (
    DiffusionLoss,
    encode_batch,
)
from venhancer.training.trainer import Trainer
from venhancer.weights.checkpoint import load_model

SMALL_PRESET = small_preset()


def silent(_: str) -> None:
    pass


# what a step changes


def test_a_new_controller_leaves_the_prior_as_it_is() -> None:
    """Zero convolutions: for any key frames, the output is the UNet's alone."""
    model = new_trainer(TINY, dataclasses.replace(SMALL, trains_prior=False)).model
    torch.manual_seed(1)
    latents, text = torch.randn(1, 4, 3, 10, 8), torch.randn(1, 7, 1024)
    timestep = torch.tensor([500])

    with torch.inference_mode():
        out = model(
            latents=latents,
            timestep=timestep,
            hint=torch.randn(1, 4, 3, 10, 8),
            is_key=torch.tensor([[1.0, 0.0, 1.0]]),
            noise_level=torch.tensor([200]),
            scale=torch.tensor([4.0]),
            text=text,
        )
        texts = list(model.read_texts(model.prepare_text(text)))
        count = sum(isinstance(m, SpatialTransformer) for m in model.unet.modules())
        embedding = model.time_embedding(timestep).expand(3, -1)
        own = iter(texts[-count:])  # after the controller's
        alone = model.unet(to_frames(latents, torch.float32), embedding, own, 3, ())

    assert out.std() > 1e-3
    torch.testing.assert_close(out[0].transpose(0, 1), alone, atol=1e-5, rtol=1e-4)


def learning(preset: Preset, has_text: bool, **settings: Any) -> tuple[Trainer, DiffusionLoss]:
    """Make a trainer of a preset and its objective, with a text encoder if the preset has text."""
    trainer = new_trainer(preset, dataclasses.replace(SMALL, **settings))
    encoders = dataclasses.replace(encoders_of(preset), text=encode_text if has_text else None)
    return trainer, dataclasses.replace(diffusion_loss(trainer), encoders=encoders)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize(
    ("preset", "has_text"), [(small_preset(), False), (small_v_preset(), True)], ids=["sample", "v"]
)
def test_a_step_lowers_the_loss(preset: Preset, has_text: bool, precision: str) -> None:
    """It does so on one batch and noise, for both kinds of prediction, prior trained or frozen."""
    trainer, loss = learning(preset, has_text, trains_prior=not has_text, precision=precision)
    [batch] = some_batches(1)
    prior = [p.clone() for p in trainer.model.unet.parameters()]

    def value() -> float:
        with torch.no_grad():
            return float(loss(trainer.network, batch, torch.Generator().manual_seed(1)))

    before = value()
    for _ in range(8):
        trainer.update(iter([batch]), loss)

    assert value() < before
    now = trainer.model.unet.parameters()
    assert all(torch.equal(a, b) for a, b in zip(prior, now, strict=True)) == has_text


def test_micro_batches_add_up(tmp_path: Path) -> None:
    """Four clips at once or one by one give the same gradient, up to rounding."""
    [whole] = some_batches(1, dataclasses.replace(SMALL, batch=4))

    def part(i: int) -> Any:
        fields = {
            n: getattr(whole, n) for n in ("target", "hint", "is_key", "scale", "noise_level")
        }
        cut = {name: value[i : i + 1] for name, value in fields.items()}
        return dataclasses.replace(whole, **cut, captions=[""], names=[f"clip {i}"])

    class Fixed:
        """The loss at one timestep and without noise, so that no clip's draw depends on others."""

        def __init__(self, trainer: Trainer) -> None:
            self.encode = encoders_of(trainer.preset).pixels

        def __call__(self, network: nn.Module, batch: Any, generator: torch.Generator) -> Tensor:
            clean, hint = (self.encode(x, generator) for x in (batch.target, batch.hint))
            out = network(
                latents=hint,
                timestep=torch.full((len(clean),), 500),
                hint=hint,
                is_key=batch.is_key,
                noise_level=batch.noise_level,
                scale=batch.scale,
                text=None,
            )
            return (out - clean).square().mean()

    norms = []
    for micro, batches in ((4, [whole]), (1, [part(i) for i in range(4)])):
        config = dataclasses.replace(SMALL, batch=4, micro_batch=micro)
        trainer = new_trainer(small_preset(), config)
        update, _ = trainer.update(iter(batches), Fixed(trainer))
        norms.append((update.loss, update.gradient_norm))
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_recomputed_activations_change_nothing() -> None:
    """Losses and gradients equal those of a run that keeps activations, bit for bit."""
    found = []
    for recomputes in (False, True):
        trainer, loss = learning(small_v_preset(), True, checkpoint_activations=recomputes)
        update, _ = trainer.update(iter(some_batches(1)), loss)
        found.append((update.loss, update.gradient_norm))
    assert found[0] == found[1]


def test_only_key_frames_of_the_hint_are_encoded() -> None:
    """Other frames are not used, and encoding is most of a clip's cost."""
    [batch] = some_batches(1)
    keys = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
    batch = dataclasses.replace(
        batch, **{n: getattr(batch, n)[:, :5] for n in ("target", "hint")}, is_key=keys.expand(2, 5)
    )
    seen: list[int] = []

    def encode(clips: Tensor, generator: torch.Generator) -> Tensor:
        seen.append(clips.shape[1])
        return pooled_encode(clips, generator)

    sigmas = noise_schedule().float()
    found = encode_batch(batch, Encoders(encode), sigmas, torch.Generator().manual_seed(0))
    whole = encode_batch(
        dataclasses.replace(
            batch,
            target=pooled_encode(batch.target, torch.Generator()),
            hint=pooled_encode(batch.hint, torch.Generator()),
            is_latent=True,
        ),
        Encoders(encode),
        sigmas,
        torch.Generator().manual_seed(0),
    )

    assert seen == [5, 3]
    assert torch.equal(found.shown[:, :, keys.bool()], whole.shown[:, :, keys.bool()])


def test_the_average_follows_the_weights() -> None:
    """It starts at the weights, and follows them with a delay."""
    trainer = new_trainer(small_preset())
    start = {name: p.detach().clone() for name, p in trainer.weights.items()}
    assert all(torch.equal(p, trainer.average[name]) for name, p in start.items())

    for _ in range(2):
        trainer.update(iter(some_batches(1)), diffusion_loss(trainer))

    def distance(a: dict[str, Tensor], b: Any) -> float:
        return sum(float((a[n] - b[n]).detach().square().sum()) for n in a)

    assert distance(trainer.average, start) > 0
    assert distance(trainer.average, trainer.weights) > 0


def test_captions_reach_the_network() -> None:
    """A model with text trains on its encoder's features of a batch's captions."""
    seen: list[list[str]] = []

    def listen(captions: list[str]) -> Tensor:
        seen.append(captions)
        return encode_text(captions)

    trainer, loss = learning(small_v_preset(), True)
    loss = dataclasses.replace(loss, encoders=Encoders(pooled_encode, listen))
    [batch] = some_batches(1)

    trainer.update(iter([batch]), loss)

    assert seen == [batch.captions]
    assert trainer.step == 1


def test_the_learning_rate_is_the_papers() -> None:
    """It is 1e-5 after a warm-up, to the end; optionally, half a cosine down."""
    trainer = new_trainer(small_preset())

    def rate(step: int, **settings: Any) -> float:
        trainer.config, trainer.step = TrainingConfig(steps=1100, **settings), step
        return trainer.learning_rate()

    assert [rate(step) for step in (100, 600, 1100)] == [1e-5] * 3
    assert rate(49) == pytest.approx(5e-6)
    falling = [rate(step, final_learning_rate=0.1) for step in (100, 600, 1100)]
    assert falling == pytest.approx([1e-5, 5.5e-6, 1e-6])


# what a run leaves


def run_in(folder: Path, trainer: Trainer) -> TrainingRun:
    return TrainingRun(folder, diffusion_loss(trainer), trainer.preset)


def test_a_crash_while_saving_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint is complete or absent; two are kept."""
    trainer = new_trainer(small_preset())
    for step in (1, 2, 3):
        trainer.step = step
        trainer.save(tmp_path)
    kept = [path.name for path in checkpoints.find_checkpoints(tmp_path)]
    assert kept == ["step-00000002", "step-00000003"]

    def full_disk(state: Any, checkpoint_id: Path, **_: Any) -> None:
        (checkpoint_id / "__0_0.distcp").write_bytes(b"half of a ch")
        raise OSError(28, "No space left on device")

    trainer.step = 4
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.state_dict_saver, "save", full_disk)
        with pytest.raises(OSError, match="No space"):
            trainer.save(tmp_path)

    assert [path.name for path in checkpoints.find_checkpoints(tmp_path)] == kept
    trainer.load(checkpoints.find_checkpoints(tmp_path)[-1])
    assert trainer.step == 3


def test_the_export_is_the_average(tmp_path: Path) -> None:
    """`load_model` reads the averaged weights in float16; training goes on."""
    trainer = new_trainer(small_preset())
    for _ in range(2):
        trainer.update(iter(some_batches(1)), diffusion_loss(trainer))
    weights = {name: p.detach().clone() for name, p in trainer.weights.items()}

    trainer.export(tmp_path / "model.safetensors", trainer.preset)
    model, preset = load_model(tmp_path / "model.safetensors", TINY)

    assert preset == small_preset()
    exported = dict(model.named_parameters())
    assert exported.keys() == trainer.average.keys()
    for name, average in trainer.average.items():
        assert torch.equal(exported[name], average.half().float()), name
    assert all(torch.equal(p, trainer.weights[name]) for name, p in weights.items())


def test_no_number_stops_the_run(tmp_path: Path) -> None:
    """A NaN loss names the clips; the weights and the last checkpoint stay unchanged."""
    trainer = new_trainer(small_preset(), dataclasses.replace(SMALL, save_every=1))
    good, bad, _ = some_batches(3)
    hint = bad.hint.clone()
    hint[1] = float("nan")
    bad = dataclasses.replace(bad, hint=hint, names=["good.mp4", "broken.mp4"])
    weights: dict[str, Tensor] = {}

    def batches() -> Iterator[Any]:
        yield good
        weights.update({name: p.detach().clone() for name, p in trainer.weights.items()})
        yield bad

    with pytest.raises(TrainingError, match=r"update 2: the loss is no number.*broken\.mp4"):
        train(trainer, batches(), run_in(tmp_path, trainer), silent)

    assert all(torch.equal(p, trainer.weights[name]) for name, p in weights.items())
    assert [p.name for p in checkpoints.find_checkpoints(tmp_path)] == ["step-00000001"]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    """Another model, other training settings or frozen weights, and no checkpoint are refused."""
    new_trainer(small_preset()).save(tmp_path)
    [folder] = checkpoints.find_checkpoints(tmp_path)

    def load(preset: Preset = SMALL_PRESET, **settings: Any) -> None:
        trainer = new_trainer(preset, dataclasses.replace(SMALL, **settings))
        trainer.load(folder)

    load(steps=9, sharding="optimizer", checkpoint_activations=True, save_every=7)
    with pytest.raises(WeightsError, match="another model configuration"):
        load(small_v_preset())
    with pytest.raises(OptionError, match=r"trained with learning_rate=0\.001, this run has 0\.1"):
        load(learning_rate=0.1)
    trainer = new_trainer(small_preset())
    trainer.frozen = "of another file"
    with pytest.raises(WeightsError, match="other frozen weights"):
        trainer.load(folder)
    (folder / checkpoints.FACTS).write_text("{}")
    with pytest.raises(WeightsError, match="not a checkpoint of a training run"):
        load()


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    """If its data are cut short, one line says which one to use."""
    trainer = new_trainer(small_preset())
    trainer.save(tmp_path)
    [folder] = checkpoints.find_checkpoints(tmp_path)
    [data] = folder.glob("*.distcp")
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])

    with pytest.raises(WeightsError, match="is damaged, use the one before it"):
        trainer.load(folder)
