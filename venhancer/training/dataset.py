"""True clips from folders of videos and photos, endlessly and in random order.

Decoding is the bottleneck, so one decoded run of frames gives several crops, which a shuffle buffer
then spreads over many batches. Photos become pans and zooms.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from venhancer.config import Upsampling
from venhancer.errors import OptionError
from venhancer.training.augmentation import Batch, Generator, make_batch
from venhancer.training.config import TrainingConfig

VIDEOS = {".mp4", ".mkv", ".mov", ".webm", ".avi", ".mpg", ".m4v"}
PHOTOS = {".jpg", ".jpeg", ".png", ".webp"}
CLIPS_A_DECODE = 24
BUFFER = 384  # clips waiting to be drawn from
PHOTO_SHARE = 0.25
PATIENCE = 200  # files drawn in a row without a single clip
CUT = 24.0  # mean absolute change (of 255) between neighbours that we take for a cut

Sample = tuple[Tensor, str]


def find_media(folders: list[Path]) -> tuple[list[Path], list[Path]]:
    """All videos and photos below `folders`; OptionError if there is neither."""
    files = sorted(f for folder in folders for f in folder.rglob("*") if f.is_file())
    videos = [f for f in files if f.suffix.lower() in VIDEOS]
    photos = [f for f in files if f.suffix.lower() in PHOTOS]
    if not videos and not photos:
        names = ", ".join(str(f) for f in folders)
        raise OptionError(f"no video and no photo below {names}: run `make data`, or name others")
    return videos, photos


def caption_of(path: Path) -> str:
    """The text file beside a video or photo, or nothing."""
    sidecar = path.with_suffix(".txt")
    return sidecar.read_text().strip() if sidecar.is_file() else ""


class Clips(IterableDataset[Batch]):
    """Batches of degraded clips; workers draw from generators of their own."""

    def __init__(
        self,
        folders: list[Path],
        config: TrainingConfig,
        upsampling: Upsampling = "bilinear",
        start_step: int = 0,
    ) -> None:
        self.videos, self.photos = find_media(folders)
        self.config = config
        self.upsampling = upsampling
        self.start_step = start_step

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker = info.id if info else 0
        rng = np.random.default_rng([self.config.seed, self.start_step, worker])
        drawn = shuffled(self._samples(rng), rng)
        while True:
            clips = list(itertools.islice(drawn, self.config.batch))
            yield make_batch(clips, self.config, self.upsampling, rng)

    def _samples(self, rng: Generator) -> Iterator[Sample]:
        """Passes over a file that cannot be read; OptionError where none at all gives a clip."""
        barren = 0
        while barren < PATIENCE:
            takes_photo = not self.videos or (self.photos and rng.random() < PHOTO_SHARE)
            source = self.photos if takes_photo else self.videos
            path = Path(rng.choice([str(p) for p in source], p=_shares(source)))
            make = photo_clips if takes_photo else video_clips
            caption = caption_of(path)
            barren += 1
            with suppress(OSError, av.FFmpegError):
                for clip in make(path, self.config, rng):
                    barren = 0
                    yield clip, caption
        width, height = self.config.crop
        raise OptionError(
            f"no clip of {width}x{height} and {self.config.longest} frames to be had, last from "
            f"{path}: take larger or longer videos, or photos four times that size"
        )


def _shares(paths: list[Path]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """How often each file is drawn: by the root of its size, so that short ones still count."""
    sizes = np.array([p.stat().st_size for p in paths], dtype=np.float64) ** 0.5
    return sizes / sizes.sum()


def shuffled(samples: Iterator[Sample], rng: Generator) -> Iterator[Sample]:
    """Draw at random from a buffer that `samples` refills."""
    buffer = list(itertools.islice(samples, BUFFER))
    for sample in samples:
        place = int(rng.integers(len(buffer)))
        yield buffer[place]
        buffer[place] = sample


def read_run(path: Path, length: int, rng: Generator) -> list[Tensor]:
    """Up to `length` frames (H W 3, uint8) from a random place of a video."""
    with av.open(str(path)) as container:
        if not container.streams.video:
            return []
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        if container.duration:
            container.seek(int(rng.random() * container.duration * 0.98))
        frames = itertools.islice(container.decode(stream), length)
        return [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in frames]


def video_clips(path: Path, config: TrainingConfig, rng: Generator) -> Iterator[Tensor]:
    """Random crops (f 3 H W, uint8) of one decoded run, cuts left out."""
    run = read_run(path, 4 * config.longest, rng)
    width, height = config.crop
    if len(run) < config.longest or not _fits(run[0], height, width):
        return
    whole = torch.stack(run).permute(0, 3, 1, 2)
    factor = _downscale_factor(whole, config, rng)
    if factor > 1:
        size = (round(whole.shape[-2] / factor), round(whole.shape[-1] / factor))
        whole = torch.cat([_resize(frame[None], size) for frame in whole])
    for _ in range(CLIPS_A_DECODE):
        start = int(rng.integers(len(whole) - config.longest + 1))
        top = int(rng.integers(whole.shape[-2] - height + 1))
        left = int(rng.integers(whole.shape[-1] - width + 1))
        clip = whole[start : start + config.longest, :, top : top + height, left : left + width]
        if not has_cut(clip):
            yield _flip(clip, rng)


def _fits(frame: Tensor, height: int, width: int) -> bool:
    return frame.shape[0] >= height and frame.shape[1] >= width


def _downscale_factor(whole: Tensor, config: TrainingConfig, rng: Generator) -> float:
    """Now and then a smaller, sharper version of the frame, where the crop still fits."""
    width, height = config.crop
    largest = min(whole.shape[-2] / height, whole.shape[-1] / width, 2.0)
    return float(rng.choice([1.0, max(1.0, rng.uniform(1.0, largest))]))


def _resize(frames: Tensor, size: tuple[int, int]) -> Tensor:
    out = F.interpolate(frames.float(), size, mode="bicubic", antialias=True, align_corners=False)
    return out.round().clamp(0, 255).to(torch.uint8)


def has_cut(clip: Tensor) -> bool:
    """Whether neighbours, at a sixteenth of the size, differ by more than motion explains."""
    small = F.avg_pool2d(clip.float(), min(16, clip.shape[-1]))
    return bool((small[1:] - small[:-1]).abs().mean(dim=(1, 2, 3)).max() > CUT)


def _flip(clip: Tensor, rng: Generator) -> Tensor:
    """Mirror left-right and reverse in time, each half of the time."""
    flips = [axis for axis in (0, 3) if rng.random() < 0.5]
    return clip.flip(flips).contiguous()


def photo_clips(path: Path, config: TrainingConfig, rng: Generator) -> Iterator[Tensor]:
    """Pans and zooms over a photo, which is halved first: few are sharp at full size."""
    with Image.open(path) as image:
        half = (max(1, image.width // 2), max(1, image.height // 2))
        image.draft("RGB", half)
        pixels = np.asarray(image.convert("RGB").resize(half, Image.Resampling.BOX))
    photo = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    width, height = config.crop
    if not _fits(photo.permute(1, 2, 0), 2 * height, 2 * width):
        return
    for _ in range(CLIPS_A_DECODE):
        yield _flip(pan_and_zoom(photo, config, rng), rng)


def pan_and_zoom(photo: Tensor, config: TrainingConfig, rng: Generator) -> Tensor:
    """A virtual camera that glides over a photo (3 H W, uint8) -> f 3 h w, uint8."""
    width, height = config.crop
    span = 1.6  # the window of the photo that the camera stays in, in crops
    tall, wide = int(span * height), int(span * width)
    top = int(rng.integers(photo.shape[1] - tall + 1))
    left = int(rng.integers(photo.shape[2] - wide + 1))
    area = photo[None, :, top : top + tall, left : left + wide].float()
    time = torch.linspace(-1, 1, config.longest)
    speed = torch.tensor(rng.uniform(-1, 1, 2) * rng.random() * (1 - 1 / span))
    zoom = 1 / span * (1 + 0.15 * float(rng.uniform(-1, 1)) * time)
    theta = torch.zeros(config.longest, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom
    theta[:, :, 2] = time[:, None] * speed.float() * 0.8
    grid = F.affine_grid(theta, [config.longest, 3, height, width], align_corners=False)
    out = F.grid_sample(
        area.expand(config.longest, -1, -1, -1),
        grid,
        mode="bicubic",
        padding_mode="reflection",
        align_corners=False,
    )
    return out.round().clamp(0, 255).to(torch.uint8)
