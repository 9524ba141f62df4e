"""What carries a plan out: PyTorch with a checkpoint, or a bundle's networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch

from venhancer.device import choose_device, choose_dtype
from venhancer.errors import OptionError
from venhancer.options import Options
from venhancer.pipeline import Networks
from venhancer.plan import Plan, plan_static
from venhancer.tokenizer import load_tokenizer
from venhancer.video import probe
from venhancer_rt.bundle_reader import Bundle, open_bundle
from venhancer_rt.onnx_session import OnnxSession, choose_onnx_device, require_onnxruntime

DEFAULT_FPS = Fraction(24)  # of a folder of pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A run, planned; `open` loads its networks."""

    name: str
    device: str
    dtype: torch.dtype
    plan: Plan
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
