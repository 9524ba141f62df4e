"""Two enlarged key frames, moved and mixed into a new one: in bands of rows, so that memory is small.

What a `Recipe` says at the size of the input is enlarged bilinearly, the key frames are fetched
cubically.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from venhancer.motion import Field, Frame

BAND = 32  # rows that are made at a time


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a new frame is put together, at the size of the input, in its pixels."""

    time: float  # from 0, the first key frame, to 1, the second
    flows: tuple[Field, Field]  # from the new frame to the first and to the second: H W 2
    shares: tuple[Field, Field]  # of the two when moved; what is left is the plain mix: H W


def mix(recipe: Recipe | None, time: float, first: Frame, second: Frame) -> Frame:
    """The frame at `time` of two enlarged key frames, H W 3; without a recipe, the plain mix."""
    out = np.empty_like(first)
    height, width = first.shape[:2]
    for start in range(0, height, BAND):
        rows = np.arange(start, min(start + BAND, height))
        made = _plain(time, first[rows[0] : rows[-1] + 1], second[rows[0] : rows[-1] + 1])
        if recipe is not None:
            made = _moved(recipe, rows, made, (first, second))
        out[rows[0] : rows[-1] + 1] = rounded(made, out.dtype)
    return out


def _plain(time: float, first: Frame, second: Frame) -> Field:
    made = cv2.addWeighted(first, 1 - time, second, time, 0, dtype=cv2.CV_32F)
    return np.asarray(made, dtype=np.float32)


def _moved(
    recipe: Recipe, rows: NDArray[np.intp], plain: Field, keys: tuple[Frame, Frame]
) -> Field:
    """Put the moved key frames over the rows of the plain mix."""
    size = keys[0].shape[0], keys[0].shape[1]
    left = np.ones(plain.shape, dtype=np.float32)
    made = np.zeros(plain.shape, dtype=np.float32)
    for flow, share, key in zip(recipe.flows, recipe.shares, keys, strict=True):
        weight = cv2.merge([enlarge_rows(share, rows, size)] * 3)
        made += weight * fetch_rows(key, enlarge_flow_rows(flow, rows, size), rows)
        left -= weight
    return made + left * plain


def enlarge_rows(field: Field, rows: NDArray[np.intp], size: tuple[int, int]) -> Field:
    """Some rows of a field (h w, or h w c) that is enlarged bilinearly to `size`, rows first."""
    height = len(field)
    places = np.clip((rows + 0.5) * (height / size[0]) - 0.5, 0, height - 1)
    above = np.minimum(places.astype(np.intp), max(height - 2, 0))
    below = np.minimum(above + 1, height - 1)
    share = (places - above).astype(np.float32).reshape(-1, *[1] * (field.ndim - 1))
    between = field[above] * (1 - share) + field[below] * share
    made = cv2.resize(between, (size[1], len(rows)), interpolation=cv2.INTER_LINEAR)
    return np.asarray(made, dtype=np.float32)


def enlarge_flow_rows(flow: Field, rows: NDArray[np.intp], size: tuple[int, int]) -> Field:
    """As `enlarge_rows`; what is a pixel of the field becomes as many as it is enlarged by."""
    factors = np.array([size[1] / flow.shape[1], size[0] / flow.shape[0]], dtype=np.float32)
    return enlarge_rows(flow * factors, rows, size)


def fetch_rows(image: Frame, flow: Field, rows: NDArray[np.intp]) -> Field:
    """Some rows of `image` (H W 3) moved: out(p) = image(p + flow(p)), cubic, the border repeated.

    Only those rows of the image that are needed become floating point numbers.
    """
    height, width = image.shape[:2]
    places = flow + np.stack(np.meshgrid(np.arange(width), rows), axis=-1).astype(np.float32)
    lowest, highest = places[..., 1].min(), places[..., 1].max()
    top = int(np.clip(np.floor(lowest) - 1, 0, height - 1))
    bottom = int(np.clip(np.floor(highest) + 3, top + 1, height))
    places[..., 1] -= top
    source = image[top:bottom].astype(np.float32)
    made = cv2.remap(source, places, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    return np.asarray(made, dtype=np.float32)


def rounded(values: Field, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Whole numbers within the range of `dtype`."""
    return np.clip(np.rint(values), 0, np.iinfo(dtype).max).astype(dtype)
