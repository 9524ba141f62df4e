"""Milliseconds a frame of the autoencoder, in PyTorch's layout and channels last, in alternation.

Encoding and decoding, at Stable Diffusion 2.1's sizes with random weights; `frames` go through at a
time. Each runs in a process of its own, and once more alone if memory was short beside the other.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.interleaved import Memory, Worker, given_task, run_ways, serve
from benchmarks.measuring import Work, make_parser, parse_size, report, save, speed_up, spread, wait
from benchmarks.speed.ceiling import measure, share, told
from venhancer.config import VAE_STRIDE
from venhancer.device import choose_device, choose_dtype, keep_freed_memory
from venhancer.encoders.autoencoder import AutoencoderCodec
from venhancer.planning.activations import VAE_CHANNELS, autoencoder

MODULE = "benchmarks.speed.vae"
LAYOUTS = {"plain": torch.contiguous_format, "channels last": torch.channels_last}
WORKS = ("encode", "decode")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The work of one worker; the size in pixels."""

    work: str
    layout: str
    size: tuple[int, int]
    frames: int
    dtype: str
    device: str


def given(task: Task, device: str) -> Tensor:
    """Make the input: frames or latents."""
    width, height = task.size
    if task.work == "encode":
        return torch.rand(task.frames, 3, height, width, device=device) * 2 - 1
    latent = (height // VAE_STRIDE, width // VAE_STRIDE)
    return torch.randn(task.frames, VAE_CHANNELS, *latent, device=device)


def apply(codec: AutoencoderCodec, task: Task, x: Tensor) -> object:
    return codec.moments(x) if task.work == "encode" else codec.pixels(x)


def prepare(task: Task) -> tuple[Work, Mapping[str, Any]]:
    """Prepare and warm up the codec -> its work, and the memory that it takes."""
    if task.device == "cpu":
        keep_freed_memory()
    with torch.device("meta"):
        autoencoder()  # imports what it needs, which is not to count
    memory, layout = Memory(task.device), LAYOUTS[task.layout]
    network = autoencoder().eval().requires_grad_(False)
    nn.Module.to(network, task.device, getattr(torch, task.dtype))
    nn.Module.to(network, memory_format=layout)  # type: ignore[call-overload]
    codec, x = AutoencoderCodec(network), given(task, task.device).contiguous(memory_format=layout)
    memory.forget_peak()

    @torch.inference_mode()
    def work() -> None:
        apply(codec, task, x)

    for _ in range(3 if task.device == "cuda" else 1):
        work()
    wait(task.device)
    return work, memory.told()


@cache
def codec_flop(task: Task) -> int:
    """Count operations (two a multiply-add), on shapes alone."""
    with torch.device("meta"):
        codec = AutoencoderCodec(autoencoder().eval())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        apply(codec, task, given(task, "meta"))
    return int(counter.get_total_flops())


def measure_case(tasks: list[Task], rounds: int, ceiling: dict[str, Any]) -> dict[str, Any]:
    """Measure tasks that differ in their layout."""
    starts = {task.layout: partial(Worker, MODULE, dataclasses.asdict(task)) for task in tasks}
    found = run_ways(starts, rounds)
    rows = {layout: {"layout": layout, **outcome.row()} for layout, outcome in found.items()}
    first, flop = tasks[0], codec_flop(tasks[0])
    before = found[first.layout].seconds
    for layout, outcome in found.items():
        row, taken = rows[layout], outcome.seconds
        if not taken:
            continue
        row["ms_per_frame"] = spread([1000 * s / first.frames for s in taken])
        row["ceiling_share"] = share(flop, spread(taken)["median"], ceiling, first.dtype)
        row["times_faster"] = speed_up(before, taken) if before else None
    size = "{}x{}".format(*first.size)
    case = {"work": first.work, "size": size, "frames": first.frames, "dtype": first.dtype}
    return {**case, "flop": flop, "rows": list(rows.values())}


def table(case: dict[str, Any]) -> str:
    """Format a case for the terminal."""
    lines = [f"{case['work']} {case['frames']} x {case['size']}, {case['dtype']}"]
    for row in case["rows"]:
        if "failed" in row:
            lines.append(f"  {row['layout']:13} {row['failed']}")
            continue
        ms = row["ms_per_frame"]
        lines.append(
            f"  {row['layout']:13} {ms['median']:8.4g} ms a frame ({ms['least']:.4g} to "
            f"{ms['most']:.4g})  x {row['times_faster'] or 1:<5g}  "
            f"{100 * row['ceiling_share']:5.1f} % of the ceiling  {row['peak_bytes'] / 1e9:6.2f} GB"
        )
    return "\n".join(lines)


def cases(args: argparse.Namespace, dtype: str, device: str) -> Iterator[list[Task]]:
    for work, size, frames in itertools.product(WORKS, args.size, args.frames):
        common = {"work": work, "size": size, "frames": frames, "dtype": dtype, "device": device}
        yield [Task(layout=layout, **common) for layout in LAYOUTS]


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument("--size", type=parse_size, action="append", required=True)
    parser.add_argument("--frames", type=int, action="append", required=True)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    return parser


def main() -> None:
    child = given_task()
    if child is not None:
        serve(partial(prepare, Task(**child)), child["device"])
        return
    args = build_parser().parse_args()
    device = choose_device(args.device)
    dtype = str(choose_dtype(args.dtype, device)).removeprefix("torch.")
    ceiling = measure(device, [dtype])
    print(told(ceiling))
    measured: list[dict[str, Any]] = []
    found = {
        "weights": "random, of Stable Diffusion 2.1's sizes",
        "rounds": args.rounds,
        "ceiling": ceiling,
        "cases": measured,
    }
    for tasks in cases(args, dtype, device):
        measured.append(measure_case(tasks, args.rounds, ceiling))
        print(table(measured[-1]), flush=True)
        save(MODULE, device, found, args.out)
    report(MODULE, device, found, args.out)


if __name__ == "__main__":
    main()
