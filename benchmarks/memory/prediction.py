"""Does `planning.activations` predict the memory of an evaluation and of the codec?

Each case runs in a process of its own, after a first pass at a small size. On a CPU the measure is
the growth of the resident set at its peak, taken twice: with every block on pages of its own, which
is what tensors and kernels take, and as runs do it, with freed memory kept, which adds the gaps
between blocks. On CUDA it is what the allocator handed out, and what it reserved for that.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import ROOT, describe_run
from venhancer.config import PRESETS, VAE_STRIDE
from venhancer.device import M_MMAP_THRESHOLD, keep_freed_memory
from venhancer.encoders.autoencoder import AutoencoderCodec
from venhancer.model.denoiser import Denoiser, make_denoiser
from venhancer.planning.activations import (
    VAE_CHANNELS,
    autoencoder,
    codec_bytes,
    denoiser_bytes,
    evaluate,
)
from venhancer.planning.cost import branch_inputs

CHILD = "--child"
PAGES = 2**16  # block size from which a block gets pages of its own, in bytes
CODEC = ("encode", "decode")
EVALUATIONS = 2  # blocks kept from one evaluation lie between those of the next


class ChildError(Exception):
    """The process that measures a case failed; the message is the last line of its errors."""


@dataclass(frozen=True, slots=True)
class Case:
    """A preset's denoiser, or the SD VAE's `encode` or `decode`; sizes in latent positions."""

    network: str
    dtype: str
    branches: int
    frames: int
    rows: int
    columns: int

    def __str__(self) -> str:
        sizes = f"{self.branches} x {self.frames} x {self.rows}x{self.columns}"
        return f"{self.network} {self.dtype} {sizes}"


DENOISERS = {
    "nano": ((1, 3, 92, 160), (1, 3, 180, 320)),
    "tiny": ((2, 4, 26, 32), (2, 8, 50, 64)),
}
CODECS = ((1, 3, 16, 24), (1, 1, 32, 48))
CPU = (
    *(
        Case(network, dtype, *sizes)
        for network, shapes in DENOISERS.items()
        for dtype in ("float32", "bfloat16")
        for sizes in shapes
    ),
    *(Case(n, d, *sizes) for n in CODEC for d in ("float32", "bfloat16") for sizes in CODECS),
)
CUDA = (
    Case("nano", "float16", 1, 3, 180, 320),
    Case("nano", "float32", 1, 3, 180, 320),
    Case("released", "float16", 1, 16, 90, 160),
    Case("released", "float16", 2, 16, 90, 160),
    Case("released", "float16", 2, 32, 90, 160),
    *(Case(n, "float16", 1, frames, 90, 160) for n in CODEC for frames in (1, 3)),
)


def predict(case: Case) -> int:
    """Return the predicted bytes."""
    dtype = getattr(torch, case.dtype)
    if case.network in CODEC:
        size = {"height": case.rows * VAE_STRIDE, "width": case.columns * VAE_STRIDE}
        return getattr(codec_bytes(dtype, frames=case.frames, **size), case.network)
    model = PRESETS[case.network].model
    sizes = asdict(case)
    return denoiser_bytes(
        model, dtype, **{k: sizes[k] for k in ("branches", "frames", "rows", "columns")}
    )


def prepare_work(case: Case, device: str) -> Callable[[], object]:
    """Prepare the network: run at a small size and ready for this one."""
    work = _codec(case, device) if case.network in CODEC else _denoiser(case, device)
    work(True)
    return lambda: work(False)


def _denoiser(case: Case, device: str) -> Callable[[bool], object]:
    model, dtype = PRESETS[case.network].model, getattr(torch, case.dtype)
    with torch.device(device):
        network: Denoiser = make_denoiser(model).to(dtype).eval()
    side = model.unet.size_step
    small = (3, side + model.unet.row_remainder, side)
    prepared = []
    for frames, rows, columns in ((case.frames, case.rows, case.columns), small):
        with torch.device(device):
            inputs = branch_inputs(model, frames, rows, columns, case.branches)
        prepared.append((inputs, network.prepare_text(inputs.pop("text", None))))

    def work(is_small: bool) -> None:
        for _ in range(EVALUATIONS):
            evaluate(network, *prepared[is_small])

    return work


def _codec(case: Case, device: str) -> Callable[[bool], object]:
    network = autoencoder().eval()
    torch.nn.Module.to(network, device, getattr(torch, case.dtype))
    codec = AutoencoderCodec(network)
    is_encode = case.network == "encode"
    stride, channels = (VAE_STRIDE, 3) if is_encode else (1, VAE_CHANNELS)
    function = codec.moments if is_encode else codec.pixels
    inputs = [
        torch.zeros(frames, channels, rows * stride, columns * stride, device=device)
        for frames, rows, columns in ((case.frames, case.rows, case.columns), (1, 4, 4))
    ]
    return lambda is_small: function(inputs[is_small])


@torch.inference_mode()
def child(case: Case, way: str) -> None:
    """Measure one case; the last line is its memory in bytes."""
    torch.set_num_threads(1)
    if way == "cuda":
        print(json.dumps(_measure_cuda(prepare_work(case, way))))
        return
    library = ctypes.CDLL(None)
    if way == "kept":
        keep_freed_memory()
    else:
        library.mallopt(M_MMAP_THRESHOLD, PAGES)
    work = prepare_work(case, "cpu")
    library.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    work()
    print(json.dumps({"bytes": _status("VmHWM") - before}))


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _measure_cuda(work: Callable[[], object]) -> dict[str, int]:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    work()
    torch.cuda.synchronize()
    return {
        "allocated": torch.cuda.max_memory_allocated() - allocated,
        "reserved": torch.cuda.max_memory_reserved() - reserved,
    }


def measure(case: Case, way: str) -> dict[str, int]:
    """Measure in a fresh process; way: `apart` or `kept` on a CPU, or `cuda`.

    ChildError says why not.
    """
    request = json.dumps([asdict(case), way])
    command = [sys.executable, "-m", "benchmarks.memory.prediction", CHILD, request]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        raise ChildError(said[-1][:200])
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(case: Case, device: str) -> dict[str, Any]:
    """Compare prediction and measurement; or say why the case could not be measured."""
    counted = predict(case)
    try:
        if device == "cuda":
            taken = measure(case, "cuda")
        else:
            taken = {way: measure(case, way)["bytes"] for way in ("apart", "kept")}
    except ChildError as error:
        print(f"{case}: {error}", flush=True)
        return {"case": str(case), "counted_bytes": counted, "failed": str(error)}
    ratios = {name: round(value / counted, 3) for name, value in taken.items()}
    print(f"{case}: counted {counted / 1e6:.0f} MB, measured over counted {ratios}", flush=True)
    return {"case": str(case), "counted_bytes": counted, "bytes": taken, "ratio": ratios}


def largest(rows: list[dict[str, Any]], is_codec: bool) -> dict[str, float]:
    """Return the largest ratio for each way of measuring."""
    found: dict[str, float] = {}
    for row in rows:
        if (row["case"].split()[0] in CODEC) == is_codec:
            for way, ratio in row.get("ratio", {}).items():
                found[way] = max(ratio, found.get(way, 0.0))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path)
    parser.add_argument(CHILD, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        case, way = json.loads(args.child)
        child(Case(**case), way)
        return
    rows: list[dict[str, Any]] = []
    for case in CUDA if args.device == "cuda" else CPU:
        rows.append(compare(case, args.device))
        result = describe(rows, args.device)
        if args.out:
            args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


def describe(rows: list[dict[str, Any]], device: str) -> dict[str, Any]:
    """Return the results so far, as they are written."""
    return {
        **describe_run("benchmarks.memory.prediction"),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "largest_ratio": {
            "denoiser": largest(rows, is_codec=False),
            "codec": largest(rows, is_codec=True),
        },
        "cases": rows,
    }


if __name__ == "__main__":
    main()
