"""Work in processes of its own, timed in turns.

Neither memory nor an allocator's settings are shared, and what slows the machine for a while slows
all of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmarks.machine import ROOT
from benchmarks.timing import Work, seconds_of

CHILD = "--child"
MARK = "@turns "  # of the lines that are answers: libraries print too


class WorkerError(Exception):
    """A process could not do its work; the message says why."""


class Worker:
    """A process that has prepared some work and does it when asked."""

    def __init__(
        self, module: str, task: Mapping[str, Any], variables: Mapping[str, str] | None = None
    ) -> None:
        """variables: of its environment, besides those of this process"""
        command = [sys.executable, "-m", module, CHILD, json.dumps(task)]
        pipe, environment = subprocess.PIPE, {**os.environ, **(variables or {})}
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT, env=environment
        )
        try:
            self.told = self._answer()
        except WorkerError:
            self.close()
            raise

    def turn(self) -> float:
        """Seconds of the work, done once more."""
        assert self._process.stdin is not None
        try:
            print(file=self._process.stdin, flush=True)
        except BrokenPipeError as error:
            raise WorkerError(f"ended with {self._process.wait()}") from error
        return float(self._answer()["seconds"])

    def close(self) -> None:
        """End the process, which gives back all that it held."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                answer: dict[str, Any] = json.loads(line.removeprefix(MARK))
                if "failed" in answer:
                    raise WorkerError(answer["failed"])
                return answer
        raise WorkerError(f"ended with {self._process.wait()}")


def given_task() -> dict[str, Any] | None:
    """What this process is to do as a worker; None if it is none."""
    return json.loads(sys.argv[2]) if sys.argv[1:2] == [CHILD] else None


def serve(prepare: Callable[[], tuple[Work, Mapping[str, Any]]], device: str) -> None:
    """What a worker's process does: prepare, tell of it, then work once for each line read."""
    try:
        work, told = prepare()
        make_room(device)
        _say(told)
        for _ in sys.stdin:
            _say({"seconds": _turn(work, device)})
    except Exception as error:  # of any kind: those beside it go on
        _say({"failed": reason(error)})


def reason(error: Exception) -> str:
    """Its kind, and the first line of what it says."""
    said = (str(error).strip() or "no reason given").splitlines()[0]
    return f"{type(error).__name__}: {said[:200]}"


def _turn(work: Work, device: str) -> float:
    """On a card after once that does not count: between turns its memory was the others'."""
    if device == "cuda":
        work()
    seconds = seconds_of(work, device)
    make_room(device)
    return seconds


def make_room(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()


def _say(answer: Mapping[str, Any]) -> None:
    print(f"{MARK}{json.dumps(answer)}", flush=True)


class Turns(Protocol):
    """What can do its work once more."""

    def turn(self) -> float:
        """Seconds that it took."""


def in_turns(workers: Mapping[str, Turns], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, once a round, every other round in reverse."""
    taken: dict[str, list[float]] = {name: [] for name in workers}
    for number in range(rounds):
        for name in list(workers)[:: -1 if number % 2 else 1]:
            taken[name].append(workers[name].turn())
    return taken


class Memory:
    """What this process takes from here on: of a card, or of the machine."""

    def __init__(self, device: str) -> None:
        self._is_cuda = device == "cuda"
        self._before = _lost() if self._is_cuda else _resident("VmRSS")

    def forget_peak(self) -> None:
        """What loading needed does not count."""
        if self._is_cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def told(self) -> dict[str, int]:
        """`peak_bytes`: of tensors on a card, else by how much the resident set grew at its peak.

        `device_bytes`: what the card lost, which other libraries than PyTorch take from too.
        """
        if not self._is_cuda:
            return {"peak_bytes": _resident("VmHWM") - self._before}
        lost = _lost() - self._before
        return {"peak_bytes": torch.cuda.max_memory_allocated(), "device_bytes": lost}


def _lost() -> int:
    free, total = torch.cuda.mem_get_info()
    return total - free


def _resident(name: str) -> int:
    """Not `ru_maxrss`, which begins at the parent's peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
