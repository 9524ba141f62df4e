"""Checkpoints: ours (safetensors with the configuration inside) and the released one."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from venhancer.config import Preset
from venhancer.model.denoiser import Denoiser


def save_checkpoint(path: Path, model: Denoiser, preset: Preset) -> None:
    """Write float16 weights with their configuration, beside `path` first, then renamed."""
    tensors = {k: v.to(torch.float16).contiguous() for k, v in model.state_dict().items()}
    temporary = path.with_suffix(".part")
    save_file(tensors, temporary, metadata={"preset": preset.to_json()})
    temporary.replace(path)
