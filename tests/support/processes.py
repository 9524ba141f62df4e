"""Runs in processes of their own, which may end at any moment.

They are forked from a server that has done nothing yet: a fork of the test's own process would lack
the threads that OpenCV has started there, and wait for them forever.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

import torch

from venhancer_rt import journal, progress
from venhancer_rt.cli import main

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["torch", "venhancer.pipeline.run", "venhancer_rt.backends", "venhancer_rt.cli"]
)
LIMIT = 120.0  # seconds


def exit_code(function: Callable[..., object], *args: object) -> int:
    """Run `function` in a process -> minus its ending signal's number, else its exit code."""
    process = FORKS.Process(target=_begin, args=(torch.get_num_threads(), function, *args))
    process.start()
    process.join(LIMIT)
    if process.is_alive():
        process.kill()
        raise TimeoutError(f"{function.__name__} did not end within {LIMIT:g} seconds")
    assert process.exitcode is not None
    return process.exitcode


def _begin(threads: int, function: Callable[..., object], *args: object) -> None:
    """Use the test's number of threads: with another, sums come out in another order."""
    torch.set_num_threads(threads)
    function(*args)


class DiesAt:
    """A progress bar that kills its process at the call of this number."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def __call__(self, *_: Any) -> None:
        self.calls -= 1
        if self.calls == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def __enter__(self) -> DiesAt:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def run_and_die(words: list[str], calls: int) -> int:
    """Kill a run that keeps every state at the given call -> the signal that ended it."""
    return max(0, -exit_code(_run, words, calls))


def _run(words: list[str], calls: int) -> None:
    keep_every_state()
    progress.Bar = lambda: DiesAt(calls)  # type: ignore[assignment,misc]
    os._exit(main(words))


def keep_every_state() -> None:
    """Make every state due, whatever its time and cost."""
    journal.SHORTEST_WAIT = 0.0
    journal.SHARE = 1e9
