"""Preparation of films: found, cut into clips by many processes, and collected in shards."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch

from venhancer.errors import OptionError
from venhancer.training.data import shards
from venhancer.training.data.media import Seconds
from venhancer.training.data.sources import VIDEOS, Sample, find_media, read_list, sample_of
from venhancer.training.prepare.cutting import Film, FilmPlan, Made, Rules, make_clip, plan_film
from venhancer.training.prepare.latents import LatentMaker
from venhancer.training.prepare.shard_writer import REPORT, ShardFolder, write_json

T = TypeVar("T")
Show = Callable[[str], None]


def find_films(paths: Sequence[Path]) -> list[Film]:
    """Find videos in files, folders and .jsonl lists; OptionError where there is none."""
    samples = [sample for path in paths for sample in _samples_of(path)]
    wanted: dict[Path, list[tuple[Seconds, str]]] = {}
    for sample in samples:
        if sample.kind == "video":
            wanted.setdefault(sample.media.path, []).append((sample.span, sample.read_caption()))
    if not wanted:
        raise OptionError(f"no video among {', '.join(map(str, paths))}")
    return [Film(path, tuple(spans)) for path, spans in wanted.items()]


def _samples_of(path: Path) -> list[Sample]:
    if path.is_dir():
        return find_media(path)
    if not path.is_file():
        raise OptionError(f"there is no {path} to prepare")
    if path.suffix.lower() == ".jsonl":
        return read_list(path)
    if path.suffix.lower() in VIDEOS:
        return [sample_of(path, "video")]
    raise OptionError(f"{path} is neither a video nor a folder nor a .jsonl list")


def prepare(
    films: Sequence[Film],
    folder: ShardFolder,
    rules: Rules,
    maker: LatentMaker | None = None,
    *,
    workers: int = 1,
    show: Show = lambda line: None,
) -> dict[str, Any]:
    """Fill the folder, or continue to fill it, and return the report that is written there."""
    left = _left(films, folder)
    done = {folder.begun.name: folder.begun.pieces} if folder.begun else {}
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for made in _work(pool, left, rules, done, workers):
            if isinstance(made, FilmPlan):
                folder.end_film(made.film, list(made.left_out))
                show(f"{made.film}: {folder.films[made.film].kept} clips")
            elif made.left_out:
                folder.leave_out(made.left_out)
            else:
                _keep(folder, made, maker)
    folder.close()
    report = summary(folder)
    write_json(folder.folder / REPORT, report)
    return report


def _left(films: Sequence[Film], folder: ShardFolder) -> list[Film]:
    """List the films that are still to be done; one that was begun comes first."""
    begun = folder.begun.name if folder.begun else None
    if begun is not None and all(film.name != begun for film in films):
        folder.end_film(begun, [])  # it is no longer asked for
    left = [film for film in films if film.name not in folder.films]
    return sorted(left, key=lambda film: film.name != begun)


def _work(
    pool: ProcessPoolExecutor,
    films: Sequence[Film],
    rules: Rules,
    done: dict[str, int],
    workers: int,
) -> Iterator[Made | FilmPlan]:
    """Iterate over clips in the order of their films; each film's plan follows its clips."""
    plans = in_order((pool.submit(plan_film, film, rules) for film in films), workers)

    def futures() -> Iterator[Future[Any]]:
        for plan in plans:
            for piece in plan.pieces[done.get(plan.film, 0) :]:
                yield pool.submit(make_clip, piece, rules)
            end: Future[FilmPlan] = Future()
            end.set_result(plan)
            yield end

    return in_order(futures(), 2 * workers)


def in_order(futures: Iterable[Future[T]], ahead: int) -> Iterator[T]:
    """Iterate over results in order; at most `ahead` futures are started in advance."""
    waiting: deque[Future[T]] = deque()
    for future in futures:
        waiting.append(future)
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    yield from (future.result() for future in waiting)


def _keep(folder: ShardFolder, made: Made, maker: LatentMaker | None) -> None:
    members = {
        "mp4": made.video,
        shards.CAPTION: made.piece.caption.encode(),
        "json": json.dumps(made.facts).encode(),
    }
    if maker is not None:
        members |= maker.members(made.video, made.piece.caption, folder.clips)
    folder.keep(made.piece.film, made.piece.end - made.piece.start, members)


def summary(folder: ShardFolder) -> dict[str, Any]:
    """Count what was kept and left out, by reason, and list what was left out."""
    records = folder.records()
    items = [item for record in records for item in record.left_out]
    return {
        "films": len(records),
        "kept": sum(record.kept for record in records),
        "seconds": round(math.fsum(record.seconds for record in records), 3),
        "shards": folder.shards,
        "left_out": dict(sorted(collections.Counter(item.reason for item in items).items())),
        "list": [dataclasses.asdict(item) for item in items],
    }
