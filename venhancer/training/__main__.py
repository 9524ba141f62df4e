"""`python -m venhancer.training --preset nano --data FOLDER -o RUN`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from venhancer.errors import OptionError, VEnhancerError

if TYPE_CHECKING:  # so that --help needs no torch
    from venhancer.config import Preset
    from venhancer.model.denoiser import Denoiser
    from venhancer.training.config import TrainingConfig
    from venhancer.training.trainer import Encoders


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="venhancer.training", description=__doc__)
    add = parser.add_argument
    add("--preset", default="nano", choices=["nano", "released"], help="model to train")
    add("--data", type=Path, nargs="+", required=True, help="videos and photos")
    add("--prior", type=Path, help="pretrained UNet in the released layout; it stays frozen")
    add("-o", "--out", type=Path, required=True, help="folder of the run")
    add("--steps", type=int, help="updates in all")
    add("--resume", action="store_true", help="continue OUT/state.pt")
    add("--device", default="auto", choices=["auto", "cpu", "cuda"])
    add("--threads", type=int, help="CPU threads (default: all)")
    add("--float32", action="store_true", help="do not compute in bfloat16")
    return parser


def run(args: argparse.Namespace) -> None:
    import torch
    from torch.utils.data import DataLoader

    from venhancer.config import PRESETS
    from venhancer.device import choose_device
    from venhancer.training.config import NANO_TRAINING, TrainingConfig
    from venhancer.training.dataset import Clips
    from venhancer.training.trainer import Trainer, train

    if args.threads:
        torch.set_num_threads(args.threads)
    state = args.out / "state.pt"
    _check_state(state, args.resume)
    preset = PRESETS[args.preset]
    config = NANO_TRAINING if args.preset == "nano" else TrainingConfig()
    config = dataclasses.replace(
        config, trains_prior=args.prior is None, steps=args.steps or config.steps
    )
    clips = Clips(args.data, config, preset.model.upsampling)
    torch.manual_seed(config.seed)
    device = choose_device(args.device)
    model = _new_model(preset, config, args.prior).to(device)
    trainer = Trainer(model, preset, config)
    if args.resume:
        trainer.load(state)
    clips.start_step = trainer.step
    train(
        trainer,
        iter(DataLoader(clips, batch_size=None, num_workers=1, prefetch_factor=4)),
        args.out,
        encoders=_encoders(preset, config.seed + trainer.step, device),
        autocast=not args.float32,
        report=_show,
    )


def _check_state(state: Path, resume: bool) -> None:
    if state.exists() and not resume:
        raise OptionError(f"{state} exists: continue it with --resume, or choose another -o")
    if resume and not state.is_file():
        raise OptionError(f"--resume: there is no {state} to continue")


def _new_model(preset: Preset, config: TrainingConfig, prior: Path | None) -> Denoiser:
    """Random where UNet and controller learn together, else both from the prior."""
    from venhancer.model.denoiser import Denoiser
    from venhancer.training.trainer import initialise
    from venhancer.weights import load_prior

    if prior is not None:
        return load_prior(prior, preset)
    if preset.name == "released":
        raise OptionError("preset 'released' learns round a frozen prior: name it by --prior FILE")
    model = Denoiser(preset.model)
    initialise(model, config)
    return model


def _encoders(preset: Preset, seed: int, device: str) -> Encoders:
    import torch

    from venhancer.training.trainer import Encoders, autoencoder_encoder, lapped_encoder

    if preset.model.codec == "lapped":
        return Encoders(lapped_encoder(preset.model.latent_scale))
    from venhancer.model.text import load_text_encoder
    from venhancer.model.vae import load_codec

    text = load_text_encoder(device=device)
    return Encoders(
        autoencoder_encoder(load_codec(device=device), seed),
        lambda captions: torch.cat([text.encode(caption) for caption in captions]),
    )


def _show(step: int, value: float, seconds: float) -> None:
    if step % 20 == 0:
        print(f"step {step}  loss {value:.4f}  {seconds:.2f} s", flush=True)


def _last_line(error: VEnhancerError) -> str:
    """The message; that of a data worker comes at the end of its traceback."""
    kind = type(error)
    line = str(error).strip().splitlines()[-1]
    return line.removeprefix(f"{kind.__module__}.{kind.__qualname__}: ")


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        run(args)
    except VEnhancerError as error:
        print(f"venhancer.training: {_last_line(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
