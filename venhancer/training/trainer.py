"""The training loop: AdamW, averaged weights, atomic checkpoints, bit-equal resume."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from venhancer.config import Preset
from venhancer.errors import WeightsError
from venhancer.model import lapped
from venhancer.model.denoiser import Denoiser
from venhancer.model.layers import zero_init
from venhancer.model.vae import AutoencoderCodec
from venhancer.training.augmentation import Batch
from venhancer.training.config import TrainingConfig
from venhancer.training.objective import Encode, loss
from venhancer.weights import UNREADABLE, save_checkpoint

Report = Callable[[int, float, float], None]  # step, loss, seconds a step


@dataclass(frozen=True, slots=True)
class Encoders:
    """What turns clips into latents and, for a model with text, captions into its context."""

    pixels: Encode
    text: Callable[[list[str]], Tensor] | None = None


def lapped_encoder(scale: float) -> Encode:
    """NANO's codec for batches: b f 3 H W -> b c f h w."""

    def encode(clips: Tensor) -> Tensor:
        latents = lapped.encode(clips.flatten(0, 1), scale)
        return rearrange(latents, "(b f) c h w -> b c f h w", b=len(clips))

    return encode


def autoencoder_encoder(codec: AutoencoderCodec, seed: int) -> Encode:
    """The released model's codec for batches, which samples: b f 3 H W -> b c f h w."""
    generator = torch.Generator().manual_seed(seed)

    def encode(clips: Tensor) -> Tensor:
        latents = codec.encode(clips.flatten(0, 1), generator)
        latents = latents.clone()  # out of inference mode, so that gradients may pass
        return rearrange(latents, "(b f) c h w -> b c f h w", b=len(clips))

    return encode


def initialise(model: Denoiser, config: TrainingConfig) -> None:
    """Start as the paper does: the controller's encoder and middle are the prior's.

    Without a trained prior there is nothing that zero convolutions would have to protect, and they
    would only keep the hint out at first: then they start like any other.
    """
    model.controller.encoder.load_state_dict(model.unet.encoder.state_dict())
    model.controller.middle.load_state_dict(model.unet.middle.state_dict())
    model.controller.time_embedding.load_state_dict(model.time_embedding.state_dict())
    if config.trains_prior:
        zero_init(model.unet.head)
        controller = model.controller
        for conv in (controller.hint_conv, *controller.zero_convs, controller.zero_conv_middle):
            assert isinstance(conv, nn.Conv2d)
            conv.reset_parameters()


class Trainer:
    """A model in training, with all that a checkpoint has to hold."""

    def __init__(self, model: Denoiser, preset: Preset, config: TrainingConfig) -> None:
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.preset = preset
        self.config = config
        self.step = 0
        model.unet.requires_grad_(config.trains_prior)
        model.time_embedding.requires_grad_(config.trains_prior)
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.weights]
        self.optimizer = torch.optim.AdamW(
            self.weights, lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.generator = torch.Generator().manual_seed(config.seed)

    def learning_rate(self) -> float:
        """A linear warm-up, then half a cosine down to a fiftieth."""
        config = self.config
        if self.step < config.warmup_steps:
            return config.learning_rate * (self.step + 1) / config.warmup_steps
        span = max(1, config.steps - config.warmup_steps)
        done = min(1.0, (self.step - config.warmup_steps) / span)
        return config.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))

    def update(self, batch: Batch, encode: Encode, text: Tensor | None, autocast: bool) -> float:
        """One step of AdamW -> the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        with torch.autocast(self.model.sigmas.device.type, torch.bfloat16, enabled=autocast):
            value = loss(self.model, batch, encode, self.config, self.generator, text)
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(self.weights, self.config.clip_gradient)
        self.optimizer.step()
        self._follow()
        self.step += 1
        return float(value.detach())

    @torch.no_grad()
    def _follow(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.weights], 1 - decay)

    def state(self) -> dict[str, Any]:
        return {
            "preset": self.preset.to_json(),
            "config": dataclasses.asdict(self.config),
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def save(self, path: Path) -> None:
        """Write the state beside `path`, then rename: a crash leaves the last one whole."""
        temporary = path.with_suffix(".part")
        torch.save(self.state(), temporary)
        temporary.replace(path)

    def load(self, path: Path) -> None:
        """Continue where `save` left off; WeightsError if it was another model."""
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            preset = state["preset"]
        except UNREADABLE as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
            raise WeightsError(f"{path} is not the state of a training run: {reason}") from error
        if Preset.from_json(preset).model != self.preset.model:
            raise WeightsError(f"{path} was trained with another model configuration")
        self.model.load_state_dict(state["model"])
        self.average = [a.to(self.model.sigmas.device) for a in state["average"]]
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.step = state["step"]

    def export(self, path: Path) -> None:
        """Write the averaged weights as a checkpoint that `--weights` takes, in float16."""
        trained = [p.detach().clone() for p in self.weights]
        self._set(self.average)
        try:
            save_checkpoint(path, self.model, self.preset)
        finally:
            self._set(trained)

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        for weight, value in zip(self.weights, values, strict=True):
            weight.copy_(value)


def train(
    trainer: Trainer,
    batches: Iterator[Batch],
    folder: Path,
    *,
    encoders: Encoders,
    autocast: bool = True,
    save_every: int = 250,
    report: Report = lambda step, value, seconds: None,
) -> None:
    """Train to `config.steps`; leaves state.pt, loss.jsonl and model.safetensors in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    _forget(folder / "loss.jsonl", trainer.step)
    with (folder / "loss.jsonl").open("a") as log:
        while trainer.step < trainer.config.steps:
            start = time.perf_counter()
            batch = next(batches)
            text = encoders.text(batch.captions) if encoders.text else None
            value = trainer.update(batch, encoders.pixels, text, autocast)
            seconds = time.perf_counter() - start
            log.write(json.dumps({"step": trainer.step, "loss": value, "seconds": seconds}) + "\n")
            log.flush()
            report(trainer.step, value, seconds)
            if trainer.step % save_every == 0 or trainer.step == trainer.config.steps:
                trainer.save(folder / "state.pt")
                trainer.export(folder / "model.safetensors")


def _forget(log: Path, step: int) -> None:
    """Drop what a run that ended between two states logged beyond the state: one line is a step."""
    if log.is_file():
        log.write_text("".join(log.read_text().splitlines(keepends=True)[:step]))
