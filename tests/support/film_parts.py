"""Films for tests of `venhancer-train prepare`: scenes, stills and pages of text."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tests.support import training_parts
from tests.support.clips import write_clip, write_frames
from venhancer.training.prepare.clips import find_films, prepare
from venhancer.training.prepare.cutting import Rules
from venhancer.training.prepare.latents import LatentMaker
from venhancer.training.prepare.shard_writer import ShardFolder

CONFIG = dataclasses.replace(training_parts.SMALL, clips_a_decode=1)
RULES = Rules.of("nano", CONFIG, min_seconds=0.5, max_seconds=1.0)

Frames = list[NDArray[np.uint8]]


def scene(seed: int, count: int, width: int = 96, height: int = 64) -> Frames:
    """Make soft coloured blotches; the camera pans two pixels a frame."""
    rng = np.random.default_rng(seed)
    blotches = Image.fromarray(rng.integers(40, 216, (6, 60, 3), np.uint8))
    wide = np.asarray(blotches.resize((12 * width, height), Image.Resampling.BICUBIC))
    return [np.ascontiguousarray(wide[:, 2 * n : 2 * n + width]) for n in range(count)]


def page(frames: Frames, lines: int) -> Frames:
    """Draw white text with black edges over frames."""
    font = ImageFont.load_default(14)
    out = []
    for frame in frames:
        image = Image.fromarray(frame)
        text = "\n".join(["a line of words in white"] * lines)
        ImageDraw.Draw(image).multiline_text(
            (16, 8), text, font=font, fill=(255,) * 3, stroke_width=1, stroke_fill=(0, 0, 0)
        )
        out.append(np.asarray(image))
    return out


def write_films(folder: Path) -> Path:
    """Write scenes of 30, 40 and 6 frames with a caption, and a film for each reason to reject."""
    folder.mkdir()
    write_frames(folder / "a.mp4", scene(1, 30) + scene(2, 40) + scene(3, 6))
    (folder / "a.txt").write_text("blotches")
    (folder / "broken.mp4").write_bytes((folder / "a.mp4").read_bytes()[:900])
    write_clip(folder / "small.mp4", 24, 24, 24)
    write_frames(folder / "still.mp4", scene(4, 1) * 24)
    write_frames(folder / "text.mp4", page(scene(5, 24, 320, 180), 9))
    write_frames(folder / "z.mp4", scene(6, 24))
    return folder


def fill(
    source: Path, out: Path, maker: LatentMaker | None = None, rules: Rules = RULES, **how: Any
) -> dict[str, Any]:
    """Prepare a folder of films; a shard takes some 10 kB."""
    folder = ShardFolder(out, dataclasses.asdict(rules), 10_000)
    return prepare(find_films([source]), folder, rules, maker, **how)
