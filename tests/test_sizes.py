"""Limits on the tree's size, and checks that it is not tied to one machine."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.paths import ROOT

FILE_LINES = 400
FUNCTION_LINES = 60
TREE_BYTES = 40 * 2**20
TEXT = {".py", ".md", ".toml", ".txt", ".json", ".yaml", ".yml", ".cfg", ".sh", ""}

# in brackets, so that this file does not find itself
PLACES = (
    "(?<![\\w.])[/]work[/]", "[/]root[/]", "[/]opt[/]", "[/]home[/]\\w", "[/]Users[/]",
    "pypi[.]org", "pythonhosted[.]org", "download[.]pytorch[.]org", "registry[.]npmjs",
    "deb[.]debian[.]org", "[-]-(extra-)?index-url", "[-]-find-links",
)  # fmt: skip
HERE = re.compile("|".join(f"(?:{place})" for place in PLACES))


@cache
def files() -> tuple[Path, ...]:
    """List the files that git tracks or would add; without git, those in the project's folders."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return tuple(path for name in names.split("\0") if name and (path := ROOT / name).is_file())


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def test_files_are_short() -> None:
    """No Python file has more than 400 lines."""
    lines = {shown(p): len(text_of(p).splitlines()) for p in files() if p.suffix == ".py"}

    assert {name: count for name, count in lines.items() if count > FILE_LINES} == {}


def test_functions_fit_on_a_screen() -> None:
    """No function has more than 60 lines, its docstring included."""
    lengths = {
        f"{shown(path)}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in files()
        if path.suffix == ".py"
        for node in functions(ast.parse(text_of(path)))
    }

    assert {name: count for name, count in lengths.items() if count > FUNCTION_LINES} == {}


def test_every_test_makes_a_promise() -> None:
    """Every test has a docstring, which states its promise."""
    silent = [
        f"{shown(path)}:{node.lineno} {node.name}"
        for path in files()
        if path.name.startswith("test_") and path.suffix == ".py"
        for node in functions(ast.parse(text_of(path)))
        if node.name.startswith("test_") and not ast.get_docstring(node)
    ]

    assert silent == []


def test_the_repository_stays_small() -> None:
    """The files of one commit are at most 40 MiB together."""
    assert sum(path.stat().st_size for path in files()) <= TREE_BYTES


def test_no_file_names_a_machine_or_a_registry() -> None:
    """Users choose where packages come from, so no file names a registry."""
    found = [
        f"{shown(path)}:{number}: {line.strip()[:80]}"
        for path in files()
        if path.suffix in TEXT and path.name != "LICENSE"
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if HERE.search(line)
    ]

    assert found == []
