"""Backends that carry out a plan: PyTorch with a checkpoint, or a bundle's networks."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import venhancer
from venhancer.bundle.manifest import NAME
from venhancer.bundle.static_networks import StaticCodec, StaticDenoiser, StaticTextEncoder
from venhancer.contract import Shape
from venhancer.device import Compute
from venhancer.encoders.tokenizer import load_tokenizer
from venhancer.errors import OptionError
from venhancer.files import fingerprint
from venhancer.options import Options, flag_of, marked
from venhancer.pipeline.networks import Networks
from venhancer.planning.fitting import Limits, fitting, static_arrangements
from venhancer.planning.memory import pays_by_graph
from venhancer.planning.plan import Arrangement, Plan, static_plans
from venhancer.video.clip import Clip
from venhancer.video.delivery import open_clip
from venhancer.weights.checkpoint import Checkpoint
from venhancer_rt.bundle_reader import Bundle, open_bundle
from venhancer_rt.cuda_graph import GraphCapture
from venhancer_rt.engine import Engine, choose_engine_device, open_engines
from venhancer_rt.onnx_session import OnnxSession, choose_onnx_device, require_onnxruntime
from venhancer_rt.tensorrt_package import title


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Plan of a run, and how its networks are loaded: by `open`, unless they are loaded already."""

    name: str
    compute: Compute
    capture: GraphCapture | None  # repeats the networks' work as CUDA graphs
    plan: Plan
    fallbacks: tuple[Plan, ...]  # for when memory runs out
    weights: Callable[[], str]  # identifies the networks' weights
    key: Callable[[], object]  # equal for runs that can share loaded networks
    limit: int  # bytes that the run may take
    open: Callable[[], Networks]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Input, options and backend settings of one run."""

    source: Path
    target: Path | None = None  # None: the frames stay in memory
    options: Options
    bundle: Path | None = None
    uses_graphs: bool = True
    arrangement: Arrangement | None = None  # of a run that is resumed
    limits: Limits = field(default_factory=Limits)


def choose_backend(request: Request) -> Backend:
    """Choose PyTorch, or what runs the bundle; VEnhancerError for whatever the user can fix."""
    if request.bundle is None:
        return _pytorch(request)
    return _static(request, request.bundle)


def _pytorch(request: Request) -> Backend:
    from venhancer import api

    options = request.options
    setup = api.Setup.choose(options)
    compute, clip = setup.compute, open_clip(request.source, options, request.target)
    plan, *fallbacks = api.plan_run(
        clip, options, setup, request.arrangement, request.uses_graphs, request.limits
    )
    has_graphs = request.uses_graphs and pays_by_graph(plan, compute.device, compute.dtype)
    capture = GraphCapture() if has_graphs else None
    return Backend(
        name=_pytorch_name(setup.kernels.takes_triton, setup.kernels.back_ends),
        compute=compute,
        capture=capture,
        plan=plan,
        fallbacks=tuple(fallbacks),
        weights=lambda: _weights(setup.checkpoint),
        key=lambda: (setup, _weights(setup.checkpoint), has_graphs),
        limit=request.limits.limit(options, compute.device),
        open=lambda: api.load_networks(setup, capture),
    )


def _pytorch_name(takes_triton: bool, back_ends: Mapping[Any, Any]) -> str:
    """Name PyTorch's version and, if frames depend on them, Triton's and the back ends."""
    name = f"PyTorch {torch.__version__}"
    if takes_triton:
        import triton  # imported late: most installations lack it

        name += f" with Triton {triton.__version__}"
    chosen = [f"{kind} attention by {it.name}" for kind, it in sorted(back_ends.items())]
    return ", ".join([name, *chosen])


def _weights(checkpoint: Checkpoint) -> str:
    """Identify the checkpoint by its fingerprint, and the codec and text encoder that it needs."""
    own = fingerprint(checkpoint.path)
    if not checkpoint.preset.model.has_learned_codec:
        return own
    named = [
        os.environ.get(name, "default") for name in ("VENHANCER_VAE", "VENHANCER_TEXT_ENCODER")
    ]
    others = [fingerprint(Path(n)) if Path(n).exists() else n for n in named]
    return " ".join([own, *others])


def _static(request: Request, folder: Path) -> Backend:
    refuse_settled(request.options)
    options = dataclasses.replace(request.options, reuse=1)  # bundles hold no reusing networks
    bundle = open_bundle(folder)
    name, device = _runner(bundle, options.device)
    compute = Compute(device, getattr(torch, bundle.manifest.precision))
    clip = open_clip(request.source, options, request.target)
    possible = static_plans(clip, bundle.manifest.preset, options, bundle.manifest.shapes)
    plans = static_arrangements(possible, device)
    plan, *fallbacks = fitting(
        plans, options, device, compute.dtype, request.arrangement, limits=request.limits
    )
    # ONNX Runtime computes on a stream of its own, which a capture does not see
    can_capture = device == "cuda" and bundle.manifest.builder != "onnx"
    capture = GraphCapture() if request.uses_graphs and can_capture else None
    return Backend(
        name=name,
        compute=compute,
        capture=capture,
        plan=plan,
        fallbacks=tuple(fallbacks),
        weights=lambda: bundle.manifest.request[:16],
        key=lambda: (compute, fingerprint(folder / NAME), plan.shape, capture is not None),
        limit=request.limits.limit(options, device),
        open=lambda: open_bundle_networks(bundle, plan, device, capture),
    )


def _runner(bundle: Bundle, asked: str) -> tuple[str, str]:
    """Return the name and version of what runs the bundle, and the device."""
    builder = bundle.manifest.builder
    if builder == "onnx":
        return f"ONNX Runtime {require_onnxruntime().__version__}", choose_onnx_device(asked)
    return title(builder), choose_engine_device(asked)


def refuse_settled(options: Options) -> None:
    """Raise OptionError for given options that were settled when the bundle was built."""
    given = options.given()
    names = [flag_of(o) for o in marked("is_settled_by_bundle") if o.name in given]
    if names:
        raise OptionError(
            f"{', '.join(names)}: settled when the bundle was built; leave it out, or leave "
            "--bundle out"
        )


def open_bundle_networks(
    bundle: Bundle, plan: Plan, device: str, capture: GraphCapture | None
) -> Networks:
    """Load the bundle's networks that the plan was made for."""
    from venhancer.pipeline.networks import LappedCodec, Networks
    from venhancer.sampling.sampler import Placement

    assert plan.shape is not None
    model, sizes = plan.preset.model, bundle.sizes(plan.shape)
    runs = open_runs(bundle, plan.shape, device)
    denoiser = StaticDenoiser(model, sizes, runs)
    placement = Placement(device=device, capture=capture)
    if not model.has_learned_codec:
        return Networks(denoiser, LappedCodec(model.latent_scale), None, placement)
    codec = StaticCodec(bundle.specs, sizes, runs)
    tokenizer = load_tokenizer(bundle.folder / "tokenizer")
    text_encoder = StaticTextEncoder(sizes, runs["text_encoder"], tokenizer)
    return Networks(denoiser, codec, text_encoder, placement)


def open_runs(bundle: Bundle, shape: Shape, device: str) -> Mapping[str, Engine | OnnxSession]:
    """Load every network of the bundle at one shape, by its name."""
    if bundle.manifest.builder != "onnx":
        return open_engines(bundle, shape, device)
    return {
        name: OnnxSession(bundle.folder / entry.file, entry, device)
        for name, entry in bundle.entries(shape).items()
    }


def _read_as(clip: Clip) -> str:
    """Describe the frames that are read: the stream, its bits, alpha that is not kept."""
    alpha = ", over black" if clip.is_over_black else ""
    return f"stream {clip.stream} in {clip.depth} bits{alpha}"


def identity(backend: Backend, options: Options, plan: Plan) -> dict[str, str]:
    """Describe everything that the frames of a run depend on, by words that a user knows."""
    g, t, s = plan.geometry, plan.timeline, plan.sampling
    size = f"{g.width}x{g.height} at {g.left},{g.top} of {g.padded_width}x{g.padded_height}"
    parts = f"{plan.windows} of {s.window}, {len(s.columns)}x{len(s.rows)} tiles"
    tile = f"{len(s.columns[0])}x{len(s.rows[0])}"
    low, high = s.guidance_interval
    by_motion = ", new ones by motion" if plan.is_by_motion else ""
    device = backend.compute.device
    card = torch.cuda.get_device_name() if device == "cuda" else device
    return {
        "version": venhancer.__version__,
        "input": fingerprint(plan.source.path),
        "weights": backend.weights(),
        "backend": f"{backend.name}, {backend.compute.precision}, {card}",
        "read": _read_as(plan.source),
        "size": size,
        "frames": f"{t.grid_frames}, {t.key_stride} for one{by_motion}",
        "windows": f"{parts} of {tile}, {s.join}",
        "codec": "whole" if plan.codec_tile is None else "tiles of {}x{}".format(*plan.codec_tile),
        "scenes": " ".join(str(scene.keys.start) for scene in plan.scenes),
        "steps": f"{s.steps} {s.solver}, eta {s.eta:g}",
        "guidance": f"{s.guidance:g} from {low} to {high}",
        "reuse": str(s.reuse),
        "seed": str(s.seed),
        "refine": str(plan.refine),
        "detail": f"{plan.conditioning_scale:g}",
        **{option.name: str(getattr(options, option.name)) for option in marked("is_compared")},
    }
