"""README.md and the guides in docs/: their commands run, and their links exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from fractions import Fraction
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import venhancer_rt
from scripts.make_picture import make_picture
from tests.support.paths import BUTTERFLY, ROOT
from venhancer.video.probe import probe
from venhancer.video.reading import read_frames
from venhancer.video.writer import open_writer

README = ROOT / "README.md"
BENCHMARKS = ROOT / "benchmarks" / "README.md"
OPTIONS_GUIDE = ROOT / "docs" / "quality-and-speed.md"
PICTURE = ROOT / "assets" / "before_after.jpg"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md"))]
README_LINES = 130
PICTURE_BYTES = 150_000

COMMANDS = {
    "venhancer-rt": "venhancer_rt.cli:main",
    "venhancer-export": "venhancer_export.cli:main",
    "venhancer-train": "venhancer.training.__main__:main",
}
SMALLER = {"1920x1080": "192x108", "640x368": "96x64"}  # replaces sizes that take long
NOT_RUN = {  # commands that begin with these words, and why
    "make": "a target of the Makefile: `.ci/run` takes the quick ones, the rest take minutes",
    "pip install": "needs the network",
    "torchrun": "needs several GPUs",
    "venhancer-rt enhance clip.mp4 --preset released": "needs the released weights",
    "venhancer-export build-engines": "engines of the released model: minutes, and its weights",
    "venhancer-export info engines": "looks at those engines",
    "venhancer-export verify": "many runs of a bundle: tests/export/parity verifies small ones",
    "venhancer-train --data": "trains: tests/venhancer/training do so with small models",
    "venhancer-train --preset released": "needs a prior or takes half a minute to count operations",
    "venhancer-train convert": "needs what a training run left",
    "venhancer-train pool": "needs films and minutes",
    "venhancer-train prepare": "needs films",
}


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str) -> list[str]:
    """Return the fenced blocks of a document in one language."""
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def all_blocks(language: str) -> list[object]:
    """List every block of every document, as a parameter with a name."""
    return [
        pytest.param(block, id=f"{shown(path)}-{number}")
        for path in DOCUMENTS
        for number, block in enumerate(blocks(path, language), 1)
    ]


def command_lines(block: str) -> Iterator[list[str]]:
    """Yield the words of each command: lines are joined at a backslash, comments left out."""
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield [Path(words[0]).name, *words[1:]]


def begins_with(words: list[str], start: str) -> bool:
    return words[: len(start.split())] == start.split()


def is_listed(words: list[str]) -> bool:
    """Tell if NOT_RUN says why a command is not run."""
    return any(begins_with(words, start) for start in NOT_RUN)


def run(words: list[str]) -> int | str | None:
    """Call a command of this project in this process -> its exit status."""
    name, *arguments = words
    main = EntryPoint(name, COMMANDS[name], "console_scripts").load()
    try:
        status: int | None = main([SMALLER.get(word, word) for word in arguments])
    except SystemExit as stop:  # raised by `--help` and `--version`
        return stop.code
    return status


@pytest.fixture
def _clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a folder with the clips that the examples name: three small frames of the sample."""
    monkeypatch.chdir(tmp_path)
    frames = list(read_frames(probe(BUTTERFLY), stop=3))
    for name in ("clip.mp4", "first.mp4", "second.mp4"):
        with open_writer(
            tmp_path / name, width=48, height=32, fps=Fraction(12), source=None
        ) as writer:
            for number, frame in enumerate(frames):
                small = Image.fromarray(frame).resize((48, 32))
                writer.write(np.asarray(small), Fraction(number, 12))


@pytest.mark.usefixtures("_clips")
@pytest.mark.parametrize("block", all_blocks("sh"))
def test_every_command_runs(block: str) -> None:
    """Each command of a `sh` block succeeds, in order in one folder, or is listed in NOT_RUN."""
    for words in command_lines(block):
        if is_listed(words):
            continue
        assert words[0] in COMMANDS, f"{shlex.join(words)}: run it here, or say why not in NOT_RUN"
        assert not run(words), shlex.join(words)


def test_what_is_not_run_is_shown_somewhere() -> None:
    """NOT_RUN has no command that is in no document."""
    lines = [
        words
        for path in DOCUMENTS
        for block in blocks(path, "sh")
        for words in command_lines(block)
    ]

    assert [start for start in NOT_RUN if not any(begins_with(w, start) for w in lines)] == []


@pytest.mark.usefixtures("_clips")
@pytest.mark.parametrize("block", all_blocks("python"))
def test_every_python_example_runs(block: str) -> None:
    """Each `python` block runs by itself, in a folder with the clips that it names."""
    code = compile(block, "example", "exec")
    if "venhancer_rt" in block and not hasattr(venhancer_rt, "Enhancer"):
        pytest.skip("venhancer_rt has no Enhancer yet; the example compiles")

    exec(code, {"__name__": "example"})


def test_commands_are_in_blocks_of_sh() -> None:
    """A command in a fence without a language, or in an indented block, would not be tested."""
    names = "|".join(["make", "pip", "torchrun", *COMMANDS])
    found = [
        f"{shown(path)}: {line.strip()}"
        for path in DOCUMENTS
        for line in re.sub(
            r"^```sh\n.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
        ).splitlines()
        if re.match(rf"(    )?({names}) ", line)
    ]

    assert found == []


def test_the_readme_is_short() -> None:
    """README.md has at most 130 lines."""
    assert len(README.read_text(encoding="utf-8").splitlines()) <= README_LINES


def test_the_picture_is_small() -> None:
    """The README shows a JPEG of less than 150 KB."""
    assert f"({shown(PICTURE)})" in README.read_text(encoding="utf-8")
    assert PICTURE.stat().st_size < PICTURE_BYTES
    with Image.open(PICTURE) as picture:
        assert picture.format == "JPEG"


def test_the_picture_can_be_made_again(tmp_path: Path) -> None:
    """The script makes such a JPEG from the sample clip and a result of four times its size."""
    result, picture = tmp_path / "result.mp4", tmp_path / "picture.jpg"
    clip = probe(BUTTERFLY)
    with open_writer(result, width=640, height=360, fps=clip.fps, source=clip) as writer:
        for frame, moment in zip(read_frames(clip), clip.times, strict=True):
            writer.write(frame.repeat(4, axis=0).repeat(4, axis=1), moment)

    make_picture(BUTTERFLY, result, picture)

    assert picture.stat().st_size < PICTURE_BYTES
    with Image.open(picture) as made, Image.open(PICTURE) as kept:
        assert made.size == kept.size


@pytest.mark.parametrize("path", DOCUMENTS, ids=shown)
def test_every_link_leads_somewhere(path: Path) -> None:
    """Links and pictures of a document are files or folders of the repository."""
    text = path.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]

    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_guide_is_linked_from_the_readme() -> None:
    """The README links to each guide."""
    text = README.read_text(encoding="utf-8")

    assert [shown(path) for path in DOCUMENTS[1:] if f"({shown(path)})" not in text] == []


def test_the_guide_names_every_option(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table of options has the flags of `venhancer-rt enhance --help`, and no other."""
    monkeypatch.setenv("COLUMNS", "500")  # no flag is broken at the end of a line
    run(["venhancer-rt", "enhance", "--help"])
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", capsys.readouterr().out))
    text = OPTIONS_GUIDE.read_text(encoding="utf-8")
    section = text.partition("## All options")[2].partition("\n## ")[0]
    cells = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]

    assert set(re.findall(r"--[a-z][a-z-]*", " ".join(cells))) == flags


def test_figures_of_quality_are_those_of_the_benchmarks() -> None:
    """Each row of the guide has the figures of that clip and method in benchmarks/README.md."""
    measured = BENCHMARKS.read_text(encoding="utf-8").partition("## How near is it")[2]
    rows = re.findall(
        r"^\| (\w+) \| ([\w-]+) \| (.*\d\.\d.*)$",
        OPTIONS_GUIDE.read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )

    assert len(rows) == 12
    for clip, method, figures in rows:
        row = measured.partition(f"| {clip} | {method} |")[2].partition("\n")[0]
        assert set(re.findall(r"\d+\.\d+", figures)) <= set(re.findall(r"\d+\.\d+", row)), clip


def test_figures_of_the_readme_are_those_of_the_benchmarks() -> None:
    """Every comparison in README.md has its figures in benchmarks/README.md."""
    text = README.read_text(encoding="utf-8").partition("Measured by us")[2].partition("\n\n")[0]
    figures = re.findall(r"\d+\.\d+", text)

    assert len(figures) == 12
    assert set(figures) <= set(re.findall(r"\d+\.\d+", BENCHMARKS.read_text(encoding="utf-8")))
