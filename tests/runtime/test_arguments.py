"""Options become arguments automatically: a new option is one edit."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from venhancer.errors import OptionError
from venhancer.options import Options, flag_of, marked
from venhancer_rt.arguments import add_options, read_options
from venhancer_rt.backends import refuse_settled
from venhancer_rt.cli import build_parser, main

VALUES: dict[str, tuple[list[str], Any]] = {  # options whose argument needs a special value
    "size": (["64x48"], (64, 48)),
    "tile": (["96X64"], (96, 64)),
    "fps": (["23.976"], Fraction(24000, 1001)),
    "input_fps": (["25"], Fraction(25)),
    "guidance_interval": (["200:800"], (200, 800)),
    "weights": (["a.safetensors"], Path("a.safetensors")),
    "compare": (["a.png"], Path("a.png")),
    "overwrite": ([], True),
    "even": ([], True),
    "pixel_format": (["yuv444p"], "yuv444p"),
    "preset_speed": (["slow"], "slow"),
    "audio": (["aac"], "aac"),
    "deinterlace": (["double"], "double"),
    "hdr": (["sdr"], "sdr"),
    "alpha": (["black"], "black"),
    "color_fix": (["lab"], "lab"),
    "scene_cuts": ([], False),
    "prompt": (["a cat"], "a cat"),
    "codec": (["libx265"], "libx265"),
    "preset": (["released"], "released"),
    "new_frames": (["motion"], "motion"),
    "solver": (["fast"], "fast"),
    "geometry": (["released"], "released"),
    "padding": (["white"], "white"),
    "mode": (["fast"], "fast"),
    "device": (["cpu"], "cpu"),
    "dtype": (["float32"], "float32"),
    "kernels": (["torch"], "torch"),
}
GROUPED = [option for option in fields(Options) if option.metadata]


def parsed(words: list[str]) -> Options:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return read_options(parser.parse_args(words))


@pytest.mark.parametrize("option", GROUPED, ids=lambda option: option.name)
def test_every_option_is_read(option: Any) -> None:
    """Each option is read from the command line into the field of its name and no other."""
    words, value = VALUES.get(option.name, (["1"], 1))
    if option.metadata["range"]:
        value = int(option.metadata["range"][1])
        words = [str(value)]

    given = parsed([flag_of(option), *words]).given()

    assert given == {option.name: value}


def test_nothing_given_is_the_default() -> None:
    """Without arguments no option counts as given."""
    assert parsed([]) == Options()
    assert Options().given() == {}


@pytest.mark.parametrize("option", marked("range"), ids=lambda option: option.name)
def test_ranges_are_checked(option: Any) -> None:
    """Ranges are checked for every way of setting an option; the message names option and range."""
    low, high = option.metadata["range"]
    with pytest.raises(OptionError, match=rf"{option.name}=.*: take a number from {low:g} to"):
        Options(**{option.name: high + 1})


def test_a_bundle_refuses_what_it_has_settled() -> None:
    """Every option that is marked as settled by a bundle is refused, by its flag."""
    for option in marked("is_settled_by_bundle"):
        value = VALUES.get(option.name, ([], 2))[1]
        with pytest.raises(OptionError, match=f"^{flag_of(option)}: settled when"):
            refuse_settled(dataclasses.replace(Options(), **{option.name: value}))
    refuse_settled(Options(scale=2, prompt="a cat"))


def test_a_wrong_argument_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The line says where to get help, and the exit code is 2."""
    for words in (["enhance"], ["enhance", "a.mp4", "--size", "big"], ["plan", "--no-such"], ["x"]):
        with pytest.raises(SystemExit) as stop:
            build_parser().parse_args(words)
        assert stop.value.code == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("venhancer-rt: ") and "--help" in line


def test_without_a_command_there_is_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    """The example and the commands fit on one screen."""
    assert main([]) == 0
    told = capsys.readouterr().out
    assert "venhancer-rt enhance clip.mp4 -o" in told
    assert len(told.splitlines()) < 15


@pytest.mark.parametrize("flag", ["--overwrite", "--compare"])
def test_a_plan_takes_no_option_of_an_output(flag: str) -> None:
    """It writes nothing."""
    with pytest.raises(SystemExit):
        build_parser().parse_args(["plan", "a.mp4", flag, "b.png"])
    build_parser().parse_args(["enhance", "a.mp4", *([flag] if flag == "--overwrite" else [])])
