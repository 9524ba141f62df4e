"""True frames of real clips, and the inputs made of them: fewer, smaller, noisy or compressed."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageOps

from benchmarks.quality.metrics import Frames

FRAMES = 17
EXTRA_SIZE = 1280, 720  # the user's larger clips are shrunk to fit into it


class QualityError(Exception):
    """One clear line: a missing clip, or a method that returned something else than asked."""


@dataclass(frozen=True, slots=True)
class Clip:
    """Position and size of 17 true frames: their start, and their size (None: unchanged)."""

    name: str
    start_seconds: float
    size: tuple[int, int] | None
    note: str
    path: Path | None = None  # default: by its name, in the folder of `make data`


@dataclass(frozen=True, slots=True)
class Setting:
    """The enlargement that is asked for: factors of size and of frames."""

    scale: int = 4
    interpolate: int = 2

    def __post_init__(self) -> None:
        if not (2 <= self.scale <= 8 and 1 <= self.interpolate <= 8):
            raise QualityError(f"{self}: take a scale of 2 to 8, 1 to 8 times the frames")

    def __str__(self) -> str:
        return f"{self.scale}x space, {self.interpolate}x time"


MAIN = Setting()
CLIPS = (
    Clip("city", 1.0, (1280, 720), "drone over a city, nearly still; 1080p made 720p by Lanczos"),
    Clip("bikes", 5.76, None, "cars behind a railing; 640x272 as it is"),
    Clip("bbb", 43.0, None, "pan over trees and grass; 1280x720 as it is; 463 s into the film"),
)
HELD_OUT = (
    Clip("city", 8.0, (1280, 720), "drone before a skyline; 1080p made 720p by Lanczos"),
    Clip("bikes", 8.2, None, "somebody walks past a bicycle; 640x272 as it is"),
    Clip("bbb", 11.5, None, "fall past leaves and grass; 1280x720 as it is"),
)


def resize(frame: Frames, scale: float, kernel: Image.Resampling) -> Frames:
    """Resize one frame, antialiased when it gets smaller: h w 3 -> h*scale w*scale 3."""
    height, width = frame.shape[:2]
    size = (round(width * scale), round(height * scale))
    return np.asarray(Image.fromarray(frame).resize(size, kernel))


def choose_clips(clips: Sequence[Clip], names: str | None) -> list[Clip]:
    """Choose clips by comma-separated names; all clips if there are no names."""
    known = [clip.name for clip in clips]
    wanted = known if names is None else names.split(",")
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise QualityError(f"no clip {', '.join(unknown)}: there are {', '.join(known)}")
    return [clip for clip in clips if clip.name in wanted]


def extra_clip(text: str) -> Clip:
    """Parse a clip of the user: FILE, or FILE@SECONDS, the start of its true frames."""
    name, _, start = text.rpartition("@") if "@" in text else (text, "", "0")
    path = Path(name)
    try:
        return Clip(path.stem, float(start), EXTRA_SIZE, "of the user", path)
    except ValueError:
        raise QualityError(f"{text}: `{start}` are no seconds") from None


def path_of(clip: Clip, folder: Path) -> Path:
    """Return the file of a clip; QualityError if there is none."""
    path = clip.path or folder / f"{clip.name}.mp4"
    if not path.is_file():
        how = "" if clip.path else ": run `make data`"
        raise QualityError(f"{path.name if clip.path else path} is missing{how}")
    return path


def load_clip(clip: Clip, folder: Path) -> Frames:
    """Load the true frames of a clip: 17 H W 3."""
    path = path_of(clip, folder)
    frames: list[Frames] = []
    with av.open(str(path)) as container:
        for frame in container.decode(container.streams.video[0]):
            if frame.time is not None and frame.time >= clip.start_seconds - 1e-6:
                image = Image.fromarray(frame.to_ndarray(format="rgb24"))
                frames.append(np.asarray(brought_to_size(image, clip)))
            if len(frames) == FRAMES:
                return np.stack(frames)
    name = path.name if clip.path else path
    raise QualityError(f"{name}: {len(frames)} frames after {clip.start_seconds} s, not {FRAMES}")


def brought_to_size(image: Image.Image, clip: Clip) -> Image.Image:
    """Resize by Lanczos; clips of the user keep their aspect ratio and are never enlarged."""
    kernel = Image.Resampling.LANCZOS
    if clip.size is None:
        return image
    if clip.path is None:
        return image.resize(clip.size, kernel)
    is_larger = image.width > clip.size[0] or image.height > clip.size[1]
    return ImageOps.contain(image, clip.size, kernel) if is_larger else image


def rate_of(clip: Clip, folder: Path) -> Fraction:
    """Return the frames per second of the true clip."""
    with av.open(str(path_of(clip, folder))) as container:
        return container.streams.video[0].average_rate or Fraction(24)


def cut_to_fit(truth: Frames, setting: Setting) -> Frames:
    """Cut to the frames and pixels that the setting can make: the last ones are left out.

    Sizes become even, those of the input too, so that video files can hold both.
    """
    frames = (len(truth) - 1) // setting.interpolate * setting.interpolate + 1
    multiple = 2 * setting.scale
    height, width = (side // multiple * multiple for side in truth.shape[1:3])
    return truth[:frames, :height, :width]


def degrade(truth: Frames, setting: Setting = MAIN) -> Frames:
    """Make the input frames, fewer and smaller: 17 H W 3 -> 9 H/4 W/4 3."""
    kept = truth[:: setting.interpolate]
    return np.stack([resize(frame, 1 / setting.scale, Image.Resampling.BICUBIC) for frame in kept])


# --- flaws ----------------------------------------------------------------------------------------


NOISE = 10.0  # grey levels: the standard deviation of the Gaussian noise
CRF = 36  # of x264: coarse blocks, as in clips that were re-shared
FINE_CRF = 4  # for files that should show no flaw

Degradation = Callable[[Frames, Fraction], Frames]  # frames, and their rate per second


def noisy(frames: Frames) -> Frames:
    """Add Gaussian noise of `NOISE` grey levels to every frame, always the same noise."""
    noise = np.random.default_rng(0).normal(0, NOISE, frames.shape)
    return np.clip(np.rint(frames + noise), 0, 255).astype(np.uint8)


def write_h264(target: Path | io.BytesIO, frames: Frames, rate: Fraction, crf: int) -> None:
    """Write an mp4 file by x264, in 4:2:0, so that sides must be even."""
    height, width = frames.shape[1:3]
    place = target if isinstance(target, io.BytesIO) else str(target)
    with av.open(place, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def compressed(frames: Frames, rate: Fraction, crf: int = CRF) -> Frames:
    """Return the frames after H.264 of that quality."""
    file = io.BytesIO()
    write_h264(file, frames, rate, crf)
    file.seek(0)
    with av.open(file, "r") as container:
        decoded = container.decode(container.streams.video[0])
        return np.stack([np.asarray(f.to_ndarray(format="rgb24"), np.uint8) for f in decoded])


DEGRADATIONS: Mapping[str, Degradation] = {
    "noise": lambda frames, rate: noisy(frames),
    "h264": compressed,
}
