"""The released model's networks at full size with random weights: speed does not depend on them."""

from __future__ import annotations

import argparse
import importlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from venhancer.config import RELEASED, Preset
from venhancer.model.denoiser import Denoiser, make_denoiser
from venhancer.planning.activations import autoencoder, text_tower
from venhancer.weights.checkpoint import assign

SEED = 0  # of weights that several processes generate identically


def random_state(build: Callable[[], nn.Module], dtype: torch.dtype) -> dict[str, Tensor]:
    """Make weights of the network that `build` returns, in `dtype` from the first byte on."""
    with torch.device("meta"):
        shapes = {name: t.shape for name, t in build().state_dict().items()}
    return {name: random_weight(name, shape, dtype) for name, shape in shapes.items()}


def random_weight(name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Make a weight that keeps the scale of signals: norms one, biases zero, else by fan-in."""
    if len(shape) == 1:
        return torch.full(shape, float(name.endswith("weight")), dtype=dtype)
    return torch.empty(shape, dtype=dtype).normal_(std=1 / math.sqrt(math.prod(shape[1:])))


def random_model(preset: Preset, dtype: torch.dtype, device: str) -> Denoiser:
    """Make a denoiser that is ready to run, with weights generated on the device.

    Two billion of them take seconds there, and a minute by way of the disk. Every precision gets
    the same float16 numbers; those of a card differ from those of a processor.
    """
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        with torch.device(device):
            state = random_state(lambda: make_denoiser(preset.model), torch.float16)
    model = assign(preset.model, state, dtype=dtype, device=device)
    return model.eval().requires_grad_(False)


def write_tokenizer(folder: Path, merges: str = "") -> None:
    """Write SD 2.x's two tokenizer files: the 256 letters of bytes, and `merges` ("a b" lines)."""
    letters = importlib.import_module("transformers.convert_slow_tokenizer").bytes_to_unicode()
    pieces = [*letters.values(), *(f"{letter}</w>" for letter in letters.values())]
    pieces += [line.replace(" ", "") for line in merges.splitlines()]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(pieces)}))
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<|endoftext|>"}))


def write_checkpoint(path: Path, preset: Preset, seed: int | None = None) -> None:
    """Write a float16 checkpoint in our format; with a seed, of `random_model` on the processor."""
    if seed is not None:
        torch.manual_seed(seed)
    tensors = random_state(lambda: make_denoiser(preset.model), torch.float16)
    save_file(tensors, path, metadata={"preset": preset.to_json()})


def write_companions(folder: Path) -> None:
    """Write folder/vae, folder/text_encoder and folder/tokenizer in the layout of diffusers."""
    autoencoder().to(torch.float16).save_pretrained(folder / "vae")
    text = folder / "text_encoder"
    text.mkdir(parents=True)
    state = random_state(text_tower, torch.float16)
    save_file(state, text / "model.safetensors")
    (text / "config.json").write_text(json.dumps({"hidden_act": "gelu"}))
    write_tokenizer(folder / "tokenizer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="new; takes random.safetensors and the rest")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    write_checkpoint(folder / "random.safetensors", RELEASED)
    write_companions(folder)


if __name__ == "__main__":
    main()
