"""Which modules may import which, and what a command may import before it parses its arguments."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

HEAVY = (
    "torch", "triton", "transformers", "diffusers", "huggingface_hub",
    "onnx", "onnxruntime", "polygraphy", "tensorrt", "tensorrt_rtx",
)  # fmt: skip
LIGHT_SECONDS = 2.0  # a generous limit: half a second is usual, CI machines are busy

FORBIDDEN = {
    "venhancer": (
        "venhancer_export", "venhancer_rt", "onnx", "onnxruntime", "polygraphy",
        "tensorrt", "tensorrt_rtx", "benchmarks", "tests",
    ),
    "export/venhancer_export": ("venhancer_rt", "venhancer.training", "benchmarks", "tests"),
    "runtime/venhancer_rt": (
        "venhancer_export", "venhancer.model", "venhancer.training", "onnx", "benchmarks", "tests",
    ),
}  # fmt: skip
FOLDERS = (  # of `venhancer`: each imports only earlier ones, and those of its own line
    ("presets", "errors", "files", "options", "config", "contract", "device", "spans"),
    ("diffusion",),
    ("video",),
    ("model",),
    ("weights",),
    ("encoders",),
    ("planning",),
    ("bundle", "motion"),
    ("sampling",),
    ("pipeline",),
    ("api", "training"),
)
PROBES = {
    "venhancer_rt.cli": (
        [], ["--help"], ["--version"], ["enhance", "--help"], ["plan", "--help"],
        ["doctor", "--help"],
    ),
    "venhancer.training.__main__": ([], ["--help"], ["prepare", "--help"]),
    "venhancer_export.cli": (
        [], ["--help"], ["--version"], ["build-engines", "--help"], ["onnx", "--help"],
        ["verify", "--help"], ["info", "--help"],
    ),
}  # fmt: skip
PROBE = """
import importlib, sys
module = importlib.import_module(sys.argv[1])
try:
    if sys.argv[2:]:
        module.main(sys.argv[2:])
except SystemExit as stop:
    assert not stop.code, stop.code
print("imported:", *sys.modules)
"""


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield every name that might be a module: of `from a import b` both a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def is_inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def offences(path: Path, forbidden: tuple[str, ...]) -> list[str]:
    names = set(imported(ast.parse(path.read_text(encoding="utf-8"))))
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for name in sorted(names)
        if any(is_inside(name, package) for package in forbidden)
    ]


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_packages_depend_in_one_direction(folder: str) -> None:
    """venhancer_export -> venhancer <- venhancer_rt; the runtime imports nothing of the model."""
    found = [line for path in sources(folder) for line in offences(path, FORBIDDEN[folder])]

    assert not found, "\n".join(found)


def folder_of(module: str) -> str:
    """Return the folder of `venhancer` that a module is in, or the top-level module itself."""
    return module.removeprefix("venhancer").removeprefix(".").partition(".")[0]


def test_folders_depend_in_one_direction() -> None:
    """A folder of `venhancer` imports itself and those that come before it in `FOLDERS`."""
    known = {name: rank for rank, names in enumerate(FOLDERS) for name in names}
    found = []
    for path in sources("venhancer"):
        own = path.relative_to(ROOT / "venhancer").with_suffix("").parts[0]
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = {name for name in imported(tree) if is_inside(name, "venhancer")}
        others = {folder_of(name) for name in modules} & known.keys() - {own}
        if own != "__init__":
            found += [f"{own} imports {it}" for it in others if known[it] > known[own]]

    assert {name for names in FOLDERS for name in names} == {
        path.stem for path in (ROOT / "venhancer").iterdir() if path.name[0] not in "_."
    }
    assert not found, "\n".join(sorted(set(found)))


def test_video_needs_no_torch() -> None:
    """Files can be read and written without a model."""
    modules = [f"venhancer.video.{path.stem}" for path in sources("venhancer/video")]
    code = f"import sys, {', '.join(m for m in modules if not m.endswith('_'))}"
    command = [sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert len(modules) > 5
    assert done.returncode == 0, done.stderr


def test_nothing_needs_the_training() -> None:
    """Only `venhancer.training` imports `venhancer.training`."""
    outside = [p for p in sources("venhancer") if "training" not in p.relative_to(ROOT).parts]
    found = [line for path in outside for line in offences(path, ("venhancer.training",))]

    assert len(outside) > 10
    assert not found, "\n".join(found)


def test_the_runtime_meets_pytorchs_networks_in_one_place() -> None:
    """Only runtime `backends.py` imports `venhancer.api`, which loads the networks on request."""
    found = []
    for path in sources("runtime/venhancer_rt"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        looked_at = tree.body if path.name == "backends.py" else [tree]
        names = {n for part in looked_at if not _is_late(part) for n in imported(part)}
        found += [path.name for name in names if is_inside(name, "venhancer.api")]

    assert not found


def _is_late(node: ast.AST) -> bool:
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))


@pytest.mark.parametrize("folder", ["venhancer", "export", "runtime", "benchmarks", "tests"])
def test_imports_are_absolute(folder: str) -> None:
    """A module has one name only, and `export` and `runtime` are folders, not packages."""
    found = [line for path in sources(folder) for line in offences(path, ("runtime", "export"))]
    found += [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(folder)
        for name in imported(ast.parse(path.read_text(encoding="utf-8")))
        if name.startswith(".")
    ]

    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "arguments"),
    [(module, arguments) for module, all_of in PROBES.items() for arguments in all_of],
)
def test_help_needs_no_torch(module: str, arguments: list[str]) -> None:
    """Importing a command, its help and its version do not import torch, onnx or the like."""
    done = _probe(module, arguments)

    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split()) - {"imported:"}
    assert module in loaded
    assert not loaded.intersection(HEAVY)


def test_help_comes_at_once() -> None:
    """The best of three runs of `venhancer-rt --help`, interpreter start included, is fast."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert _probe("venhancer_rt.cli", ["--help"]).returncode == 0
        seconds.append(time.perf_counter() - start)

    assert min(seconds) < LIGHT_SECONDS


def _probe(module: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROBE, module, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("given", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_sleep_while_they_wait(given: str | None, found: str) -> None:
    """OpenMP is told so before torch is loaded; the user's own setting is kept."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    if given is not None:
        environment["OMP_WAIT_POLICY"] = given
    code = (
        "import os, sys, venhancer; assert 'torch' not in sys.modules; "
        "print(os.environ['OMP_WAIT_POLICY'])"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == found
