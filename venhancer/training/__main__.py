"""Train the Space-Time Controller around a frozen prior, or a small model from scratch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path

from venhancer.errors import VEnhancerError

EPILOG = """\
other commands: `venhancer-train prepare` cuts and filters videos into shards of clips,
`venhancer-train pool` makes the samples that nano trains on,
`venhancer-train convert` writes trained weights in the released layout.
On several devices: `torchrun --nproc_per_node 8 -m venhancer.training ...`, the same command on
every machine; or `accelerate launch`."""
COMMANDS: Mapping[str, str] = {
    "prepare": "venhancer.training.prepare.cli",
    "convert": "venhancer.training.convert_cli",
    "pool": "venhancer.training.prepare.pool_cli",
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="venhancer-train",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--preset", default="nano", choices=["nano", "released"], help="model to train")
    add("--data", type=Path, nargs="+", help="videos and photos, JSONL files, shards; a pool")
    add("--prior", type=Path, help="pretrained UNet in the released layout; it stays frozen")
    add("--weights", type=Path, help="start with these trained weights")
    add("--teacher", type=Path, help="distil these weights into a model of few evaluations")
    add("-o", "--out", type=Path, help="folder of the run")
    add("--validate", type=Path, help="held-out videos; if --data is a pool, another pool")
    add("--steps", type=int, help="updates in all")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="any other setting")
    add("--resume", action="store_true", help="resume from the last checkpoint in OUT")
    add("--plan", action="store_true", help="show the memory and time that the run takes, and exit")
    add("--devices", type=int, help="with --plan: how many (default: those of this launch)")
    add("--card", help="with --plan: name of the card, such as A100-80G")
    add("--device", default="auto", choices=["auto", "cpu", "cuda"])
    add("--threads", type=int, help="CPU threads (default: all)")
    add("--workers", type=int, default=2, help="processes that read clips, for each device")
    add("--perceptual", type=Path, help="VGG16 weights of LPIPS, where perceptual_weight is set")
    return parser


def run(args: argparse.Namespace) -> None:
    from venhancer.weights import hub

    hub.require("accelerate", "train")
    from venhancer.training import command

    work = command.plan if args.plan else command.run
    work(args, show=lambda line: print(line, flush=True))


Command = Callable[[argparse.Namespace], None]


def _command(argv: Sequence[str]) -> tuple[argparse.Namespace, Command]:
    if argv and argv[0] in COMMANDS:
        module = import_module(COMMANDS[argv[0]])
        return module.build_parser().parse_args(argv[1:]), module.run
    return build_parser().parse_args(argv), run


def _last_line(error: VEnhancerError) -> str:
    """Extract the message; a data worker's error has it at the end of a traceback."""
    kind = type(error)
    line = str(error).strip().splitlines()[-1]
    return line.removeprefix(f"{kind.__module__}.{kind.__qualname__}: ")


def main(argv: Sequence[str] | None = None) -> int:
    args, work = _command(sys.argv[1:] if argv is None else argv)
    try:
        work(args)
    except VEnhancerError as error:
        print(f"venhancer-train: {_last_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "venhancer-train: interrupted; the same command goes on from what is complete "
            "(a run: with --resume)",
            file=sys.stderr,
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
