"""Order of the window steps: all steps of the solver advance together, one behind the other.

A frame can take its next step as soon as every window that holds it was evaluated at this step. So
step i + 1 follows step i at a distance of one stride between windows, or of two where two strides
do not cover a window. Only the frames between the first step and the last are held. Their number
depends on windows and steps, not on the length of the clip.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from venhancer.spans import Span


@dataclass(frozen=True, slots=True)
class WindowStep:
    """Evaluation of one window at one step of the solver."""

    step: int
    window: int
    final: int  # number of frames, at the window's start, that take this step now


def window_steps(windows: Sequence[Span], steps: int) -> Iterator[WindowStep]:
    """Yield every window at every step, once; of the steps that are ready, the latest first."""
    done = [0] * steps
    while done[-1] < len(windows):
        step = next(i for i in reversed(range(steps)) if _is_ready(windows, done, i))
        window = done[step]
        done[step] += 1
        yield WindowStep(step, window, settled(windows, done[step]) - windows[window].start)


def settled(windows: Sequence[Span], count: int) -> int:
    """Count the leading frames that no window after the first `count` holds."""
    return windows[count].start if count < len(windows) else windows[-1].stop


def _is_ready(windows: Sequence[Span], done: Sequence[int], step: int) -> bool:
    window = done[step]
    if window == len(windows):
        return False
    return step == 0 or windows[window].stop <= settled(windows, done[step - 1])


@dataclass(slots=True)
class SceneProgress:
    """Progress of a scene; frames are counted from its first."""

    windows: Sequence[Span]
    steps: int
    entered: int = 0  # frames that were noised
    settled: int = 0  # frames that have taken every step

    def take(self, window_step: WindowStep) -> None:
        """Count a window step: its frames enter first, then its final frames take their step."""
        window = self.windows[window_step.window]
        self.entered = max(self.entered, window.stop)
        if window_step.step == self.steps - 1:
            self.settled = window.start + window_step.final


def held_frames(windows: Sequence[Span], steps: int) -> int:
    """Find the most frames that are between noise and their last step at a time."""
    reached, most = SceneProgress(windows, steps), 0
    for window_step in window_steps(windows, steps):
        before = reached.settled
        reached.take(window_step)
        most = max(most, reached.entered - before)
    return most


def longest_overlap(windows: Sequence[Span]) -> int:
    """Find the most frames that a window shares with the next, whose sums wait for it."""
    return max((left.stop - right.start for left, right in pairwise(windows)), default=0)


def held_windows(windows: Sequence[Span], steps: int) -> int:
    """Find the most windows that are between their first step and their last at a time."""
    done, most = [0] * steps, 0
    for window_step in window_steps(windows, steps):
        finished = done[-1]
        done[window_step.step] += 1
        most = max(most, done[0] - finished)
    return most
