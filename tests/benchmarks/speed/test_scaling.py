"""Ranks of `scaling` share the machine."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from benchmarks.interleaved import Worker, WorkerError
from benchmarks.speed import scaling


def test_a_worker_that_fails_says_why() -> None:
    """The worker's error reaches the parent in one line, and its process is gone."""
    point = {"frames": 2, "size": [32, 32], "window": 2}
    task = {"point": point, "device": "cpu", "weights": "nowhere.safetensors"}

    with pytest.raises(
        WorkerError, match=r"WeightsError: no weights at nowhere\.safetensors"
    ) as found:
        Worker("benchmarks.speed.scaling", task)
    assert not found.value.lacks_memory


def test_ranks_share_the_cores_and_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rank has its threads and a card; seconds per frame are over the frames of all ranks."""
    seen: list[dict[str, str]] = []

    class Rank:
        def __init__(self, module: str, task: Any, variables: dict[str, str]) -> None:
            seen.append(variables)
            seconds = 3.0 + len(variables.get("CUDA_VISIBLE_DEVICES", ""))
            stages = {"denoise": 2.0}
            self.told = {"seconds": seconds, "output_frames": 8, "flop": 1e12, "stages": stages}

        def close(self) -> None:
            return None

    monkeypatch.setattr(scaling, "Worker", Rank)
    monkeypatch.setattr("torch.get_num_threads", lambda: 4)
    point = scaling.Point(frames=9, size=(32, 32), window=9, ranks=2)

    rates = {"matmul": {name: {"tflops": 4.0} for name in ("float32", "bfloat16")}}
    row = scaling.measure(point, "cpu", None, rates)

    shares = [{"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": str(n)} for n in range(2)]
    assert sorted(seen, key=str) == shares
    assert row["seconds_per_output_frame"] == 4.0 / 16
    alone = scaling.measure(dataclasses.replace(point, ranks=1), "cpu", None, rates)
    assert (seen[-1], alone["seconds_per_output_frame"]) == ({}, 3.0 / 8)
    assert (row["ceiling_share"], alone["ceiling_share"]) == (0.25, 0.125)
    assert [p.ranks for p in scaling.points("cpu")["ranks"]] == [1, 2, 4]
