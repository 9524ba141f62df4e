"""The `venhancer-rt` command."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import venhancer
from venhancer.errors import DeviceError, VEnhancerError

if TYPE_CHECKING:
    from venhancer.pipeline.state import Journal
    from venhancer.planning.plan import Plan
    from venhancer_rt.backends import Backend, Request

INTERRUPTED = 130


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="venhancer-rt", description=venhancer.__doc__)
    parser.add_argument("--version", action="version", version=f"%(prog)s {venhancer.__version__}")
    parser.set_defaults(keeps_state=False)  # until there is a journal
    commands = parser.add_subparsers(dest="command", required=True)

    enhance = commands.add_parser("enhance", help="enhance a video")
    enhance.add_argument("input", type=Path, help="a video, or a folder of numbered PNG files")
    enhance.add_argument("-o", "--output", type=Path, help="default: INPUT_enhanced.mp4 beside it")
    enhance.add_argument("--overwrite", action="store_true", help="replace an existing output")
    enhance.add_argument(
        "--resume", action="store_true", help="go on where a run that was cut off stands"
    )
    enhance.add_argument("--compare", type=Path, metavar="FILE", help="side by side: video or .png")
    _add_options(enhance)
    enhance.set_defaults(run=run_enhance)

    plan = commands.add_parser("plan", help="print what `enhance` would do, and what it would cost")
    plan.add_argument("input", type=Path)
    _add_options(plan)
    plan.set_defaults(run=run_plan)

    jobs = commands.add_parser("jobs", help="list the states of runs that were cut off")
    jobs.add_argument("folder", type=Path, nargs="?", default=Path(), help="default: here")
    jobs.add_argument("--clean", action="store_true", help="remove them")
    jobs.set_defaults(run=run_jobs)

    info = commands.add_parser("info", help="describe a video, a checkpoint, a bundle or a preset")
    info.add_argument("file", help="a file, a bundle's folder, or a preset's name")
    info.set_defaults(run=run_info)
    return parser


def _add_options(parser: argparse.ArgumentParser) -> None:
    _add_what(parser.add_argument_group("what comes out"))
    _add_how(parser.add_argument_group("how the model works"))
    _add_shortcuts(parser.add_argument_group("what makes it faster, with other frames"))
    _add_where(parser.add_argument_group("where it runs"))
    parser.add_argument("--json", action="store_true", help="plan and timings as the last line")


def _add_what(group: argparse._ArgumentGroup) -> None:
    size = group.add_mutually_exclusive_group()
    size.add_argument("--scale", type=float, help="1 to 8 times the size (default 4)")
    size.add_argument("--size", type=_size, metavar="WxH", help="exactly this size")
    rate = group.add_mutually_exclusive_group()
    rate.add_argument("--interpolate", type=int, metavar="N", help="1 to 8 times the frames")
    rate.add_argument("--fps", type=_rate, help="exactly this rate: 60, 23.976, 24000/1001")
    group.add_argument(
        "--new-frames",
        choices=["model", "motion"],
        help="who makes the frames between: motion leaves the key frames to the model",
    )
    group.add_argument("--input-fps", type=_rate, help="of a folder of pictures (default 24)")
    group.add_argument("--crf", type=int, help="quality of the file, lower is better (default 17)")
    group.add_argument("--codec", help="encoder (default libx264)")


def _add_how(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--preset", help="nano (built in, default) or released")
    group.add_argument("--weights", type=Path, help="a checkpoint; ours carry their preset")
    group.add_argument("--prompt", help="what the video shows (presets with a text encoder)")
    group.add_argument("--refine", type=int, help="0 to 300: how much of the flaws to paint over")
    group.add_argument("--detail", type=float, help="1 to 8 (default: the scale): detail to invent")
    group.add_argument("--steps", type=int, help="of the solver")
    group.add_argument("--solver", choices=["fast", "normal"], help="spacing of the steps")
    group.add_argument(
        "--eta", type=float, help="0: deterministic solver, 1: fresh noise each step"
    )
    group.add_argument("--guidance", type=float, help="strength of the prompt; 1 is none")
    group.add_argument("--seed", type=int, help="same seed, same frames (default 0)")
    group.add_argument(
        "--geometry", choices=["exact", "released"], help="sizes as asked, or theirs"
    )
    group.add_argument("--padding", choices=["reflect", "white"], help="round the frame (reflect)")


def _add_shortcuts(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--mode",
        choices=["exact", "fast"],
        help="fast: the preset's steps, reuse and guidance interval for speed (default exact)",
    )
    group.add_argument(
        "--reuse", type=int, metavar="N", help="N steps share the coarse features of one"
    )
    group.add_argument(
        "--guidance-interval",
        type=_interval,
        metavar="LOW:HIGH",
        help="guide at these timesteps only",
    )


def _add_where(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--bundle",
        type=Path,
        metavar="DIR",
        help="networks made by venhancer-export, in place of PyTorch's",
    )
    group.add_argument("--device", choices=["auto", "cpu", "cuda"])
    group.add_argument("--dtype", choices=["auto", "float32", "bfloat16", "float16"])
    group.add_argument(
        "--kernels",
        choices=["auto", "torch", "triton"],
        help="what computes the network's layers (default auto: what was measured to be faster)",
    )
    group.add_argument("--window", type=int, help="frames that the model sees at a time")
    group.add_argument(
        "--memory",
        type=float,
        metavar="GB",
        help="that it may take (default: most of what is free)",
    )
    group.add_argument(
        "--no-graph",
        dest="graph",
        action="store_false",
        help="run the network's work one by one, not as CUDA graphs: the same frames",
    )
    group.add_argument(
        "--no-scene-cuts",
        dest="scene_cuts",
        action="store_false",
        default=None,
        help="interpolate across cuts",
    )
    group.add_argument("--tile", type=_size, metavar="WxH", help="pixels that it sees at a time")


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write 1280x720")
    return int(width), int(height)


def _interval(text: str) -> tuple[int, int]:
    low, _, high = text.partition(":")
    if not (low.isdigit() and high.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no interval of timesteps: write 200:800")
    return int(low), int(high)


NTSC = {
    "23.976": "24000/1001",
    "29.97": "30000/1001",
    "59.94": "60000/1001",
    "119.88": "120000/1001",
}


def _rate(text: str) -> Fraction:
    """A rational rate; the usual decimals mean the exact NTSC rates."""
    try:
        rate = Fraction(NTSC.get(text, text))
    except (ValueError, ZeroDivisionError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no rate: write 60 or 24000/1001") from error
    if rate <= 0:
        raise argparse.ArgumentTypeError(f"a rate of {text} shows nothing: write 60 or 24000/1001")
    return rate


OPTION_NAMES = (
    *("scale", "size", "interpolate", "fps", "new_frames", "input_fps", "crf", "codec", "preset"),
    *(
        "weights",
        "prompt",
        "refine",
        "detail",
        "steps",
        "solver",
        "eta",
        "guidance",
        "mode",
        "reuse",
        "guidance_interval",
        "seed",
        "geometry",
    ),
    *(
        "padding",
        "device",
        "dtype",
        "kernels",
        "window",
        "tile",
        "memory",
        "scene_cuts",
        "overwrite",
        "compare",
    ),
)


def _options(args: argparse.Namespace) -> venhancer.Options:
    """Only what was given; the rest keeps the defaults of `Options`."""
    from venhancer import Options

    given = {name: getattr(args, name, None) for name in OPTION_NAMES}
    return Options(**{name: value for name, value in given.items() if value is not None})


def _output(args: argparse.Namespace) -> Path:
    if args.output is not None:
        return Path(args.output)
    return Path(args.input.with_name(f"{args.input.stem}_enhanced.mp4"))


def run_enhance(args: argparse.Namespace) -> None:
    from venhancer.pipeline import run as pipeline
    from venhancer.planning.fitting import memory_limit
    from venhancer_rt import describe
    from venhancer_rt.backends import choose_backend
    from venhancer_rt.progress import Bar

    options, target = _options(args), _output(args)
    backend = choose_backend(_request(args, options))
    pipeline.check_output(target, backend.plan, options)
    limit = memory_limit(options, backend.device)
    print("\n".join(_told(backend, limit)), flush=True)
    with _journal(args, backend, options, target) as journal, Bar() as bar:
        report = pipeline.enhance(
            backend.plan, target, backend.open(), options, bar, journal, backend.smaller
        )
    print("\n".join(describe.report_lines(report, options.compare)))
    if args.json:
        told = {**_told_json(backend, report.plan, limit), "fell_back": report.plan != backend.plan}
        print(json.dumps({**describe.report_json(report), **told}))


def _request(args: argparse.Namespace, options: venhancer.Options) -> Request:
    """A run that goes on is arranged as it was begun."""
    from venhancer_rt.backends import Request
    from venhancer_rt.job import folder_of, read_job

    job = read_job(folder_of(_output(args))) if getattr(args, "resume", False) else None
    return Request(
        source=args.input,
        options=options,
        bundle=args.bundle,
        uses_graphs=args.graph,
        arrangement=None if job is None else job.arrangement,
    )


def _told(backend: Backend, limit: int) -> list[str]:
    from venhancer.planning.memory import need
    from venhancer_rt import describe

    needed = need(backend.plan, backend.device, backend.dtype, backend.capture is not None)
    memory = describe.memory_line(backend.plan, needed, limit)
    return [*describe.plan_lines(backend.plan), *describe.backend_lines(backend), memory]


def _told_json(backend: Backend, plan: Plan, limit: int) -> dict[str, Any]:
    from venhancer.planning.memory import need
    from venhancer_rt import describe

    needed = need(plan, backend.device, backend.dtype, backend.capture is not None)
    return {**describe.backend_json(backend), **describe.memory_json(plan, needed, limit)}


def _journal(
    args: argparse.Namespace, backend: Backend, options: venhancer.Options, target: Path
) -> AbstractContextManager[Journal]:
    """A journal to go on from, or a new one; another run's state is left alone."""
    from venhancer.pipeline.state import NoJournal
    from venhancer_rt.backends import identity
    from venhancer_rt.job import folder_of, read_job
    from venhancer_rt.journal import DiskJournal

    job = read_job(folder_of(target))
    if job is not None and not args.resume:
        print(
            f"state    a run that was cut off stands at {job.stand}: with --resume it goes on; "
            "it is left alone now, and this run keeps no state"
        )
        return nullcontext(NoJournal())
    journal = DiskJournal(target, backend.plan, partial(identity, backend, options))
    job = journal.resume()
    args.keeps_state = True
    if job is not None:
        print(f"state    goes on after {job.stand}", flush=True)
    elif args.resume:
        print("state    there is none to go on from: the run begins anew", flush=True)
    return journal


def run_jobs(args: argparse.Namespace) -> None:
    from venhancer_rt import describe
    from venhancer_rt.job import clean, find_jobs, find_leftovers

    jobs = find_jobs(args.folder)
    for job in jobs:
        print(describe.job_line(job))
    leftovers = find_leftovers(args.folder)
    for name in leftovers:
        print(f"{name}: killed before its first state, or just begun; --clean removes what is left")
    if not jobs and not leftovers:
        print(f"no states in {args.folder}")
    if args.clean:
        gone = clean(args.folder)
        print(f"removed  {', '.join(gone) or 'nothing'}")


def run_plan(args: argparse.Namespace) -> None:
    from venhancer.planning.cost import estimate
    from venhancer.planning.fitting import memory_limit
    from venhancer_rt import describe
    from venhancer_rt.backends import choose_backend

    options = _options(args)
    backend = choose_backend(_request(args, options))
    cost = estimate(backend.plan, backend.device, backend.dtype)
    limit = memory_limit(options, backend.device)
    lines = _told(backend, limit)
    print("\n".join([*lines, *describe.cost_lines(backend.plan, cost, backend.device)]))
    if args.json:
        told = {**describe.plan_json(backend.plan), **_told_json(backend, backend.plan, limit)}
        print(json.dumps({**told, **describe.cost_json(backend.plan, cost)}))


def run_info(args: argparse.Namespace) -> None:
    from venhancer_rt import describe

    print("\n".join(describe.info_lines(args.file)))


def _state_left(args: argparse.Namespace) -> str:
    from venhancer_rt.job import folder_of, read_job

    job = read_job(folder_of(_output(args))) if args.keeps_state else None
    return f"; --resume goes on after {job.stand}" if job else ""


def _cuda_here(error: VEnhancerError) -> str:
    """Versions of CUDA, where a device is at fault and they can be told."""
    from venhancer_rt import cuda_facts

    known = cuda_facts.versions() if isinstance(error, DeviceError) else {}
    told = ", ".join(f"{name} {version}" for name, version in known.items())
    return f" (CUDA here: {told})" if told else ""


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    logging.basicConfig(format="venhancer-rt: %(message)s", level=logging.WARNING)
    try:
        args.run(args)
    except VEnhancerError as error:
        print(f"venhancer-rt: {error}{_cuda_here(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"venhancer-rt: interrupted, nothing was written{_state_left(args)}", file=sys.stderr)
        return INTERRUPTED
    return 0
