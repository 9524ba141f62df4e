"""Reading ahead, writing behind, handing on: bounded queues, so that files and networks overlap.

Each is a context with one thread of its own, which is joined on every way out: at the end, by an
error, by Ctrl-C. Waiting can be interrupted; the one item that the thread is at is finished.
`torch.inference_mode` and its like do not reach into the threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    """`items`, run by a thread that is at most `size` of them ahead of whoever takes them.

    An error of `items` is raised where the item would have come. A generator is closed in the
    thread that ran it, as decoders want it.
    """
    worker: _Worker[list[T]] = _Worker(getattr(items, "close", _do_nothing))
    with worker.running("ahead"):
        for _ in range(size):
            worker.ask(partial(_pull, items))
        yield _taken(items, worker)


def _pull(items: Iterator[T]) -> list[T]:
    """The next item, or nothing at the end."""
    return list(islice(items, 1))


def _taken(items: Iterator[T], worker: _Worker[list[T]]) -> Iterator[T]:
    while item := worker.answer():
        worker.ask(partial(_pull, items))
        yield item.pop()


@contextmanager
def behind(consume: Callable[[T], None], size: int) -> Iterator[Behind[T]]:
    """Call `consume` on a thread that is at most `size` items behind whoever puts them.

    The context ends when all are consumed; if its block fails, those that wait are dropped.
    """
    worker: _Worker[None] = _Worker(_do_nothing)
    with worker.running("behind"):
        queue = Behind(consume, size, worker)
        yield queue
        queue.flush()


class Behind(Generic[T]):
    """Takes items for a thread to consume in order; made by `behind`.

    An error of the thread is raised once, by the next `put`, `flush` or the end of the context.
    The items after the one that failed are not consumed, and more are refused.
    """

    def __init__(self, consume: Callable[[T], None], size: int, worker: _Worker[None]) -> None:
        self._consume, self._size, self._worker = consume, size, worker
        self._under_way = 0
        self._is_broken = False

    def put(self, item: T) -> None:
        """Hand over an item; waits while `size` others are not yet consumed."""
        self._wait(self._size - 1)
        if self._is_broken:
            raise RuntimeError("an item before this one could not be consumed")
        self._worker.ask(partial(self._consume, item))
        self._under_way += 1

    def flush(self) -> None:
        """Wait until every item is consumed."""
        self._wait(0)

    def _wait(self, left: int) -> None:
        """Until at most `left` items are not yet consumed."""
        while not self._is_broken and (self._under_way > left or self._worker.has_answer()):
            try:
                self._worker.answer()
            except BaseException:
                self._is_broken = True
                raise
            self._under_way -= 1


@contextmanager
def handed_on(work: Callable[[Callable[[T], None]], None], size: int) -> Iterator[Iterator[T]]:
    """Run `work` on a thread; the items that it gives can be iterated over, `size` early at most.

    An error of `work` is raised where the next item would have come. When the context ends before
    `work` does, giving the next item raises `Cancelled` in it.
    """
    permits: SimpleQueue[bool] = SimpleQueue()
    made: SimpleQueue[T | _Failure | _End] = SimpleQueue()
    for _ in range(size):
        permits.put(True)

    def give(item: T) -> None:
        if not permits.get():
            raise Cancelled("nobody takes the rest")
        made.put(item)

    def run() -> None:
        try:
            work(give)
        except BaseException as error:
            made.put(_Failure(error))
        else:
            made.put(_End())

    thread = Thread(target=run, name="handed on", daemon=True)
    thread.start()
    try:
        yield _received(made, permits)
    finally:
        for _ in range(size + 1):
            permits.put(False)
        thread.join()


def _received(made: SimpleQueue[T | _Failure | _End], permits: SimpleQueue[bool]) -> Iterator[T]:
    while not isinstance(item := made.get(), _End):
        if isinstance(item, _Failure):
            raise item.error
        permits.put(True)
        yield item


class _End:
    """Stands behind the last item."""


@dataclass(frozen=True, slots=True)
class _Failure:
    error: BaseException


class _Worker(Generic[T]):
    """Does jobs one after the other on a thread, until one of them fails.

    It keeps to SimpleQueue: the other queues, executors and events of Python hold locks that a
    Ctrl-C at the wrong moment leaves locked.
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
        """What the next job returned; what it raised is raised here."""
        assert not self._is_stopped, "used after the end of its context"
        answer = self._answers.get()
        if isinstance(answer, _Failure):
            try:
                raise answer.error
            finally:
                del answer  # or the error would hold this frame, which holds the error
        return answer

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        # a daemon only so that a second Ctrl-C, in the midst of stopping, can end the program
        thread = Thread(target=self._run, name=name, daemon=True)
        try:
            thread.start()
            yield
        finally:
            self._is_stopped = True
            self._jobs.put(None)  # to wake it
            if thread.is_alive():
                thread.join()

    def _run(self) -> None:
        try:
            while self._do_next():
                pass
        finally:
            self._close()

    def _do_next(self) -> bool:
        """Do a job, and forget it; whether there may be another."""
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
