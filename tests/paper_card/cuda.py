"""Replaces `torch.cuda` by the paper card within a block."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.paper_card.card import CARD, Card
from tests.paper_card.graphs import (
    DEFAULT,
    PaperGraph,
    PaperStream,
    capture,
    current_stream,
    on_stream,
    synchronize,
)
from tests.paper_card.tensors import MODE, IndexedMode, PaperGenerator

GUARD = Path(__file__).with_name("guard.cpp")
MEMORY = 80 * 2**30
NAME = "NVIDIA H100 80GB HBM3"
PROPERTIES = SimpleNamespace(
    name=NAME, total_memory=MEMORY, major=9, minor=0, multi_processor_count=132
)


def build_guard(folder: Path) -> Path | None:
    """Compile guard.cpp into `folder`; None where there is no compiler."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        return None
    own = Path(torch.__file__).parent
    made = folder / "guard.so"
    subprocess.run(
        [
            *(compiler, "-std=c++20", "-shared", "-fPIC", f"-I{own / 'include'}", str(GUARD)),
            *("-o", str(made), f"-L{own / 'lib'}", "-lc10"),
        ],
        check=True,
        capture_output=True,
    )
    return made


@contextmanager
def paper_card(guard: Path) -> Iterator[Card]:
    """Simulate a machine with one H100."""
    ctypes.CDLL(str(guard))
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in replacements().items():
            patch.setattr(torch.cuda, name, value, raising=False)
        patch.setattr(torch, "Generator", PaperGenerator)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        torch._C._set_only_lift_cpu_tensors(True)  # type: ignore[attr-defined]
        CARD.crossings.clear()
        try:
            with IndexedMode(), MODE:
                yield CARD
        finally:
            torch._C._set_only_lift_cpu_tensors(False)  # type: ignore[attr-defined]
            torch.__future__.set_overwrite_module_params_on_conversion(before)
            CARD.recorder = CARD.lacks_memory = None


def replacements() -> dict[str, Any]:
    """Return stand-ins for functions of `torch.cuda`, by name."""
    nothing = dict.fromkeys(
        ("memory_allocated", "memory_reserved", "max_memory_allocated", "max_memory_reserved"),
        lambda *_: 0,
    )
    return nothing | {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda *_: NAME,
        "get_device_capability": lambda *_: (9, 0),
        "get_device_properties": lambda *_: PROPERTIES,
        "mem_get_info": lambda *_: (MEMORY, MEMORY),
        "memory_stats": lambda *_: {
            "allocation.all.allocated": CARD.allocations,
            "reserved_bytes.all.current": 0,
        },
        "memory_snapshot": lambda *_: [],
        "reset_peak_memory_stats": lambda *_: None,
        "empty_cache": lambda: None,
        "synchronize": synchronize,
        "current_stream": current_stream,
        "default_stream": lambda *_: DEFAULT,
        "stream": on_stream,
        "Stream": PaperStream,
        "CUDAGraph": PaperGraph,
        "graph": capture,
        "is_current_stream_capturing": lambda: CARD.recorder is not None,
    }
