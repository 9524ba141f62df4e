"""One evaluation of the network, guided if the model has text, in several variants in alternation.

plain: the release's path (`--baseline pytorch`); eager; reuse: eager, the finest level alone, with
coarse features of the same step; compiled: torch.compile; graph: eager as a CUDA graph; onnx: ONNX
Runtime in float32, exported on the way (CPU); engine: the TensorRT plans of `--bundle`, as a CUDA
graph. NANO has neither `plain` nor `reuse`. Each runs in a process of its own, and once more alone
if memory was short beside the others; errors are of x_0, relative (L2), against eager float32.
Weights are NANO's own or random ones, made on the device: speed does not depend on them. NANO takes
one step, so its work is `prepare` and one evaluation; on a CPU without the repair, which clean
frames skip.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.interleaved import Worker, WorkerError, given_task, reason, run_ways, serve
from benchmarks.measuring import make_parser, parse_size, report, save, speed_up, spread
from benchmarks.random_models import SEED, write_checkpoint
from benchmarks.speed.ceiling import branches, evaluation_flop, measure, share, told
from benchmarks.speed.denoise_variants import REFERENCE, Task, prepare
from benchmarks.speed.plain_network import check_has_plain
from venhancer.bundle.manifest import read_manifest
from venhancer.config import NANO, PRESETS
from venhancer.device import choose_device, choose_dtype
from venhancer.errors import VEnhancerError
from venhancer.files import hash_file
from venhancer.planning.cost import evaluated, finest_flop
from venhancer.planning.geometry import fit
from venhancer.weights.checkpoint import embedded_checkpoint
from venhancer_export.bundle_writer import build_bundle
from venhancer_export.request import make_request

MODULE = "benchmarks.speed.denoise_step"
WAYS = {
    "cpu": ("eager", "reuse", "compiled", "onnx"),
    "cuda": ("eager", "reuse", "compiled", "graph"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Settings that all cases share."""

    preset: str
    device: str
    dtype: str
    weights: Path | None  # None: random ones, which every process generates identically
    bundle: Path | None
    variants: tuple[str, ...]
    rounds: int
    ceiling: dict[str, Any]
    folder: Path


def precision(setting: Setting, variant: str) -> str:
    """Return the precision in which a variant computes."""
    if variant == "plain":
        return "float16" if setting.device == "cuda" else "float32"
    if variant == "engine":
        assert setting.bundle is not None
        return read_manifest(setting.bundle).precision
    return "float32" if variant in ("onnx", REFERENCE) else setting.dtype


def make_task(setting: Setting, variant: str, shape: tuple[int, int, int]) -> Task:
    """Make a variant's task; exports the network first if the variant needs that."""
    bundle = None
    if variant == "onnx":
        bundle = export_onnx(setting, shape)
    if variant == "engine":
        bundle = setting.bundle
    return Task(
        variant=variant,
        preset=setting.preset,
        shape=shape,
        dtype=precision(setting, variant),
        device=setting.device,
        weights="" if setting.weights is None else str(setting.weights),
        bundle=None if bundle is None else str(bundle),
        out=str(result_file(setting, variant, shape)),
    )


def export_onnx(setting: Setting, shape: tuple[int, int, int]) -> Path:
    """Write a bundle for ONNX Runtime, made of the same weights as the other variants."""
    width, height, window = shape
    weights, bundle = setting.weights, setting.folder / f"onnx_{width}x{height}x{window}"
    if weights is None:
        weights = setting.folder / "random.safetensors"
        write_checkpoint(weights, PRESETS[setting.preset], SEED)
    request = make_request(
        preset=setting.preset,
        weights=weights,
        sizes=[(width, height)],
        windows=[window],
        builder="onnx",
    )
    build_bundle(request, bundle)
    return bundle


def result_file(setting: Setting, variant: str, shape: tuple[int, int, int]) -> Path:
    return setting.folder / f"{variant}_{'x'.join(map(str, shape))}.pt"


def start(setting: Setting, variant: str, shape: tuple[int, int, int]) -> Worker:
    """Start a process that has the variant ready; WorkerError if it could not."""
    try:
        task = make_task(setting, variant, shape)
    except VEnhancerError as error:  # raised by the export
        raise WorkerError(reason(error)) from error
    return Worker(MODULE, dataclasses.asdict(task))


def measure_case(setting: Setting, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Measure every variant at one shape; one that fails says why, and the others go on."""
    starts = {name: partial(start, setting, name, shape) for name in setting.variants}
    run_ways({REFERENCE: partial(start, setting, REFERENCE, shape)}, 0)  # leaves its file
    found = run_ways(starts, setting.rounds)
    ran = {name: outcome.seconds for name, outcome in found.items() if outcome.seconds}
    first = ran.get("plain", ran.get("eager", []))
    rows = [
        {
            "variant": name,
            "dtype": precision(setting, name),
            **outcome.row(),
            **(figures(setting, name, shape, ran[name], first) if name in ran else {}),
        }
        for name, outcome in found.items()
    ]
    width, height, window = shape
    flop = variant_flop(setting, "eager", window, *latent_size(setting, shape))
    return {"size": f"{width}x{height}", "window": window, "flop": flop, "rows": rows}


def latent_size(setting: Setting, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Return rows and columns of latents."""
    stride = PRESETS[setting.preset].model.latent_stride
    return shape[1] // stride, shape[0] // stride


def figures(
    setting: Setting,
    variant: str,
    shape: tuple[int, int, int],
    seconds: list[float],
    first: list[float],
) -> dict[str, Any]:
    """Compute rates from the seconds of a variant, and from those of the first one."""
    flop = variant_flop(setting, variant, shape[2], *latent_size(setting, shape))
    taken, dtype = spread(seconds), precision(setting, variant)
    return {
        "seconds": taken,
        "flop": flop,
        "ceiling_share": share(flop, taken["median"], setting.ceiling, dtype),
        "times_faster": speed_up(first, seconds) if first else None,
        "relative_error": relative_error(setting, variant, shape),
    }


def variant_flop(setting: Setting, variant: str, window: int, rows: int, columns: int) -> int:
    """Count the operations of a variant; exported networks always repair."""
    preset = PRESETS[setting.preset]
    model, shape = preset.model, (window, rows, columns)
    if variant == "reuse":
        return finest_flop(model, *shape, branches(model))
    is_exported = variant in ("onnx", "engine")
    if not is_exported:
        model = evaluated(model, setting.device, preset.defaults.refine)
    return evaluation_flop(model, *shape)


def relative_error(setting: Setting, variant: str, shape: tuple[int, int, int]) -> float | None:
    """Compute the error against the reference, unless the reference did not fit."""
    found, wanted = (result_file(setting, name, shape) for name in (variant, REFERENCE))
    if not wanted.is_file():
        return None
    exact = torch.load(wanted).double()
    return float(f"{(torch.load(found).double() - exact).norm() / exact.norm():.3g}")


def table(case: dict[str, Any]) -> str:
    """Format a case for the terminal."""
    lines = [f"{case['size']} x {case['window']}: {case['flop'] / 1e12:.3g} TFLOP"]
    for row in case["rows"]:
        name = f"  {row['variant']:9} {row['dtype']:9}"
        if "failed" in row:
            lines.append(f"{name} {row['failed']}")
            continue
        s, error = row["seconds"], row["relative_error"]
        lines.append(
            f"{name} {s['median']:8.4g} s ({s['least']:.4g} to {s['most']:.4g})  "
            f"x {row['times_faster'] or 1:<5g}  {100 * row['ceiling_share']:5.1f} % of the ceiling"
            f"  {row['peak_bytes'] / 1e9:6.2f} GB  error {'-' if error is None else error}"
        )
    return "\n".join(lines)


def find_weights(args: argparse.Namespace) -> Path | None:
    """Return the given weights, NANO's, or None for random ones; SystemExit for unknown engines."""
    if args.weights:
        return Path(args.weights.resolve())
    if args.preset == NANO.name:
        return embedded_checkpoint(args.preset)
    if args.bundle is not None:
        raise SystemExit("--bundle: name the weights that it was built from as --weights")
    return None


def find_variants(args: argparse.Namespace, device: str) -> tuple[str, ...]:
    """Return the given variants, or all of the model; SystemExit for one that it does not have."""
    if PRESETS[args.preset].model.unet.has_coarse_features:
        return tuple(args.variant or WAYS[device])
    if "reuse" in (args.variant or ()):
        raise SystemExit(f"--variant reuse: {args.preset} has no coarse features: leave it out")
    return tuple(args.variant or (way for way in WAYS[device] if way != "reuse"))


def make_setting(args: argparse.Namespace, folder: Path) -> Setting:
    device = choose_device(args.device)
    dtype = str(choose_dtype(args.dtype, device)).removeprefix("torch.")
    weights = find_weights(args)
    if args.baseline is not None:
        check_has_plain(PRESETS[args.preset])
    variants = ("plain",) * (args.baseline is not None) + find_variants(args, device)
    if args.bundle is not None:
        variants += ("engine",)
        assert weights is not None
        if read_manifest(args.bundle).checkpoint_sha256 != hash_file(weights):
            raise SystemExit(f"{args.bundle} was built from other weights: pass them as --weights")
    half = ["float16"] if device == "cuda" else []
    return Setting(
        preset=args.preset,
        device=device,
        dtype=dtype,
        weights=weights,
        bundle=args.bundle and args.bundle.resolve(),
        variants=variants,
        rounds=args.rounds,
        ceiling=measure(device, list(dict.fromkeys(["float32", *half, dtype]))),
        folder=folder,
    )


def shapes(args: argparse.Namespace) -> Iterator[tuple[int, int, int]]:
    """Yield the sizes as the network takes them, each with every window."""
    for (width, height), window in itertools.product(args.size, args.window):
        padded = fit(width, height, PRESETS[args.preset].model)
        yield padded.padded_width, padded.padded_height, window


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument("--preset", default="nano", choices=list(PRESETS))
    parser.add_argument("--size", type=parse_size, action="append", required=True)
    parser.add_argument("--window", type=int, action="append", required=True)
    parser.add_argument("--dtype", default="auto")
    ways = sorted({way for found in WAYS.values() for way in found})
    parser.add_argument("--variant", action="append", choices=ways)
    parser.add_argument("--baseline", choices=("pytorch",))
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    return parser


def main() -> None:
    child = given_task()
    if child is not None:
        serve(partial(prepare, Task(**child)), child["device"])
        return
    args = build_parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        setting = make_setting(args, Path(folder))
        print(told(setting.ceiling))
        cases: list[dict[str, Any]] = []
        found = {
            "preset": setting.preset,
            "rounds": setting.rounds,
            "ceiling": setting.ceiling,
            "cases": cases,
        }
        for shape in shapes(args):
            cases.append(measure_case(setting, shape))
            print(table(cases[-1]), flush=True)
            save(MODULE, setting.device, found, args.out)
    report(MODULE, setting.device, found, args.out)


if __name__ == "__main__":
    main()
