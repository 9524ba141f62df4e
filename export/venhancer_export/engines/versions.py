"""Versions of the software that made a bundle or a report."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

import venhancer

PACKAGES = (
    *("torch", "onnx", "onnxruntime", "tensorrt", "tensorrt-rtx", "polygraphy"),
    *("diffusers", "transformers"),
)


def versions() -> dict[str, str]:
    """List the versions of this package, of Python, and of the installed PACKAGES."""
    found = {"venhancer": venhancer.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
