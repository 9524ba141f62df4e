"""`venhancer-rt doctor`: what is installed, what this machine has, and what will therefore work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from venhancer.options import GB
from venhancer_rt.machine_facts import HARDWARE, Facts
from venhancer_rt.tensorrt_package import TITLES

KEEPERS = ("libx265", "libsvtav1", "hevc_nvenc", "av1_nvenc", "hevc_qsv", "ffv1")  # of HDR
RELEASED = ("diffusers", "transformers")  # packages that only the released model needs
NO_CARD = "no CUDA device"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Answer to whether something will work, and by what or why not."""

    what: str
    is_yes: bool
    reason: str

    @property
    def line(self) -> str:
        return f"{self.what}: {'yes' if self.is_yes else 'no'}, {self.reason}"


def report_lines(facts: Facts) -> list[str]:
    """Describe the facts, then what will work, one line each."""
    groups = [
        ("versions", _version_lines(facts)),
        ("devices", _device_lines(facts)),
        ("memory", _memory_lines(facts)),
        ("encoders", _encoder_lines(facts)),
        ("weights", _weights_lines(facts)),
        ("what will work", (verdict.line for verdict in verdicts(facts))),
    ]
    return [line for title, told in groups for line in (title, *(f"  {it}" for it in told))]


def report_json(facts: Facts) -> dict[str, Any]:
    """Collect the facts and the verdicts as plain values."""
    return {**asdict(facts), "works": {it.what: _verdict_json(it) for it in verdicts(facts)}}


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    return {"works": verdict.is_yes, "reason": verdict.reason}


def verdicts(facts: Facts) -> list[Verdict]:
    """Tell what will work on this machine."""
    return [
        _built_in(facts),
        _released(facts),
        _onnx(facts),
        *(_engines(facts, builder) for builder in TITLES),
        _hdr(facts),
        _hardware_encoding(facts),
    ]


def _device(facts: Facts) -> str:
    device = "cuda" if facts.cards else "cpu"
    return f"on {device} in {facts.dtypes.get(device, 'float32')}"


def _built_in(facts: Facts) -> Verdict:
    return Verdict("built-in model", facts.built_in is None, facts.built_in or _device(facts))


def _released(facts: Facts) -> Verdict:
    missing = [f"{name} is not installed" for name in RELEASED if facts.versions.get(name) is None]
    if facts.torch_error is not None:
        missing.append(facts.torch_error)
    if not facts.hub.weights:
        missing.append("its weights are not downloaded yet")
    missing += [f"its {part} is not downloaded yet" for part in facts.hub.missing_parts]
    weights = " and ".join(facts.hub.weights)
    return Verdict(
        "released model", not missing, ", ".join(missing) or f"{weights}, {_device(facts)}"
    )


def _onnx(facts: Facts) -> Verdict:
    what, version = "bundles of ONNX files", facts.versions.get("onnxruntime")
    if not facts.providers:
        return Verdict(what, False, "onnxruntime is not installed")
    has_cuda = bool(facts.cards) and "CUDAExecutionProvider" in facts.providers
    return Verdict(
        what, True, f"by ONNX Runtime {version or ''} on {'cuda' if has_cuda else 'cpu'}"
    )


def _engines(facts: Facts, builder: str) -> Verdict:
    what, error = f"bundles of {TITLES[builder]} engines", facts.tensorrt.get(builder)
    reasons = [NO_CARD] * (not facts.cards) + [error] * (error is not None)
    version = facts.versions.get(builder)
    return Verdict(
        what, not reasons, "; ".join(map(str, reasons)) or f"by {TITLES[builder]} {version}"
    )


def _hdr(facts: Facts) -> Verdict:
    deep = {it.name for it in facts.encoders if it.is_deep and it.refusal is None}
    keeper = next((name for name in KEEPERS if name in deep), None)
    reason = "no encoder of this FFmpeg takes 10 bits" if keeper is None else f"by {keeper}"
    return Verdict("HDR in 10 bits", keeper is not None, reason)


def _hardware_encoding(facts: Facts) -> Verdict:
    names = [it.name for it in facts.encoders if it.name in HARDWARE and it.refusal is None]
    reason = "by " + ", ".join(names) if names else "no such encoder opens here"
    return Verdict("encoding by hardware", bool(names), reason)


def _version_lines(facts: Facts) -> Iterator[str]:
    for name, version in facts.versions.items():
        yield f"{name} {version or 'not installed'}"


def _device_lines(facts: Facts) -> Iterator[str]:
    bfloat16 = "with" if facts.has_bfloat16 else "without"
    yield f"cpu: cores that can be used {facts.cores}, {bfloat16} instructions for bfloat16"
    for number, card in enumerate(facts.cards):
        yield (
            f"cuda {number}: {card.name}, compute capability {card.capability}, "
            f"{card.free / GB:.1f} of {card.memory / GB:.1f} GB free"
        )
    if not facts.cards:
        yield NO_CARD
    for name, version in facts.driver.items():
        yield f"{name} {version}"


def _memory_lines(facts: Facts) -> Iterator[str]:
    yield f"memory {_size(facts.memory_free)} free of {_size(facts.memory_total)}"
    for folder, free in facts.disk_free.items():
        yield f"disk {_size(free)} free in {folder}"


def _size(count: int | None) -> str:
    return "unknown" if count is None else f"{count / GB:.1f} GB"


def _encoder_lines(facts: Facts) -> Iterator[str]:
    for encoder in facts.encoders:
        depth = "up to 8 bits" if not encoder.is_deep else "10 bits too"
        refused = "" if encoder.refusal is None else f", does not open: {encoder.refusal}"
        yield f"{encoder.name}, {depth}{refused}"


def _weights_lines(facts: Facts) -> Iterator[str]:
    if facts.hub.folder is None:
        yield "huggingface_hub is not installed, nothing can be downloaded"
        return
    yield f"cache folder {facts.hub.folder}"
    for name, size in facts.hub.sizes.items():
        yield f"{name}, {_size(size)}"
    if not facts.hub.sizes:
        yield "nothing of the released model is in it"
