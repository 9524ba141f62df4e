"""Timing of several workers in alternation, each in a process of its own.

Processes share neither memory nor allocator settings, and a temporary slowdown of the machine
affects all of them. A worker that fails is dropped, with its reason. One that ran out of memory
beside the others is tried again alone when they have ended; its seconds are then paired with no
other.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmarks.measuring import ROOT, Work, seconds_of
from venhancer.device import is_out_of_memory

CHILD = "--child"
MARK = "@turns "  # prefix of answers: libraries print too


class WorkerError(Exception):
    """A process that could not do its work; the message says why.

    lacks_memory: it might succeed with more of the memory to itself
    """

    def __init__(self, why: str, lacks_memory: bool = False) -> None:
        super().__init__(why)
        self.lacks_memory = lacks_memory


class Worker:
    """A process that has prepared some work and does it when asked."""

    def __init__(
        self, module: str, task: Mapping[str, Any], variables: Mapping[str, str] | None = None
    ) -> None:
        """variables: environment variables besides those of this process"""
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
        """Do the work once more -> its seconds."""
        assert self._process.stdin is not None
        try:
            print(file=self._process.stdin, flush=True)
        except BrokenPipeError as error:
            raise self._ended() from error
        return float(self._answer()["seconds"])

    def close(self) -> None:
        """End the process, which frees everything it held."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                answer: dict[str, Any] = json.loads(line.removeprefix(MARK))
                if "failed" in answer:
                    raise WorkerError(answer["failed"], answer["lacks_memory"])
                return answer
        raise self._ended()

    def _ended(self) -> WorkerError:
        """Make the error of a dead process: after SIGKILL, most likely out of memory."""
        code = self._process.wait()
        return WorkerError(f"ended with {code}", lacks_memory=code == -signal.SIGKILL)


def given_task() -> dict[str, Any] | None:
    """Return this process's task as a worker; None if it is none."""
    return json.loads(sys.argv[2]) if sys.argv[1:2] == [CHILD] else None


def serve(prepare: Callable[[], tuple[Work, Mapping[str, Any]]], device: str) -> None:
    """Run a worker's process: prepare, report, then do the work once for each line read."""
    try:
        work, told = prepare()
        make_room(device)
        _say(told)
        for _ in sys.stdin:
            _say({"seconds": _turn(work, device)})
    except Exception as error:  # of any kind: the other workers go on
        _say({"failed": reason(error), "lacks_memory": is_out_of_memory(error)})


def reason(error: Exception) -> str:
    """Return an error's type and first line; a worker's message already has both."""
    if isinstance(error, WorkerError):
        return str(error)
    said = (str(error).strip() or "no reason given").splitlines()[0]
    return f"{type(error).__name__}: {said[:200]}"


def _turn(work: Work, device: str) -> float:
    """Time the work; a card first does one uncounted run, since others used its memory."""
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
    """Something that can do its work once more."""

    def turn(self) -> float:
        """Do the work once more -> the seconds that it took."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds of each worker that finished all rounds; the error of each that was dropped."""

    seconds: dict[str, list[float]]
    failed: dict[str, Exception]


def in_turns(workers: Mapping[str, Turns], rounds: int) -> Taken:
    """Let each work once a round, every other round in reverse; one that fails is dropped."""
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    failed: dict[str, Exception] = {}
    for number in range(rounds):
        for name in list(seconds)[:: -1 if number % 2 else 1]:
            try:
                seconds[name].append(workers[name].turn())
            except Exception as error:  # of any kind: the other workers go on
                failed[name] = error
                del seconds[name]
    return Taken(seconds, failed)


class Memory:
    """Memory that this process takes from here on: on a card, or on the machine."""

    def __init__(self, device: str) -> None:
        self._is_cuda = device == "cuda"
        self._before = _lost() if self._is_cuda else _resident("VmRSS")

    def forget_peak(self) -> None:
        """Reset the peak, so that loading does not count."""
        if self._is_cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def told(self) -> dict[str, int]:
        """Return the figures in bytes.

        `peak_bytes`: tensors on a card, else the growth of the resident set at its peak.
        `device_bytes`: decrease of the card's free memory, which includes other libraries than
        PyTorch.
        """
        if not self._is_cuda:
            return {"peak_bytes": _resident("VmHWM") - self._before}
        lost = _lost() - self._before
        return {"peak_bytes": torch.cuda.max_memory_allocated(), "device_bytes": lost}


def _lost() -> int:
    free, total = torch.cuda.mem_get_info()
    return total - free


def _resident(name: str) -> int:
    """Read the resident set; `ru_maxrss` would begin at the parent's peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


# --- several ways to do the same work -------------------------------------------------------------


Start = Callable[[], Worker]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedWay:
    """One variant: the report of its process, and its seconds or the error that ended it."""

    told: Mapping[str, Any] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    error: Exception | None = None
    is_alone: bool = False

    @property
    def lacked_memory(self) -> bool:
        return isinstance(self.error, WorkerError) and self.error.lacks_memory

    def row(self) -> dict[str, Any]:
        """Return the part of a result that all measurements have in common."""
        alone = {"alone": True} if self.is_alone else {}
        failed = {} if self.error is None else {"failed": reason(self.error)}
        return {**self.told, **alone, **failed}


def run_ways(starts: Mapping[str, Start], rounds: int) -> dict[str, TimedWay]:
    """Start every variant and time them in alternation; results are in the order of `starts`."""
    found = run_together(starts, rounds)
    if len(starts) == 1:
        return found
    return {
        name: run_alone(starts[name], rounds) if way.lacked_memory else way
        for name, way in found.items()
    }


def run_together(starts: Mapping[str, Start], rounds: int) -> dict[str, TimedWay]:
    """Run all variants side by side; every process has ended when this returns."""
    workers: dict[str, Worker] = {}
    errors: dict[str, Exception] = {}
    for name, start in starts.items():
        try:
            workers[name] = start()
        except WorkerError as error:
            errors[name] = error
    taken = in_turns(workers, rounds)
    for worker in workers.values():
        worker.close()
    errors |= taken.failed
    return {
        name: TimedWay(
            told=workers[name].told if name in workers else {},
            seconds=taken.seconds.get(name, []),
            error=errors.get(name),
        )
        for name in starts
    }


def run_alone(start: Start, rounds: int) -> TimedWay:
    """Run one variant with all the memory to itself."""
    [found] = run_together({"alone": start}, rounds).values()
    return TimedWay(told=found.told, seconds=found.seconds, error=found.error, is_alone=True)
