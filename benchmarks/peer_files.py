"""Where networks of others lie, how their modules are imported, and how frames become tensors.

`make data` fetches them out of packages. A frame is uint8 RGB, H W 3.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.machine import ROOT, shown
from venhancer.pipeline.pixels import Frame

PEERS = ROOT / "data" / "peers"


class PeerError(Exception):
    """One clear line: what is not there, and how it comes."""


def needed(path: Path) -> Path:
    """The path, or PeerError where nothing was fetched to it."""
    if not path.exists():
        raise PeerError(f"{shown(str(path))} is missing: run `make data`")
    return path


def module_of(folder: Path, package: str, name: str) -> ModuleType:
    """A module that lies in the folder; its package's own `__init__` wants VapourSynth."""
    empty = ModuleType(package)
    empty.__path__ = [str(folder)]
    sys.modules[package] = empty
    return import_module(f"{package}.{name}")


def to_tensor(frame: Frame) -> Tensor:
    """H W 3 -> 1 3 H W in [0, 1]."""
    return torch.from_numpy(frame.astype(np.float32)).permute(2, 0, 1)[None] / 255


def to_frame(pixels: NDArray[np.float32]) -> Frame:
    """3 H W in [0, 1] -> H W 3, rounded."""
    return (pixels.transpose(1, 2, 0).clip(0, 1) * 255).round().astype(np.uint8)
