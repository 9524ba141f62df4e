"""What the figures of `quality` say of nano: ahead of both baselines or not, and its goals."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.quality_table import Row

BASELINES = ("bicubic", "lanczos-minterpolate")
JUDGED = {"vmaf": 1, "lpips": -1, "psnr_odd": 1}  # the sign says which way is better
RIVALS = {"lpips": "rife-span", "vmaf": "rife-animevideov3", "psnr_odd": "lanczos-minterpolate"}
EWARP_LIMIT = 1.1  # times the truth's own
EWARP_STILL = 0.5  # of the truth: up to this nothing moves, and a ratio would tell of noise only

Results = Mapping[str, Mapping[str, Row]]  # of every clip, by method


def have(results: Results, *methods: str) -> bool:
    """Whether every clip has a row of each method."""
    return all(name in rows for rows in results.values() for name in methods)


def judge(results: Results) -> dict[str, Any] | None:
    """How far `nano` is ahead of the better baseline, by the median over the clips."""
    if not have(results, *BASELINES, "nano"):
        return None
    margins = {
        key: statistics.median(
            min(sign * (rows["nano"][key] - rows[other][key]) for other in BASELINES)
            for rows in results.values()
        )
        for key, sign in JUDGED.items()
    }
    return {"ahead": all(margin > 0 for margin in margins.values()), "median_margins": margins}


def verdict_line(verdict: Mapping[str, Any] | None) -> str:
    """The verdict in one line."""
    if verdict is None:
        return "verdict: none (needs nano and both baselines)"
    margins = ", ".join(f"{key} {value:+.3f}" for key, value in verdict["median_margins"].items())
    word = "ahead of" if verdict["ahead"] else "NOT ahead of"
    return (
        f"verdict: nano is {word} both baselines (median clip, margin over the better: {margins})"
    )


def judge_goals(results: Results) -> list[dict[str, Any]] | None:
    """Each goal with its figures, where nano and all whom the goals name have run."""
    if not have(results, *RIVALS.values(), "nano"):
        return None
    return [*(better_than(rival, key, results) for key, rival in RIVALS.items()), steady(results)]


def better_than(rival: str, key: str, results: Results) -> dict[str, Any]:
    """Whether nano is better by the median over the clips of the difference."""
    clips = {name: rows["nano"][key] - rows[rival][key] for name, rows in results.items()}
    median, sign = statistics.median(clips.values()), JUDGED[key]
    return {
        "goal": f"{key}: nano - {rival}, median {'above' if sign > 0 else 'below'} 0",
        "clips": clips,
        "judged": median,
        "reached": sign * median > 0,
    }


def steady(results: Results) -> dict[str, Any]:
    """Whether nano flickers hardly more than the truth wherever that moves."""
    clips = {
        name: rows["nano"]["ewarp"] / rows["truth"]["ewarp"]
        for name, rows in results.items()
        if rows["truth"]["ewarp"] > EWARP_STILL
    }
    most = max(clips.values(), default=None)
    return {
        "goal": f"ewarp: nano / truth, at most {EWARP_LIMIT} on every clip that moves",
        "clips": clips,
        "judged": most,
        "reached": most is not None and most <= EWARP_LIMIT,
    }


def goal_lines(goals: list[dict[str, Any]] | None) -> Iterator[str]:
    """A line for each goal."""
    if goals is None:
        yield "goals: none (need nano, the baselines and the peers)"
        return
    for goal in goals:
        yield "goal: " + "; ".join(goal_cells(goal))


def goal_cells(goal: Mapping[str, Any]) -> list[str]:
    """What was wanted, the figures of the clips, the one that counts, and whether it is enough."""
    clips = ", ".join(f"{name} {value:.3f}" for name, value in goal["clips"].items())
    judged = "-" if goal["judged"] is None else f"{goal['judged']:.3f}"
    return [goal["goal"], clips, judged, "reached" if goal["reached"] else "NOT reached"]
