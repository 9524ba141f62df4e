"""The Python API for PyTorch's networks: `enhance(video, output, Options(...))`."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from venhancer.device import Compute, compute_exactly, keep_freed_memory
from venhancer.errors import OptionError
from venhancer.model.kernels.choice import Choice, choose_kernels
from venhancer.model.kernels.forms import fuse
from venhancer.options import Options
from venhancer.pipeline import run as pipeline
from venhancer.pipeline.frames import Progress
from venhancer.pipeline.networks import LappedCodec, Networks
from venhancer.pipeline.run import Report, silent
from venhancer.planning.fitting import Limits, arrangements, fitting
from venhancer.planning.plan import Arrangement, Plan
from venhancer.sampling.sampler import Capture, Placement
from venhancer.video.clip import Clip
from venhancer.video.delivery import open_clip
from venhancer.weights.checkpoint import Checkpoint, load_model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """Device, precision, checkpoint and kernels of a run, chosen once from its options."""

    compute: Compute
    checkpoint: Checkpoint
    kernels: Choice

    @classmethod
    def choose(cls, options: Options) -> Setup:
        """Choose device, precision, checkpoint and kernels; VEnhancerError if one cannot be."""
        compute = Compute.choose(options.device, options.dtype)
        checkpoint = Checkpoint.choose(options.preset, options.weights)
        if checkpoint.preset.model.unet.body != "flat":
            kernels = choose_kernels(options.kernels, compute.device)
        elif options.kernels == "triton":
            raise OptionError(
                f"--kernels triton: preset {checkpoint.preset.name!r} has no layers that Triton "
                "fuses; leave it out"
            )
        else:
            kernels = Choice()
        return cls(compute, checkpoint, kernels)


def enhance(
    source: Path | str,
    target: Path | str,
    options: Options | None = None,
    progress: Progress = silent,
) -> Report:
    """Enhance a video file (or folder of numbered PNG files) into `target`, in PyTorch.

    VEnhancerError, of a kind named in `venhancer.errors`, for whatever the user can fix; then
    nothing is written. `venhancer_rt.Enhancer` keeps the model for more clips, resumes runs, runs
    bundles and takes frames from memory.
    """
    options = options or Options()
    target = Path(target)
    setup, clip = Setup.choose(options), open_clip(Path(source), options, target)
    plan, *fallbacks = plan_run(clip, options, setup)
    pipeline.check_output(target, plan, options)
    for note in pipeline.plan_output(target, plan, options).notes:
        logger.warning(note)
    networks = load_networks(setup)
    return pipeline.enhance(plan, target, networks, options, progress, fallbacks=fallbacks)


def plan_run(
    clip: Clip,
    options: Options,
    setup: Setup,
    arrangement: Arrangement | None = None,
    uses_graphs: bool = False,
    limits: Limits | None = None,
) -> tuple[Plan, ...]:
    """Plan a run without loading the model; the plans after the first are fallback plans.

    arrangement: of a run that is resumed; uses_graphs: use CUDA graphs where they pay off
    """
    compute = setup.compute
    plans = arrangements(clip, setup.checkpoint.preset, options, compute.device)
    return fitting(plans, options, compute.device, compute.dtype, arrangement, uses_graphs, limits)


def load_networks(setup: Setup, capture: Capture | None = None) -> Networks:
    """Load the model, its codec and its text encoder; capture: how work is repeated."""
    device, dtype, found = setup.compute.device, setup.compute.dtype, setup.checkpoint
    if device == "cpu":
        keep_freed_memory()
    compute_exactly(dtype)
    model, preset = load_model(found.path, found.preset, dtype=dtype, device=device)
    fuse(model, setup.kernels.takes_triton, setup.kernels.back_ends)
    placement = Placement(device=device, capture=capture)
    if not preset.model.has_learned_codec:
        return Networks(model, LappedCodec(preset.model.latent_scale), None, placement)
    from venhancer.encoders.autoencoder import load_codec
    from venhancer.encoders.text_encoder import load_text_encoder

    codec = load_codec(device=device, dtype=dtype)
    text_encoder = load_text_encoder(device=device, dtype=dtype)
    return Networks(model, codec, text_encoder, placement)
