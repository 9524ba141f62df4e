"""Timings become figures, and a results file is complete at any time."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.measuring import save, speed_up, spread


def test_a_speed_up_is_of_pairs() -> None:
    """A slow period that affects both runs of a pair does not change the ratio."""
    assert speed_up([2.0, 20.0, 2.2], [1.0, 10.0, 1.0]) == 2.0
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "least": 1.0, "most": 3.0}


def test_what_was_found_is_written_after_every_case(tmp_path: Path) -> None:
    """The file is complete after every case, and names its benchmark and machine."""
    for count in (1, 2):
        save("benchmarks.speed.vae", "cpu", {"cases": [0] * count}, tmp_path / "vae.json")
        found = json.loads((tmp_path / "vae.json").read_text())
        assert (found["benchmark"], len(found["cases"])) == ("benchmarks.speed.vae", count)
    assert [path.name for path in tmp_path.iterdir()] == ["vae.json"]
