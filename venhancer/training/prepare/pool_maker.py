"""Making of a pool: true frames of films and photos -> degraded, aligned, cropped samples.

Everything that needs a whole frame is done before cropping: downscaling, flaws, flow. A sample
comes from five key frames in a row; the network learns to restore the middle one.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from venhancer.config import ModelConfig
from venhancer.errors import OptionError
from venhancer.motion.neighbours import Aligner, Key
from venhancer.motion.optical_flow import Field
from venhancer.pipeline.pixels import resize
from venhancer.planning.geometry import Geometry
from venhancer.training.config import TrainingConfig
from venhancer.training.data import degradation
from venhancer.training.data.augmentation import Generator
from venhancer.training.data.media import UnusableError, has_cut, read_run
from venhancer.training.data.pool import NAME, Crop, write_part
from venhancer.training.data.sources import Sample

Image8 = NDArray[np.uint8]  # H W 3
Show = Callable[[str], None]

SCALES, SCALE_SHARES = (4.0, 2.0, 3.0, 8.0, 0.0), (0.8, 0.06, 0.04, 0.03, 0.07)  # 0: any
INTERVALS, INTERVAL_SHARES = (1, 2, 3, 4), (0.2, 0.5, 0.2, 0.1)  # true frames between key frames
KERNELS = (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.BOX)
KERNEL_SHARES = (0.86, 0.08, 0.06)
FILM_LEAST = (384, 264)  # width, height that a film must have
SIZE_STEP = 24  # frame sizes are cut to a multiple, so that 2, 3, 4 and 8 divide them
PATIENCE = 200  # films and photos in a row without key frames, before an error
PHOTO_MOVES = 3  # of the virtual camera over each photo
PHOTO_SIDE = 2600  # pixels; larger photos are downscaled to it
PHOTO_VIEW = (512, 384)  # width, height of the camera's picture


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """Settings of a pool; they are written into it."""

    samples: int = 14_400
    crop: int = 128  # pixels a side
    crops: int = 12  # of each run of key frames
    photo_share: float = 0.6  # of runs
    flawed_share: float = 0.3  # of runs, with a noise level above 0, and flaws that match it
    mild_share: float = 0.06  # of the others: with flaws too slight for a noise level
    levels: tuple[int, int] = (20, 250)
    seed: int = 0
    part: int = 1_200  # samples a file


def make_pool(
    media: Sequence[Sample], out: Path, model: ModelConfig, settings: PoolSettings, show: Show
) -> None:
    """Fill `out` from films and photos; existing parts are kept.

    OptionError if they were made with other settings, or if nothing gives key frames.
    """
    _begin(out, settings)
    for number in range(-(-settings.samples // settings.part)):
        if (out / f"part-{number:04d}.npz").is_file():
            continue
        rng = np.random.default_rng([settings.seed, number])
        crops: list[Crop] = []
        for keys in _endless_keys(media, settings, rng):
            crops += _crops(keys, model, settings, rng)
            if len(crops) >= settings.part:
                break
        order = rng.permutation(len(crops))[: settings.part]
        write_part(out, number, [crops[n] for n in order])
        show(f"{(number + 1) * settings.part} samples")


def _begin(out: Path, settings: PoolSettings) -> None:
    """Write the settings; OptionError if existing ones differ in more than `samples`."""
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dataclasses.asdict(settings), indent=1) + "\n"
    path = out / NAME
    if path.is_file():
        there = json.loads(path.read_text()) | {"samples": settings.samples}
        if there != json.loads(text):
            raise OptionError(f"{out} was made with other settings: choose another folder")
    path.write_text(text)


def _endless_keys(
    media: Sequence[Sample], settings: PoolSettings, rng: Generator
) -> Iterator[list[Image8]]:
    """Iterate over runs of five true key frames; OptionError where nothing gives any."""
    photos = [sample for sample in media if sample.kind == "photo"]
    films = [sample for sample in media if sample.kind == "video"]
    barren = 0
    while barren < PATIENCE:
        is_photo = bool(photos) and (not films or rng.random() < settings.photo_share)
        among = photos if is_photo else films
        weights = np.array([sample.weight for sample in among])
        sample = among[int(rng.choice(len(among), p=weights / weights.sum()))]
        barren += 1
        try:
            for keys in _photo_keys(sample, rng) if is_photo else _film_keys(sample, rng):
                barren = 0
                yield keys
        except UnusableError:
            continue
    raise OptionError(f"none of {PATIENCE} films and photos in a row gave key frames")


def _film_keys(film: Sample, rng: Generator) -> Iterator[list[Image8]]:
    """Take runs of key frames from one place of a film, without those that have a cut."""
    interval = int(rng.choice(INTERVALS, p=INTERVAL_SHARES))
    length = 4 * interval + 1
    config = TrainingConfig(
        frames=length, strides=(1,), stride_weights=(1,), crop=FILM_LEAST, clips_a_decode=2
    )
    run = read_run(film.media, film.span, config, rng)
    for start in range(0, len(run) - length + 1, length):
        clip = run[start : start + length]
        if not has_cut(clip):
            keys = [np.ascontiguousarray(f.permute(1, 2, 0).numpy()) for f in clip[::interval]]
            yield keys[::-1] if rng.random() < 0.5 else keys


def _photo_keys(photo: Sample, rng: Generator) -> Iterator[list[Image8]]:
    """Move a virtual camera over a photo, at several sizes and speeds."""
    picture = _read_photo(photo)
    height, width = picture.shape[:2]
    for _ in range(PHOTO_MOVES):
        room = min(width / PHOTO_VIEW[0], height / PHOTO_VIEW[1]) / 1.3
        if room < 1:
            raise UnusableError(f"too small: {width}x{height}")
        factor = float(np.exp(rng.uniform(0, np.log(min(room, 2.5)))))
        size = round(width / factor), round(height / factor)
        yield _glide(np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA)), rng)


def _read_photo(photo: Sample) -> Image8:
    try:
        with Image.open(photo.media.source()) as image:
            factor = max(1.0, max(image.size) / PHOTO_SIDE)
            size = round(image.width / factor), round(image.height / factor)
            return np.array(image.convert("RGB").resize(size, Image.Resampling.BOX))
    except (OSError, ValueError) as error:
        raise UnusableError(f"cannot be read: {error}") from error


def _glide(picture: Image8, rng: Generator) -> list[Image8]:
    """Make five views of a picture: the camera shifts, turns and zooms evenly."""
    width, height = PHOTO_VIEW
    centre = np.array(
        [rng.uniform(0.3, 0.7) * picture.shape[1], rng.uniform(0.3, 0.7) * picture.shape[0]]
    )
    angle, turn, zoom = rng.normal(0, 0.05), rng.normal(0, 0.004), rng.normal(0, 0.006)
    way = rng.uniform(0, 2 * np.pi)
    shift = (
        rng.choice((0.6, 4.0, 16.0)) * rng.uniform(0.3, 1) * np.array([np.cos(way), np.sin(way)])
    )
    views = []
    for moment in range(-2, 3):
        scale, turned = np.exp(zoom * moment), angle + turn * moment
        spin = np.array([[np.cos(turned), -np.sin(turned)], [np.sin(turned), np.cos(turned)]])
        matrix = scale * spin
        origin = centre + shift * moment - matrix @ np.array([width / 2, height / 2])
        view = cv2.warpAffine(
            picture,
            np.column_stack([matrix, origin]).astype(np.float32),
            (width, height),
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        )
        views.append(np.asarray(view, np.uint8))
    return views


def _crops(
    keys: list[Image8], model: ModelConfig, settings: PoolSettings, rng: Generator
) -> Iterator[Crop]:
    """Make samples of the middle one of five true key frames."""
    height, width = (size // SIZE_STEP * SIZE_STEP for size in keys[0].shape[:2])
    keys = [key[:height, :width] for key in keys]
    scale, level, strength = _draw(settings, rng)
    small = degradation.degrade(_shrunk(keys, scale, rng), strength, rng)
    geometry = Geometry(width=width, height=height)
    aligner, enlarged = Aligner(model.neighbours, geometry), []
    for number, frame in enumerate(small):
        enlarged.append(resize(frame, width, height, model.upsampling))
        aligner.add(number, Key.of(frame, enlarged[-1]))
    aligned, trust = aligner.look(2)
    hint = _pixels(enlarged[2][0].numpy())
    told = max(width / small[0].shape[1], height / small[0].shape[0])
    whole = Crop(
        target=keys[2].transpose(2, 0, 1),
        hint=hint,
        aligned=_pixels(aligned.transpose(0, 3, 1, 2)),
        trust=np.rint(255 * trust).astype(np.uint8),
        scale=told,
        level=level,
    )
    for _ in range(settings.crops):
        yield _cut(whole, settings.crop, rng)


def _draw(settings: PoolSettings, rng: Generator) -> tuple[float, int, int]:
    """Draw the scale, the noise level that the network gets, and the level of the flaws."""
    scale = float(rng.choice(SCALES, p=SCALE_SHARES)) or float(rng.uniform(1.5, 8.0))
    if rng.random() < settings.flawed_share:
        level = int(rng.integers(*settings.levels))
        return scale, level, level
    mild = int(rng.integers(1, 25)) if rng.random() < settings.mild_share else 0
    return scale, 0, mild


def _shrunk(keys: Sequence[Image8], scale: float, rng: Generator) -> list[Image8]:
    height, width = keys[0].shape[:2]
    size = max(16, round(width / scale)), max(16, round(height / scale))
    kernel = KERNELS[int(rng.choice(len(KERNELS), p=KERNEL_SHARES))]
    return [np.array(Image.fromarray(key).resize(size, kernel)) for key in keys]


def _pixels(values: Field) -> NDArray[np.uint8]:
    """Convert values from [-1, 1] to 0 to 255."""
    return np.clip(np.rint((values + 1) * 127.5), 0, 255).astype(np.uint8)


def _cut(whole: Crop, side: int, rng: Generator) -> Crop:
    """Cut a random square; of two, the one with more detail."""
    height, width = whole.target.shape[1:]
    places = [
        (
            4 * int(rng.integers((height - side) // 4 + 1)),
            4 * int(rng.integers((width - side) // 4 + 1)),
        )
        for _ in range(2)
    ]
    top, left = max(places, key=lambda place: _detail(whole.target, place, side))

    def square(values: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
        rows, columns = (slice(at // step, (at + side) // step) for at in (top, left))
        return values[..., rows, columns]

    return dataclasses.replace(
        whole,
        target=square(whole.target, 1),
        hint=square(whole.hint, 1),
        aligned=square(whole.aligned, 2),
        trust=square(whole.trust, 4),
    )


def _detail(picture: NDArray[np.uint8], place: tuple[int, int], side: int) -> float:
    top, left = place
    green = picture[1, top : top + side : 2, left : left + side : 2].astype(np.int16)
    return float(np.abs(np.diff(green, axis=0)).mean())
