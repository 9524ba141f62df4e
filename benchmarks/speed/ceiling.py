"""Measured ceilings of the device: its rates of matrix products and of copies.

Every share of a ceiling in these benchmarks is the counted work, divided by the time taken and by
the rate of matrix products in the same precision.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.measuring import Work, make_parser, report, seconds_of
from venhancer.config import ModelConfig
from venhancer.device import choose_device
from venhancer.planning.cost import denoiser_flop

DTYPES = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "float16", "bfloat16")}
SIZES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192, 16384)}
COPIED = {"cpu": 2**28, "cuda": 2**32}  # bytes, more than any cache
LIMIT = 1.0  # seconds for each size
SMALL = 64  # side of a product in a dry run


def branches(model: ModelConfig) -> int:
    """Count the branches of one evaluation: with text there is guidance, which evaluates both."""
    return 2 if model.unet.text_width else 1


def evaluation_flop(model: ModelConfig, frames: int, rows: int, columns: int) -> int:
    """Count the operations (two a multiply-add) of one evaluation, guided if the model has text."""
    return denoiser_flop(model, frames, rows, columns, branches(model))


def best_seconds(work: Work, device: str, limit: float = LIMIT) -> float:
    """Time the fastest of as many runs as the limit (seconds) allows, after an uncounted one."""
    seconds_of(work, device)
    end = time.perf_counter() + limit
    best = seconds_of(work, device)
    while time.perf_counter() < end:
        best = min(best, seconds_of(work, device))
    return best


def matmul_rate(dtype: str, device: str, is_small: bool = False) -> dict[str, Any]:
    """Measure TFLOP/s at the size where a square product is fastest; random numbers, not zeros."""
    rates = {}
    for size in (SMALL,) if is_small else SIZES[device]:
        left, right = (
            torch.randn(size, size, device=device).to(getattr(torch, dtype)) for _ in range(2)
        )
        out = torch.empty_like(left)
        product: Work = partial(torch.mm, left, right, out=out)
        seconds = best_seconds(product, device, 0.0 if is_small else LIMIT)
        rates[size] = 2 * size**3 / seconds / 1e12
    size = max(rates, key=lambda size: rates[size])
    return {"tflops": float(f"{rates[size]:.4g}"), "size": size}


def copy_rate(device: str, is_small: bool = False) -> float:
    """Measure GB/s, reads and writes together."""
    size = SMALL**2 if is_small else COPIED[device]
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    work = partial(target.copy_, source)
    seconds = best_seconds(work, device, 0.0 if is_small else LIMIT)
    return float(f"{2 * size / seconds / 1e9:.4g}")


def measure(device: str, dtypes: Sequence[str], is_small: bool = False) -> dict[str, Any]:
    """Measure both rates; memory that they took on a card is given back.

    is_small: at no cost, for dry runs, whose numbers mean nothing
    """
    found = {
        "matmul": {dtype: matmul_rate(dtype, device, is_small) for dtype in dtypes},
        "copy_gbs": copy_rate(device, is_small),
    }
    if device == "cuda":
        torch.cuda.empty_cache()
    return found


def share(flop: float, seconds: float, ceiling: Mapping[str, Any], dtype: str) -> float:
    """Return the achieved share of the rate of matrix products in that precision."""
    return round(flop / seconds / 1e12 / ceiling["matmul"][dtype]["tflops"], 3)


def told(ceiling: dict[str, Any]) -> str:
    rates = (f"{dtype} {rate['tflops']:g}" for dtype, rate in ceiling["matmul"].items())
    return f"matrix products in TFLOP/s: {', '.join(rates)}; copies {ceiling['copy_gbs']:g} GB/s"


def main() -> None:
    args = make_parser(__doc__).parse_args()
    device = choose_device(args.device)
    ceiling = measure(device, DTYPES[device])
    print(told(ceiling))
    report("benchmarks.speed.ceiling", device, {"ceiling": ceiling}, args.out)


if __name__ == "__main__":
    main()
