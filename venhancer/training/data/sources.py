"""Sources of true clips: folders of videos and photos, lists of clips, shards.

`--data` names any number of them; their kinds are detected:

- a folder: the videos and photos below it; a caption is a text file of the same name beside them;
- a JSONL file: one clip per line, {"video": PATH, "caption": TEXT, "start": SECONDS,
  "end": SECONDS}; only "video" is required; a path is relative to the file;
- a tar file, or a folder of them: WebDataset shards, see `venhancer.training.data.shards`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from venhancer.errors import OptionError
from venhancer.training.config import TrainingConfig
from venhancer.training.data import shards
from venhancer.training.data.augmentation import Generator, Take
from venhancer.training.data.latents import read_latents, read_text
from venhancer.training.data.media import WHOLE, Extent, Seconds, photo_clips, video_clips

VIDEOS = {".mp4", ".mkv", ".mov", ".webm", ".avi", ".mpg", ".m4v"}
PHOTOS = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True, slots=True)
class Sample:
    """A video, a photo, or a clip as latents: its place and its caption."""

    name: str
    media: Extent
    kind: Literal["video", "photo", "latents"] = "video"
    caption: str | Extent = ""
    span: Seconds = WHOLE
    text: Extent | None = None  # the caption, encoded
    weight: float = 1.0  # how often it is drawn, relative to the others

    def read_caption(self) -> str:
        """Read the caption, which may be empty."""
        if isinstance(self.caption, str):
            return self.caption
        return self.caption.read().decode(errors="replace").strip()

    def takes(self, config: TrainingConfig, rng: Generator) -> Iterator[Take]:
        """Read once and take clips; UnusableError where there is none."""
        caption = self.read_caption()
        text = None if self.text is None else read_text(self.text)
        if self.kind == "latents":
            target, hint, scale = read_latents(self.media, config, rng)
            yield Take(self.name, target, caption, text, hint, scale)
            return
        clips = (
            photo_clips(self.media, config, rng)
            if self.kind == "photo"
            else video_clips(self.media, self.span, config, rng)
        )
        for clip in clips:
            yield Take(self.name, clip, caption, text)


class Source:
    """Samples to draw from; photos are drawn separately from videos and latents.

    OptionError if some samples are latents and some are not.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        kinds = {sample.kind for sample in samples}
        if "latents" in kinds and len(kinds) > 1:
            raise OptionError(
                "some of the data are latents and some are not: prepare all of them with --latents"
            )
        self.samples = samples
        self.moving = _Pool([s for s in samples if s.kind != "photo"])
        self.photos = _Pool([s for s in samples if s.kind == "photo"])

    @property
    def has_captions(self) -> bool:
        """True if any sample has a caption."""
        return any(sample.read_caption() for sample in self.samples)

    def pick(self, config: TrainingConfig, rng: Generator) -> Sample:
        """Draw a sample at random; photos as often as config.photo_share says."""
        takes_photo = self.photos and rng.random() < config.photo_share
        return (self.photos if takes_photo or not self.moving else self.moving).pick(rng)


class _Pool:
    """Samples that are drawn as often as their weights say."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples
        self.edges = np.cumsum([sample.weight for sample in samples])

    def __len__(self) -> int:
        return len(self.samples)

    def pick(self, rng: Generator) -> Sample:
        place = np.searchsorted(self.edges, rng.random() * self.edges[-1], side="right")
        return self.samples[min(int(place), len(self.samples) - 1)]


def open_sources(paths: Sequence[Path]) -> Source:
    """Open all that `--data` names; OptionError where one is empty, damaged or of no known kind."""
    return Source([sample for path in paths for sample in _samples_of(path)])


def _samples_of(path: Path) -> list[Sample]:
    if path.is_dir():
        tars = sorted(path.glob("*.tar"))
        return [s for tar in tars for s in read_shard(tar)] if tars else find_media(path)
    if not path.is_file():
        raise OptionError(f"there is no {path} to take data from")
    if path.suffix.lower() == ".tar":
        return read_shard(path)
    if path.suffix.lower() == ".jsonl":
        return read_list(path)
    raise OptionError(f"{path} is neither a folder nor a .jsonl list nor a .tar shard")


def find_media(folder: Path) -> list[Sample]:
    """Find all videos and photos below a folder, weighted by the root of their sizes in bytes.

    So long videos are drawn more often, but short ones are drawn too.
    """
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    samples = [
        *_by_size([f for f in files if f.suffix.lower() in VIDEOS], "video"),
        *_by_size([f for f in files if f.suffix.lower() in PHOTOS], "photo"),
    ]
    if not samples:
        raise OptionError(f"no video and no photo below {folder}: run `make data`, or name others")
    return samples


def _by_size(files: list[Path], kind: Literal["video", "photo"]) -> Iterator[Sample]:
    roots = [math.sqrt(file.stat().st_size) for file in files]
    mean = (sum(roots) / len(roots) if roots else 0.0) or 1.0
    for file, root in zip(files, roots, strict=True):
        yield sample_of(file, kind, root / mean)


def sample_of(file: Path, kind: Literal["video", "photo"], weight: float = 1.0) -> Sample:
    """Make a sample of a file, with the caption beside it."""
    sidecar = file.with_suffix(".txt")
    caption = Extent(sidecar) if sidecar.is_file() else ""
    return Sample(str(file), Extent(file), kind, caption, weight=weight)


def read_list(path: Path) -> list[Sample]:
    """Read the clips that a JSONL file names; OptionError names a line that cannot be read."""
    lines = path.read_text(encoding="utf-8").splitlines()
    samples = [_listed(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]
    if not samples:
        raise OptionError(f"{path} names no clip")
    return samples


def _listed(line: str, path: Path, number: int) -> Sample:
    try:
        fields: dict[str, Any] = json.loads(line)
        start, end = float(fields.get("start") or 0.0), fields.get("end")
        span = (start, math.inf if end is None else float(end))
        video = path.parent / str(fields["video"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OptionError(
            f'{path}, line {number}: expected {{"video": PATH, "caption": TEXT}}, perhaps with '
            f'"start" and "end" in seconds: {error}'
        ) from error
    name = str(video) if span == WHOLE else f"{video} from {start:g} s"
    return Sample(name, Extent(video), caption=str(fields.get("caption") or "").strip(), span=span)


def read_shard(path: Path) -> list[Sample]:
    """Read the samples of a shard; those with latents are read as latents."""
    samples = []
    for key, members in shards.index_shard(path).items():
        latents = members.get(shards.LATENTS)
        media = latents or shards.video_of(members)
        if media is not None:
            sample = Sample(
                name=f"{path}/{key}",
                media=media,
                kind="latents" if latents else "video",
                caption=members.get(shards.CAPTION, ""),
                text=members.get(shards.TEXT),
            )
            samples.append(sample)
    if not samples:
        raise OptionError(f"shard {path} has no sample with a video or latents")
    return samples
