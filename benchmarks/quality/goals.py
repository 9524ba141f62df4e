"""Judge the figures of `quality`: nano against both baselines, its goals against RIFE + SPAN."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.quality.rows import BASELINES, RIVAL, Row

JUDGED = {"vmaf": 1, "lpips": -1, "psnr_odd": 1}  # the sign says which way is better
VMAF_LOSS = 3.0  # points that a clip may be behind
EWARP_LIMIT = 1.2  # times the truth's own
GRID_LIMIT = 1.5  # times the rival's
SECONDS_LIMIT = 0.25  # a frame, from file to file
LARGE = 1280 * 720  # pixels from which on the seconds are judged

Results = Mapping[str, Mapping[str, Row]]  # by clip, then by method
Rows = Mapping[str, Row]


def have(results: Results, *methods: str) -> bool:
    """Tell if every clip has a row of each method."""
    return all(name in rows for rows in results.values() for name in methods)


# --- against the baselines ----------------------------------------------------------------------


def judge(results: Results) -> dict[str, Any] | None:
    """Compute nano's lead over the better baseline, by the median over the clips."""
    if not have(results, *BASELINES, "nano"):
        return None
    present = {
        key: sign
        for key, sign in JUDGED.items()
        if all(key in rows["nano"] for rows in results.values())
    }
    margins = {
        key: statistics.median(
            min(sign * (rows["nano"][key] - rows[other][key]) for other in BASELINES)
            for rows in results.values()
        )
        for key, sign in present.items()
    }
    return {"ahead": all(margin > 0 for margin in margins.values()), "median_margins": margins}


def verdict_line(verdict: Mapping[str, Any] | None) -> str:
    """Format the verdict on one line."""
    if verdict is None:
        return "verdict: none (needs nano and both baselines)"
    margins = ", ".join(f"{key} {value:+.3f}" for key, value in verdict["median_margins"].items())
    word = "ahead of" if verdict["ahead"] else "NOT ahead of"
    return (
        f"verdict: nano is {word} both baselines (median clip, margin over the better: {margins})"
    )


# --- goals --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limit:
    """The bound for one figure of nano on one clip."""

    value: float
    bound: float
    reached: bool
    missing: float  # relative distance from the bound: 0 if it is reached


def below(value: float, bound: float) -> Limit:
    return Limit(value, bound, value < bound, max(0.0, value / max(bound, 1e-9) - 1))


def at_most(value: float, bound: float) -> Limit:
    return Limit(value, bound, value <= bound, max(0.0, value / max(bound, 1e-9) - 1))


def lpips(rows: Rows) -> Limit | None:
    return below(rows["nano"]["lpips"], rows[RIVAL]["lpips"])


def vmaf(rows: Rows) -> Limit | None:
    value, bound = rows["nano"]["vmaf"], rows[RIVAL]["vmaf"]
    return Limit(value, bound, value > bound, max(0.0, 1 - value / max(bound, 1e-9)))


def new_frames(rows: Rows) -> Limit | None:
    """Compute the limit for the PSNR of new frames; the shortfall is in energy of the error."""
    if "psnr_odd" not in rows["nano"] or "psnr_odd" not in rows[RIVAL]:
        return None
    value, bound = rows["nano"]["psnr_odd"], rows[RIVAL]["psnr_odd"]
    return Limit(value, bound, value > bound, max(0.0, 10 ** ((bound - value) / 10) - 1))


def flicker(rows: Rows) -> Limit | None:
    value, rival = rows["nano"]["ewarp"], rows[RIVAL]["ewarp"]
    own = EWARP_LIMIT * rows["truth"]["ewarp"]
    return below(value, rival) if rival > own else at_most(value, own)


def grid(rows: Rows) -> Limit | None:
    return at_most(rows["nano"]["grid"], GRID_LIMIT * rows[RIVAL]["grid"])


def seconds(rows: Rows) -> Limit | None:
    if rows["truth"].get("pixels", 0) < LARGE or "file_seconds" not in rows["nano"]:
        return None
    return at_most(rows["nano"]["file_seconds"], SECONDS_LIMIT)


GOALS: Mapping[str, tuple[str, Callable[[Rows], Limit | None]]] = {
    "lpips": (f"LPIPS below that of {RIVAL} on every clip", lpips),
    "vmaf": (
        f"VMAF above that of {RIVAL} on two clips of three, never more than {VMAF_LOSS:g} below",
        vmaf,
    ),
    "psnr_new": (f"PSNR of new frames above that of {RIVAL} on every clip", new_frames),
    "flicker": (
        f"Ewarp at most {EWARP_LIMIT:g} times the truth's, or below that of {RIVAL}, on every clip",
        flicker,
    ),
    "grid": (f"grid at most {GRID_LIMIT:g} times that of {RIVAL} on every clip", grid),
    "seconds": (
        f"at most {SECONDS_LIMIT:g} seconds a frame from file to file on every 720p clip",
        seconds,
    ),
}


def judge_goals(results: Results) -> list[dict[str, Any]] | None:
    """Judge each goal with the figures of its clips, if nano and the rival have run on all."""
    if not have(results, "nano", RIVAL, "truth"):
        return None
    return [judged(key, results) for key in GOALS]


def judged(key: str, results: Results) -> dict[str, Any]:
    """Judge one goal; `reached` is None if no clip has the figures."""
    text, limit_of = GOALS[key]
    limits = {name: limit_of(rows) for name, rows in results.items()}
    found = {name: limit for name, limit in limits.items() if limit is not None}
    enough, missing = (two_of_three if key == "vmaf" else all_of)([*found.values()])
    return {
        "key": key,
        "goal": text,
        "clips": {
            name: {"value": limit.value, "bound": limit.bound, "reached": limit.reached}
            for name, limit in found.items()
        },
        "reached": enough if found else None,
        "shortfall": min(1.0, missing),
    }


def all_of(limits: Sequence[Limit]) -> tuple[bool, float]:
    """Tell if every clip reaches the goal, and return the mean shortfall."""
    missing = statistics.fmean(limit.missing for limit in limits) if limits else 0.0
    return all(limit.reached for limit in limits), missing


def two_of_three(limits: Sequence[Limit]) -> tuple[bool, float]:
    """Do the same for VMAF: a third of the clips may be behind, by `VMAF_LOSS` at most."""
    if not limits:
        return False, 0.0
    allowed = len(limits) // 3
    behind = sorted((limit for limit in limits if not limit.reached), key=lambda x: x.missing)
    excess = [max(0.0, x.bound - VMAF_LOSS - x.value) / max(x.bound, 1e-9) for x in behind]
    counted = [x.missing for x in behind[: max(0, len(behind) - allowed)]]
    is_enough = len(behind) <= allowed and not any(excess)
    return is_enough, sum([*counted, *excess[len(counted) :]]) / len(limits)


def score(goals: Sequence[Mapping[str, Any]]) -> float:
    """Compute one number to choose weights by: goals reached, less the mean shortfall (below 1)."""
    known = [goal for goal in goals if goal["reached"] is not None]
    if not known:
        return 0.0
    shortfall = statistics.fmean(goal["shortfall"] for goal in known)
    return sum(goal["reached"] for goal in known) - shortfall


def score_line(goals: Sequence[Mapping[str, Any]]) -> str:
    """Format the number with its meaning."""
    known = [goal for goal in goals if goal["reached"] is not None]
    reached = sum(goal["reached"] for goal in known)
    shortfall = reached - score(goals)
    return (
        f"score {score(goals):.4f}: {reached} of {len(known)} goals reached, less the mean "
        f"shortfall {shortfall:.4f} (the share by which a goal is missed, at most 1); "
        "higher is better"
    )


def goal_lines(goals: Sequence[Mapping[str, Any]] | None) -> Iterator[str]:
    """Yield a line for each goal."""
    if goals is None:
        yield f"goals: none (need nano and {RIVAL})"
        return
    for goal in goals:
        yield "goal: " + "; ".join(goal_cells(goal))


def goal_cells(goal: Mapping[str, Any]) -> list[str]:
    """Return the goal, the figure and bound of every clip, and the verdict."""
    clips = ", ".join(
        f"{name} {clip['value']:.3f} ({clip['bound']:.3f}) {word(clip['reached'])}"
        for name, clip in goal["clips"].items()
    )
    return [goal["goal"], clips or "-", word(goal["reached"])]


def word(reached: bool | None) -> str:
    return {True: "reached", False: "NOT reached", None: "not measured"}[reached]
