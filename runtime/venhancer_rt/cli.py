"""The `venhancer-rt` command."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import venhancer
from venhancer.errors import DeviceError, VEnhancerError
from venhancer_rt.arguments import add_options, read_options

if TYPE_CHECKING:
    from venhancer.planning.memory import Need
    from venhancer.planning.plan import Plan
    from venhancer.video.delivery import Delivery
    from venhancer_rt.backends import Backend
    from venhancer_rt.session import Run

INTERRUPTED = 130
USAGE = """\
usage: venhancer-rt COMMAND ...

  venhancer-rt enhance clip.mp4 -o clip_4x.mp4 --scale 4 --interpolate 2

enhance  enhance a video
plan     tell what `enhance` would do, and what it would cost
jobs     list the runs that were cut off
info     describe a video, a checkpoint, a bundle or a preset
doctor   tell what is installed, and what will work on this machine

`venhancer-rt COMMAND --help` lists the options of a command."""


class Parser(argparse.ArgumentParser):
    """Parser that reports a wrong argument in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"venhancer-rt: {message} ({self.prog} --help lists the arguments)\n")


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="venhancer-rt", description=venhancer.__doc__)
    parser.add_argument("--version", action="version", version=f"%(prog)s {venhancer.__version__}")
    parser.set_defaults(run=run_usage, prepared=None)
    commands = parser.add_subparsers(metavar="COMMAND")

    enhance = commands.add_parser("enhance", help="enhance a video")
    enhance.add_argument("input", type=Path, help="a video, or a folder of numbered PNG files")
    enhance.add_argument("-o", "--output", type=Path, help="default: INPUT_enhanced.mp4 beside it")
    enhance.add_argument(
        "--resume", action="store_true", help="go on with the job of a run that was cut off"
    )
    _add_run_options(enhance, has_target=True)
    enhance.set_defaults(run=run_enhance)

    plan = commands.add_parser("plan", help="print what `enhance` would do, and what it would cost")
    plan.add_argument("input", type=Path)
    plan.add_argument("-o", "--output", type=Path, help="as for enhance: says what it cannot hold")
    _add_run_options(plan, has_target=False)
    plan.set_defaults(run=run_plan)

    jobs = commands.add_parser("jobs", help="list the runs that were cut off")
    jobs.add_argument("folder", type=Path, nargs="?", default=Path(), help="default: here")
    jobs.add_argument("--clean", action="store_true", help="remove them")
    jobs.set_defaults(run=run_jobs)

    info = commands.add_parser("info", help="describe a video, a checkpoint, a bundle or a preset")
    info.add_argument("file", help="a file, a bundle's folder, or a preset's name")
    info.set_defaults(run=run_info)

    doctor = commands.add_parser(
        "doctor", help="tell what is installed, and what will work on this machine"
    )
    doctor.add_argument("--json", action="store_true", help="print it as JSON")
    doctor.set_defaults(run=run_doctor)
    return parser


def _add_run_options(parser: argparse.ArgumentParser, *, has_target: bool) -> None:
    add_options(parser, has_target=has_target)
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="DIR",
        help="use networks made by venhancer-export instead of PyTorch's",
    )
    parser.add_argument(
        "--no-graph",
        dest="graph",
        action="store_false",
        help="launch kernels one by one, not as CUDA graphs; the frames are the same",
    )
    parser.add_argument("--json", action="store_true", help="print plan and timings as JSON, last")


def _output(args: argparse.Namespace) -> Path:
    if args.output is not None:
        return Path(args.output)
    from venhancer.video.target import fitted_name, name_limit

    place, ending = args.input.absolute(), "_enhanced.mp4"
    stem = fitted_name(args.input.stem, name_limit(place.parent) - len(ending))
    return Path(args.input.with_name(f"{stem}{ending}"))


def run_usage(_: argparse.Namespace) -> None:
    print(USAGE)


def run_enhance(args: argparse.Namespace) -> None:
    from venhancer_rt import describe
    from venhancer_rt.progress import Bar
    from venhancer_rt.session import Enhancer

    with Enhancer(read_options(args), bundle=args.bundle, uses_graphs=args.graph) as enhancer:
        run = enhancer.prepare(args.input, _output(args), resume=args.resume)
        backend, options = run.backend, run.options
        print("\n".join(_told(backend, run.delivery)), flush=True)
        with run.open_journal() as journal:
            print("\n".join(describe.job_lines(run)), end="", flush=True)
            args.prepared = run
            with Bar() as bar:
                report = run.carry_out(journal, bar)
    print("\n".join(describe.report_lines(report, options.compare)))
    if args.json:
        told = {**_told_json(backend, report.plan), "fell_back": report.plan != backend.plan}
        told |= {**describe.delivery_json(run.delivery), "options": describe.options_json(options)}
        print(json.dumps({**describe.report_json(report), **told}))


def _needed(backend: Backend, plan: Plan) -> Need:
    from venhancer.planning.memory import need

    compute = backend.compute
    return need(plan, compute.device, compute.dtype, backend.capture is not None)


def _told(backend: Backend, delivery: Delivery) -> list[str]:
    from venhancer_rt import describe

    needed = _needed(backend, backend.plan)
    memory = describe.memory_line(backend.plan, needed, backend.limit)
    plan_lines = describe.plan_lines(backend.plan, delivery)
    return [*plan_lines, *describe.backend_lines(backend), memory]


def _told_json(backend: Backend, plan: Plan) -> dict[str, Any]:
    from venhancer_rt import describe

    needed = _needed(backend, plan)
    return {**describe.backend_json(backend), **describe.memory_json(plan, needed, backend.limit)}


def run_jobs(args: argparse.Namespace) -> None:
    from venhancer_rt import describe
    from venhancer_rt.job import clean, find_jobs, find_leftovers, find_unreadable

    jobs = find_jobs(args.folder)
    for job in jobs:
        print(describe.job_line(job))
    leftovers = find_leftovers(args.folder)
    for name in leftovers:
        print(f"{name}: killed before its first state, or just begun; --clean removes what is left")
    unreadable = find_unreadable(args.folder)
    for name in unreadable:
        print(
            f"{name}: damaged, or of another version, which may go on with it; --clean removes it"
        )
    if not jobs and not leftovers and not unreadable:
        print(f"no jobs in {args.folder}")
    if args.clean:
        gone = clean(args.folder)
        print(f"removed  {', '.join(gone) or 'nothing'}")


def run_plan(args: argparse.Namespace) -> None:
    from venhancer.pipeline.run import plan_output
    from venhancer.planning.cost import estimate
    from venhancer_rt import describe
    from venhancer_rt.backends import Request, choose_backend

    options, target = read_options(args), _output(args)
    request = Request(
        source=args.input,
        target=target,
        options=options,
        bundle=args.bundle,
        uses_graphs=args.graph,
    )
    backend = choose_backend(request)
    delivery = plan_output(target, backend.plan, options)
    compute = backend.compute
    cost = estimate(backend.plan, compute.device, compute.dtype)
    lines = _told(backend, delivery)
    print("\n".join([*lines, *describe.cost_lines(backend.plan, cost, compute.device)]))
    if args.json:
        told = {**describe.plan_json(backend.plan), **_told_json(backend, backend.plan)}
        told |= {**describe.delivery_json(delivery), "options": describe.options_json(options)}
        print(json.dumps({**told, **describe.cost_json(backend.plan, cost)}))


def run_info(args: argparse.Namespace) -> None:
    from venhancer_rt import describe

    print("\n".join(describe.info_lines(args.file)))


def run_doctor(args: argparse.Namespace) -> None:
    from venhancer_rt import doctor
    from venhancer_rt.machine_facts import gather

    facts = gather()
    if args.json:
        print(json.dumps(doctor.report_json(facts)))
    else:
        print("\n".join(doctor.report_lines(facts)))


def _job_left(run: Run | None) -> str:
    """Describe the job that an interrupted run has left."""
    from venhancer_rt.job import folder_of, read_job

    job = read_job(folder_of(run.target)) if run is not None and run.keeps_job else None
    return f"; --resume goes on after {job.progress}" if job else ", and there is no job to resume"


def _cuda_here(error: VEnhancerError) -> str:
    """Name the versions of CUDA for a DeviceError, if they can be read."""
    from venhancer_rt import cuda_facts

    known = cuda_facts.versions() if isinstance(error, DeviceError) else {}
    told = ", ".join(f"{name} {version}" for name, version in known.items())
    return f" (CUDA here: {told})" if told else ""


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, unless the process has its own way to handle it."""

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would cut off the clean-up
        raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    logging.basicConfig(format="venhancer-rt: %(message)s", level=logging.WARNING)
    try:
        with ended_by_sigterm():
            args.run(args)
    except VEnhancerError as error:
        print(f"venhancer-rt: {error}{_cuda_here(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"venhancer-rt: interrupted, nothing was written{_job_left(args.prepared)}",
            file=sys.stderr,
        )
        return INTERRUPTED
    return 0
