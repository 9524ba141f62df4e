"""The Python API: `enhance(video, output, Options(...))`."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from venhancer.config import PRESETS, Preset
from venhancer.device import choose_device, choose_dtype, compute_exactly, keep_freed_memory
from venhancer.errors import OptionError
from venhancer.model.kernels.choice import Choice, choose_kernels
from venhancer.model.kernels.forms import fuse
from venhancer.options import Options
from venhancer.pipeline import run as pipeline
from venhancer.pipeline.frames import Progress
from venhancer.pipeline.networks import LappedCodec, Reference
from venhancer.pipeline.protocols import Networks
from venhancer.pipeline.run import Report, silent
from venhancer.planning.fitting import arrangements, fitting
from venhancer.planning.plan import Plan
from venhancer.sampling.sampler import Capture, Placement
from venhancer.video.probe import probe
from venhancer.weights.checkpoint import find_weights, load_model, read_preset


def enhance(
    source: Path | str,
    target: Path | str,
    options: Options | None = None,
    progress: Progress = silent,
) -> Report:
    """Enhance a video file (or folder of numbered PNG files) into `target`, in PyTorch.

    VEnhancerError, of a kind named in `venhancer.errors`, for whatever the user can mend; then
    nothing is written.
    """
    options = options or Options()
    target = Path(target)
    plan, *smaller = plan_run(Path(source), options)
    networks = open_networks(plan, options)
    return pipeline.enhance(plan, target, networks, options, progress, smaller=smaller)


def plan_run(
    source: Path, options: Options, arrangement: str | None = None, uses_graphs: bool = False
) -> tuple[Plan, ...]:
    """What `enhance` would do, without loading the model; then what it would fall back to.

    arrangement: of a run that goes on; uses_graphs: CUDA's, where they pay
    """
    preset, device = choose_preset(options), choose_device(options.device)
    clip = probe(source, folder_fps=options.input_fps or Fraction(24))
    plans = arrangements(clip, preset, options, device)
    dtype = choose_dtype(options.dtype, device)
    return fitting(plans, options, device, dtype, arrangement, uses_graphs)


def choose_preset(options: Options) -> Preset:
    """The preset named, or the one that the given checkpoint carries, or nano."""
    carried = read_preset(options.weights) if options.weights else None
    if carried is not None and options.preset in (None, carried.name):
        return carried
    name = options.preset or ("released" if options.weights else "nano")
    if name not in PRESETS:
        raise OptionError(f"preset {name!r} is unknown: take {', '.join(PRESETS)}")
    return PRESETS[name]


def chosen_kernels(options: Options) -> Choice:
    """What computes a run's layers; OptionError where what was asked for cannot."""
    preset = choose_preset(options)
    if preset.model.unet.body != "flat":
        return choose_kernels(options.kernels, choose_device(options.device))
    if options.kernels == "triton":
        raise OptionError(
            f"--kernels triton: preset {preset.name!r} has no layers that Triton fuses; "
            "leave it out"
        )
    return Choice()


def open_networks(plan: Plan, options: Options, capture: Capture | None = None) -> Networks:
    """Load the plan's model and what stands round it; capture: how its work is repeated."""
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device)
    if device == "cpu":
        keep_freed_memory()
    compute_exactly(dtype)
    placement = Placement(device=device, capture=capture)
    weights = find_weights(plan.preset, options.weights)
    model, preset = load_model(weights, plan.preset, dtype=dtype, device=device)
    kernels = chosen_kernels(options)
    fuse(model, kernels.takes_triton, kernels.back_ends)
    if preset.model.codec == "lapped":
        codec = LappedCodec(preset.model.latent_scale)
        return Reference(model, codec, None, placement, plan.sampling.seed)
    from venhancer.encoders.autoencoder import load_codec
    from venhancer.encoders.text_encoder import load_text_encoder

    return Reference(
        model,
        load_codec(device=device, dtype=dtype),
        load_text_encoder(device=device, dtype=dtype),
        placement,
        plan.sampling.seed,
    )
