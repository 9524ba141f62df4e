"""Reading ahead and writing behind: order, bounds, errors, and no thread left."""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from venhancer.pipeline.queues import Behind, ahead, behind

SOON = 10.0  # seconds: the awaited events take milliseconds, unless something hangs


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Check after each test that the threads are those from before it."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


@pytest.fixture
def ctrl_c() -> Iterator[Callable[[float], object]]:
    """Raise KeyboardInterrupt in this thread, seconds later."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    yield partial(signal.setitimer, signal.ITIMER_REAL)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


class Source:
    """Counts 0, 1, ..., and records its progress and the threads in which it ran and closed."""

    def __init__(self, count: int, fails_at: int = -1, seconds: float = 0.0) -> None:
        self.count, self.fails_at, self.seconds = count, fails_at, seconds
        self.made = 0
        self.ran_in: set[int] = set()
        self.closed_in: int | None = None

    def __call__(self) -> Iterator[int]:
        try:
            for number in range(self.count):
                self.ran_in.add(threading.get_ident())
                time.sleep(self.seconds)
                if number == self.fails_at:
                    raise ValueError(f"item {number} is bad")
                self.made += 1
                yield number
        finally:
            self.closed_in = threading.get_ident()


class FullDisk:
    """Consumes items until one fails."""

    def __init__(self, fails_at: int, seconds: float = 0.0) -> None:
        self.fails_at, self.seconds = fails_at, seconds
        self.started: list[int] = []
        self.done: list[int] = []

    def __call__(self, number: int) -> None:
        self.started.append(number)
        time.sleep(self.seconds)
        if number == self.fails_at:
            raise OSError(28, "No space left on device")
        self.done.append(number)


def until(condition: Callable[[], bool]) -> None:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < SOON
        time.sleep(0.001)


@pytest.mark.parametrize("size", [1, 2, 7, 100])
@pytest.mark.parametrize("count", [0, 1, 50])
def test_ahead_gives_every_item_in_order(count: int, size: int) -> None:
    """All items come in order, for any number of items and any queue size."""
    with ahead(Source(count)(), size) as items:
        assert list(items) == list(range(count))
        assert list(items) == []


@pytest.mark.parametrize("size", [1, 3])
def test_ahead_runs_as_far_as_it_may(size: int) -> None:
    """At most `size` items are made ahead of the consumer, also before the first is taken."""
    source = Source(20)
    with ahead(source(), size) as items:
        until(lambda: source.made == size)
        for number in items:
            most = min(number + 1 + size, 20)
            until(lambda most=most: source.made == most)  # type: ignore[misc]
            time.sleep(0.002)
            assert source.made == most


def test_ahead_overlaps() -> None:
    """Ten items of 20 ms, each consumed in 20 ms, take less than two thirds of 400 ms."""
    start = time.monotonic()
    with ahead(Source(10, seconds=0.02)(), 2) as items:
        for _ in items:
            time.sleep(0.02)
    assert time.monotonic() - start < 0.27


def test_an_error_ahead_comes_where_the_item_would_have_come() -> None:
    """It comes after the good items, with its original traceback; then the iteration ends."""
    taken = []
    with ahead(Source(5, fails_at=2)(), 4) as items:
        with pytest.raises(ValueError, match="item 2 is bad") as caught:
            for item in items:
                taken.append(item)
        assert list(items) == []
    assert taken == [0, 1]
    assert any(f.name == "__call__" for f in traceback.extract_tb(caught.value.__traceback__))


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_leaving_early_closes_the_generator_in_its_thread(taken: int) -> None:
    """On a normal exit or an error, the generator stops and no thread remains."""
    for failure in (None, RuntimeError("the network failed")):
        source = Source(1000)
        try:
            with ahead(source(), 2) as items:
                until(lambda source=source: source.made > 0)  # type: ignore[misc]
                for _ in range(taken):
                    next(items)
                if failure is not None:
                    raise failure
        except RuntimeError as error:
            assert error is failure
        assert source.made <= taken + 2
        assert {source.closed_in} == source.ran_in != {threading.get_ident()}


def test_ahead_of_what_is_no_generator() -> None:
    """An iterator without `close` works too."""
    with ahead(iter("abc"), 2) as items:
        assert "".join(items) == "abc"


def test_ctrl_c_while_waiting_for_an_item(ctrl_c: Callable[[float], object]) -> None:
    """Ctrl-C interrupts the wait; the generator is closed when its item is done."""
    source = Source(3, seconds=0.3)
    with pytest.raises(KeyboardInterrupt), ahead(source(), 1) as items:
        ctrl_c(0.05)
        next(items)
    assert source.made <= 1
    assert source.closed_in is not None


def test_ahead_of_ahead() -> None:
    """One may read from the other, to the end or not."""
    first, second = Source(50), Source(50)
    with ahead(first(), 3) as inner, ahead((2 * n for n in inner), 2) as outer:
        assert list(outer) == list(range(0, 100, 2))
    with ahead(second(), 3) as inner, ahead((2 * n for n in inner), 2) as outer:
        assert next(outer) == 0
    assert second.closed_in is not None


def note(seen: list[tuple[int, int]], number: int) -> None:
    seen.append((number, threading.get_ident()))


@pytest.mark.parametrize("size", [1, 2, 100])
def test_behind_consumes_every_item_in_order(size: int) -> None:
    """One other thread consumes them, and all are consumed when the context ends."""
    seen: list[tuple[int, int]] = []
    with behind(partial(note, seen), size) as queue:
        for number in range(50):
            queue.put(number)
    assert [number for number, _ in seen] == list(range(50))
    assert len({thread for _, thread in seen} - {threading.get_ident()}) == 1


def test_behind_is_never_further_behind_than_it_may() -> None:
    """`put` waits while `size` items are not consumed."""
    disk = FullDisk(fails_at=-1, seconds=0.002)
    with behind(disk, 3) as queue:
        for number in range(30):
            queue.put(number)
            assert number + 1 - len(disk.done) <= 3


def test_flush_waits_for_all() -> None:
    """Afterwards everything is consumed, and more may come."""
    disk = FullDisk(fails_at=-1, seconds=0.005)
    with behind(disk, 10) as queue:
        queue.flush()
        for number in range(5):
            queue.put(number)
        queue.flush()
        assert disk.done == list(range(5))
        queue.put(5)
    assert disk.done == list(range(6))


def put_all(queue: Behind[int]) -> None:
    for number in range(100):
        queue.put(number)


def flush_some(queue: Behind[int]) -> None:
    for number in range(5):
        queue.put(number)
    queue.flush()


def only_leave(queue: Behind[int]) -> None:
    for number in range(5):
        queue.put(number)


@pytest.mark.parametrize("use", [put_all, flush_some, only_leave])
@pytest.mark.parametrize("seconds", [0.0, 0.005])
def test_an_error_behind_is_raised_by_the_next_call(
    use: Callable[[Behind[int]], None], seconds: float
) -> None:
    """The next `put` (even one that waits), `flush` or exit raises it; later items are dropped."""
    disk = FullDisk(fails_at=2, seconds=seconds)
    with pytest.raises(OSError, match="No space left") as caught, behind(disk, 5) as queue:
        use(queue)
    assert disk.started == [0, 1, 2]
    assert any(f.name == "__call__" for f in traceback.extract_tb(caught.value.__traceback__))


def test_an_error_behind_is_raised_once() -> None:
    """If it was caught, the exit raises nothing; but a later `put`, which would be lost, fails."""
    disk = FullDisk(fails_at=0)
    with behind(disk, 2) as queue:
        queue.put(0)
        with pytest.raises(OSError, match="No space left"):
            queue.flush()
        queue.flush()
        with pytest.raises(RuntimeError):
            queue.put(1)
    assert disk.started == [0]


def test_when_the_block_fails_what_waits_is_dropped() -> None:
    """The block's own error is raised as soon as the present item is done."""
    disk = FullDisk(fails_at=0, seconds=0.05)
    with pytest.raises(RuntimeError, match="network"), behind(disk, 10) as queue:
        for number in range(10):
            queue.put(number)
        until(lambda: bool(disk.started))
        raise RuntimeError("the network failed")
    assert disk.started == [0]


@pytest.mark.parametrize("size", [1, 5])
def test_ctrl_c_while_waiting_for_the_consumer(
    size: int, ctrl_c: Callable[[float], object]
) -> None:
    """Ctrl-C interrupts `put` and the wait at the end of the context."""
    disk = FullDisk(fails_at=-1, seconds=0.2)
    with pytest.raises(KeyboardInterrupt), behind(disk, size) as queue:
        ctrl_c(0.05)
        only_leave(queue)
    assert disk.started == [0]


def test_a_chain_stops_from_either_end() -> None:
    """If the reader or the writer fails, its error is raised and both threads end."""
    for source, disk, message in [
        (Source(100, fails_at=7), FullDisk(-1), "item 7 is bad"),
        (Source(100), FullDisk(7), "No space left"),
    ]:
        with (
            pytest.raises((ValueError, OSError), match=message),
            behind(disk, 2) as queue,
            ahead(source(), 2) as items,
        ):
            for item in items:
                queue.put(item)
        assert disk.started == list(range(len(disk.started)))
        assert source.closed_in is not None
