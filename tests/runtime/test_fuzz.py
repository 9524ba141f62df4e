"""Files that are damaged anyhow end in a result or in one line, and leave nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

SEEDS, PROCESSES = 300, 2


def test_mutated_files_never_end_in_a_traceback(tmp_path: Path) -> None:
    """300 mutations: exit code 0 with the output, or 2 with one line and nothing else."""
    share = SEEDS // PROCESSES
    workers = []
    for number in range(PROCESSES):
        folder = tmp_path / str(number)
        folder.mkdir()
        seeds = [str(number * share), str(share)]
        command = [sys.executable, "-m", "tests.support.fuzz_worker", str(folder), *seeds]
        workers.append(
            subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        )
    outputs = [worker.communicate(timeout=600) for worker in workers]

    results = [json.loads(line) for out, _ in outputs for line in out.splitlines()]
    codes = [result["code"] for result in results]
    assert [worker.returncode for worker in workers] == [0] * PROCESSES, outputs[0][1][-2000:]
    assert len(results) == SEEDS
    for result in results:
        _check(result)
    assert codes.count(0) > SEEDS // 5  # both endings are met
    assert codes.count(2) > SEEDS // 10


def _check(result: dict[str, object]) -> None:
    lines = str(result["err"]).splitlines()
    told = f"seed {result['seed']}, {result['name']} to {result['target']}: {result['err']}"
    if result["code"] == 0:
        assert result["left"] == [result["target"]], told
    else:
        assert result["code"] == 2, told
        assert len(lines) == 1, told
        assert lines[0].startswith("venhancer-rt: "), told
        assert result["left"] == [], told
