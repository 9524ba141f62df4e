"""One line that tells stage, step, window and the time that is left."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from tqdm import tqdm


class Bar:
    """A `Progress`: a bar per stage, on stderr; silent where that is no terminal.

    parts: windows times tiles, the evaluations of one step
    """

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self.stage = ""
        self.bar: tqdm[Any] | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self.stage:
            self._close()
            unit = "evaluation" if stage == "denoise" else "frame"
            self.bar = tqdm(
                total=total, desc=stage, unit=unit, disable=not sys.stderr.isatty(), leave=True
            )
            self.stage = stage
        assert self.bar is not None
        if stage == "denoise":
            step, part = divmod(done - 1, self.parts)
            steps = total // self.parts
            self.bar.set_postfix_str(f"step {step + 1}/{steps}, window {part + 1}/{self.parts}")
        self.bar.update(done - self.bar.n)

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()
