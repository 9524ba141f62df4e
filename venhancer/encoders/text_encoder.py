"""The text encoder: OpenCLIP ViT-H/14's text tower, without its last layer.

The network is transformers' CLIPTextModel. Its `from_pretrained` is not used: it initialises
tensors that a file lacks and reports them in a table. We refuse such a file, in one line.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from venhancer.encoders.tokenizer import FILES, LENGTH, Tokenizer, load_tokenizer
from venhancer.errors import WeightsError
from venhancer.weights import hub
from venhancer.weights.checkpoint import read_tensors
from venhancer.weights.released_names import check_shapes

VARIABLE = "VENHANCER_TEXT_ENCODER"
LAYERS = 23  # of OpenCLIP's 24: the penultimate layer's output is used
HEAD_CHANNELS = 64
WEIGHTS = (
    "model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)

_TOKENS = "embeddings.token_embedding.weight"
_PREFIXES = ("cond_stage_model.model.", "text_model.", "text.", "")
_OPENCLIP_NAMES = {  # whole parts of a name -> transformers'
    "token_embedding": "embeddings.token_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "transformer.resblocks": "encoder.layers",
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "ln_final": "final_layer_norm",
}
_OPENCLIP_PART = re.compile(rf"\b(?<!embeddings\.)(?:{'|'.join(_OPENCLIP_NAMES)})\b")


class ClipTextEncoder:
    """Encoder of prompts for the denoiser's cross-attention."""

    def __init__(self, network: Any, tokenizer: Tokenizer) -> None:
        self.network = network
        self.tokenizer = tokenizer

    @torch.inference_mode()
    def encode(self, prompt: str) -> Tensor:
        """Encode a prompt: (1, 77, d), d = 1024 for the released model; warns above 77 tokens."""
        ids = self.tokenizer.encode(prompt)
        return self.network(ids.to(self.network.device)).last_hidden_state


def load_text_encoder(
    source: str | None = None, *, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> ClipTextEncoder:
    """Load the text encoder from a folder, a file or a hub name.

    The name is `source`, else VENHANCER_TEXT_ENCODER, else SD 2.1's. WeightsError if it cannot be
    found or is another network; DeviceError without transformers.
    """
    hub.require("transformers")
    source = source or os.environ.get(VARIABLE) or hub.STABLE_DIFFUSION
    wanted = ("config.json", WEIGHTS[0])
    patterns = [f"text_encoder/{file}" for file in wanted]
    patterns += ["tokenizer/*", *wanted, *FILES, "merges.txt", "tokenizer_config.json"]
    path = hub.locate("text encoder", source, VARIABLE, patterns)
    weights = path / "text_encoder" if (path / "text_encoder").is_dir() else path
    try:
        tensors = _read_folder(weights) if weights.is_dir() else read_tensors(weights)
        network = build_network(tensors)
    except WeightsError as error:
        raise WeightsError(f"text encoder {weights}: {error}") from error
    tokenizer = load_tokenizer(path if path.is_dir() else path.parent)
    return ClipTextEncoder(network.to(device, dtype), tokenizer)


def _read_folder(folder: Path) -> dict[str, Tensor]:
    _check_activation(folder / "config.json")
    for name in WEIGHTS:
        if (folder / name).is_file():
            return read_tensors(folder / name)
    raise WeightsError(f"none of {', '.join(WEIGHTS)} in it")


def _check_activation(config: Path) -> None:
    """Refuse OpenAI's CLIP, which has the same tensor names, but another activation."""
    fields = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    activation = fields.get("text_config", fields).get("hidden_act", "gelu")
    if activation != "gelu":
        raise WeightsError(f"its activation is {activation!r}, OpenCLIP ViT-H/14's is 'gelu'")


def build_network(tensors: Mapping[str, Tensor]) -> Any:
    """Build a CLIPTextModel with the sizes of `tensors`, named as in transformers or OpenCLIP.

    A 24th layer, the image tower and the projections are left out. WeightsError names missing
    tensors.
    """
    state = transformers_names(tensors)
    if _TOKENS not in state:
        raise WeightsError("no text tower of transformers' or OpenCLIP's names in it")
    vocabulary, width = state[_TOKENS].shape
    transformers = hub.require("transformers")
    config = transformers.CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=len({name.split(".")[2] for name in state if "layers." in name}),
        num_attention_heads=max(1, width // HEAD_CHANNELS),
        hidden_act="gelu",
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
    )
    with torch.device("meta"):
        network = transformers.CLIPTextModel(config)
    tower = getattr(network, "text_model", network)  # a level of transformers 5.0
    check_shapes(state, {name: tuple(t.shape) for name, t in tower.state_dict().items()})
    tower.load_state_dict(state, assign=True)
    tower.embeddings.position_ids = torch.arange(LENGTH)[None]  # no file holds this buffer
    return network.eval().requires_grad_(False)


def transformers_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Extract the text tower up to its penultimate layer, under transformers' names."""
    prefix = next((p for p in _PREFIXES if _holds_tower(tensors, p)), "")
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        ours = _OPENCLIP_PART.sub(lambda part: _OPENCLIP_NAMES[part[0]], name.removeprefix(prefix))
        if not name.startswith(prefix) or not _is_used(ours):
            continue
        if ".attn.in_proj_" in ours:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                state[ours.replace("attn.in_proj_", f"self_attn.{letter}_proj.")] = part
        else:
            state[ours] = tensor
    return state


def _holds_tower(tensors: Mapping[str, Tensor], prefix: str) -> bool:
    return any(prefix + name in tensors for name in (_TOKENS, "token_embedding.weight"))


def _is_used(name: str) -> bool:
    layer = re.match(r"encoder\.layers\.(\d+)\.", name)
    if layer is not None:
        return int(layer[1]) < LAYERS
    return name.startswith("final_layer_norm.") or bool(
        re.fullmatch(r"embeddings\.\w+\.weight", name)
    )
