"""What holds for the whole suite: nothing is downloaded, numbers do not depend on the machine."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is imported

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny networks: threads cost more than they bring, and sums keep one order."""
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, by name, what needs a GPU or TensorRT that this machine lacks."""
    reasons = {}
    if not torch.cuda.is_available():
        reasons = {"gpu": "needs a CUDA device", "trt": "needs TensorRT and a GPU"}
    for item in items:
        for mark, reason in reasons.items():
            if item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))
