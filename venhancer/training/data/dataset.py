"""Endless micro-batches in random order, the same after a resume as without an interruption.

A stream is what one worker of one rank gives. It is made of blocks, each drawn from a generator of
its own, shuffled, and dealt out as micro-batches; the crops of one decode are thereby spread over
many. A resumed stream passes over whole blocks without decoding anything.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from itertools import islice

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from venhancer.config import Upsampling
from venhancer.errors import OptionError
from venhancer.training.data.augmentation import Batch, Generator, Take, make_batch
from venhancer.training.config import TrainingConfig
from venhancer.training.data.media import UnusableError
from venhancer.training.data.sources import Source

BLOCK_DECODES = 16  # in a block, where a decode gives several clips
PATIENCE = 200  # samples drawn in a row without a single clip
DRAWS, SHUFFLES, BATCHES = 0, 1, 2  # what a generator is for


class Clips(IterableDataset[Batch]):
    """Micro-batches of degraded clips, config.micro_batch in each.

    rank, world: which of how many processes. origin: the update at which this arrangement of
    processes and workers began; part of every seed. position: micro-batches that this rank has
    taken since then, of all its workers together. needs_text: the model is told captions.

    The k-th micro-batch of a stream depends on config.seed, origin, rank, world, worker, workers
    and k only. `DataLoader(clips, batch_size=None, num_workers=W)` takes from its workers in turn,
    so its sequence is the same wherever it is resumed.
    OptionError: captions are needed and there is none; while iterating, nothing gives a clip.
    """

    def __init__(  # noqa: PLR0913  what a stream depends on
        self,
        source: Source,
        config: TrainingConfig,
        upsampling: Upsampling = "bilinear",
        *,
        rank: int = 0,
        world: int = 1,
        origin: int = 0,
        position: int = 0,
        needs_text: bool = False,
    ) -> None:
        if needs_text and not source.has_captions:
            raise OptionError(
                "this model learns from captions, and no sample has one: write a .txt beside each "
                "video, or name a .jsonl with captions"
            )
        self.source = source
        self.config = config
        self.upsampling = upsampling
        self.rank, self.world = rank, world
        self.origin, self.position = origin, position

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        turn = self.position + worker  # the first worker goes on where the sequence stopped
        seed = (self.config.seed, self.origin, self.rank, self.world, turn % workers, workers)
        stream = _Stream(self.source, self.config, self.upsampling, seed)
        begin = time.perf_counter()
        for batch in stream.batches(turn // workers):
            seconds = time.perf_counter() - begin
            yield dataclasses.replace(batch, skipped=stream.news(), seconds=seconds)
            begin = time.perf_counter()


class _Stream:
    """Micro-batches of one worker; `seed` tells it from all others."""

    def __init__(
        self,
        source: Source,
        config: TrainingConfig,
        upsampling: Upsampling,
        seed: tuple[int, ...],
    ) -> None:
        self.source, self.config, self.upsampling, self.seed = source, config, upsampling, seed
        self.skipped: dict[str, str] = {}  # why, by name
        self.told = 0

    def batches(self, first: int) -> Iterator[Batch]:
        """From the `first` on. The next block is drawn while this one is dealt out."""
        size, count = self.config.micro_batch, self.block_batches
        block, done = divmod(first, count)
        drawn = list(self.draw(block))
        while True:
            takes = self.shuffled(drawn, block)
            drawing, drawn = self.draw(block + 1), []
            for n in range(done, count):
                rng = self.generator(BATCHES, block * count + n)
                dealt = takes[n * size : (n + 1) * size]
                yield make_batch(dealt, self.config, self.upsampling, rng)
                drawn += islice(drawing, size)
            drawn += drawing  # what passing over batches has left
            block, done = block + 1, 0

    @property
    def block_batches(self) -> int:
        """Micro-batches of a block: one where every clip is a decode of its own."""
        clips = self.config.clips_a_decode
        return 1 if clips == 1 else -(-BLOCK_DECODES * clips // self.config.micro_batch)

    def draw(self, block: int) -> Iterator[Take]:
        """All clips of a block."""
        clips = self.endless(self.generator(DRAWS, block))
        return islice(clips, self.block_batches * self.config.micro_batch)

    def endless(self, rng: Generator) -> Iterator[Take]:
        """Passes over what cannot be used; OptionError where nothing can."""
        barren = 0
        while barren < PATIENCE:
            sample = self.source.pick(self.config, rng)
            barren += 1
            try:
                for take in sample.takes(self.config, rng):
                    barren = 0
                    yield take
            except UnusableError as reason:
                self.skipped.setdefault(sample.name, str(reason))
        width, height = self.config.crop
        raise OptionError(
            f"no clip of {width}x{height} and {self.config.longest} frames to be had, last from "
            f"{sample.name} ({self.skipped.get(sample.name, 'cuts everywhere')}): take larger or "
            "longer videos, or photos four times that size"
        )

    def shuffled(self, takes: list[Take], block: int) -> list[Take]:
        order = self.generator(SHUFFLES, block).permutation(len(takes))
        return [takes[n] for n in order]

    def generator(self, purpose: int, index: int) -> Generator:
        return np.random.default_rng([*self.seed, purpose, index])

    def news(self) -> tuple[str, ...]:
        """What was given up since this was last asked, and why; each name once."""
        lines = [f"{name}: {reason}" for name, reason in self.skipped.items()][self.told :]
        self.told += len(lines)
        return tuple(lines)
