"""The `venhancer-export` command."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import venhancer
from venhancer.errors import VEnhancerError

INTERRUPTED = 130
FAILED = 1
EXTRA = ("onnx", "onnxruntime", "polygraphy")  # imported where they are needed


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="venhancer-export", description="Export a checkpoint to ONNX graphs and engines."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {venhancer.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    onnx = commands.add_parser("onnx", help="export ONNX graphs, for any GPU or for none")
    _add_request(onnx)
    onnx.set_defaults(run=run_build, builder="onnx", gpu=[], workspace=None)

    build = commands.add_parser("build-engines", help="export, and build engines for GPUs")
    _add_request(build)
    build.add_argument(
        "--gpu",
        action="append",
        default=[],
        metavar="NAME",
        help="a100, l4, h100, ... or `this`; repeat for more",
    )
    build.add_argument(
        "--builder",
        choices=["auto", "tensorrt", "tensorrt-rtx", "onnx"],
        default="auto",
        help="default: the installed one; onnx without --gpu and without a GPU here",
    )
    build.add_argument(
        "--max-workspace", dest="workspace", type=float, metavar="GIB", help="of the builder"
    )
    build.set_defaults(run=run_build)

    verify = commands.add_parser("verify", help="compare a bundle with PyTorch, stage by stage")
    verify.add_argument("bundle", type=Path)
    verify.add_argument("--weights", type=Path, help="the checkpoint it was made from")
    verify.add_argument(
        "--full", action="store_true", help="also at the bundle's own shapes, however long it takes"
    )
    verify.set_defaults(run=run_verify)

    info = commands.add_parser("info", help="describe a bundle, and check its files")
    info.add_argument("bundle", type=Path)
    info.set_defaults(run=run_info)
    return parser


def _add_request(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", help="nano (default), released, tiny; or what --weights says")
    parser.add_argument("--weights", type=Path, help="a checkpoint (default: the preset's)")
    parser.add_argument(
        "--size",
        type=_size,
        action="append",
        required=True,
        metavar="WxH",
        help="of the enhanced video, or of its tiles; repeat for more",
    )
    parser.add_argument(
        "--window",
        type=int,
        action="append",
        metavar="F",
        help="frames at a time (default: the preset's); repeat for more",
    )
    parser.add_argument("--precision", choices=["float16", "float32"])
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="BUNDLE")
    parser.add_argument("--overwrite", action="store_true", help="replace another bundle")


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write 1280x720")
    return int(width), int(height)


def run_build(args: argparse.Namespace) -> int:
    from venhancer_export.bundle_writer import build_bundle, describe
    from venhancer_export.request import make_request

    request = make_request(
        preset=args.preset,
        weights=args.weights,
        sizes=args.size,
        windows=args.window,
        gpus=args.gpu,
        builder=args.builder,
        precision=args.precision,
        workspace_gib=args.workspace,
    )
    manifest = build_bundle(request, args.output, overwrite=args.overwrite, say=print)
    print(f"{args.output}: {describe(manifest)}, {manifest.seconds:.0f} s")
    print(f"now run: venhancer-export verify {args.output}")
    return 0


def run_verify(args: argparse.Namespace) -> int:
    import onnx  # noqa: F401 (before the work, not after it)
    import onnxruntime  # noqa: F401

    from venhancer_export.parity.run import verify

    report = verify(args.bundle, args.weights, is_full=args.full, say=print)
    print("\n".join(report.lines()))
    return 0 if report.passed else FAILED


def run_info(args: argparse.Namespace) -> int:
    from venhancer.bundle.manifest import check_files, read_manifest

    manifest = read_manifest(args.bundle)
    print("\n".join(manifest.lines()))
    check_files(args.bundle, manifest)
    print("files    all there and unchanged")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    logging.basicConfig(format="venhancer-export: %(message)s", level=logging.WARNING)
    try:
        return int(args.run(args))
    except VEnhancerError as error:
        print(f"venhancer-export: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        print(
            f"venhancer-export: {error.name} is not installed: "
            "run `pip install 'venhancer[export]'`",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("venhancer-export: interrupted", file=sys.stderr)
        return INTERRUPTED
