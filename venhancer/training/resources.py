"""Prediction of a run's needs before it starts: memory of each device by part, time, and disk.

Activations and operations are counted from shapes (`counting`). The rest is computed from how
`Trainer` and `distribute` hold it. Values that are assumed, not counted, are constants here.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from venhancer.config import ModelConfig, Preset
from venhancer.device import free_memory
from venhancer.errors import DeviceError, OptionError
from venhancer.model.denoiser import make_denoiser
from venhancer.planning.activations import CODEC_MARGIN
from venhancer.planning.cards import CARDS, Card, Kind
from venhancer.planning.geometry import fit
from venhancer.planning.memory import CONTEXT_BYTES, PROCESS_BYTES, stored
from venhancer.training.config import TrainingConfig
from venhancer.training.counting import MicroBatch, MicroBatchCost, codec_flop, count_work
from venhancer.training.parallel import GATHERED, choose_learning, halve_frozen

GIB = 2**30
# average share of the peak in an update. CPU: of a matrix product, measured for NANO. CUDA: assumed
PEAK_SHARE: Mapping[Kind, float] = {"cpu": 0.5, "cuda": 0.4}
# memory of activations that is used, over what is counted. CPU: 1.24 to 1.27 were measured for NANO
# in bfloat16. CUDA: assumed
ACTIVATION_MARGIN: Mapping[Kind, float] = {"cpu": 1.3, "cuda": 1.1}
CODEC_CHUNK = 3  # frames that the codec encodes at once
MOMENTS = 2  # of AdamW, for each trained weight
DAY = 24 * 3600


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Predicted needs of a run on `devices` of one kind."""

    preset: str
    config: TrainingConfig
    devices: int
    card: Card
    frames: int  # of the longest clip
    memory: dict[str, int]  # bytes of one device, by part
    saved: int  # bytes of the activations that forward keeps for backward
    denoiser_flop: float  # of a clip, forward and backward
    codec_flop: float | None  # of a clip; None: not known, not counted
    clips_per_second: float  # of all devices
    checkpoint_bytes: int
    export_bytes: int
    advice: str | None = None  # where it does not fit: settings that would

    @property
    def total(self) -> int:
        """Number of bytes on one device."""
        return sum(self.memory.values())

    @property
    def is_fitting(self) -> bool:
        return self.total <= self.card.memory_gib * GIB

    @property
    def days(self) -> float:
        return self.config.steps * self.config.batch / self.clips_per_second / DAY

    def to_json(self) -> str:
        own = {**dataclasses.asdict(self), "total": self.total, "days": self.days}
        return json.dumps({**own, "is_fitting": self.is_fitting})


@dataclass(frozen=True, slots=True)
class Weights:
    """Sizes in bytes of a model as `Trainer` holds it."""

    frozen: int
    trained: int
    largest_stage: int  # of the stages, which are gathered one at a time
    count: int  # of all parameters

    @classmethod
    def of(cls, model: ModelConfig, config: TrainingConfig) -> Weights:
        with torch.device("meta"):
            network = make_denoiser(model)
        choose_learning(
            network, trains_prior=config.trains_prior, trains_repair=config.trains_repair
        )
        if config.precision == "bf16":
            halve_frozen(network)
        parameters = list(network.parameters())
        return cls(
            frozen=sum(p.nbytes for p in parameters if not p.requires_grad),
            trained=sum(p.nbytes for p in parameters if p.requires_grad),
            largest_stage=max(
                sum(p.nbytes for p in module.parameters())
                for module in network.modules()
                if isinstance(module, GATHERED)
            ),
            count=sum(p.numel() for p in parameters),
        )


def plan_training(preset: Preset, config: TrainingConfig, devices: int, card: Card) -> TrainingPlan:
    """Plan a run, with advice where a device has too little memory.

    OptionError where the network cannot take the crop's size; ConfigError where the batch cannot
    be divided among the devices.
    """
    plan = _plan(preset, config, devices, card)
    return plan if plan.is_fitting else dataclasses.replace(plan, advice=_advice(preset, plan))


def _plan(preset: Preset, config: TrainingConfig, devices: int, card: Card) -> TrainingPlan:
    config.accumulation(devices)
    model, weights = preset.model, Weights.of(preset.model, config)
    work = count_work(_micro_batch(model, config, card.kind))
    longest, (frames, keys) = _longest(model, config), _mean_frames(model, config)
    denoiser = work.flop / config.micro_batch * frames / longest
    codec = _codec_flop(model, config, frames + keys)
    peak = card.half_tflops if config.precision == "bf16" else card.float32_tflops
    seconds = denoiser / (peak * 1e12) + (codec or 0) / (card.float32_tflops * 1e12)
    return TrainingPlan(
        preset=preset.name,
        config=config,
        devices=devices,
        card=card,
        frames=longest,
        memory=_memory(config, devices, weights) | _work_memory(model, config, card.kind, work),
        saved=work.saved,
        denoiser_flop=denoiser,
        codec_flop=codec,
        clips_per_second=devices * PEAK_SHARE[card.kind] / seconds,
        checkpoint_bytes=weights.trained * (1 + MOMENTS + 1),
        export_bytes=2 * weights.count,
    )


def _micro_batch(model: ModelConfig, config: TrainingConfig, kind: Kind) -> MicroBatch:
    width, height = config.crop
    padded = fit(width, height, model)
    if (padded.padded_width, padded.padded_height) != config.crop:
        raise OptionError(
            f"crop={width}x{height} is no size for the network: take "
            f"{padded.padded_width}x{padded.padded_height}"
        )
    return MicroBatch(
        model=model,
        kind=kind,
        clips=config.micro_batch,
        frames=_longest(model, config),
        rows=height // model.latent_stride,
        columns=width // model.latent_stride,
        trains_prior=config.trains_prior,
        trains_repair=config.trains_repair,
        is_half=config.precision == "bf16",
        is_checkpointed=config.checkpoint_activations,
    )


def _longest(model: ModelConfig, config: TrainingConfig) -> int:
    """Count the frames of the longest clip; a sample of a pool is one key frame."""
    return 1 if model.neighbours else config.longest


def _mean_frames(model: ModelConfig, config: TrainingConfig) -> tuple[float, float]:
    """Average the frames and key frames of a clip; it has whole strides, as in `make_batch`."""
    if model.neighbours:
        return 1.0, 1.0
    gaps = [max(1, (config.frames - 1) // stride) for stride in config.strides]
    frames = [count * stride + 1 for count, stride in zip(gaps, config.strides, strict=True)]
    shares = np.array(config.stride_weights) / sum(config.stride_weights)
    return float(shares @ frames), float(shares @ gaps) + 1


def _codec_flop(model: ModelConfig, config: TrainingConfig, frames: float) -> float | None:
    """Count operations of encoding truth and key frames; a lapped transform is almost free."""
    if not model.has_learned_codec:
        return 0.0
    try:
        return frames * codec_flop(config.crop[1], config.crop[0])
    except DeviceError:
        return None


def _memory(config: TrainingConfig, devices: int, weights: Weights) -> dict[str, int]:
    """Count the bytes that one device holds of weights, gradients, moments and average.

    With "optimizer", a device holds its share of the weights, and all of them from forward to
    backward. With "parameters", it holds its share, the present stage and the next one. DDP copies
    gradients into buckets. With several micro-batches per update, each device has all gradients.
    """
    is_sharded = config.sharding != "none" and devices > 1
    share = 1 / devices if is_sharded else 1.0
    held = share + 1 if is_sharded and config.sharding == "optimizer" else share
    gathers = is_sharded and config.sharding == "parameters"
    gradients = share if config.accumulation(devices) == 1 else 1.0
    if devices > 1 and not is_sharded:
        gradients += 1
    return {
        "weights, frozen": round(held * weights.frozen),
        "weights, learning": round(held * weights.trained),
        "weights, gathered": 2 * weights.largest_stage if gathers else 0,
        "gradients": round(gradients * weights.trained),
        "moments of AdamW": round(share * MOMENTS * weights.trained),
        "averaged weights": round(share * weights.trained),
    }


def _work_memory(
    model: ModelConfig, config: TrainingConfig, kind: Kind, work: MicroBatchCost
) -> dict[str, int]:
    """Count bytes of activations or of the codec, which runs before them; and of the rest."""
    activations, encoding, encoders = ACTIVATION_MARGIN[kind] * work.peak, 0.0, 0.0
    if model.has_learned_codec:
        pixels = CODEC_CHUNK * config.crop[0] * config.crop[1]
        encoding = CODEC_MARGIN[kind] * stored("vae encode float32") * pixels
        encoders = stored("vae weights float32") + stored("text weights float32")
    return {
        "codec and text encoder": round(encoders),
        "activations" if activations > encoding else "codec at work": round(
            max(activations, encoding)
        ),
        "process": PROCESS_BYTES if kind == "cpu" else CONTEXT_BYTES,
    }


def _advice(preset: Preset, plan: TrainingPlan) -> str:
    """Find settings that make it fit, adding one change after the other."""
    changed: dict[str, object] = {}
    for name, value in _savings(preset.model, plan):
        changed[name] = value
        config = dataclasses.replace(plan.config, **changed)  # type: ignore[arg-type]
        if _plan(preset, config, plan.devices, plan.card).is_fitting:
            words = " ".join(f"--set {key}={_written(value)}" for key, value in changed.items())
            return f"it fits with {words}"
    return "no setting makes it fit: take devices with more memory"


def _savings(model: ModelConfig, plan: TrainingPlan) -> Iterator[tuple[str, object]]:
    """List changes that do not affect what is learned, and a smaller crop at last."""
    config = plan.config
    if not config.checkpoint_activations:
        yield "checkpoint_activations", True
    if plan.devices > 1 and config.sharding != "parameters":
        yield "sharding", "parameters"
    if config.micro_batch > 1:
        yield "micro_batch", 1
    step, stride = model.unet.size_step, model.latent_stride
    smaller = (size // 2 // (stride * step) * stride * step for size in config.crop)
    width, height = smaller
    if min(width, height):
        yield "crop", (width, height + stride * model.unet.row_remainder)


def _written(value: object) -> str:
    """Write a value as `--set` takes it, without spaces."""
    return str(value).replace(" ", "")


def describe(plan: TrainingPlan) -> str:
    """Describe the plan in a few lines."""
    return "\n".join([_heading(plan), *_account(plan), _time(plan), _disk(plan)])


def _heading(plan: TrainingPlan) -> str:
    config, width, height = plan.config, *plan.config.crop
    return (
        f"{plan.preset} on {plan.devices} x {plan.card.name}: batch {config.batch} = "
        f"{plan.devices} devices x {config.accumulation(plan.devices)} micro-batches of "
        f"{config.micro_batch}; {plan.frames} frame{'s' if plan.frames > 1 else ''} of "
        f"{width}x{height}, {config.precision}, sharding {config.sharding}, "
        f"activations {'checkpointed' if config.checkpoint_activations else 'kept'}"
    )


def _account(plan: TrainingPlan) -> Iterator[str]:
    yield "memory of a device, GiB"
    for name, size in plan.memory.items():
        if size:
            yield f"  {name:<24}{size / GIB:8.2f}"
    verdict = "fits" if plan.is_fitting else "DOES NOT FIT"
    yield f"  {'total':<24}{plan.total / GIB:8.2f} of {plan.card.memory_gib:g}: {verdict}"
    if plan.advice is not None:
        yield f"  {plan.advice}"


def _time(plan: TrainingPlan) -> str:
    share = PEAK_SHARE[plan.card.kind]
    codec = "the codec not counted: it needs diffusers"
    if plan.codec_flop is not None:
        codec = f"codec {plan.codec_flop / 1e12:.3g}"
    return (
        f"time: {plan.denoiser_flop / 1e12:.3g} TFLOP a clip ({codec}); "
        f"{plan.clips_per_second:.3g} clips/s at an assumed {share:.0%} of the "
        f"card's peak; {plan.config.steps} updates in {plan.days:.1f} days"
    )


def _disk(plan: TrainingPlan) -> str:
    return (
        f"disk: a checkpoint {plan.checkpoint_bytes / 1e9:.2f} GB, "
        f"the exported model {plan.export_bytes / 1e9:.2f} GB"
    )


def card_named(name: str | None, device: str) -> Card:
    """Find a card of the table by name, or this machine's; OptionError for unknown ones."""
    if name is not None:
        found = {known.lower(): card for known, card in CARDS.items()}.get(name.lower())
        if found is None:
            raise OptionError(f"--card {name} is unknown: take {', '.join(CARDS)}")
        return found
    return _this_cpu() if device == "cpu" else _this_card()


def _this_card() -> Card:
    own = torch.cuda.get_device_properties(torch.cuda.current_device())
    words = set(re.split(r"[ -]", own.name))
    for card in CARDS.values():
        if set(card.name.partition("-")[0].split()) <= words:
            return dataclasses.replace(card, name=own.name, memory_gib=own.total_memory / GIB)
    raise OptionError(f"{own.name} is not in our table: name a similar card with --card")


def _this_cpu() -> Card:
    memory = free_memory("cpu") / GIB
    half, single = (_matmul_tflops(dtype) for dtype in (torch.bfloat16, torch.float32))
    return Card("this CPU", round(memory, 1), half, single, "cpu")


def _matmul_tflops(dtype: torch.dtype, size: int = 1024) -> float:
    """Time products of square matrices for half a second, at least two; return the fastest."""
    left = torch.ones(size, size, dtype=dtype)
    taken: list[float] = []
    while len(taken) < 2 or sum(taken) < 0.5:
        start = time.perf_counter()
        left @ left
        taken.append(time.perf_counter() - start)
    return 2 * size**3 / min(taken) / 1e12
