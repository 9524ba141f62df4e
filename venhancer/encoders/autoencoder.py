"""The released model's codec: Stable Diffusion 2.1's VAE, or the one with a temporal decoder.

Both networks are classes of diffusers. The sizes of a single file in the original layout are read
from its tensors, so nothing is downloaded for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from venhancer.errors import WeightsError
from venhancer.weights import hub
from venhancer.weights.checkpoint import read_tensors

VARIABLE = "VENHANCER_VAE"
SCALE = 0.18215
TEMPORAL = "AutoencoderKLTemporalDecoder"
PREFIX = "first_stage_model."  # of the VAE in a whole Stable Diffusion checkpoint


class AutoencoderCodec:
    """Codec between frames and latents of an eighth of their size, a few frames at a time."""

    def __init__(self, network: Any, scale: float = SCALE) -> None:
        self.network = network
        self.scale = scale
        self.is_temporal = type(network).__name__ == TEMPORAL

    @torch.inference_mode()
    def encode(self, frames: Tensor, generator: torch.Generator, chunk: int = 3) -> Tensor:
        """Sample latents: f 3 H W in [-1, 1] -> f 4 h w, float32.

        `generator` is on the CPU. Noise is drawn frame by frame, so the same frames in the same
        order give the same latents, whatever `chunk` is and however the clip is divided.
        """
        return torch.cat([self._encode(part, generator) for part in torch.split(frames, chunk)])

    def _encode(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        mean, std = self.moments(frames)
        noise = torch.stack([torch.randn(m.shape, generator=generator) for m in mean])
        return (mean + std * noise.to(mean.device)) * self.scale

    def moments(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Compute mean and spread of the unscaled latents: f 3 H W -> twice f 4 h w, float32."""
        posterior = self.network.encode(self._placed(frames)).latent_dist
        return posterior.mean.float(), posterior.std.float()

    @torch.inference_mode()
    def decode(self, latents: Tensor, chunk: int = 3) -> Tensor:
        """Decode latents: f 4 h w -> f 3 H W, float32, about [-1, 1] and not clamped.

        A temporal decoder sees the frames of one chunk together; the release takes three.
        """
        parts = torch.split(latents / self.scale, chunk)
        return torch.cat([self.pixels(part) for part in parts])

    def pixels(self, latents: Tensor) -> Tensor:
        """Decode one chunk of unscaled latents: f 4 h w -> f 3 H W, float32."""
        options = {"num_frames": len(latents)} if self.is_temporal else {}
        return self.network.decode(self._placed(latents), **options).sample.float()

    def _placed(self, x: Tensor) -> Tensor:
        return x.to(self.network.device, self.network.dtype)


def load_codec(
    source: str | None = None, *, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> AutoencoderCodec:
    """Load the codec from a folder, a file or a hub name.

    The name is `source`, else VENHANCER_VAE, else SD 2.1's. WeightsError if it cannot be found or
    read, DeviceError without diffusers.
    """
    hub.require("diffusers")
    source = source or os.environ.get(VARIABLE) or hub.STABLE_DIFFUSION
    files = ("config.json", "diffusion_pytorch_model.safetensors")
    patterns = [f"{folder}{file}" for folder in ("vae/", "") for file in files]
    path = hub.locate("VAE", source, VARIABLE, patterns)
    network = _from_folder(path) if path.is_dir() else _from_file(path)
    nn.Module.to(network, device, dtype)  # diffusers' own `to` warns about an empty list
    return AutoencoderCodec(network.eval().requires_grad_(False))


def _from_folder(folder: Path) -> Any:
    diffusers = hub.require("diffusers")
    folder = folder / "vae" if (folder / "vae").is_dir() else folder
    try:
        name = diffusers.AutoencoderKL.load_config(folder).get("_class_name", "AutoencoderKL")
        if name not in ("AutoencoderKL", TEMPORAL):
            raise ValueError(f"it is a {name}, not an AutoencoderKL")
        return getattr(diffusers, name).from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(f"no VAE of diffusers' layout in {folder}: {reason}") from error


def _from_file(path: Path) -> Any:
    """Load a single file of the original layout: the VAE alone, or a whole checkpoint."""
    tensors = read_tensors(path)
    if any(name.startswith(PREFIX) for name in tensors):
        tensors = {k.removeprefix(PREFIX): v for k, v in tensors.items() if k.startswith(PREFIX)}
    if "encoder.down.0.block.0.conv1.weight" not in tensors:
        raise WeightsError(f"{path} holds no VAE of the original layout: take diffusers' folder")
    if any("time_stack" in name for name in tensors):
        raise WeightsError(f"{path} has a temporal decoder: take diffusers' folder of it")
    config = _config(tensors)
    network = hub.require("diffusers").AutoencoderKL(**config)
    convert = hub.require("diffusers.loaders.single_file_utils").convert_ldm_vae_checkpoint
    try:
        network.load_state_dict(convert(tensors, network.config))
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{path} is not a VAE that we know: {reason}") from error
    return network


def _config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read AutoencoderKL's sizes off the tensors; groups are 32, as in every published one."""
    levels = len({name.split(".")[2] for name in tensors if name.startswith("encoder.down.")})
    blocks = {name.split(".")[4] for name in tensors if name.startswith("encoder.down.0.block.")}
    widths = [len(tensors[f"encoder.down.{i}.block.0.conv1.weight"]) for i in range(levels)]
    return {
        "block_out_channels": widths,
        "layers_per_block": len(blocks),
        "latent_channels": tensors["decoder.conv_in.weight"].shape[1],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "scaling_factor": SCALE,
    }
