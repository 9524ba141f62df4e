"""What carries a plan out: PyTorch with a checkpoint, or a bundle's networks."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch

import venhancer
from venhancer.bundle.static_networks import StaticCodec, StaticDenoiser, StaticTextEncoder
from venhancer.contract import Shape
from venhancer.device import Compute
from venhancer.encoders.tokenizer import load_tokenizer
from venhancer.errors import OptionError
from venhancer.files import fingerprint
from venhancer.options import Options, flag_of, marked
from venhancer.pipeline.networks import Networks
from venhancer.planning.fitting import fitting, static_arrangements
from venhancer.planning.memory import pays_by_graph
from venhancer.planning.plan import Arrangement, Plan, static_plans
from venhancer.video.probe import probe
from venhancer.weights.checkpoint import Checkpoint
from venhancer_rt.bundle_reader import Bundle, open_bundle
from venhancer_rt.cuda_graph import GraphCapture
from venhancer_rt.engine import Engine, choose_engine_device, open_engines
from venhancer_rt.onnx_session import OnnxSession, choose_onnx_device, require_onnxruntime
from venhancer_rt.tensorrt_package import title

DEFAULT_FPS = Fraction(24)  # of a folder of pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A run, planned; `open` loads its networks, unless they are there already."""

    name: str
    compute: Compute
    capture: GraphCapture | None  # repeats its work as CUDA graphs
    plan: Plan
    fallbacks: tuple[Plan, ...]  # smaller plans, for when memory runs out
    weights: Callable[[], str]  # tells its networks from others
    key: object  # equal for two runs that the same networks serve
    open: Callable[[], Networks]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the command was asked for."""

    source: Path
    options: Options
    bundle: Path | None = None
    uses_graphs: bool = True
    arrangement: Arrangement | None = None  # of a run that goes on


def choose_backend(request: Request) -> Backend:
    """PyTorch, or what runs the bundle; VEnhancerError for whatever the user can mend."""
    if request.bundle is None:
        return _pytorch(request)
    return _static(request, request.bundle)


def _pytorch(request: Request) -> Backend:
    from venhancer import api

    options = request.options
    setup = api.Setup.choose(options)
    compute, clip = setup.compute, api.open_clip(request.source, options)
    plan, *fallbacks = api.plan_run(clip, options, setup, request.arrangement, request.uses_graphs)
    has_graphs = request.uses_graphs and pays_by_graph(plan, compute.device, compute.dtype)
    capture = GraphCapture() if has_graphs else None
    return Backend(
        name=_pytorch_name(setup.kernels.takes_triton),
        compute=compute,
        capture=capture,
        plan=plan,
        fallbacks=tuple(fallbacks),
        weights=lambda: _weights(setup.checkpoint),
        key=(setup, has_graphs),
        open=lambda: api.load_networks(setup, capture),
    )


def _pytorch_name(uses_triton: bool) -> str:
    """PyTorch's version and, where frames depend on it, Triton's."""
    name = f"PyTorch {torch.__version__}"
    if not uses_triton:
        return name
    import triton  # late: most installations are without

    return f"{name} with Triton {triton.__version__}"


def _weights(checkpoint: Checkpoint) -> str:
    """The checkpoint's fingerprint; where a codec and a text encoder belong to it, theirs too."""
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
    options = dataclasses.replace(request.options, reuse=1)  # its networks have one form each
    bundle = open_bundle(folder)
    name, device = _runner(bundle, options.device)
    compute = Compute(device, getattr(torch, bundle.manifest.precision))
    clip = probe(request.source, folder_fps=options.input_fps or DEFAULT_FPS)
    possible = static_plans(clip, bundle.manifest.preset, options, bundle.manifest.shapes)
    plans = static_arrangements(possible, device)
    plan, *fallbacks = fitting(plans, options, device, compute.dtype, request.arrangement)
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
        key=(compute, folder, bundle.manifest.request, plan.shape, capture is not None),
        open=lambda: open_bundle_networks(bundle, plan, device, capture),
    )


def _runner(bundle: Bundle, asked: str) -> tuple[str, str]:
    """What runs the bundle, with its version, and where."""
    builder = bundle.manifest.builder
    if builder == "onnx":
        return f"ONNX Runtime {require_onnxruntime().__version__}", choose_onnx_device(asked)
    return title(builder), choose_engine_device(asked)


def refuse_settled(options: Options) -> None:
    """OptionError names the options that were settled when the bundle was built."""
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
    """Load the networks that the plan was made for."""
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
    """Every network of the bundle at one shape, by its name."""
    if bundle.manifest.builder != "onnx":
        return open_engines(bundle, shape, device)
    return {
        name: OnnxSession(bundle.folder / entry.file, entry, device)
        for name, entry in bundle.entries(shape).items()
    }


def identity(backend: Backend, options: Options, plan: Plan) -> dict[str, str]:
    """Everything that the frames of a run depend on, by a word that a user knows."""
    g, t, s = plan.geometry, plan.timeline, plan.sampling
    size = f"{g.width}x{g.height} in {g.padded_width}x{g.padded_height}"
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
