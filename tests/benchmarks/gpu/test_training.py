"""Pools made on the card by several processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.gpu import training


def test_a_pool_is_put_together_from_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process has a share and a seed; the merged parts are numbered consecutively."""
    seeds: list[int] = []

    class Process:
        def wait(self) -> int:
            return 0

    def start(media: Path, out: Path, samples: int, seed: int) -> Process:
        seeds.append(seed)
        out.mkdir(parents=True)
        (out / "pool.json").write_text("{}")
        (out / "part-0000.npz").write_text(f"{media.name} {samples}")
        return Process()

    monkeypatch.setattr(training, "start_pool", start)
    training.make_pools(tmp_path, tmp_path / "out", 3, {"train": 10, "validation": 5})

    made = sorted((tmp_path / "out" / "train").glob("part-*.npz"))
    assert [path.read_text() for path in made] == ["train 4", "train 3", "train 3"]
    assert seeds == [0, 1, 2, training.VALIDATION_SEED]
    assert (tmp_path / "out" / "validation" / "pool.json").is_file()
