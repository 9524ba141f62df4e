"""Promises of pyproject.toml, constraints.txt, README.md and the presets."""

from __future__ import annotations

import json
import math
import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.paths import ROOT
from venhancer.config import NANO as NANO_PRESET
from venhancer.config import Preset

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRESETS = ROOT / "venhancer" / "presets"
NANO = PRESETS / "nano.safetensors"
CHECKPOINT_BYTES, PARAMETERS = 16_000_000, 8_000_000
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOT_PINNED = {"venhancer", "test-open-clip"}  # the project itself; not for `make test`


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in wanted}


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    lists = [PROJECT["dependencies"], *(extras[name] for name in extras if name not in NOT_PINNED)]
    found = [Requirement(line) for part in lists for line in part]
    return [wanted for wanted in found if wanted.name not in NOT_PINNED]


@pytest.mark.parametrize("name", PROJECT["scripts"])
def test_every_command_loads(name: str) -> None:
    """A console script points to a function."""
    entry = EntryPoint(name, PROJECT["scripts"][name], "console_scripts")

    assert callable(entry.load())


@pytest.mark.parametrize("wanted", requirements(), ids=lambda wanted: wanted.name)
def test_every_dependency_is_a_range_with_a_pin_inside(wanted: Requirement) -> None:
    """pyproject.toml has ranges, constraints.txt pins within them; no dependency lacks either."""
    pin = pins()[canonicalize_name(wanted.name)]
    (exact,) = pin.specifier

    assert exact.operator == "=="
    assert "+" not in exact.version
    assert wanted.specifier.contains(exact.version)
    assert {part.operator for part in wanted.specifier} <= {">=", "<", "!="}


def named_files(readme: str) -> list[str]:
    """List the paths of README's map: first words of the lines in the fence with `venhancer/`."""
    fences = re.findall(r"^```[^\n]*\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)
    maps = [fence for fence in fences if re.search(r"^\W*venhancer/(\s|$)", fence, re.MULTILINE)]
    return [path for fence in maps for path in _paths(fence)]


def _paths(tree: str) -> list[str]:
    """Yield paths; depth comes from the indentation; a line may begin with several names."""
    found: list[str] = []
    above: list[tuple[int, str]] = []
    for line in tree.splitlines():
        indent = len(line) - len(line.lstrip(" │├└─|`-"))
        above = [(depth, name) for depth, name in above if depth < indent]
        folder = "".join(name for _, name in above)
        names = _leading_names(line[indent:])
        found += [folder + name for name in names]
        if names and names[0].endswith("/"):
            above.append((indent, names[0]))
    return found


def _leading_names(line: str) -> list[str]:
    names = []
    for word in line.replace(",", " ").split():
        if not re.fullmatch(r"[\w.*/-]*[./][\w.*/-]*\w|[\w./-]+/|Makefile|LICENSE", word):
            break
        names.append(word)
    return names


def test_the_map_is_read_as_meant() -> None:
    """Indentation nests paths, a line may have several names, and some words are no names."""
    tree = (
        "README.md  Makefile    two commands\n"
        "venhancer/   THE MODEL\n"
        "  model/   unet, e.g. this\n"
        "    a.py, b.py c\n"
    )

    assert _paths(tree) == [
        "README.md",
        "Makefile",
        "venhancer/",
        "venhancer/model/",
        "venhancer/model/a.py",
        "venhancer/model/b.py",
    ]


def test_every_file_of_the_readme_exists() -> None:
    """Every path in the file map of README.md exists."""
    names = named_files((ROOT / "README.md").read_text(encoding="utf-8"))

    assert len(names) > 5, "README.md has no fenced map with a line `venhancer/`"
    assert [name for name in names if not any(ROOT.glob(name.rstrip("/")))] == []


def header(checkpoint: Path) -> dict[str, Any]:
    """Read the metadata of a safetensors file without torch."""
    with checkpoint.open("rb") as file:
        found: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return found


def test_the_default_model_is_in_the_package() -> None:
    """`nano` comes with the wheel, with a model card."""
    assert NANO.is_file()
    assert NANO.with_suffix(".md").is_file(), "no model card beside the checkpoint"
    assert Preset.from_json(header(NANO)["__metadata__"]["preset"]) == NANO_PRESET


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.safetensors")), ids=lambda path: path.stem)
def test_checkpoints_in_the_package_are_small(path: Path) -> None:
    """Each has at most 16 MB and 8 M parameters, and describes itself."""
    described = header(path)
    shapes = [entry["shape"] for name, entry in described.items() if name != "__metadata__"]

    assert path.stat().st_size <= CHECKPOINT_BYTES
    assert sum(math.prod(shape) for shape in shapes) <= PARAMETERS
    assert described.get("__metadata__")
