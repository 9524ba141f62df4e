"""Choice of the device and the precision, and the device's memory."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from venhancer.errors import DeviceError


def choose_device(asked: str) -> str:
    """Choose the device: `auto` takes CUDA if present; DeviceError for `cuda` where it is not."""
    if asked == "cuda" and not torch.cuda.is_available():
        raise DeviceError("--device cuda: PyTorch finds no CUDA device here; take --device cpu")
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return asked


def choose_dtype(asked: str, device: str) -> torch.dtype:
    """Choose the precision; `auto`: float16 on CUDA, bfloat16 on a CPU built for it, or float32."""
    if asked != "auto":
        return getattr(torch, asked)
    if device == "cuda":
        return torch.float16
    return torch.bfloat16 if computes_in_bfloat16() else torch.float32


@dataclass(frozen=True, slots=True)
class Compute:
    """The device and the precision of a run, chosen once."""

    device: str  # `cpu` or `cuda`
    dtype: torch.dtype

    @classmethod
    def choose(cls, device: str, dtype: str) -> Compute:
        """Choose both as the user asked; DeviceError where there is no such device."""
        chosen = choose_device(device)
        return cls(chosen, choose_dtype(dtype, chosen))

    @property
    def precision(self) -> str:
        """The name of the type, without the package's."""
        return str(self.dtype).removeprefix("torch.")


def compute_exactly(dtype: torch.dtype) -> None:
    """Disable TF32 where float32 was asked for."""
    if dtype == torch.float32:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def computes_in_bfloat16() -> bool:
    """Tell whether the CPU has bfloat16 instructions; without, it is 10x slower than float32."""
    return torch.cpu._is_avx512_bf16_supported()


NO_MEMORY = (  # parts of the messages of errors that have no class of their own
    "DefaultCPUAllocator",
    "out of memory",  # of CUDA
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "cudaErrorMemoryAllocation",
    "OutOfMemory",  # TensorRT
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether PyTorch, a CUDA library or TensorRT failed to allocate memory."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and says_no_memory(str(error))


def says_no_memory(words: str) -> bool:
    """Tell whether a message is about a lack of memory."""
    return any(known in words for known in NO_MEMORY)


def to_device(x: Tensor, device: str) -> Tensor:
    """Move a tensor to a device; to CUDA through pinned memory, so that the host need not wait."""
    if x.device.type == "cpu" and torch.device(device).type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def wait_for(x: Tensor) -> None:
    """Wait until a tensor has been computed."""
    if x.is_cuda:
        torch.cuda.current_stream().synchronize()


def free_memory(device: str) -> int:
    """Count the bytes that are free on the device."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.is_file() else []
    available = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    return min([*available, *_left_in_container()], default=2**62)


def _left_in_container() -> list[int]:
    """Read the bytes left below a control group's limit (version 2), if it has one."""
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if not (limit.is_file() and used.is_file()):
        return []
    words = limit.read_text().strip()
    return [int(words) - int(used.read_text())] if words.isdigit() else []


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of glibc's mallopt


def keep_freed_memory() -> None:
    """Let the C library reuse large blocks rather than return them to the kernel each time.

    Otherwise, an evaluation on a CPU spends a third of its time on fresh pages from the kernel.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**29)  # larger blocks (latents of long clips) are still returned
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_TOP_PAD, 2**28)
