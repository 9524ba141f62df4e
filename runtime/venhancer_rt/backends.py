"""What carries a plan out: PyTorch with a checkpoint, or a bundle's networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch

import venhancer
from venhancer.contract import Shape
from venhancer.device import choose_device, choose_dtype
from venhancer.errors import OptionError
from venhancer.options import Options
from venhancer.pipeline import Networks
from venhancer.plan import Plan, plan_static
from venhancer.static import Run, StaticCodec, StaticDenoiser, StaticTextEncoder
from venhancer.tokenizer import load_tokenizer
from venhancer.video import probe
from venhancer.weights import find_weights
from venhancer_rt.bundle_reader import Bundle, open_bundle
from venhancer_rt.checkpointing import fingerprint
from venhancer_rt.engine import choose_engine_device, open_engines
from venhancer_rt.onnx_session import OnnxSession, choose_onnx_device, require_onnxruntime
from venhancer_rt.tensorrt_package import title

DEFAULT_FPS = Fraction(24)  # of a folder of pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A run, planned; `open` loads its networks."""

    name: str
    device: str
    dtype: torch.dtype
    plan: Plan
    weights: Callable[[], str]  # what tells its networks from others
    open: Callable[[], Networks]


def choose_backend(source: Path, options: Options, bundle: Path | None = None) -> Backend:
    """PyTorch, or what runs the bundle; VEnhancerError for whatever the user can mend."""
    return _pytorch(source, options) if bundle is None else _static(source, options, bundle)


def _pytorch(source: Path, options: Options) -> Backend:
    from venhancer import api

    plan = api.plan_run(source, options)
    device = choose_device(options.device)
    return Backend(
        name=f"PyTorch {torch.__version__}",
        device=device,
        dtype=choose_dtype(options.dtype, device),
        plan=plan,
        weights=lambda: fingerprint(find_weights(plan.preset, options.weights)),
        open=lambda: api.open_networks(plan, options),
    )


def _static(source: Path, options: Options, folder: Path) -> Backend:
    refuse_fixed(options)
    bundle = open_bundle(folder)
    name, device = _runner(bundle, options.device)
    clip = probe(source, folder_fps=options.input_fps or DEFAULT_FPS)
    plan = plan_static(clip, bundle.manifest.preset, options, bundle.manifest.shapes)
    return Backend(
        name=name,
        device=device,
        dtype=getattr(torch, bundle.manifest.precision),
        plan=plan,
        weights=lambda: bundle.manifest.request[:16],
        open=lambda: open_bundle_networks(bundle, plan, device),
    )


def _runner(bundle: Bundle, asked: str) -> tuple[str, str]:
    """What runs the bundle, with its version, and where."""
    builder = bundle.manifest.builder
    if builder == "onnx":
        return f"ONNX Runtime {require_onnxruntime().__version__}", choose_onnx_device(asked)
    return title(builder), choose_engine_device(asked)


def refuse_fixed(options: Options) -> None:
    """OptionError names the options that the bundle has settled."""
    given = {
        "--preset": options.preset is not None,
        "--weights": options.weights is not None,
        "--window": options.window is not None,
        "--tile": options.tile is not None,
        "--dtype": options.dtype != "auto",
        "--geometry released": options.geometry == "released",
    }
    names = ", ".join(name for name, is_given in given.items() if is_given)
    if names:
        raise OptionError(
            f"{names}: settled when the bundle was built; leave it out, or leave --bundle out"
        )


def open_bundle_networks(bundle: Bundle, plan: Plan, device: str) -> Networks:
    """Load the networks that the plan was made for."""
    from venhancer.reference import LappedCodec, Reference
    from venhancer.sampler import Placement

    assert plan.shape is not None
    model, sizes = plan.preset.model, bundle.sizes(plan.shape)
    runs = open_runs(bundle, plan.shape, device)
    denoiser, seed = StaticDenoiser(model, sizes, runs), plan.sampling.seed
    placement = Placement(device=device, latents=device)
    if model.codec == "lapped":
        return Reference(denoiser, LappedCodec(model.latent_scale), None, placement, seed)
    codec = StaticCodec(bundle.specs, sizes, runs)
    tokenizer = load_tokenizer(bundle.folder / "tokenizer")
    text_encoder = StaticTextEncoder(sizes, runs["text_encoder"], tokenizer)
    return Reference(denoiser, codec, text_encoder, placement, seed)


def open_runs(bundle: Bundle, shape: Shape, device: str) -> Mapping[str, Run]:
    """Every network of the bundle at one shape, by its name."""
    if bundle.manifest.builder != "onnx":
        return open_engines(bundle, shape, device)
    return {
        name: OnnxSession(bundle.folder / entry.file, entry, device)
        for name, entry in bundle.entries(shape).items()
    }


def identity(backend: Backend, options: Options) -> dict[str, str]:
    """Everything that the frames of a run depend on, by a word that a user knows."""
    plan = backend.plan
    g, t, s = plan.geometry, plan.timeline, plan.sampling
    size = f"{g.width}x{g.height} in {g.padded_width}x{g.padded_height}, {options.padding}"
    parts = f"{plan.windows} of {s.window}, {len(s.columns)}x{len(s.rows)} tiles"
    tile = f"{len(s.columns[0])}x{len(s.rows[0])}"
    low, high = s.guidance_interval
    return {
        "version": venhancer.__version__,
        "input": fingerprint(plan.source.path),
        "weights": backend.weights(),
        "backend": f"{backend.name}, {str(backend.dtype).removeprefix('torch.')}, {backend.device}",
        "size": size,
        "frames": f"{t.grid_frames}, {t.gap} for one",
        "windows": f"{parts} of {tile}, {s.join}",
        "scenes": " ".join(str(scene.keys.start) for scene in plan.scenes),
        "steps": f"{s.steps} {s.solver}, eta {s.eta:g}",
        "guidance": f"{s.guidance:g} from {low} to {high}",
        "seed": str(s.seed),
        "refine": str(plan.refine),
        "detail": f"{plan.scale:g}",
        "prompt": options.prompt,
    }
