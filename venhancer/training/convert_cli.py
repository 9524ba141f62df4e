"""Write trained weights under the names of the released checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from venhancer.errors import OutputError, WeightsError
from venhancer.files import written_whole


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="venhancer-train convert", description=__doc__)
    parser.add_argument("weights", type=Path, help="model.safetensors of a run")
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="a .pt or .safetensors file, float16"
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Convert; OutputError for an existing file or another suffix; WeightsError from loading."""
    import torch
    from safetensors.torch import save_file

    from venhancer.config import RELEASED
    from venhancer.weights.checkpoint import load_state
    from venhancer.weights.released_names import to_released

    if args.out.suffix not in (".pt", ".safetensors"):
        raise OutputError(f"{args.out}: write to a .pt or .safetensors file")
    if args.out.exists():
        raise OutputError(f"{args.out} exists: choose another name")
    tensors, preset = load_state(args.weights, RELEASED)
    if not preset.model.has_learned_codec:
        raise WeightsError(
            f"{args.weights} is of preset {preset.name!r}, which has no released layout"
        )
    renamed = to_released(tensors, preset.model.unet)
    released = {name: tensor.half().contiguous() for name, tensor in renamed.items()}
    with written_whole(args.out) as temporary:
        if args.out.suffix == ".pt":
            torch.save({"state_dict": released}, temporary)
        else:
            save_file(released, temporary)
