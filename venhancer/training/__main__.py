"""`python -m venhancer.training --preset nano --data FOLDER -o RUN`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from venhancer.errors import OptionError, VEnhancerError


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="venhancer.training", description=__doc__)
    parser.add_argument("--preset", default="nano", choices=["nano"], help="model to train")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="videos and photos")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--steps", type=int, help="updates in all")
    parser.add_argument("--resume", action="store_true", help="continue OUT/state.pt")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--float32", action="store_true", help="do not compute in bfloat16")
    return parser


def run(args: argparse.Namespace) -> None:
    import torch
    from torch.utils.data import DataLoader

    from venhancer.config import PRESETS
    from venhancer.model.denoiser import Denoiser
    from venhancer.training.config import NANO_TRAINING
    from venhancer.training.dataset import Clips
    from venhancer.training.trainer import Trainer, initialise, lapped_encoder, train

    if args.threads:
        torch.set_num_threads(args.threads)
    state = args.out / "state.pt"
    if state.exists() and not args.resume:
        raise OptionError(f"{state} exists: continue it with --resume, or choose another -o")
    preset = PRESETS[args.preset]
    config = dataclasses.replace(NANO_TRAINING, **({"steps": args.steps} if args.steps else {}))
    torch.manual_seed(config.seed)
    model = Denoiser(preset.model)
    initialise(model, config)
    trainer = Trainer(model, preset, config)
    if args.resume:
        trainer.load(state)
    clips = Clips(args.data, config, preset.model.upsampling, start_step=trainer.step)
    loader = DataLoader(clips, batch_size=None, num_workers=1, prefetch_factor=4)
    train(
        trainer,
        iter(loader),
        args.out,
        encode=lapped_encoder(preset.model.latent_scale),
        autocast=not args.float32,
        report=_show,
    )


def _show(step: int, value: float, seconds: float) -> None:
    if step % 20 == 0:
        print(f"step {step}  loss {value:.4f}  {seconds:.2f} s", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        run(args)
    except VEnhancerError as error:
        print(f"venhancer.training: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
