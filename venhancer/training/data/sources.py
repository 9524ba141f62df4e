"""Where true clips come from: folders of videos and photos, lists of clips, shards.

`--data` names any number of them, and what each is shows by itself:

- a folder: the videos and photos below it; a caption is a text file of the same name beside them;
- a JSONL file: a clip a line, {"video": PATH, "caption": TEXT, "start": SECONDS, "end": SECONDS},
  of which only "video" must be there; a path is relative to the file;
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
from venhancer.training.data import shards
from venhancer.training.data.augmentation import Generator, Take
from venhancer.training.config import TrainingConfig
from venhancer.training.data.latents import read_latents, read_text
from venhancer.training.data.media import WHOLE, Extent, Span, photo_clips, video_clips

VIDEOS = {".mp4", ".mkv", ".mov", ".webm", ".avi", ".mpg", ".m4v"}
PHOTOS = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True, slots=True)
class Sample:
    """A video, a photo, or a clip as latents: where it lies, and what is said of it."""

    name: str
    media: Extent
    kind: Literal["video", "photo", "latents"] = "video"
    caption: str | Extent = ""
    span: Span = WHOLE
    text: Extent | None = None  # the caption, encoded
    weight: float = 1.0  # how often it is drawn, beside the others

    def read_caption(self) -> str:
        """What is said of it, or nothing."""
        if isinstance(self.caption, str):
            return self.caption
        return self.caption.read().decode(errors="replace").strip()

    def takes(self, config: TrainingConfig, rng: Generator) -> Iterator[Take]:
        """Clips out of one reading; UnusableError where it gives none."""
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
    """Samples to draw from, photos apart from what moves.

    OptionError: there is none, or some are latents and some are not.
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
        """Whether anything is said of any sample."""
        return any(sample.read_caption() for sample in self.samples)

    def pick(self, config: TrainingConfig, rng: Generator) -> Sample:
        """One at random; photos as often as config.photo_share says."""
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
    """All that `--data` names; OptionError where it is empty, damaged or none of the three."""
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
    """All videos and photos below a folder, drawn by the root of their sizes in bytes.

    So long ones come more often, and short ones still count.
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
    """A file with the caption that lies beside it."""
    sidecar = file.with_suffix(".txt")
    caption = Extent(sidecar) if sidecar.is_file() else ""
    return Sample(str(file), Extent(file), kind, caption, weight=weight)


def read_list(path: Path) -> list[Sample]:
    """The clips that a JSONL file names; OptionError tells the line that cannot be understood."""
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
    """The samples of a shard; those with latents are read as latents."""
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
