"""Facts about this installation and this machine, for `doctor.py`.

Gathering them must not fail: what cannot be found out is told as such.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Any

import venhancer
from venhancer.errors import VEnhancerError

PACKAGES = {  # by the name that we tell: the names under which it may be installed
    "torch": ("torch",),
    "numpy": ("numpy",),
    "PyAV": ("av",),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt-rtx",),
    "triton": ("triton",),
    "cuda-python": ("cuda-python",),
    "diffusers": ("diffusers",),
    "transformers": ("transformers",),
}
HARDWARE = ("h264_nvenc", "hevc_nvenc", "av1_nvenc", "h264_qsv", "hevc_qsv")
ENCODERS = ("libx264", "libx265", "libsvtav1", "libvpx-vp9", "prores_ks", "ffv1", *HARDWARE)
TRIAL = 256  # pixels of a side, of the frame that is encoded on trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """CUDA device; memory in bytes."""

    name: str
    memory: int
    free: int
    capability: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """Video encoder of this FFmpeg."""

    name: str
    is_deep: bool = False  # True if it takes 10 bits
    refusal: str | None = None  # why it does not open here; None if it does, or needs no hardware


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """Cache folder of the weights hub."""

    folder: str | None = None  # None without huggingface_hub
    sizes: Mapping[str, int]  # bytes, by repository: only those of the released model
    weights: tuple[str, ...] = ()  # names of the checkpoints that are there
    missing_parts: tuple[str, ...] = ()  # other networks that the released model needs


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that was found out; sizes are bytes, None is what could not be found out."""

    versions: Mapping[str, str | None]  # None: not installed
    cores: int
    has_bfloat16: bool
    dtypes: Mapping[str, str]  # precision that is chosen, by device
    cards: tuple[Card, ...] = ()
    driver: Mapping[str, str]
    memory_free: int | None
    memory_total: int | None
    disk_free: Mapping[str, int]  # by folder
    encoders: tuple[Encoder, ...]
    providers: tuple[str, ...] = ()  # of ONNX Runtime
    tensorrt: Mapping[str, str | None]  # by builder: why it cannot be used; None if it can
    built_in: str | None = None  # why the built-in model cannot be used; None if it can
    torch_error: str | None = None  # why PyTorch cannot be used; None if it can
    hub: Hub


def gather() -> Facts:
    """Find out everything; a missing or broken package is a fact, not an error."""
    torch_error = _import_error("torch")
    from_torch = _devices() if torch_error is None else {"has_bfloat16": False, "dtypes": {}}
    free, total = _memory() if torch_error is None else (None, _total_memory())
    return Facts(
        versions=_versions(),
        cores=_cores(),
        driver=_driver() if torch_error is None else {},
        memory_free=free,
        memory_total=total,
        disk_free=dict(_disks()),
        encoders=tuple(_encoders()),
        providers=_providers(),
        tensorrt={builder: _tensorrt_error(builder) for builder in ("tensorrt", "tensorrt-rtx")},
        built_in=_built_in_error() if torch_error is None else torch_error,
        torch_error=torch_error,
        hub=_hub(),
        **from_torch,
    )


def _import_error(name: str) -> str | None:
    """Return why a module cannot be imported; None if it can."""
    try:
        __import__(name)
    except (ImportError, OSError) as error:
        return f"{name} cannot be loaded ({_first_line(error)})"
    return None


def _first_line(error: BaseException) -> str:
    words = getattr(error, "strerror", None) or str(error)
    return (words.strip() or type(error).__name__).splitlines()[0]


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {
        "venhancer": venhancer.__version__,
        "python": platform.python_version(),
    }
    found |= {name: _version(others) for name, others in PACKAGES.items()}
    return found | _ffmpeg_versions()


def _version(names: tuple[str, ...]) -> str | None:
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _ffmpeg_versions() -> dict[str, str | None]:
    try:
        import av
    except (ImportError, OSError):
        return {"FFmpeg": None}
    libraries = {n: ".".join(map(str, v)) for n, v in sorted(av.library_versions.items())}
    return {"FFmpeg": getattr(av, "ffmpeg_version_info", "unknown"), **libraries}


def _cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _devices() -> dict[str, Any]:
    import torch

    from venhancer.device import choose_dtype, computes_in_bfloat16

    cards: tuple[Card, ...] = ()
    if torch.cuda.is_available():
        with suppress(RuntimeError):  # a device that does not answer
            cards = tuple(map(_card, range(torch.cuda.device_count())))
    devices = ["cpu", "cuda"] if cards else ["cpu"]
    chosen = {name: str(choose_dtype("auto", name)).removeprefix("torch.") for name in devices}
    return {"has_bfloat16": computes_in_bfloat16(), "dtypes": chosen, "cards": cards}


def _card(index: int) -> Card:
    import torch

    found = torch.cuda.get_device_properties(index)
    try:
        free = int(torch.cuda.mem_get_info(index)[0])
    except RuntimeError:  # a card that other processes have filled
        free = 0
    capability = f"{found.major}.{found.minor}"
    return Card(name=found.name, memory=found.total_memory, free=free, capability=capability)


def _driver() -> dict[str, str]:
    """Read the versions of the card's driver and of CUDA."""
    import torch

    from venhancer_rt import cuda_facts

    known = {f"CUDA of {name}": version for name, version in cuda_facts.versions().items()}
    if torch.version.cuda is not None:
        known["CUDA of PyTorch"] = torch.version.cuda
    told = Path("/proc/driver/nvidia/version")
    match = re.search(r"\d+\.\d+(\.\d+)?", told.read_text()) if told.is_file() else None
    return {"NVIDIA driver": match[0], **known} if match else known


def _memory() -> tuple[int | None, int | None]:
    from venhancer.device import free_memory

    free = free_memory("cpu")
    return (None if free == 2**62 else free), _total_memory()


def _total_memory() -> int | None:
    """Count the bytes of memory that this process may use at most."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
    limit = Path("/sys/fs/cgroup/memory.max")
    words = limit.read_text().strip() if limit.is_file() else ""
    return min(total, int(words)) if words.isdigit() else total


def _disks() -> Iterator[tuple[str, int]]:
    for find in (Path.cwd, tempfile.gettempdir):
        try:
            folder = str(find())
            yield folder, shutil.disk_usage(folder).free
        except OSError:  # a folder that is gone, or cannot be read
            continue


def _encoders() -> Iterator[Encoder]:
    """Find the encoders that we know; those of a card or a chip are tried."""
    try:
        from av.codec import Codec
    except (ImportError, OSError):
        return
    for name in ENCODERS:
        try:
            formats = Codec(name, "w").video_formats or ()
        except ValueError:  # this FFmpeg was built without it
            continue
        is_deep = any(part.bits >= 10 for found in formats for part in found.components)
        refusal = _refusal(name) if name in HARDWARE else None
        yield Encoder(name=name, is_deep=is_deep, refusal=refusal)


def _refusal(name: str) -> str | None:
    """Encode a small frame; return why that fails, or None if it does not."""
    import av
    from av.codec import CodecContext
    from av.video.codeccontext import VideoCodecContext

    codec = CodecContext.create(name, "w")
    assert isinstance(codec, VideoCodecContext)
    codec.width = codec.height = TRIAL
    codec.pix_fmt, codec.time_base = "nv12", Fraction(1, 24)
    frame = av.VideoFrame(TRIAL, TRIAL, "nv12")
    frame.pts = 0
    try:
        codec.encode(frame)
        codec.encode(None)
    except (av.error.FFmpegError, ValueError) as error:
        return _first_line(error)
    return None


def _providers() -> tuple[str, ...]:
    """List the devices that ONNX Runtime can use; none without the package."""
    try:
        import onnxruntime

        return tuple(onnxruntime.get_available_providers())
    except (ImportError, OSError, AttributeError):  # an emptied package has no functions
        return ()


def _tensorrt_error(builder: str) -> str | None:
    from venhancer_rt.tensorrt_package import title

    try:
        title(builder)
    except VEnhancerError as error:
        return str(error)
    return None


def _built_in_error() -> str | None:
    from venhancer.weights.checkpoint import embedded_checkpoint

    try:
        embedded_checkpoint("nano")
    except VEnhancerError as error:
        return str(error)
    return None


def _hub() -> Hub:
    """Look at what the hub's cache folder holds of the released model."""
    from venhancer.weights.hub import SOURCES, STABLE_DIFFUSION

    try:
        from huggingface_hub import constants, try_to_load_from_cache
    except (ImportError, OSError):
        return Hub(sizes={}, missing_parts=_missing_parts(None))
    root = Path(constants.HF_HUB_CACHE)
    repos = {name: root / f"models--{name.replace('/', '--')}" for name in _repositories()}
    weights = [
        name
        for name, source in SOURCES.items()
        if (repos[source.repo] / source.file).is_file()  # put there by hand
        or isinstance(try_to_load_from_cache(source.repo, source.file, root), str)
    ]
    return Hub(
        folder=str(root),
        sizes={name: _size(folder) for name, folder in repos.items() if folder.is_dir()},
        weights=tuple(weights),
        missing_parts=_missing_parts(repos[STABLE_DIFFUSION]),
    )


def _repositories() -> list[str]:
    from venhancer.weights.hub import SOURCES, STABLE_DIFFUSION

    return list(dict.fromkeys([*(source.repo for source in SOURCES.values()), STABLE_DIFFUSION]))


def _missing_parts(downloaded: Path | None) -> tuple[str, ...]:
    """List the networks that are neither named by a variable nor in the cache."""
    variables = {"VAE": "VENHANCER_VAE", "text encoder": "VENHANCER_TEXT_ENCODER"}
    if downloaded is not None and downloaded.is_dir():
        return ()
    return tuple(
        part
        for part, variable in variables.items()
        if not (named := os.environ.get(variable)) or not Path(named).exists()
    )


def _size(folder: Path) -> int:
    """Add up the files of a folder; links lead to files that are counted already."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files)
