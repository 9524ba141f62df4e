"""Rules for the whole suite: nothing is downloaded, numbers do not depend on the machine."""

from __future__ import annotations

import os
from importlib.util import find_spec

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is imported

import pytest
import torch

NEEDS = {"gpu": "a CUDA device", "trt": "TensorRT and a GPU"}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Use one thread: tiny networks do not gain from more, and the order of sums stays fixed."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _offline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests offline, except those with a hub of their own: the fixture `server`."""
    has_own_hub = "server" in request.fixturenames
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", not has_own_hub)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that need something this machine lacks; the reason names it."""
    lacking = {mark: words for mark, words in NEEDS.items() if not has(mark)}
    for item in items:
        for mark in lacking.keys() & {mark.name for mark in item.iter_markers()}:
            item.add_marker(pytest.mark.skip(reason=f"needs {lacking[mark]}"))


def has(mark: str) -> bool:
    """Tell if tests with a mark can run here."""
    if not torch.cuda.is_available():
        return False
    return mark != "trt" or find_spec("tensorrt") is not None
