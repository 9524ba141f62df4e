"""Descriptions of plans, reports and files, in words and as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from venhancer.bundle.manifest import NAME, read_manifest
from venhancer.config import PRESETS, Preset, Shortcuts
from venhancer.errors import VideoError
from venhancer.options import GB, Options
from venhancer.planning.plan import Plan
from venhancer.video.clip import Clip
from venhancer.video.probe import probe
from venhancer.weights.checkpoint import read_preset
from venhancer_rt import cuda_facts

if TYPE_CHECKING:
    from venhancer.pipeline.run import Report
    from venhancer.planning.cost import Cost
    from venhancer.planning.memory import Need
    from venhancer.video.delivery import Delivery
    from venhancer_rt.backends import Backend
    from venhancer_rt.job import Job
    from venhancer_rt.session import Run


def clip_lines(clip: Clip) -> list[str]:
    """Describe a video in a line, and its damage in another."""
    rate = f"{float(clip.fps):.6g} fps" + (" on average (variable)" if clip.is_variable else "")
    extras = [f"sound {clip.audio}"] if clip.audio else []
    extras += [f"subtitles {name}" for name in clip.subtitles]
    extras += ["HDR"] * (clip.is_hdr or clip.tagged is not None) + ["alpha"] * clip.has_alpha
    lines = [
        f"input    {clip.path.name}: {clip.width}x{clip.height}, {clip.frames} frames, {rate}, "
        f"{float(clip.duration):.2f} s, {', '.join([clip.codec, clip.pixel_format, *extras])}"
    ]
    return [*lines, f"damaged  {clip.damage}"] if clip.damage else lines


def plan_lines(plan: Plan, delivery: Delivery) -> list[str]:
    """Describe what a run would do, line by line."""
    times = [_time_line(plan), *_between_lines(plan)]
    output = _output_lines(plan, delivery)
    return [*clip_lines(plan.source), *output, *times, *_model_lines(plan)]


def _output_lines(plan: Plan, delivery: Delivery) -> list[str]:
    """Describe the output, and what it will not have as the input has it."""
    g, encoding = plan.geometry, delivery.encoding
    padded = (
        ""
        if (g.padded_width, g.padded_height) == (g.width, g.height)
        else (f" (the network sees {g.padded_width}x{g.padded_height})")
    )
    written = f"{encoding.codec}, {encoding.pixel_format}"
    notes = [f"note     {note}" for note in delivery.notes]
    return [f"output   {g.width}x{g.height}{padded}, {written}", *notes]


def _time_line(plan: Plan) -> str:
    t = plan.timeline
    error = (
        f", largest timing error {1000 * float(t.timing_error):.1f} ms" if t.timing_error else ""
    )
    is_part = len(t.shown) != t.grid_frames and not plan.is_by_motion
    made = f", shown of {t.grid_frames} that are made" if is_part else ""
    rate = f" at {float(t.fps):.6g} fps"
    if t.fps != t.densest_fps:
        rate = f", each at its own time, {float(t.fps):.6g} fps on average"
    return f"frames   {len(t.shown)}{rate}{made}{error}"


def _between_lines(plan: Plan) -> list[str]:
    """Describe how the new frames are made, if not by the model."""
    if not plan.is_by_motion:
        return []
    return [f"between  {plan.frames_by_motion} new frames by motion"]


def _model_lines(plan: Plan) -> list[str]:
    s = plan.sampling
    is_mixed = len({len(scene.windows[0]) for scene in plan.scenes}) > 1
    size = f"{plan.windows} x {'up to ' if is_mixed else ''}{s.window} frames"
    if len(plan.scenes) > 1:
        size += f" in {len(plan.scenes)} scenes"
    if len(s.rows) * len(s.columns) > 1:
        size += f", {len(s.columns)}x{len(s.rows)} tiles"
    guided = f", guidance {s.guidance:g}" if s.guidance != 1 else ""
    return [
        f"model    {plan.preset.name}, refine {plan.refine}, "
        f"detail {plan.conditioning_scale:g}, seed {s.seed}",
        f"windows  {size}",
        f"steps    {len(s.schedule)} ({s.solver}{guided}), {plan.evaluations} evaluations",
        *_colour_lines(plan),
        *_shortcut_lines(plan),
    ]


def _colour_lines(plan: Plan) -> list[str]:
    """Describe how colours are corrected, if they are."""
    if plan.color_fix == "none":
        return []
    return [f"colours  as in the input ({plan.color_fix})"]


def _shortcut_lines(plan: Plan) -> list[str]:
    """Describe the shortcuts that change frames; fewer steps are described with the steps."""
    s, (low, high) = plan.sampling, plan.sampling.guidance_interval
    reused = sum(s.reusing)
    told = [f"{reused} of them reuse coarse features"] if reused else []
    if s.guidance != 1 and (low, high) != Shortcuts().guidance_interval:
        told.append(f"guided at timesteps {low} to {high} only")
    return [f"faster   {', '.join(told)}: not the frames of an exact run"] if told else []


def backend_lines(backend: Backend) -> list[str]:
    """Describe what runs the networks, on which device and in which precision."""
    shape = backend.plan.shape
    static = f", networks of {shape}" if shape else ""
    graphs = "" if backend.capture is None else ", by CUDA graphs"
    where = f"{backend.compute.device}{_cuda(backend.compute.device)}"
    return [f"runs on  {backend.name}, {_dtype(backend)} on {where}{static}{graphs}"]


def _cuda(device: str) -> str:
    """Name the card, and versions of CUDA if they can be read."""
    if device == "cpu":
        return ""
    known = [f"{name} {version}" for name, version in cuda_facts.versions().items()]
    return f" ({', '.join([torch.cuda.get_device_name(), *known])})"


def backend_json(backend: Backend) -> dict[str, Any]:
    shape = backend.plan.shape
    return {
        "backend": backend.name,
        "device": backend.compute.device,
        "dtype": backend.compute.precision,
        "graphs": None if backend.capture is None else dict(backend.capture.nodes),
        "cuda": cuda_facts.versions() if backend.compute.device == "cuda" else {},
        "shape": str(shape) if shape else None,
    }


def _dtype(backend: Backend) -> str:
    """Name the precision; in float32 a card could use TF32, which is off."""
    could_take_tf32 = backend.compute.device == "cuda" and backend.compute.precision == "float32"
    return backend.compute.precision + " (not TF32)" * could_take_tf32


def memory_line(plan: Plan, needed: Need, limit: int) -> str:
    """Describe the memory that the plan takes, and how it fits."""
    parts = {"weights": needed.weights, "latents": needed.latents, "working": needed.working}
    told = ", ".join(f"{name} {size / GB:.1f}" for name, size in parts.items())
    over = "; it may not fit" if needed.total > limit else ""
    return (
        f"memory   {needed.total / GB:.1f} of {limit / GB:.1f} GB ({told}): "
        f"{plan.arrangement.words}{over}"
    )


def cost_lines(plan: Plan, cost: Cost, device: str) -> list[str]:
    """Describe what the run would cost on this machine."""
    return [
        f"work     {cost.tflop:.4g} TFLOP",
        f"disk     up to {plan.output_bytes / GB:.3f} GB, and during the run up to "
        f"{plan.job_bytes / GB:.3f} GB more, if free, for the job that --resume reads",
        f"time     about {duration(cost.seconds)} on this {device}, for the denoiser",
    ]


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def report_lines(report: Report, compare: Path | None) -> list[str]:
    spent = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in report.seconds.items())
    lines = [f"done in {duration(report.wall)}: {spent}", f"wrote {report.output}"]
    return [*lines, f"wrote {compare}"] if compare else lines


def job_lines(run: Run) -> list[str]:
    """Describe what a run does with the job of an earlier one; an empty last line ends the text."""
    if run.job is not None and not run.is_resumed:
        return [
            f"state    a run that was cut off stands at {run.job.progress}: "
            "with --resume it goes on; "
            "without it, this run does not change that job and keeps none of its own",
            "",
        ]
    if run.job is not None:
        return [f"state    goes on after {run.job.progress}", ""]
    if run.is_resumed:
        return ["state    there is no job to go on from: the run starts from the beginning", ""]
    return []


def delivery_json(delivery: Delivery) -> dict[str, Any]:
    """Collect how the output is written, as plain values."""
    encoding = delivery.encoding
    return {
        "codec": encoding.codec,
        "pixel_format": encoding.pixel_format,
        "encoder_options": dict(encoding.options),
        "notes": list(delivery.notes),
    }


def options_json(options: Options) -> dict[str, Any]:
    """Collect the options that are not at their defaults, as plain values."""
    plain = (str, int, float, bool)
    return {k: v if isinstance(v, plain) else str(v) for k, v in options.given().items()}


def plan_json(plan: Plan) -> dict[str, Any]:
    """Collect the plan's facts as plain values."""
    g, t, s = plan.geometry, plan.timeline, plan.sampling
    return {
        "input": {
            "size": [plan.source.width, plan.source.height],
            "frames": plan.source.frames,
            "fps": str(plan.source.fps),
        },
        "output": {"size": [g.width, g.height], "frames": len(t.shown), "fps": str(t.fps)},
        "padded_size": [g.padded_width, g.padded_height],
        "grid_frames": t.grid_frames,
        "new_frames": plan.new_frames,
        "frames_by_motion": plan.frames_by_motion,
        "timing_error_s": float(t.timing_error),
        "scenes": [scene.keys.start for scene in plan.scenes],
        "windows": plan.windows,
        "window_frames": s.window,
        "tiles": [len(s.columns), len(s.rows)],
        "steps": len(s.schedule),
        "solver": s.solver,
        "guidance": s.guidance,
        "guidance_interval": list(s.guidance_interval),
        "reuse": s.reuse,
        "evaluations": plan.evaluations,
        "preset": plan.preset.name,
        "refine": plan.refine,
        "color_fix": plan.color_fix,
        "detail": plan.conditioning_scale,
        "seed": s.seed,
    }


def cost_json(plan: Plan, cost: Cost) -> dict[str, Any]:
    return {"tflop": cost.tflop, "disk_bytes": plan.output_bytes, "seconds": cost.seconds}


def memory_json(plan: Plan, needed: Need, limit: int) -> dict[str, Any]:
    return {
        "memory_bytes": needed.total,
        "memory_limit_bytes": limit,
        "latent_bytes": plan.latent_bytes,
        "tile": plan.tile,
        "codec_tile": plan.codec_tile,
        "latents_on_host": plan.holds_latents_on_host,
    }


def report_json(report: Report) -> dict[str, Any]:
    return {
        **plan_json(report.plan),
        "output_file": str(report.output),
        "wall": report.wall,
        "seconds": report.seconds,
        "seams": {"windows": report.seams.windows, "tiles": report.seams.tiles},
    }


def job_line(job: Job) -> str:
    """Describe the job of a run that was cut off, or that is under way."""
    now = "under way" if job.is_running else "venhancer-rt enhance ... --resume goes on"
    return f"{job.target.name}: {job.progress}, {job.size / 1e6:.0f} MB; {now}"


def info_lines(name: str) -> list[str]:
    """Describe a preset, by its name, or a file of any kind that we know."""
    if name in PRESETS:
        return preset_lines(PRESETS[name])
    path = Path(name)
    if (path / NAME).is_file():
        return read_manifest(path).lines()
    if path.suffix in (".safetensors", ".pt", ".pth", ".bin", ".ckpt") and path.is_file():
        return checkpoint_lines(path)
    try:
        clip = probe(path)
        tracks = [f"stream   {t.index}: {t.kind} {t.codec}, {t.words}" for t in clip.tracks]
        notes = [f"note     {note}" for note in clip.notes]
        return [*clip_lines(clip), *(line.removesuffix(", ") for line in tracks), *notes]
    except VideoError as error:
        known = ", ".join(PRESETS)
        raise VideoError(
            f"{error} (info takes a video, a checkpoint, a bundle or a preset: {known})"
        ) from error


def checkpoint_lines(path: Path) -> list[str]:
    from venhancer.weights.checkpoint import read_tensors

    tensors = read_tensors(path)
    count = sum(t.numel() for t in tensors.values())
    preset = read_preset(path)
    lines = [f"{path.name}: {len(tensors)} tensors, {count / 1e6:.1f} M parameters"]
    return lines + (
        preset_lines(preset) if preset else ["no configuration inside: a released one?"]
    )


def preset_lines(preset: Preset) -> list[str]:
    model, defaults = preset.model, preset.defaults
    unet = model.unet
    return [
        f"preset   {preset.name}",
        f"network  widths {'-'.join(map(str, unet.widths))}, predicts {model.prediction}",
        f"codec    {model.codec}, {unet.latent_channels} channels, "
        f"{model.latent_stride} pixels to a latent position",
        f"defaults {defaults.steps} steps ({defaults.solver}), guidance {defaults.guidance:g}, "
        f"window {defaults.window}, scale {defaults.scale:g}, refine {defaults.refine}, "
        f"new frames by {'motion' if defaults.new_frames == 'motion' else 'the model'}",
    ]
