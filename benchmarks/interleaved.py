"""Work in processes of its own, timed in turns.

Neither memory nor an allocator's settings are shared, and what slows the machine for a while slows
all of them. A way that fails is dropped, and says why. One that lacked memory beside the others is
tried again alone when they have ended: its seconds then belong to no pair of turns.
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
MARK = "@turns "  # of the lines that are answers: libraries print too


class WorkerError(Exception):
    """A process could not do its work; the message says why.

    lacks_memory: whether it might have done it with more of the memory to itself
    """

    def __init__(self, why: str, lacks_memory: bool = False) -> None:
        super().__init__(why)
        self.lacks_memory = lacks_memory


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
            raise self._ended() from error
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
                    raise WorkerError(answer["failed"], answer["lacks_memory"])
                return answer
        raise self._ended()

    def _ended(self) -> WorkerError:
        """Whoever kills a process by SIGKILL is most likely the kernel, out of memory."""
        code = self._process.wait()
        return WorkerError(f"ended with {code}", lacks_memory=code == -signal.SIGKILL)


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
        _say({"failed": reason(error), "lacks_memory": is_out_of_memory(error)})


def reason(error: Exception) -> str:
    """The kind of an error and the first line of what it says; a worker has said both already."""
    if isinstance(error, WorkerError):
        return str(error)
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


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds of each way that took all its turns; the error of each that was dropped."""

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
            except Exception as error:  # of any kind: those beside it go on
                failed[name] = error
                del seconds[name]
    return Taken(seconds, failed)


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


# --- several ways to do the same work -------------------------------------------------------------


Start = Callable[[], Worker]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedWay:
    """One way: what its process told, and its seconds or the error that ended it."""

    told: Mapping[str, Any] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    error: Exception | None = None
    is_alone: bool = False

    @property
    def lacked_memory(self) -> bool:
        return isinstance(self.error, WorkerError) and self.error.lacks_memory

    def row(self) -> dict[str, Any]:
        """The part of a result that all measurements have in common."""
        alone = {"alone": True} if self.is_alone else {}
        failed = {} if self.error is None else {"failed": reason(self.error)}
        return {**self.told, **alone, **failed}


def run_ways(starts: Mapping[str, Start], rounds: int) -> dict[str, TimedWay]:
    """Start every way, then let them take turns; the results are in the order of `starts`."""
    found = run_together(starts, rounds)
    if len(starts) == 1:
        return found
    return {
        name: run_alone(starts[name], rounds) if way.lacked_memory else way
        for name, way in found.items()
    }


def run_together(starts: Mapping[str, Start], rounds: int) -> dict[str, TimedWay]:
    """All of them beside each other; every process has ended when this returns."""
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
    """One way with all the memory to itself."""
    [found] = run_together({"alone": start}, rounds).values()
    return TimedWay(told=found.told, seconds=found.seconds, error=found.error, is_alone=True)
