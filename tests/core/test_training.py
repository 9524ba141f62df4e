"""Training: what a step changes, what a crash leaves, what the command refuses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch._utils import ExceptionWrapper

from tests.clips import small_preset
from tests.training_parts import (
    SMALL,
    TEXT_WIDTH,
    new_trainer,
    pooled_encoder,
    small_v_preset,
    some_batches,
    write_media,
)
from venhancer import config as presets
from venhancer.config import TINY, Preset
from venhancer.diffusion.schedule import noise_schedule
from venhancer.errors import OptionError, WeightsError
from venhancer.model.attention import SpatialTransformer
from venhancer.model.denoiser import Denoiser, to_frames
from venhancer.training import __main__ as command
from venhancer.training import config as recipes
from venhancer.training import dataset
from venhancer.training.objective import Encode, loss
from venhancer.training.trainer import Encoders, lapped_encoder, train
from venhancer.weights import load_model
from venhancer.weights_names import CONTROLLER, to_released


@pytest.fixture
def media(tmp_path: Path) -> Path:
    return write_media(tmp_path / "media")


def encoders() -> Encoders:
    return Encoders(lapped_encoder(2.0))


# what a step changes


def test_a_new_controller_leaves_the_prior_as_it_is() -> None:
    """Zero convolutions: whatever the key frames show, the output is the UNet's alone."""
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


def test_a_right_prediction_has_no_loss() -> None:
    """Of v and of x_0; a wrong x_0 costs its square over sigma's, which is the v-loss."""
    [batch] = some_batches(1)
    clean = pooled_encoder(batch.target)
    sigmas = noise_schedule().float()
    seen: list[Tensor] = []

    def value(prediction: str, error: float = 0.0) -> float:
        def network(latents: Tensor, timestep: Tensor, **_: Any) -> Tensor:
            sigma = sigmas[timestep][:, None, None, None, None]
            seen[:] = [sigma]
            x0 = clean + error
            return x0 if prediction == "sample" else ((1 - sigma**2).sqrt() * latents - x0) / sigma

        vars(network).update(sigmas=sigmas, config=SimpleNamespace(prediction=prediction))
        generator = torch.Generator().manual_seed(0)
        return float(loss(cast(Denoiser, network), batch, pooled_encoder, SMALL, generator))

    assert value("v") < 1e-6
    assert value("sample") == 0
    assert value("sample", 0.5) > 0
    assert value("v", 0.5) == pytest.approx(float((0.5 / seen[0]).square().mean()), rel=1e-3)


def text_of(captions: list[str]) -> Tensor:
    """A text encoder for tests, in inference mode as the real one is: (b, 3, d)."""
    with torch.inference_mode():
        lengths = torch.tensor([len(caption) for caption in captions], dtype=torch.float32)
        return lengths[:, None, None].sin().expand(-1, 3, TEXT_WIDTH).clone()


@pytest.mark.parametrize(
    ("preset", "encode", "has_text"),
    [(small_preset(), lapped_encoder(2.0), False), (small_v_preset(), pooled_encoder, True)],
    ids=["sample", "v"],
)
def test_a_step_lowers_the_loss(preset: Preset, encode: Encode, has_text: bool) -> None:
    """On the same batch and noise; both kinds of prediction, with the prior learning and frozen."""
    trainer = new_trainer(preset, dataclasses.replace(SMALL, trains_prior=not has_text))
    [batch] = some_batches(1)
    text = text_of(batch.captions) if has_text else None
    if text is not None:
        text = torch.cat([text])  # what leaves inference mode may take part in gradients
    prior = [p.clone() for p in trainer.model.unet.parameters()]

    def value() -> float:
        generator = torch.Generator().manual_seed(SMALL.seed)
        with torch.no_grad():
            return float(loss(trainer.model, batch, encode, trainer.config, generator, text))

    before = value()
    trained = trainer.update(batch, encode, text, autocast=False)

    assert trained == pytest.approx(before, rel=1e-4)
    assert value() < before
    now = trainer.model.unet.parameters()
    assert all(torch.equal(a, b) for a, b in zip(prior, now, strict=True)) == has_text


def test_the_average_follows_the_weights() -> None:
    """It starts where the weights are, and lags behind them."""
    trainer = new_trainer(small_preset())
    start = [p.detach().clone() for p in trainer.weights]
    assert all(torch.equal(a, b) for a, b in zip(start, trainer.average, strict=True))

    for batch in some_batches(2):
        trainer.update(batch, lapped_encoder(2.0), None, autocast=False)

    def distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
        return sum(float((x - y).detach().square().sum()) for x, y in zip(a, b, strict=True))

    assert distance(trainer.average, start) > 0
    assert distance(trainer.average, trainer.weights) > 0


def test_captions_reach_the_network(tmp_path: Path) -> None:
    """A model with text trains with what its encoder makes of a batch's captions."""
    seen: list[list[str]] = []

    def encode_text(captions: list[str]) -> Tensor:
        seen.append(captions)
        return torch.cat([text_of([caption]) for caption in captions])

    config = dataclasses.replace(SMALL, trains_prior=False, steps=1)
    batches = some_batches(1, config)
    trainer = new_trainer(small_v_preset(), config)

    train(trainer, iter(batches), tmp_path, encoders=Encoders(pooled_encoder, encode_text))

    assert seen == [batches[0].captions]
    assert trainer.step == 1


# what a run leaves


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "loss.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    assert all(line["seconds"] > 0 for line in lines)
    return [line["loss"] for line in lines]


def test_a_continued_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    """Same batches, same losses and weights, bit for bit; steps after the state are done anew."""
    batches = some_batches(4)
    whole = new_trainer(small_preset())
    train(whole, iter(batches), tmp_path / "whole", encoders=encoders())

    stopped = new_trainer(small_preset())
    with pytest.raises(StopIteration):  # the data end in the middle of step 4
        train(stopped, iter(batches[:3]), tmp_path / "halves", encoders=encoders(), save_every=2)
    continued = new_trainer(small_preset())
    continued.load(tmp_path / "halves" / "state.pt")
    assert continued.step == 2
    train(continued, iter(batches[2:]), tmp_path / "halves", encoders=encoders())

    assert losses(tmp_path / "halves") == losses(tmp_path / "whole")
    for a, b in zip(whole.average, continued.average, strict=True):
        assert torch.equal(a, b)


def test_a_crash_while_saving_leaves_the_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is replaced whole or not at all."""
    trainer = new_trainer(small_preset())
    [batch] = some_batches(1)
    trainer.save(tmp_path / "state.pt")
    trainer.update(batch, lapped_encoder(2.0), None, autocast=False)

    def full_disk(state: Any, path: Path) -> None:
        path.write_bytes(b"half of a st")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        trainer.save(tmp_path / "state.pt")

    trainer.load(tmp_path / "state.pt")
    assert trainer.step == 0


def test_the_export_is_the_average(tmp_path: Path) -> None:
    """`load_model` takes it; it holds the averaged weights in float16; training goes on."""
    trainer = new_trainer(small_preset())
    for batch in some_batches(2):
        trainer.update(batch, lapped_encoder(2.0), None, autocast=True)
    weights = [p.detach().clone() for p in trainer.weights]

    trainer.export(tmp_path / "model.safetensors")
    model, preset = load_model(tmp_path / "model.safetensors", TINY)

    assert preset == small_preset()
    parameters = list(model.parameters())
    assert len(parameters) == len(trainer.average)
    for exported, average in zip(parameters, trainer.average, strict=True):
        assert torch.equal(exported, average.half().float())
    assert all(torch.equal(a, b) for a, b in zip(weights, trainer.weights, strict=True))


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    """Another configuration, and a file that is no state: one line each."""
    new_trainer(small_preset()).save(tmp_path / "state.pt")
    (tmp_path / "other.pt").write_bytes(b"no state")

    with pytest.raises(WeightsError, match="another model configuration"):
        new_trainer(small_v_preset()).load(tmp_path / "state.pt")
    with pytest.raises(WeightsError, match="not the state of a training run"):
        new_trainer(small_v_preset()).load(tmp_path / "other.pt")


# the command


@pytest.fixture
def small_nano(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--preset nano` is a network that trains in no time."""
    monkeypatch.setitem(presets.PRESETS, "nano", small_preset())
    monkeypatch.setattr(recipes, "NANO_TRAINING", SMALL)
    monkeypatch.setattr(dataset, "BUFFER", 8)


def call(media: Path, run: Path, *more: str) -> int:
    return command.main(["--data", str(media), "-o", str(run), "--threads", "1", *more])


@pytest.mark.usefixtures("small_nano")
def test_the_command_trains_and_continues(media: Path, tmp_path: Path) -> None:
    """Two steps, then two more by --resume: a state, a log of four lines, a checkpoint."""
    run = tmp_path / "run"

    assert call(media, run, "--steps", "2") == 0
    assert call(media, run, "--resume", "--float32") == 0

    assert len(losses(run)) == 4
    assert load_model(run / "model.safetensors", TINY)[1] == small_preset()
    assert {f.name for f in run.iterdir()} == {"state.pt", "loss.jsonl", "model.safetensors"}


@pytest.mark.usefixtures("small_nano")
def test_a_prior_stays_frozen(media: Path, tmp_path: Path) -> None:
    """--prior FILE in the released layout: the UNet of the result is the file's."""
    model = new_trainer(small_preset(), dataclasses.replace(SMALL, trains_prior=False)).model
    released = to_released(model.state_dict(), model.config.unet)
    prior = {k: v.clone() for k, v in released.items() if not k.startswith(CONTROLLER)}
    torch.save(prior, tmp_path / "prior.pt")

    code = call(media, tmp_path / "run", "--steps", "1", "--prior", str(tmp_path / "prior.pt"))
    trained, _ = load_model(tmp_path / "run" / "model.safetensors", TINY)

    assert code == 0
    for name, tensor in model.unet.state_dict().items():
        assert torch.equal(trained.unet.state_dict()[name], tensor.half().float()), name
    assert any(p.any() for p in trained.controller.zero_convs.parameters())


def test_a_released_model_gets_its_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents and context of a batch come in the order of its clips, ready for gradients."""

    class Codec:
        @torch.inference_mode()
        def encode(self, frames: Tensor, generator: torch.Generator) -> Tensor:
            return frames[:, :1, ::8, ::8] + torch.rand((), generator=generator)

    class Text:
        encode = staticmethod(lambda caption: text_of([caption]))

    monkeypatch.setattr("venhancer.model.vae.load_codec", lambda device: Codec())
    monkeypatch.setattr("venhancer.model.text.load_text_encoder", lambda device: Text())
    found = command._encoders(small_v_preset(), seed=0, device="cpu")
    assert found.text is not None

    latents, context = found.pixels(torch.rand(2, 5, 3, 32, 32)), found.text(["a", "bcd"])

    assert latents.shape == (2, 1, 5, 4, 4)
    assert context.shape == (2, 3, TEXT_WIDTH)
    assert not latents.is_inference()
    assert not context.is_inference()


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_bad_input_is_one_line(
    media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and what to do; the folder of the run is as it was."""
    run, empty = tmp_path / "run", tmp_path / "empty"
    empty.mkdir()

    assert call(empty, run) == 2
    assert "no video and no photo below" in refusal(capsys)
    assert call(media, run, "--resume") == 2
    assert "there is no" in refusal(capsys)
    assert call(media, run, "--preset", "released") == 2
    assert "--prior" in refusal(capsys)
    assert call(media, run, "--prior", str(tmp_path / "none.pt")) == 2
    assert "no such file" in refusal(capsys)
    assert not run.exists()

    run.mkdir()
    new_trainer(small_v_preset()).save(run / "state.pt")
    assert call(media, run) == 2
    assert "--resume" in refusal(capsys)
    assert call(media, run, "--resume") == 2
    assert "another model configuration" in refusal(capsys)


def test_what_a_data_worker_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """PyTorch passes it on with the worker's traceback, which stays out of it."""

    def refuse(_: Any) -> None:
        try:
            raise OptionError("no clip to be had")
        except OptionError:
            ExceptionWrapper(where="in DataLoader worker process 0").reraise()

    monkeypatch.setattr(command, "run", refuse)

    assert call(tmp_path, tmp_path / "run") == 2
    assert refusal(capsys) == "venhancer.training: no clip to be had\n"
