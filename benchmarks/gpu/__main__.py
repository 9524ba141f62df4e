"""One step of a run on a card: `python -m benchmarks.gpu STEP`; see README.md beside this file.

With `--device cpu --small` it is a dry run on tiny models, whose numbers mean nothing. The exit
status is 1 if a result is missing or wrong.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from benchmarks.gpu.records import Recorder

STEPS = {  # the module of each step; its function there is named run_STEP
    "environment": "setting",
    "golden": "golden",
    "enhance": "enhance",
    "graphs": "graphs",
    "denoise": "speed",
    "profile": "speed",
    "codec": "speed",
    "update": "training",
}
DTYPES = ("float16", "bfloat16", "float32")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("step", choices=list(STEPS))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--dtype", choices=DTYPES, help="default: float16, on a CPU float32")
    parser.add_argument("--small", action="store_true", help="tiny models: a dry run")
    parser.add_argument("--way", action="append", default=[], help="of `denoise`; default: all")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    from benchmarks.gpu.setting import Setting  # here, so that --help needs no torch

    setting = Setting(
        device=args.device,
        dtype=args.dtype or ("float16" if args.device == "cuda" else "float32"),
        is_small=args.small,
        ways=tuple(args.way),
    )
    recorder = Recorder.of_environment(args.step)
    module = importlib.import_module(f"benchmarks.gpu.{STEPS[args.step]}")
    getattr(module, f"run_{args.step}")(setting, recorder)
    return 0 if recorder.is_right else 1


if __name__ == "__main__":
    sys.exit(main())
