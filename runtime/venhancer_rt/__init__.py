"""Runtime that enhances videos: the `venhancer-rt` command, and `Enhancer` for Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from venhancer_rt.session import Enhancer

__all__ = ["Enhancer"]


def __getattr__(name: str) -> Any:
    """Import torch only when something that needs it is asked for."""
    if name != "Enhancer":
        raise AttributeError(f"module 'venhancer_rt' has no attribute {name!r}")
    from venhancer_rt.session import Enhancer

    return Enhancer
