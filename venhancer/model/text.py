"""The text encoder: OpenCLIP ViT-H/14's text tower, without its last layer.

The network is our own, so that what is exported does not depend on a library's version; its weights
come from a transformers folder, an OpenCLIP file or a Stable Diffusion 2.x checkpoint.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from venhancer import hub
from venhancer.errors import WeightsError
from venhancer.tokenizer import LENGTH, Tokenizer, load_tokenizer
from venhancer.weights import read_tensors
from venhancer.weights_names import check_shapes

VARIABLE = "VENHANCER_TEXT_ENCODER"
LAYERS = 23  # of OpenCLIP's 24: the penultimate output is the one that is used
HEAD_CHANNELS = 64

_LAYER_NAMES = {  # ours: transformers', OpenCLIP's
    "norm_attention": ("layer_norm1", "ln_1"),
    "qkv": ("self_attn.qkv", "attn.in_proj"),
    "out": ("self_attn.out_proj", "attn.out_proj"),
    "norm_feed": ("layer_norm2", "ln_2"),
    "widen": ("mlp.fc1", "mlp.c_fc"),
    "narrow": ("mlp.fc2", "mlp.c_proj"),
}
_TOP_NAMES = {
    "tokens.weight": ("embeddings.token_embedding.weight", "token_embedding.weight"),
    "positions": ("embeddings.position_embedding.weight", "positional_embedding"),
    "norm.weight": ("final_layer_norm.weight", "ln_final.weight"),
    "norm.bias": ("final_layer_norm.bias", "ln_final.bias"),
}
_PREFIXES = ("cond_stage_model.model.", "text_model.", "text.", "")


class TextLayer(nn.Module):
    """Causal self-attention, then two linear layers with a gelu between; each adds to its input.

    x: b l d -> b l d
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_feed = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm_attention(x))
        qkv = rearrange(qkv, "b l (k n c) -> k b n l c", k=3, n=self.heads)
        out = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], is_causal=True)
        x = x + self.out(rearrange(out, "b n l c -> b l (n c)"))
        return x + self.narrow(F.gelu(self.widen(self.norm_feed(x))))


class TextTower(nn.Module):
    """Token ids (b, l) -> (b, l, d), the last layer's output through the final LayerNorm."""

    def __init__(self, vocabulary: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.zeros(LENGTH, width))
        self.layers = nn.ModuleList(TextLayer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class TextEncoder:
    """Prompts -> what the denoiser's cross-attention reads."""

    def __init__(self, tower: TextTower, tokenizer: Tokenizer) -> None:
        self.tower = tower
        self.tokenizer = tokenizer

    @torch.inference_mode()
    def encode(self, prompt: str) -> Tensor:
        """(1, 77, d), d = 1024 for the released model; warns of words beyond 77 tokens."""
        ids = self.tokenizer.encode(prompt)
        return self.tower(ids.to(self.tower.positions.device))


def load_text_encoder(
    source: str | None = None, *, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> TextEncoder:
    """From a folder, a file or a hub name: `source`, else VENHANCER_TEXT_ENCODER, else SD 2.1's.

    WeightsError if it is not to be had, or is another network.
    """
    source = source or os.environ.get(VARIABLE) or hub.STABLE_DIFFUSION
    patterns = [
        f"{folder}{file}"
        for folder in ("text_encoder/", "")
        for file in ("config.json", "model.safetensors")
    ]
    path = hub.locate("text encoder", source, VARIABLE, [*patterns, "tokenizer/*", "merges.txt"])
    folder = path if path.is_dir() else path.parent
    if (path / "text_encoder").is_dir():
        path = path / "text_encoder"
    try:
        tower = build_tower(_read_folder(path) if path.is_dir() else read_tensors(path))
    except WeightsError as error:
        raise WeightsError(f"text encoder {path}: {error}") from error
    return TextEncoder(tower.to(device, dtype).eval(), load_tokenizer(folder))


def _read_folder(folder: Path) -> dict[str, Tensor]:
    _check_activation(folder / "config.json")
    names = ("model.safetensors", "open_clip_pytorch_model.safetensors", "pytorch_model.bin")
    for name in (*names, "open_clip_pytorch_model.bin"):
        if (folder / name).is_file():
            return read_tensors(folder / name)
    raise WeightsError(f"none of {', '.join(names)} in it")


def _check_activation(config: Path) -> None:
    """OpenAI's CLIP has another activation and the same names: it would load, and be wrong."""
    fields = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    activation = fields.get("text_config", fields).get("hidden_act", "gelu")
    if activation != "gelu":
        raise WeightsError(f"its activation is {activation!r}, OpenCLIP ViT-H/14's is 'gelu'")


def build_tower(tensors: Mapping[str, Tensor]) -> TextTower:
    """A tower of the sizes found in `tensors`, names as in transformers or OpenCLIP.

    A 24th layer is left out; so are the image tower and the projections. WeightsError names what is
    missing.
    """
    state = _our_names(tensors)
    if "tokens.weight" not in state:
        raise WeightsError("no text tower of transformers' or OpenCLIP's names in it")
    vocabulary, width = state["tokens.weight"].shape
    layers = len({name.split(".")[1] for name in state if name.startswith("layers.")})
    heads = max(1, width // HEAD_CHANNELS)
    with torch.device("meta"):
        tower = TextTower(vocabulary, width, layers, heads)
    check_shapes(state, {name: tuple(t.shape) for name, t in tower.state_dict().items()})
    tower.load_state_dict(state, assign=True)
    return tower.requires_grad_(False)


def _our_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = next((p for p in _PREFIXES if _holds_tower(tensors, p)), "")
    inner = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    inner = _join_projections(inner)
    top = {name: ours for ours, theirs in _TOP_NAMES.items() for name in theirs}
    named = {top.get(name) or _layer_name(name): tensor for name, tensor in inner.items()}
    return {ours: tensor for ours, tensor in named.items() if ours is not None}


def _holds_tower(tensors: Mapping[str, Tensor], prefix: str) -> bool:
    return any(prefix + name in tensors for name in _TOP_NAMES["tokens.weight"])


def _layer_name(name: str) -> str | None:
    """`encoder.layers.3.mlp.fc1.bias` or `transformer.resblocks.3.mlp.c_fc.bias` -> ours."""
    found = re.fullmatch(r"(?:encoder\.layers|transformer\.resblocks)\.(\d+)\.(.+)[._](\w+)", name)
    if found is None or int(found[1]) >= LAYERS:
        return None
    part = next((ours for ours, theirs in _LAYER_NAMES.items() if found[2] in theirs), found[2])
    return f"layers.{found[1]}.{part}.{found[3]}"


def _join_projections(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Transformers' q, k and v as the one matrix that they are in OpenCLIP."""
    joined = {}
    for name, tensor in tensors.items():
        if ".q_proj." in name:
            parts = [tensors.get(name.replace(".q_proj.", f".{p}_proj."), tensor) for p in "qkv"]
            joined[name.replace(".q_proj.", ".qkv.")] = torch.cat(parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            joined[name] = tensor
    return joined
