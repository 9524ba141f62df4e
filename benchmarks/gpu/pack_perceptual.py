"""The first layers of LPIPS in float16: 3.5 MB that may travel, where VGG16 takes 59.

The file has the layers that `venhancer.training.perceptual.Lpips` reads. Those behind the third of
the five features are one channel wide and give a constant whatever is shown, and their heads are
zero: what they add to the distance is zero, and no gradient passes.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from venhancer.training.perceptual import VGG16, ArraysOnly

TAPS = 3  # that are kept
Tree = dict[str, Any]


def reduce(source: Path, target: Path) -> None:
    """Write the reduced weights of a VGG16 file; WeightsError where it holds more than arrays."""
    with source.open("rb") as file:
        tree = ArraysOnly(file).load()
    temporary = target.with_suffix(".part")
    with temporary.open("wb") as file:
        pickle.dump(reduced(tree.get("params", tree)), file, protocol=4)
    temporary.replace(target)


def reduced(tree: Tree) -> Tree:
    """The same names, the layers behind the last tap that is kept replaced."""
    layers, last = tree[VGG16.name], VGG16.taps[TAPS - 1]
    own: Tree = {}
    for number in range(len(VGG16.stride_padding)):
        name = f"Conv_{number}"
        if number <= last:
            own[name] = {part: half(layers[name][part]) for part in ("kernel", "bias")}
        else:
            own[name] = constant_layer(own[f"Conv_{number - 1}"]["bias"].size)
    heads = {f"NetLinLayer_{n}": head(tree, n) for n in range(len(VGG16.taps))}
    return {VGG16.name: own, **heads}


def head(tree: Tree, number: int) -> Tree:
    """Weights of the channels of a feature."""
    if number < TAPS:
        return {"Conv_0": {"kernel": half(tree[f"NetLinLayer_{number}"]["Conv_0"]["kernel"])}}
    return {"Conv_0": {"kernel": np.zeros((1, 1, 1, 1), np.float16)}}


def constant_layer(channels: int) -> Tree:
    """A convolution that gives 1 everywhere; 0 would have no direction to normalise."""
    kernel = np.zeros((3, 3, channels, 1), np.float16)
    return {"kernel": kernel, "bias": np.ones(1, np.float16)}


def half(values: Any) -> NDArray[np.float16]:
    return np.asarray(values, dtype=np.float16)
