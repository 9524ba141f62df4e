"""Bounded queues to read ahead, write behind and hand on, so that files and networks overlap.

Each is a context with one thread of its own, which is joined however the context ends: normally, by
an error, by Ctrl-C. Waiting can be interrupted; the item that the thread works on is finished.
`torch.inference_mode` and similar modes do not apply in the threads.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from queue import SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

from venhancer.errors import Cancelled

T = TypeVar("T")


@contextmanager
def ahead(items: Iterator[T], size: int) -> Iterator[Iterator[T]]:
    """Iterate over `items` in a thread that is at most `size` of them ahead of the consumer.

    An error of `items` is raised in place of the item. A generator is closed in the thread that ran
    it, as decoders require.
    """
    worker: _Worker[list[T]] = _Worker(partial(close, items))
    with worker.running("ahead"):
        for _ in range(size):
            worker.ask(partial(_pull, items))
        yield _taken(items, worker)


def close(items: object) -> None:
    """Close a generator, and with it the file that it reads; other iterators hold nothing open."""
    if isinstance(items, Generator):
        items.close()


def _pull(items: Iterator[T]) -> list[T]:
    """Take the next item, or none at the end."""
    return list(islice(items, 1))


def _taken(items: Iterator[T], worker: _Worker[list[T]]) -> Iterator[T]:
    while item := worker.answer():
        worker.ask(partial(_pull, items))
        yield item.pop()


@contextmanager
def behind(consume: Callable[[T], None], size: int) -> Iterator[Behind[T]]:
    """Call `consume` in a thread that is at most `size` items behind the producer.

    The context ends when all items are consumed; if its block fails, waiting items are dropped.
    """
    worker: _Worker[None] = _Worker(_do_nothing)
    with worker.running("behind"):
        queue = Behind(consume, size, worker)
        yield queue
        queue.flush()


class Behind(Generic[T]):
    """Queue of items that a thread consumes in order; made by `behind`.

    An error of the thread is raised once, by the next `put` or `flush` or at the end of the
    context. The items after the one that failed are not consumed, and new ones are refused.
    """

    def __init__(self, consume: Callable[[T], None], size: int, worker: _Worker[None]) -> None:
        self._consume, self._size, self._worker = consume, size, worker
        self._under_way = 0
        self._is_broken = False

    def put(self, item: T) -> None:
        """Hand over an item; wait while `size` others are not yet consumed."""
        self._wait(self._size - 1)
        if self._is_broken:
            raise RuntimeError("an item before this one could not be consumed")
        self._worker.ask(partial(self._consume, item))
        self._under_way += 1

    def flush(self) -> None:
        """Wait until every item is consumed."""
        self._wait(0)

    def _wait(self, left: int) -> None:
        """Wait until at most `left` items are not yet consumed."""
        while not self._is_broken and (self._under_way > left or self._worker.has_answer()):
            try:
                self._worker.answer()
            except BaseException:
                self._is_broken = True
                raise
            self._under_way -= 1


class Giver(Generic[T]):
    """Giver of items to the thread that iterates over them; made by `handed_on`."""

    def __init__(self, size: int) -> None:
        self.made: SimpleQueue[T | _Failure | _End] = SimpleQueue()
        self._permits: SimpleQueue[None] = SimpleQueue()
        self._is_stopped = False
        for _ in range(size):
            self.permit()

    def __call__(self, item: T) -> None:
        """Give one item; wait while enough others are not yet taken."""
        self._permits.get()
        self.check()
        self.made.put(item)

    def check(self) -> None:
        """Raise `Cancelled` if the iterating side has ended."""
        if self._is_stopped:
            raise Cancelled("nobody takes the rest")

    def permit(self) -> None:
        """Let one more item be given."""
        self._permits.put(None)

    def stop(self) -> None:
        """Make the next item, or the next `check`, raise `Cancelled`."""
        self._is_stopped = True
        self.permit()


@contextmanager
def handed_on(work: Callable[[Giver[T]], None], size: int) -> Iterator[Iterator[T]]:
    """Run `work` in a thread and iterate over its items; it is at most `size` items ahead.

    An error of `work` is raised in place of the next item. If the context ends before `work` does,
    `Cancelled` is raised in `work`, when it gives the next item or calls `check`.
    """
    giver: Giver[T] = Giver(size)

    def run() -> None:
        try:
            work(giver)
        except BaseException as error:
            giver.made.put(_Failure(error))
        else:
            giver.made.put(_End())

    thread = Thread(target=run, name="handed on", daemon=True)
    thread.start()
    try:
        yield _received(giver)
    finally:
        giver.stop()
        thread.join()


def _received(giver: Giver[T]) -> Iterator[T]:
    while not isinstance(item := giver.made.get(), _End):
        if isinstance(item, _Failure):
            try:
                raise item.error
            finally:
                del item  # breaks a reference cycle: the error holds this frame
        giver.permit()
        yield item


class _End:
    """Marker after the last item."""


@dataclass(frozen=True, slots=True)
class _Failure:
    error: BaseException


class _Worker(Generic[T]):
    """Worker that runs jobs in order in a thread, until one of them fails.

    It uses only SimpleQueue: Python's other queues, executors and events hold locks that a Ctrl-C
    at the wrong moment leaves locked.
    """

    def __init__(self, close: Callable[[], None]) -> None:
        self._close = close
        self._jobs: SimpleQueue[Callable[[], T] | None] = SimpleQueue()
        self._answers: SimpleQueue[T | _Failure] = SimpleQueue()
        self._is_stopped = False

    def ask(self, job: Callable[[], T]) -> None:
        self._jobs.put(job)

    def has_answer(self) -> bool:
        return not self._answers.empty()

    def answer(self) -> T:
        """Return the result of the next job, or raise its error."""
        assert not self._is_stopped, "used after the end of its context"
        answer = self._answers.get()
        if isinstance(answer, _Failure):
            try:
                raise answer.error
            finally:
                del answer  # breaks a reference cycle: the error holds this frame
        return answer

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        # a daemon thread, so that a second Ctrl-C while it is joined can end the program
        thread = Thread(target=self._run, name=name, daemon=True)
        try:
            thread.start()
            yield
        finally:
            self._is_stopped = True
            self._jobs.put(None)  # wakes the thread
            if thread.is_alive():
                thread.join()

    def _run(self) -> None:
        try:
            while self._do_next():
                pass
        finally:
            self._close()

    def _do_next(self) -> bool:
        """Run one job and drop it; False if it was the last one."""
        job = self._jobs.get()
        if job is None or self._is_stopped:
            return False
        try:
            self._answers.put(job())
        except BaseException as error:
            self._answers.put(_Failure(error))
            return False
        return True


def _do_nothing() -> None:
    return None
