"""Checkpoints: ours (safetensors with the configuration inside) and the released one."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from venhancer.config import PRESETS, TINY, ModelConfig, Preset
from venhancer.diffusion.schedule import noise_schedule
from venhancer.errors import OptionError, WeightsError
from venhancer.files import written_whole
from venhancer.model.denoiser import Denoiser, make_denoiser
from venhancer.weights import hub
from venhancer.weights.released_names import CONTROLLER, check_shapes, from_prior, from_released

UNREADABLE = (
    SafetensorError,
    pickle.UnpicklingError,
    EOFError,
    OSError,
    RuntimeError,
    KeyError,
    ValueError,
    AttributeError,
)  # raised by safetensors and torch.load for files that they cannot read


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a run and the preset that they are of, chosen once."""

    preset: Preset
    weights: Path | None  # as the user asked; None: the preset's own

    @classmethod
    def choose(cls, preset: str | None, weights: Path | None) -> Checkpoint:
        """Take the preset named, or the one that the weights carry, or nano."""
        carried = read_preset(weights) if weights else None
        if carried is not None and preset in (None, carried.name):
            return cls(carried, weights)
        name = preset or ("released" if weights else "nano")
        if name not in PRESETS:
            raise OptionError(f"preset {name!r} is unknown: take {', '.join(PRESETS)}")
        return cls(PRESETS[name], weights)

    @cached_property
    def path(self) -> Path:
        """The file, downloaded when it is first asked for; WeightsError where there is none."""
        return find_weights(self.preset, self.weights)


def save_checkpoint(path: Path, model: Denoiser, preset: Preset) -> None:
    """Write float16 weights with their configuration, to a temporary file that is then renamed."""
    save_tensors(path, model.state_dict(), preset)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], preset: Preset) -> None:
    """Write a model's state dictionary in the same way as `save_checkpoint`."""
    tensors = {k: v.to(torch.float16).contiguous() for k, v in tensors.items()}
    with written_whole(path) as temporary:
        save_file(tensors, temporary, metadata={"preset": preset.to_json()})
        temporary.chmod(0o644)  # safetensors makes files private; a package's must be readable


def find_weights(preset: Preset, weights: Path | None) -> Path:
    """Find the checkpoint of a run: a file, a source's name (`paper`, `v2`), or the preset's own.

    WeightsError where there is none.
    """
    if weights is None:
        return _default_weights(preset)
    if weights.is_file():
        return weights
    if str(weights) in hub.SOURCES:
        return hub.fetch(str(weights))
    raise WeightsError(
        f"no weights at {weights}: take a file, or one of {', '.join(sorted(hub.SOURCES))}"
    )


def _default_weights(preset: Preset) -> Path:
    if preset.name == TINY.name:
        raise WeightsError("the tiny preset is for tests and has no weights: pass --weights FILE")
    return hub.fetch("v2") if preset.name == "released" else embedded_checkpoint(preset.name)


def embedded_checkpoint(preset_name: str) -> Path:
    """Find the checkpoint in the package; WeightsError if it carries none of this name."""
    path = Path(str(resources.files("venhancer.presets") / f"{preset_name}.safetensors"))
    if not path.is_file():
        raise WeightsError(
            f"no weights for preset {preset_name!r} in this installation ({path}): "
            "pass --weights FILE"
        )
    return path


def read_preset(path: Path) -> Preset | None:
    """Read the preset in one of our checkpoints; None for any other checkpoint."""
    if path.suffix != ".safetensors":
        return None
    _check_present(path)
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("preset")
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    return None if text is None else Preset.from_json(text)


def load_model(
    path: Path, preset: Preset, *, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> tuple[Denoiser, Preset]:
    """Load a model ready to run, and its preset: the one in the file, else `preset`.

    Reads our files and the released ones. WeightsError if the file cannot be read, or its tensors
    do not fit the preset.
    """
    state, preset = load_state(path, preset)
    model = assign(preset.model, state, dtype=dtype, device=device)
    return model.eval().requires_grad_(False), preset


def load_state(path: Path, preset: Preset) -> tuple[dict[str, Tensor], Preset]:
    """Load a checkpoint's tensors under our names, memory-mapped; presets as in `load_model`."""
    preset = read_preset(path) or preset
    try:
        return _our_state(read_tensors(path), preset.model), preset
    except WeightsError as error:
        raise WeightsError(f"{path}, preset {preset.name!r}: {error}") from error


def load_prior(
    path: Path, preset: Preset, *, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Denoiser:
    """Load a model to train; UNet and controller start from the UNet in `path` (MS-Vid2Vid-XL)."""
    try:
        state = from_prior(read_tensors(path), preset.model.unet)
    except WeightsError as error:
        raise WeightsError(f"{path}, prior of preset {preset.name!r}: {error}") from error
    return assign(preset.model, state, dtype=dtype, device=device)


def assign(
    config: ModelConfig, state: dict[str, Tensor], *, dtype: torch.dtype, device: str
) -> Denoiser:
    """Make a model whose weights are the tensors of `state`; empties `state`.

    There is never a second copy of the model: a tensor that needs no conversion becomes the
    weight, and others are converted one at a time. Filters are channels last. Embeddings of
    numbers stay in float32: that costs nothing, and avoids most of half precision's error.
    """
    with torch.device("meta"):
        model = make_denoiser(config)
    placed = {
        name: _place(state.pop(name), precision_of(name, dtype), device) for name in list(state)
    }
    model.load_state_dict(placed, assign=True)
    model.sigmas = noise_schedule().float().to(device)
    return model


def precision_of(name: str, dtype: torch.dtype) -> torch.dtype:
    """Choose the dtype of the weight `name` in a network that computes in `dtype`."""
    return torch.float32 if "_embedding." in name else dtype


def _place(tensor: Tensor, dtype: torch.dtype, device: str) -> Tensor:
    if tensor.ndim == 4:
        return tensor.to(device, dtype, memory_format=torch.channels_last)
    return tensor.to(device, dtype)


def _our_state(tensors: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    if any(name.startswith("unet.") for name in tensors):
        with torch.device("meta"):
            expected = make_denoiser(config).state_dict()
        check_shapes(tensors, {name: tuple(tensor.shape) for name, tensor in expected.items()})
        return tensors
    if "input_blocks.0.0.weight" in tensors and not _has_controller(tensors):
        raise WeightsError(
            f"this is the prior alone, without the controller ({CONTROLLER}*): "
            "training starts from it (load_prior), a run needs both"
        )
    return from_released(tensors, config.unet)


def _has_controller(tensors: Mapping[str, Tensor]) -> bool:
    return any(name.startswith(CONTROLLER) for name in tensors)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors by name; memory-mapped where the format allows.

    Takes .safetensors and torch files, `{"state_dict": ...}` or bare; WeightsError for others.
    """
    _check_present(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    tensors = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise WeightsError(f"{path} is a torch file, but not one of named tensors")
    return dict(tensors)


def _check_present(path: Path) -> None:
    if not path.is_file():
        raise WeightsError(f"no weights at {path}: there is no such file")


def _unreadable(path: Path, error: BaseException) -> WeightsError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
    return WeightsError(f"{path} is not a checkpoint, or is cut short: {reason}")
