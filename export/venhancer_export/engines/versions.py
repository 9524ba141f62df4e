"""What a bundle was made with, and a report measured with."""

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
    """Of this package, Python, and those of PACKAGES that are installed."""
    found = {"venhancer": venhancer.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
