"""Is the network right on this device? Its outputs against arrays of the published implementation.

The weights are generated from parameter names, as those of the arrays were; see `tests/golden`. The
result judged is the relative error (L2): in float32 no larger than a different order of sums gives,
in half precision no larger than rounding explains.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.records import Found, Recorder
from benchmarks.gpu.setting import Setting, relative_error, tensor_float32
from benchmarks.interleaved import make_room
from tests.golden.test_denoiser import OUTPUT, golden_weight, spread
from tests.support.paths import GOLDEN
from venhancer.config import RELEASED, TINY, Preset
from venhancer.model.denoiser import Denoiser
from venhancer.weights.checkpoint import assign
from venhancer.weights.released_names import from_released


@dataclass(frozen=True, slots=True)
class Precision:
    """The precision of products, and the largest relative error that passes."""

    dtype: str
    uses_tf32: bool
    limit: float

    def __str__(self) -> str:
        return self.dtype + " with TF32" * self.uses_tf32


PRECISIONS = (
    Precision("float32", False, 1e-4),
    Precision("float32", True, 1e-2),
    Precision("float16", False, 1e-2),
    Precision("bfloat16", False, 1e-1),
)
DRY_OUTPUTS = 2
LAYOUTS = (("tiny", TINY), ("full", RELEASED))


def run_golden(setting: Setting, recorder: Recorder) -> None:
    for layout, preset in LAYOUTS[:1] if setting.is_small else LAYOUTS:
        state = golden_state(layout, preset)
        for precision in PRECISIONS[:1] if setting.is_small else PRECISIONS:
            work = partial(check, layout, preset, state, precision, setting)
            recorder.attempt(f"{layout}, {precision}", work)
            make_room(setting.device)


def golden_state(layout: str, preset: Preset) -> dict[str, Tensor]:
    """Make the weights of the arrays, in float32 and under our names; 8 GB for `full`."""
    shapes = json.loads((GOLDEN / "released_state_dict.json").read_text())[layout]
    weights = {name: golden_weight(name, shape) for name, shape in shapes.items()}
    return from_released(weights, preset.model.unet)


def check(
    layout: str, preset: Preset, state: dict[str, Tensor], precision: Precision, setting: Setting
) -> Found:
    """Find the largest errors over all outputs of a layout's file; a dry run takes two outputs."""
    dtype = getattr(torch, precision.dtype)
    model = assign(preset.model, dict(state), dtype=dtype, device=setting.device)
    model.eval().requires_grad_(False)
    count = DRY_OUTPUTS if setting.is_small else None
    with tensor_float32(precision.uses_tf32), torch.inference_mode():
        pairs = list(islice(outputs(model, layout, setting.device), count))
    largest = max(float((out - wanted).abs().max()) for out, wanted in pairs)
    relative = max(relative_error(out, wanted) for out, wanted in pairs)
    return {
        "outputs": len(pairs),
        "largest_error": float(f"{largest:.3g}"),
        "relative_error": relative,
        "right": relative <= precision.limit,
    }


def outputs(model: Denoiser, layout: str, device: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the network's output and the expected one, for every output of the file."""
    file = np.load(GOLDEN / f"denoiser_{layout}.npz")
    arrays = {name: torch.from_numpy(array) for name, array in file.items()}
    mask = arrays["mask"].reshape(1, -1)
    hint = spread(arrays["hint"], mask).to(device)
    given = {name: arrays[name].to(device) for name in ("x", "y")}
    for name, wanted in arrays.items():
        if found := OUTPUT.fullmatch(name):
            timestep, scale, noise_level = (
                torch.tensor([int(value)], device=device) for value in found.groups()
            )
            out = model(
                latents=given["x"],
                timestep=timestep,
                hint=hint,
                is_key=(mask == 0).float().to(device),
                noise_level=noise_level,
                scale=scale,
                text=given["y"],
            )
            yield out.float().cpu(), wanted
