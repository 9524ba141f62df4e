"""VEnhancer: more pixels, more frames and fewer flaws for a video, by one diffusion model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from venhancer.api import enhance
    from venhancer.options import Options
    from venhancer.pipeline.run import Report

__all__ = ["Options", "Report", "__version__", "enhance"]
__version__ = "0.1.0"

# Torch reads this when it is loaded. Its waiting threads then sleep instead of spinning, because a
# run also reads, moves and writes frames while the network computes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOMES = {
    "enhance": "venhancer.api",
    "Options": "venhancer.options",
    "Report": "venhancer.pipeline.run",
}


def __getattr__(name: str) -> Any:
    """Import torch only when something that needs it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'venhancer' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
