"""Small bundles for tests, made by the exporter."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.random_models import write_tokenizer
from tests.support.clips import small_checkpoint
from tests.support.training_parts import TEXT_WIDTH, small_v_preset
from venhancer.bundle.manifest import NAME, signed
from venhancer.config import NANO, Preset, RunDefaults
from venhancer.contract import Precision
from venhancer.model.denoiser import make_denoiser
from venhancer.weights.checkpoint import save_checkpoint
from venhancer_export.bundle_writer import build_bundle
from venhancer_export.request import make_request

LETTERS = 514  # of a tokenizer without merges: the bytes twice, start and end


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A bundle, and its source checkpoint."""

    folder: Path
    weights: Path

    def copy(self, folder: Path, **fields: object) -> Path:
        """Copy the bundle, with other fields in its manifest."""
        shutil.copytree(self.folder, folder)
        path = folder / NAME
        path.write_text(signed({**json.loads(path.read_text()), **fields}))
        return folder


def build(
    folder: Path,
    weights: Path,
    sizes: Sequence[tuple[int, int]],
    windows: Sequence[int] = (9,),
    precision: Precision = "float32",
) -> Built:
    request = make_request(
        preset=None, weights=weights, sizes=sizes, windows=windows, precision=precision
    )
    build_bundle(request, folder / "bundle")
    return Built(folder=folder / "bundle", weights=weights)


def small_bundle(folder: Path, sizes: Sequence[tuple[int, int]], windows: Sequence[int]) -> Built:
    """Build a bundle of `small_preset`, with a random checkpoint."""
    return build(folder, small_checkpoint(folder / "small.safetensors"), sizes, windows)


def flat_bundle(folder: Path, sizes: Sequence[tuple[int, int]], windows: Sequence[int]) -> Built:
    """Build a bundle of NANO, with a random checkpoint."""
    return build(folder, random_checkpoint(folder / "flat.safetensors", NANO), sizes, windows)


def text_bundle(
    folder: Path, precision: Precision = "float32", kind: str = "AutoencoderKL"
) -> Built:
    """Build a bundle of `text_preset`, for 64x48x9.

    VENHANCER_VAE and ..._TEXT_ENCODER name its sources, which lie in `folder`: call this with the
    variables set.
    """
    weights = text_checkpoint(folder / "text.safetensors")
    small_vae(kind).save_pretrained(folder / "vae")
    small_text_encoder().save_pretrained(folder / "text_encoder")
    write_tokenizer(folder / "tokenizer")
    return build(folder, weights, [(64, 48)], precision=precision)


def point_to(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Set the variables so that codec and text encoder are found where `text_bundle` puts them."""
    patch.setenv("VENHANCER_VAE", str(folder / "vae"))
    patch.setenv("VENHANCER_TEXT_ENCODER", str(folder))


def text_preset() -> Preset:
    """Make a preset of the released kind that runs in no time."""
    defaults = RunDefaults(steps=2, solver="normal", scale=2.0)
    return dataclasses.replace(small_v_preset(), defaults=defaults)


def text_checkpoint(path: Path) -> Path:
    return random_checkpoint(path, text_preset())


def random_checkpoint(path: Path, preset: Preset) -> Path:
    """Write random weights, none of them zero, and none that makes values grow."""
    torch.manual_seed(0)
    model = make_denoiser(preset.model)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    save_checkpoint(path, model, preset)
    return path


def small_vae(kind: str = "AutoencoderKL", seed: int = 0) -> Any:
    """Make a VAE of Stable Diffusion's kind: an eighth of the size, four channels; or temporal."""
    torch.manual_seed(seed)
    up = {} if "Temporal" in kind else {"up_block_types": ("UpDecoderBlock2D",) * 4}
    return getattr(importlib.import_module("diffusers"), kind)(
        block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4, **up
    )


def small_text_encoder() -> Any:
    """Make an encoder of OpenCLIP's kind: two layers, as wide as the small model reads."""
    torch.manual_seed(0)
    transformers = importlib.import_module("transformers")
    config = transformers.CLIPTextConfig(
        vocab_size=LETTERS,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=1,
        hidden_act="gelu",
        bos_token_id=LETTERS - 2,
        eos_token_id=LETTERS - 1,
    )
    return transformers.CLIPTextModel(config)
