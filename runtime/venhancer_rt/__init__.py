"""Engines and networks to video: the `venhancer-rt` command, and its Python API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from venhancer_rt.session import Enhancer, enhance

__all__ = ["Enhancer", "enhance"]


def __getattr__(name: str) -> Any:
    """Import torch only when something that needs it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'venhancer_rt' has no attribute {name!r}")
    from venhancer_rt import session

    return getattr(session, name)
