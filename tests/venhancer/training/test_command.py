"""`venhancer-train`: outputs of a run, resuming, and refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch._utils import ExceptionWrapper

from tests.support.clips import small_preset, write_clip
from tests.support.training_parts import (
    SMALL,
    new_trainer,
    small_v_preset,
    some_batches,
    text_of,
    write_media,
)
from venhancer import config as presets
from venhancer.config import TINY
from venhancer.errors import OptionError
from venhancer.training import __main__ as main
from venhancer.training import command
from venhancer.training.encoders import load_encoders
from venhancer.weights.checkpoint import load_model
from venhancer.weights.released_names import CONTROLLER, to_released


@pytest.fixture
def media(tmp_path: Path) -> Path:
    return write_media(tmp_path / "media")


@pytest.fixture
def small_nano(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `--preset nano` a UNet that trains on clips, in no time."""
    monkeypatch.setitem(presets.PRESETS, "nano", small_preset())
    monkeypatch.setattr(command, "NANO_TRAINING", SMALL)


def call(media: Path, run: Path, *more: str) -> int:
    return main.main(["--data", str(media), "-o", str(run), "--threads", "1", *more])


def logged(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "loss.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("small_nano")
def test_the_command_trains_and_goes_on(
    media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two updates, then two more by --resume, have the losses of four in one run, bit for bit."""
    for name, calls in (("whole", [["4"]]), ("halves", [["2"], ["4", "--resume"]])):
        for steps, *more in calls:
            options = ["--workers", "1", "--steps", steps, *more]
            assert call(media, tmp_path / name, *options) == 0

    whole, halves = (tmp_path / name for name in ("whole", "halves"))
    assert [line["loss"] for line in logged(halves)] == [line["loss"] for line in logged(whole)]
    assert [line["step"] for line in logged(halves)] == [1, 2, 3, 4]
    assert load_model(halves / "model.safetensors", TINY)[1] == small_preset()
    assert not capsys.readouterr().err


@pytest.mark.usefixtures("small_nano")
def test_a_run_is_validated(
    media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Held-out clips give a grid of losses, sample videos and the best weights."""
    held_out = tmp_path / "held out"
    held_out.mkdir()
    write_clip(held_out / "waves.mp4", 9, 64, 48)
    run = tmp_path / "run"

    code = call(media, run, "--steps", "2", "--validate", str(held_out), "--workers", "0")

    assert code == 0
    [line] = (run / "validation.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 2
    assert load_model(run / "best.safetensors", TINY)[1] == small_preset()
    assert [path.name for path in (run / "samples").iterdir()] == ["step-00000002_waves.mp4"]
    assert "mean loss" in capsys.readouterr().out


@pytest.mark.usefixtures("small_nano")
def test_a_prior_stays_frozen(media: Path, tmp_path: Path) -> None:
    """With --prior FILE in the released layout, the result's UNet is the file's."""
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


@pytest.mark.usefixtures("small_nano")
def test_a_student_learns_from_trained_weights(media: Path, tmp_path: Path) -> None:
    """--teacher FILE: the student begins as the teacher, and stores its few steps as default."""
    assert call(media, tmp_path / "teacher", "--steps", "1") == 0
    teacher = tmp_path / "teacher" / "model.safetensors"
    options = ["--teacher", str(teacher), "--set", "student_evaluations=2", "--steps", "1"]

    assert call(media, tmp_path / "student", *options, "--set", "learning_rate=1e-9") == 0
    student, preset = load_model(tmp_path / "student" / "model.safetensors", TINY)

    assert preset.defaults.steps == 2
    for name, tensor in load_file(teacher).items():
        torch.testing.assert_close(student.state_dict()[name], tensor.float(), atol=1e-6, rtol=1e-3)


@pytest.mark.usefixtures("small_nano")
def test_settings_can_be_named(media: Path, tmp_path: Path) -> None:
    """--set NAME=VALUE may be repeated; an unknown name or value is refused."""
    run = tmp_path / "run"
    options = ["--set", "learning_rate=0.5", "--set", "precision=bf16", "--steps", "1"]

    assert call(media, run, *options) == 0

    [facts] = run.glob("checkpoints/*/run.json")
    saved = json.loads(facts.read_text())["config"]
    assert (saved["learning_rate"], saved["precision"], saved["steps"]) == (0.5, "bf16", 1)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_trained_weights_convert_to_the_released_layout(tmp_path: Path, suffix: str) -> None:
    """They can be read again: the same tensors under the released names."""
    trainer = new_trainer(small_v_preset())
    trainer.export(tmp_path / "model.safetensors", trainer.preset)
    target = tmp_path / f"released{suffix}"

    code = main.main(["convert", str(tmp_path / "model.safetensors"), "-o", str(target)])

    assert code == 0
    found, _ = load_model(target, small_v_preset())
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        assert torch.equal(found.state_dict()[name], tensor.float()), name
    assert main.main(["convert", str(tmp_path / "model.safetensors"), "-o", str(target)]) == 2


def test_a_model_with_text_gets_its_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch's latents and context are in the order of its clips, and usable for gradients."""

    class Codec:
        @torch.inference_mode()
        def encode(self, frames: Tensor, generator: torch.Generator) -> Tensor:
            return frames[:, :1, ::8, ::8] + torch.rand((), generator=generator)

    class Text:
        encode = staticmethod(lambda caption: text_of([caption]))

    monkeypatch.setattr("venhancer.encoders.autoencoder.load_codec", lambda device: Codec())
    monkeypatch.setattr("venhancer.encoders.text_encoder.load_text_encoder", lambda device: Text())
    found = load_encoders(small_v_preset(), "cpu")
    assert found.text is not None

    clips, generator = torch.rand(2, 5, 3, 32, 32), torch.Generator().manual_seed(0)
    latents, context = found.pixels(clips, generator), found.text(["a", "bcd"])

    assert latents.shape == (2, 1, 5, 4, 4)
    assert context.shape[0] == 2
    assert not latents.is_inference()
    assert not context.is_inference()


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.usefixtures("small_nano")
def test_bad_input_is_one_line(
    media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and what to do; no run folder is left."""
    run, empty = tmp_path / "run", tmp_path / "empty"
    empty.mkdir()
    refused = [
        ((empty,), "no video and no photo below"),
        ((tmp_path / "none",), "none"),
        ((media, "--resume"), "there is no checkpoint"),
        ((media, "--preset", "released"), "--prior"),
        ((media, "--prior", tmp_path / "none.pt"), "no such file"),
        ((media, "--weights", tmp_path / "none.pt"), "no such file"),
        ((media, "--set", "colour=red"), "unknown training settings: colour"),
        ((media, "--set", "batch"), "NAME=VALUE"),
        ((media, "--set", "batch=9"), "not a multiple of micro_batch=2"),
        ((media, "--set", "perceptual_weight=1"), "--perceptual"),
        ((media, "--validate", empty), "no video and no photo below"),
    ]
    for (data, *options), words in refused:
        assert call(data, run, *map(str, options)) == 2, words
        assert words in refusal(capsys)
        assert not run.exists(), words


@pytest.mark.usefixtures("small_nano")
def test_a_run_is_not_written_over(
    media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder with a checkpoint needs --resume; other settings are refused by name."""
    run = tmp_path / "run"
    assert call(media, run, "--steps", "1") == 0
    capsys.readouterr()

    assert call(media, run) == 2
    assert "--resume" in refusal(capsys)
    assert call(media, run, "--resume", "--set", "seed=7") == 2
    assert "seed=0, this run has 7" in refusal(capsys)
    assert [path.name for path in run.glob("checkpoints/*")] == ["step-00000001"]


@pytest.mark.usefixtures("small_nano")
def test_weights_of_another_model_are_refused(
    media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights contain their preset, which must be the one to train."""
    trainer = new_trainer(small_v_preset())
    trainer.export(tmp_path / "model.safetensors", trainer.preset)

    assert small_preset().model != trainer.preset.model
    assert call(media, tmp_path / "run", "--weights", str(tmp_path / "model.safetensors")) == 2
    assert "holds the model of preset 'small'" in refusal(capsys)


def test_latents_of_another_codec_are_refused() -> None:
    """The number of channels is wrong; the error names the sample and how to make its shard."""
    [batch] = some_batches(1)
    latents = dataclasses.replace(batch, target=torch.zeros(2, 4, 5, 8, 8), is_latent=True)

    assert next(command.fitting(iter([batch]), 48)) is batch
    assert next(command.fitting(iter([latents]), 4)) is latents
    with pytest.raises(OptionError, match=r"clip 0 holds latents of 4 channels.* takes 48"):
        next(command.fitting(iter([latents]), 48))


def test_what_a_data_worker_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """PyTorch adds the worker's traceback, which is left out."""

    def refuse(_: Any) -> None:
        try:
            raise OptionError("no clip to be had")
        except OptionError:
            ExceptionWrapper(where="in DataLoader worker process 0").reraise()

    monkeypatch.setattr(main, "run", refuse)

    assert call(tmp_path, tmp_path / "run") == 2
    assert refusal(capsys) == "venhancer-train: no clip to be had\n"


def test_the_plan_comes_before_the_run(
    media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--plan prints the cost of the run, and starts nothing; an unknown card is one line."""
    card = ("--plan", "--devices", "2", "--set", "micro_batch=2", "--card", "L4")

    assert call(media, tmp_path / "run", *card) == 0
    told = capsys.readouterr().out
    assert "L4" in told
    assert "clips/s" in told
    assert not (tmp_path / "run").exists()

    assert call(media, tmp_path / "run", "--plan", "--card", "Z80") == 2
    assert "Z80" in refusal(capsys)


def test_an_interrupt_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C gives no traceback, a shell's exit code, and the way to continue."""

    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "run", interrupt)

    assert call(tmp_path, tmp_path / "run") == 130
    assert "--resume" in refusal(capsys)
