"""Side-by-side crops of the same region from each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from benchmarks.quality.metrics import Frames, luma

CROPS_PER_SIDE = 4
PANEL_PIXELS = 480
CAPTION_PIXELS = 22
JPEG_QUALITY = 85


def detailed_region(frame: Frames) -> tuple[int, int, int, int]:
    """Find the region with most edges, a quarter of the width: left, top, right, bottom."""
    y = luma(frame).astype(np.float32)
    height, width = (side // CROPS_PER_SIDE for side in y.shape)
    edges = np.abs(cv2.Sobel(y, cv2.CV_32F, 1, 0)) + np.abs(cv2.Sobel(y, cv2.CV_32F, 0, 1))
    density = cv2.boxFilter(edges, cv2.CV_32F, (width, height), anchor=(0, 0))
    inside = density[: y.shape[0] - height, : y.shape[1] - width]
    top, left = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(left), int(top), int(left) + width, int(top) + height


def panel(frame: Frames, region: tuple[int, int, int, int], caption: str) -> Image.Image:
    """One enlarged crop with a caption above it; pixels stay visible."""
    crop = Image.fromarray(frame).crop(region)
    factor = max(1, round(PANEL_PIXELS / crop.width))
    crop = crop.resize((crop.width * factor, crop.height * factor), Image.Resampling.NEAREST)
    return captioned(crop, caption)


def captioned(image: Image.Image, caption: str) -> Image.Image:
    """Add a line of text above a picture."""
    framed = Image.new("RGB", (image.width, image.height + CAPTION_PIXELS), "white")
    framed.paste(image, (0, CAPTION_PIXELS))
    ImageDraw.Draw(framed).text((4, 5), caption, fill="black")
    return framed


def save_sheet(path: Path, frames: Mapping[str, Frames]) -> None:
    """Save the middle of each frame with its name above, all at one size, in rows of two."""
    panels = [captioned(middle(frame), name) for name, frame in frames.items()]
    width, height = panels[0].size
    sheet = Image.new("RGB", (2 * width, -(-len(panels) // 2) * height), "white")
    for index, image in enumerate(panels):
        sheet.paste(image, (index % 2 * width, index // 2 * height))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=JPEG_QUALITY)


def middle(frame: Frames) -> Image.Image:
    """Crop the middle half or less, enlarged or not to `PANEL_PIXELS` wide; pixels stay visible."""
    height, width = frame.shape[:2]
    share = min(0.5, PANEL_PIXELS / width)
    low, high = (1 - share) / 2, (1 + share) / 2
    box = (low * width, low * height, high * width, high * height)
    size = (PANEL_PIXELS, round(PANEL_PIXELS * height / width))
    return Image.fromarray(frame).resize(size, Image.Resampling.NEAREST, box)


def save_comparison(
    folder: Path, clip: str, videos: Mapping[str, Frames], truth: Frames, interpolate: int = 2
) -> None:
    """Write the key frame in the middle as `<clip>_even.png`, a new one after it as `_odd.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    key = len(truth) // 2 // interpolate * interpolate
    new = key + interpolate // 2
    region = detailed_region(truth[new])
    for kind, index in {"even": key, "odd": new}.items():
        if kind == "odd" and new == key:
            continue
        panels = [panel(frames[index], region, name) for name, frames in videos.items()]
        panels.append(panel(truth[index], region, f"truth (frame {index})"))
        beside(panels).save(folder / f"{clip}_{kind}.png")


def beside(panels: Sequence[Image.Image]) -> Image.Image:
    """Join pictures of one height in a row."""
    row = Image.new("RGB", (sum(image.width for image in panels), panels[0].height), "white")
    left = 0
    for image in panels:
        row.paste(image, (left, 0))
        left += image.width
    return row


def save_rows(path: Path, rows: Sequence[Mapping[str, Frames]], most_bytes: int) -> None:
    """Save rows of named pictures, one below the other, as a JPEG file of limited size."""
    made = [beside([captioned(Image.fromarray(f), name) for name, f in r.items()]) for r in rows]
    width, height = max(row.width for row in made), sum(row.height for row in made)
    sheet = Image.new("RGB", (width, height), "white")
    top = 0
    for row in made:
        sheet.paste(row, (0, top))
        top += row.height
    path.parent.mkdir(parents=True, exist_ok=True)
    for quality in range(JPEG_QUALITY, 20, -10):
        sheet.save(path, quality=quality)
        if path.stat().st_size < most_bytes:
            return
