"""Runs of the command without networks: the frames of the input come out as they are."""

from __future__ import annotations

from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

from venhancer import api
from venhancer.options import Options
from venhancer.pipeline import run
from venhancer.pipeline.run import Report
from venhancer.pipeline.sink import FrameSink, Output
from venhancer.planning.plan import Plan
from venhancer.video.reading import read_frames


def copied(
    plan: Plan,
    output: Output,
    networks: object,
    options: Options,
    progress: object,
    journal: Any,
    fallbacks: object = (),
) -> Report:
    """Give every input frame to the output, in place of the model's."""
    with closing(FrameSink(plan, output, journal)) as sink:
        for frame in read_frames(plan.source):
            sink.write(frame)
    return Report(plan, None, 0.0)


def without_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every run copy its frames."""
    monkeypatch.setattr(run, "generate", copied)
    monkeypatch.setattr(api, "load_networks", lambda *_: SimpleNamespace())
