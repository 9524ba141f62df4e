"""Endless micro-batches in random order, the same after a resume as without an interruption.

A stream is the output of one worker of one rank. It consists of blocks; each is drawn with its own
random generator, shuffled, and divided into micro-batches. So the crops of one decoded run of
frames are spread over many micro-batches. A resumed stream skips whole blocks without decoding.
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
from venhancer.training.config import TrainingConfig
from venhancer.training.data.augmentation import Batch, Generator, Take, make_batch
from venhancer.training.data.media import UnusableError
from venhancer.training.data.sources import Source

BLOCK_DECODES = 16  # decoded runs in a block, where a run gives several clips
PATIENCE = 200  # samples in a row that give no clip, before an error
DRAWS, SHUFFLES, BATCHES = 0, 1, 2  # purposes of generators


class Clips(IterableDataset[Batch]):
    """Micro-batches of degraded clips, config.micro_batch in each.

    rank, world: number of this process, and of all. origin: the update at which this arrangement
    of processes and workers began; part of every seed. position: micro-batches that this rank has
    taken since then, from all its workers together. needs_text: the model uses captions.

    The k-th micro-batch of a stream depends on config.seed, origin, rank, world, worker, workers
    and k only. `DataLoader(clips, batch_size=None, num_workers=W)` takes from its workers in turn,
    so its sequence is the same wherever it is resumed.
    OptionError if captions are needed and there is none; while iterating, if nothing gives a clip.
    """

    def __init__(  # noqa: PLR0913  a stream depends on all of these
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
        turn = self.position + worker  # the first worker continues where the sequence stopped
        seed = (self.config.seed, self.origin, self.rank, self.world, turn % workers, workers)
        stream = _Stream(self.source, self.config, self.upsampling, seed)
        begin = time.perf_counter()
        for batch in stream.batches(turn // workers):
            seconds = time.perf_counter() - begin
            yield dataclasses.replace(batch, skipped=stream.news(), seconds=seconds)
            begin = time.perf_counter()


class _Stream:
    """Micro-batches of one worker; `seed` is different for every worker."""

    def __init__(
        self,
        source: Source,
        config: TrainingConfig,
        upsampling: Upsampling,
        seed: tuple[int, ...],
    ) -> None:
        self.source, self.config, self.upsampling, self.seed = source, config, upsampling, seed
        self.skipped: dict[str, str] = {}  # reasons, by name
        self.told = 0

    def batches(self, first: int) -> Iterator[Batch]:
        """Iterate from batch `first` on; the next block is drawn while this one is given out."""
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
            drawn += drawing  # the clips that skipped batches did not draw
            block, done = block + 1, 0

    @property
    def block_batches(self) -> int:
        """Number of micro-batches in a block: one, if every clip is decoded by itself."""
        clips = self.config.clips_a_decode
        return 1 if clips == 1 else -(-BLOCK_DECODES * clips // self.config.micro_batch)

    def draw(self, block: int) -> Iterator[Take]:
        """Draw all clips of a block."""
        clips = self.endless(self.generator(DRAWS, block))
        return islice(clips, self.block_batches * self.config.micro_batch)

    def endless(self, rng: Generator) -> Iterator[Take]:
        """Draw clips without end, skipping unusable samples; OptionError where all are unusable."""
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
            f"no clip of {width}x{height} and {self.config.longest} frames was found, last try: "
            f"{sample.name} ({self.skipped.get(sample.name, 'cuts everywhere')}): take larger or "
            "longer videos, or photos four times that size"
        )

    def shuffled(self, takes: list[Take], block: int) -> list[Take]:
        order = self.generator(SHUFFLES, block).permutation(len(takes))
        return [takes[n] for n in order]

    def generator(self, purpose: int, index: int) -> Generator:
        return np.random.default_rng([*self.seed, purpose, index])

    def news(self) -> tuple[str, ...]:
        """List files given up since the last call, with reasons; each name once."""
        lines = [f"{name}: {reason}" for name, reason in self.skipped.items()][self.told :]
        self.told += len(lines)
        return tuple(lines)
