"""NIQE and BRISQUE: how natural a frame looks, without a true one to compare it with.

Both fit asymmetric generalised Gaussians to locally normalised luma, at two scales (Mittal et al.
2012, 2013); lower is better. Their parameters are fetched by `benchmarks.data_generated`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import gamma
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from PIL import Image

from benchmarks.metrics import Frames, MetricError, Plane
from venhancer.training.perceptual import ArraysOnly

WINDOW_PIXELS: Final = 7
WINDOW_SIGMA: Final = 7 / 6
NEIGHBOURS: Final = ((0, 1), (1, 0), (1, 1), (1, -1))
TINY: Final = 1e-12
FETCH: Final = "run `make bench-generated`"


@dataclass(frozen=True, slots=True)
class Fit:
    """Asymmetric generalised Gaussians, one for each row of values."""

    power: Plane  # 2 is a Gaussian
    left: Plane  # spread below and above 0
    right: Plane
    width: Plane  # what a spread of 1 is multiplied by to be the distribution's own parameter
    mean: Plane


def fit(values: Plane) -> Fit:
    """By moments: fits n -> fits."""
    squares, is_left = values**2, values < 0
    left, right = (
        np.sqrt((squares * side).sum(axis=1) / np.maximum(side.sum(axis=1), 1))
        for side in (is_left, ~is_left)
    )
    balance = left / np.maximum(right, TINY)
    peak = np.abs(values).mean(axis=1) ** 2 / np.maximum(squares.mean(axis=1), TINY)
    wanted = peak * (balance**3 + 1) * (balance + 1) / (balance**2 + 1) ** 2
    powers, ratios, widths, steps = power_table()
    index = np.searchsorted(ratios, wanted).clip(1, len(ratios) - 1)
    index -= wanted - ratios[index - 1] < ratios[index] - wanted  # the nearer of two
    mean = (right - left) * widths[index] * steps[index]
    return Fit(powers[index], left, right, widths[index], mean)


@cache
def power_table() -> tuple[Plane, Plane, Plane, Plane]:
    """Powers, the ratio of moments of each (rising), its width and the mean's factor."""
    powers = np.arange(0.2, 10.001, 0.001)
    first, second, third = (np.array([gamma(k / p) for p in powers]) for k in (1, 2, 3))
    return powers, second**2 / (first * third), np.sqrt(first / third), second / first


def normalised(y: Plane, offset: float, border: int) -> Plane:
    """Luma less its local mean, over its local deviation: H W; border: what lies around it."""
    kernel = cv2.getGaussianKernel(WINDOW_PIXELS, WINDOW_SIGMA)
    mean, power = (
        cv2.sepFilter2D(plane, cv2.CV_64F, kernel, kernel, borderType=border)
        for plane in (y, y * y)
    )
    return np.asarray((y - mean) / (np.sqrt(np.abs(power - mean * mean)) + offset))


def products(blocks: Plane) -> list[Plane]:
    """Of every value with each of four neighbours: blocks h w -> four times blocks n."""
    rolled = [blocks * np.roll(blocks, by, axis=(1, 2)) for by in NEIGHBOURS]
    return [plane.reshape(len(blocks), -1) for plane in rolled]


def check_file(path: Path) -> None:
    if not path.is_file():
        raise MetricError(f"{path} is missing: {FETCH}")


class Niqe:
    """Distance of a frame's statistics from those of natural pictures (Mittal et al. 2013)."""

    BLOCK: Final = 96

    def __init__(self, parameters: Path) -> None:
        check_file(parameters)
        with np.load(parameters) as found:
            self.mean, self.covariance = found["mu_pris_param"][0], found["cov_pris_param"]

    def __call__(self, frame: Frames) -> float:
        """Of 96x96 blocks, whatever is left over at the right and the bottom left out."""
        rows, columns = (side // self.BLOCK for side in frame.shape[:2])
        if not rows * columns > 1:
            raise MetricError(f"a frame of {frame.shape[1]}x{frame.shape[0]} is too small for NIQE")
        studio = frame.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255 + 16
        y = studio.round()[: rows * self.BLOCK, : columns * self.BLOCK]
        half = Image.fromarray(y.astype(np.float32)).resize(
            (y.shape[1] // 2, y.shape[0] // 2), Image.Resampling.BICUBIC
        )
        planes = (y, self.BLOCK), (np.asarray(half, dtype=np.float64), self.BLOCK // 2)
        found = np.hstack([self.features(plane, block) for plane, block in planes])
        apart = found.mean(axis=0) - self.mean
        spread = (self.covariance + np.cov(found, rowvar=False)) / 2
        return float(np.sqrt(apart @ np.linalg.pinv(spread) @ apart))

    @staticmethod
    def features(y: Plane, block: int) -> Plane:
        """H W -> blocks 18."""
        rows, columns = (side // block for side in y.shape)
        parts = normalised(y, 1.0, cv2.BORDER_REPLICATE).reshape(rows, block, columns, block)
        blocks = parts.swapaxes(1, 2).reshape(-1, block, block)
        whole = fit(blocks.reshape(len(blocks), -1))
        found = [whole.power, (whole.left + whole.right) * whole.width / 2]
        for pair in map(fit, products(blocks)):
            found += [pair.power, pair.mean, pair.left * pair.width, pair.right * pair.width]
        return np.stack(found, axis=1)


class Brisque:
    """What viewers would say of a frame's distortions, by a support-vector regression."""

    def __init__(self, machine: Path, ranges: Path) -> None:
        check_file(machine)
        check_file(ranges)
        with ranges.open("rb") as file:
            found = ArraysOnly(file).load()
        self.least, self.most = (np.array(found[name], dtype=float) for name in ("min_", "max_"))
        head, _, vectors = machine.read_text(encoding="ascii").partition("SV\n")
        told = dict(line.split(maxsplit=1) for line in head.splitlines())
        self.gamma, self.rho = float(told["gamma"]), float(told["rho"])
        lines = [line.split() for line in vectors.splitlines()]
        self.weights = np.array([float(line[0]) for line in lines])
        self.vectors = np.zeros((len(lines), len(self.least)))
        for vector, line in zip(self.vectors, lines, strict=True):
            for entry in line[1:]:  # numbered from 1; zeros are left out
                number, value = entry.split(":")
                vector[int(number) - 1] = float(value)

    def __call__(self, frame: Frames) -> float:
        """0 to 100 for most pictures."""
        y = frame.astype(np.float64) @ np.array([0.2125, 0.7154, 0.0721]) / 255
        half = cv2.resize(y, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_CUBIC)
        found = np.concatenate([self.features(plane) for plane in (y, np.asarray(half))])
        scaled = 2 * (found - self.least) / (self.most - self.least) - 1
        near = np.exp(-self.gamma * ((self.vectors - scaled) ** 2).sum(axis=1))
        return float(self.weights @ near - self.rho)

    @staticmethod
    def features(y: Plane) -> Plane:
        """H W -> 18."""
        blocks = normalised(y, 1 / 255, cv2.BORDER_CONSTANT)[None]
        whole = fit(blocks.reshape(1, -1))
        found = [whole.power, (whole.left**2 + whole.right**2) / 2]
        for pair in map(fit, products(blocks)):
            found += [pair.power, pair.mean, pair.left**2, pair.right**2]
        return np.concatenate(found)
