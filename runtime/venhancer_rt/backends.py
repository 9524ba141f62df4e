"""What carries a plan out: PyTorch with a checkpoint, or a bundle's networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch

import venhancer
from venhancer.device import choose_device, choose_dtype
from venhancer.errors import OptionError
from venhancer.options import Options
from venhancer.pipeline import Networks
from venhancer.plan import Plan, plan_static
from venhancer.tokenizer import load_tokenizer
from venhancer.video import probe
from venhancer.weights import find_weights
from venhancer_rt.bundle_reader import Bundle, open_bundle
from venhancer_rt.checkpointing import fingerprint
from venhancer_rt.onnx_session import OnnxSession, choose_onnx_device, require_onnxruntime

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
    return _pytorch(source, options) if bundle is None else _onnx(source, options, bundle)


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


def _onnx(source: Path, options: Options, folder: Path) -> Backend:
    refuse_fixed(options)
    bundle = open_bundle(folder)
    device = choose_onnx_device(options.device)
    clip = probe(source, folder_fps=options.input_fps or DEFAULT_FPS)
    plan = plan_static(clip, bundle.manifest.preset, options, bundle.manifest.shapes)
    return Backend(
        name=f"ONNX Runtime {require_onnxruntime().__version__}",
        device=device,
        dtype=getattr(torch, bundle.manifest.precision),
        plan=plan,
        weights=lambda: bundle.manifest.request[:16],
        open=lambda: open_bundle_networks(bundle, plan, device),
    )


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
    from venhancer.static import StaticCodec, StaticDenoiser, StaticTextEncoder

    assert plan.shape is not None
    model, sizes = plan.preset.model, bundle.sizes(plan.shape)
    entries = bundle.entries(plan.shape)
    runs = {
        name: OnnxSession(bundle.folder / entry.file, entry, device)
        for name, entry in entries.items()
    }
    denoiser, seed = StaticDenoiser(model, sizes, runs), plan.sampling.seed
    if model.codec == "lapped":
        return Reference(denoiser, LappedCodec(model.latent_scale), device=device, seed=seed)
    codec = StaticCodec(bundle.specs, sizes, runs)
    tokenizer = load_tokenizer(bundle.folder / "tokenizer")
    text_encoder = StaticTextEncoder(sizes, runs["text_encoder"], tokenizer)
    return Reference(denoiser, codec, text_encoder, device=device, seed=seed)


def identity(backend: Backend, options: Options) -> dict[str, str]:
    """Everything that the frames of a run depend on, by a word that a user knows."""
    plan = backend.plan
    g, t, s = plan.geometry, plan.timeline, plan.sampling
    size = f"{g.width}x{g.height} in {g.padded_width}x{g.padded_height}, {options.padding}"
    parts = f"{len(s.windows)} of {len(s.windows[0])}, {len(s.columns)}x{len(s.rows)} tiles"
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
        "steps": f"{s.steps} {s.solver}, eta {s.eta:g}",
        "guidance": f"{s.guidance:g} from {low} to {high}",
        "seed": str(s.seed),
        "refine": str(plan.refine),
        "detail": f"{plan.scale:g}",
        "prompt": options.prompt,
    }
