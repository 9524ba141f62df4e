"""Sample videos of a run: the model's output for held-out clips, beside input and truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from venhancer.config import Preset
from venhancer.model.denoiser import Denoiser, Prepared
from venhancer.options import Options
from venhancer.pipeline import run as pipeline
from venhancer.pipeline.networks import Codec, LappedCodec, Networks, TextEncoder
from venhancer.pipeline.pixels import Frame, resize, to_pixels
from venhancer.planning.plan import make_plan
from venhancer.sampling.sampler import Placement
from venhancer.training.config import TrainingConfig
from venhancer.training.data.held_out import HeldOut
from venhancer.video.clip import Reading
from venhancer.video.probe import probe
from venhancer.video.reading import read_frames
from venhancer.video.writer import write_frames

SCALE, STRIDE = 4, 2  # degradation of a clip
FPS = Fraction(24)


class SampleVideo(NamedTuple):
    """A video, and its middle frame: H W 3."""

    path: Path
    still: Frame


class InTraining:
    """Wrapper of a Denoiser for the sampler, in the precision that a run trains in."""

    def __init__(self, model: Denoiser, is_half: bool) -> None:
        self.model = model
        self.config = model.config
        self.sigmas = model.sigmas
        self.is_half = is_half

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.sigmas.device.type, torch.bfloat16, enabled=self.is_half)

    def prepare_text(self, text: Tensor | None) -> Tensor | None:
        with self._autocast():
            return self.model.prepare_text(text)

    def prepare(self, **conditions: Any) -> Prepared:
        with self._autocast():
            return self.model.prepare(**conditions)

    def step(self, latents: Tensor, timestep: Tensor, prepared: Prepared) -> Tensor:
        with self._autocast():
            return self.model.step(latents, timestep, prepared)


def sampling_networks(
    model: Denoiser,
    config: TrainingConfig,
    codec: Codec | None = None,
    text_encoder: TextEncoder | None = None,
) -> Networks:
    """Make the pipeline's networks for a model in training, without copying its weights.

    model: on its device, with unsharded weights
    codec, text_encoder: for a model with text; NANO's codec is made here
    """
    device = str(model.sigmas.device)
    if codec is None:
        codec = LappedCodec(model.config.latent_scale)
    running = InTraining(model, config.precision == "bf16")
    return Networks(running, codec, text_encoder, Placement(device=device))


def write_samples(
    networks: Networks, preset: Preset, clips: Sequence[HeldOut], folder: Path, step: int
) -> list[SampleVideo]:
    """Degrade each clip and enhance it; write input, output and truth beside each other.

    `folder`/step-00000250_NAME.mp4 appears whole or not at all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _write_sample(networks, preset, clip, folder / f"step-{step:08d}_{clip.name}.mp4")
        for clip in clips
    ]


def _write_sample(networks: Networks, preset: Preset, clip: HeldOut, path: Path) -> SampleVideo:
    count = (len(clip.frames) - 1) // STRIDE * STRIDE + 1
    true = clip.frames[:count].permute(0, 2, 3, 1).contiguous().numpy()
    shown = list(_degraded(clip.frames[:count:STRIDE]))
    made = _enhanced(networks, preset, clip, shown)
    joined = [
        np.concatenate([_enlarged(shown[number // STRIDE], frame), frame, true[number]], axis=1)
        for number, frame in enumerate(made)
    ]
    write_frames(path, joined, FPS)
    return SampleVideo(path, joined[count // 2])


def _enhanced(
    networks: Networks, preset: Preset, clip: HeldOut, shown: Sequence[Frame]
) -> list[Frame]:
    """Run the real pipeline, and read its lossless output."""
    height, width = clip.frames.shape[-2:]
    options = Options(
        size=(width, height),
        interpolate=STRIDE,
        new_frames="model",
        prompt=clip.caption if preset.model.unet.text_width else "",
        scene_cuts=False,
    )
    with TemporaryDirectory() as temporary:
        given, made = (Path(temporary) / name for name in ("given", "made"))
        write_frames(given, shown, FPS / STRIDE)
        plan = make_plan(probe(given, Reading(folder_fps=FPS / STRIDE)), preset, options)
        pipeline.enhance(plan, made, networks, options)
        return list(read_frames(probe(made)))


def _degraded(frames: Tensor) -> Iterator[Frame]:
    """Downscale f 3 H W, uint8, to frames of a `SCALE`-th of the size."""
    small = (frames.shape[-2] // SCALE, frames.shape[-1] // SCALE)
    for frame in frames:
        down = F.interpolate(frame[None].float(), small, mode="bicubic", antialias=True)
        yield to_pixels(down / 127.5 - 1)[0]


def _enlarged(frame: Frame, like: Frame) -> Frame:
    height, width = like.shape[:2]
    return to_pixels(resize(frame, width, height))[0]
