"""Goals and verdicts computed from the figures of `quality`, and how the page shows them."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.quality.goals import (
    LARGE,
    goal_cells,
    goal_lines,
    judge,
    judge_goals,
    score,
    score_line,
    verdict_line,
)
from benchmarks.quality.rows import BASELINES
from benchmarks.report import __main__ as report
from benchmarks.report.quality_tables import FIDELITY

CLIPS = ("city", "bikes", "bbb")


Results = dict[str, dict[str, dict[str, float]]]


def results(**nano: list[float]) -> Results:
    """Make three clips of which nano reaches every goal, except for the given figures."""
    own = {
        "lpips": [0.1] * 3,
        "vmaf": [80.0] * 3,
        "psnr_odd": [30.0] * 3,
        "ewarp": [1.0] * 3,
        "grid": [2.0] * 3,
        "file_seconds": [0.2] * 3,
    }
    own |= nano
    others = {
        "rife-span": {"lpips": 0.2, "vmaf": 70.0, "psnr_odd": 29.0, "ewarp": 1.1, "grid": 2.0},
        "truth": {"ewarp": 1.0, "pixels": LARGE},
    }
    return {
        clip: {
            "nano": {key: values[index] for key, values in own.items()},
            **{name: dict(row) for name, row in others.items()},
        }
        for index, clip in enumerate(CLIPS)
    }


def reached(found: Results) -> list[bool]:
    """Return which goals are reached: LPIPS, VMAF, PSNR of new frames, flicker, grid, seconds."""
    goals = judge_goals(found)
    assert goals is not None
    return [goal["reached"] for goal in goals]


@pytest.mark.parametrize(
    ("nano", "missed"),
    [
        ({}, []),
        ({"lpips": [0.1, 0.2, 0.1]}, [0]),
        ({"vmaf": [90.0, 90.0, 67.0]}, []),
        ({"vmaf": [90.0, 90.0, 66.9]}, [1]),
        ({"vmaf": [90.0, 69.0, 69.0]}, [1]),
        ({"vmaf": [90.0, 90.0, 70.0]}, []),
        ({"psnr_odd": [40.0, 29.0, 40.0]}, [2]),
        ({"ewarp": [0.0, 0.0, 1.2]}, []),
        ({"ewarp": [0.0, 0.0, 1.21]}, [3]),
        ({"grid": [1.0, 1.0, 3.0]}, []),
        ({"grid": [1.0, 1.0, 3.1]}, [4]),
        ({"file_seconds": [0.25, 0.25, 0.25]}, []),
        ({"file_seconds": [0.1, 0.1, 0.26]}, [5]),
    ],
)
def test_each_goal_is_judged_alone(nano: dict[str, list[float]], missed: list[int]) -> None:
    """Every clip must reach a goal; for VMAF one of three may be a little behind."""
    assert [k for k, is_reached in enumerate(reached(results(**nano))) if not is_reached] == missed


def test_flicker_may_be_below_the_rivals() -> None:
    """If the rival flickers more than the truth, the rival's figure is the bound."""
    found = results(ewarp=[1.5, 1.0, 1.0])
    assert not reached(found)[3]

    found["city"]["rife-span"]["ewarp"] = 1.6

    assert reached(found)[3]


def test_seconds_count_on_large_clips_only() -> None:
    """A small clip's seconds do not count; a goal without figures is neither reached nor missed."""
    found = results(file_seconds=[9.0, 0.1, 0.1])
    found["city"]["truth"]["pixels"] = LARGE - 1
    assert reached(found)[5]

    for rows in found.values():
        rows["truth"].pop("pixels")

    assert reached(found)[5] is None
    assert [*goal_lines(judge_goals(found))][-1].endswith("; -; not measured")


@pytest.mark.parametrize("method", ["nano", "rife-span"])
def test_without_a_rival_there_are_no_goals(method: str) -> None:
    """One clip on which the rival did not run is enough to have no goals."""
    found = results()
    del found["bbb"][method]

    assert judge_goals(found) is None
    assert [*goal_lines(None)] == ["goals: none (need nano and rife-span)"]


def test_a_goal_is_told_with_its_figures() -> None:
    """A goal's line has every clip with its bound and verdict, then the verdict for all."""
    lines = [*goal_lines(judge_goals(results(lpips=[0.1, 0.15, 0.3])))]

    assert lines[0] == (
        "goal: LPIPS below that of rife-span on every clip; city 0.100 (0.200) reached, "
        "bikes 0.150 (0.200) reached, bbb 0.300 (0.200) NOT reached; NOT reached"
    )


def score_of(**nano: list[float]) -> float:
    goals = judge_goals(results(**nano))
    assert goals is not None
    return score(goals)


def test_more_goals_count_first_then_what_is_missing() -> None:
    """A smaller shortfall gives a higher score, but never as much as a reached goal."""
    near, far = score_of(lpips=[0.2, 0.2, 0.2]), score_of(lpips=[0.4, 0.4, 9.0])

    assert score_of() == 6
    assert 5 >= near > far > 4
    assert score_of(lpips=[0.3] * 3, vmaf=[60.0] * 3) < far
    assert score_of(vmaf=[90.0, 69.0, 40.0]) < score_of(vmaf=[90.0, 69.0, 69.0]) <= 5


def test_the_number_says_what_it_is() -> None:
    """The score's line says how many goals were reached out of those that could be judged."""
    goals = judge_goals(results(lpips=[0.4] * 3))
    assert goals is not None

    assert score_line(goals).startswith("score 4.8333: 5 of 6 goals reached, less the mean")


def test_the_baselines_are_still_to_be_beaten() -> None:
    """Nano is compared with the baselines by the median clip; a missing figure is left out."""
    found = results()
    for rows in found.values():
        for name in BASELINES:
            rows[name] = {"vmaf": 50.0, "lpips": 0.5}
        del rows["nano"]["psnr_odd"]

    assert judge(found) == {"ahead": True, "median_margins": {"vmaf": 30.0, "lpips": 0.4}}
    assert "nano is ahead of both baselines" in verdict_line(judge(found))


# --- the page -----------------------------------------------------------------------------------


def file(**found: Any) -> dict[str, Any]:
    machine = {"cpu": "a processor", "cores": 2}
    return {"machine": machine, "benchmark": "benchmarks.quality", **found}


def tables(result: dict[str, Any]) -> list[str]:
    """Format every table of `quality` that one results file belongs to."""
    return [
        report.table(question, [result] if report.belongs(result, question) else [])
        for question in FIDELITY
        if question.benchmark == "quality"
    ]


def test_the_page_shows_peers_and_goals() -> None:
    """There is a row for each method and goal; the other tables say that nothing was measured."""
    figures, goals, held_out, settings = tables(file(results=results()))

    assert (
        "| a processor, 2 threads | city | rife-span | - | 29.00 | - | - | 70.0 | 0.200 |"
        in figures
    )
    assert "| grid at most 1.5 times that of rife-span on every clip | city 2.000 (3.000) " in goals
    assert all("| any | not measured |" in table for table in (held_out, settings))


def test_held_out_clips_have_a_table_of_their_own() -> None:
    """Held-out clips are never in a table with the clips that weights were chosen by."""
    figures, goals, held_out, settings = tables(file(results=results(), held_out=True))

    assert "| city | rife-span |" in held_out
    assert all("| any | not measured |" in table for table in (figures, goals, settings))


def test_settings_tell_how_peers_ran() -> None:
    """One table shows all settings, with how each peer ran and which peers could not."""
    entry = {
        "scale": 3,
        "interpolate": 2,
        "results": results(),
        "notes": {"rife-span": "SPAN x4, then smaller"},
        "left_out": {"rife-basicvsr": "cannot: its weights are for 4x only"},
    }
    result = file(settings=[entry])
    figures, _, held_out, settings = tables(result)

    assert "| 3x space, 2x time | city | rife-span (SPAN x4, then smaller) |" in settings
    assert "| rife-basicvsr | cannot: its weights are for 4x only |" in settings
    assert all("| any | not measured |" in table for table in (figures, held_out))
    [question] = [q for q in FIDELITY if report.belongs(result, q)]
    assert "3x space, 2x time: 6 of 6 goals reached." in "".join(question.reading(result))


def test_a_goal_without_figures_says_so() -> None:
    """A goal without figures has three cells, of which the last is the verdict."""
    goal = {"goal": "steady", "clips": {}, "reached": None}

    assert goal_cells(goal) == ["steady", "-", "not measured"]
