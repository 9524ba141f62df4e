"""Progress bar: one line with the work that is done and the time that is left."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from tqdm import tqdm


class Bar:
    """`Progress` that shows evaluations of the network, and the frames read and made.

    It writes to stderr, and is silent if that is no terminal.
    """

    def __init__(self) -> None:
        self.bar: tqdm[Any] | None = None
        self.frames = {"encode": "", "decode": ""}

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage in self.frames:
            self.frames[stage] = f"{done}/{total}"
            return
        if self.bar is None:
            self.bar = tqdm(
                total=total, initial=done - 1, unit="evaluation", disable=not sys.stderr.isatty()
            )
        told = {"encode": "read", "decode": "made"}
        self.bar.set_postfix_str(", ".join(f"{w} {self.frames[s]}" for s, w in told.items()))
        self.bar.update(done - self.bar.n)

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.close()
