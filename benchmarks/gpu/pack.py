"""Prepare what has to travel to a card that has no network: `make gpu-pack` fills .gpu/.

wheels/ for the packages that the machine lacks; train/ and validation/, short H.264 clips and JPEG
photos out of data/; vgg16.ckpt, the first layers of LPIPS. The size of all that, with the tree that
git would take, is printed and has to stay within the limit.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.gpu import pack_media, pack_perceptual
from benchmarks.machine import ROOT

FOLDER = ROOT / ".gpu"
LIMIT_MIB = 64.0
PACKAGES = ("av", "diffusers", "importlib_metadata", "lazy-importer")
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


class PackError(Exception):
    """Something that travels is missing or too large; the message is one line."""


def pins(constraints: str, names: Sequence[str]) -> Iterator[str]:
    """`NAME==VERSION` of each package, as constraints.txt has it; PackError where it has none."""
    for name in names:
        found = re.search(rf"^{re.escape(name)}==[^\s;]+", constraints, flags=re.MULTILINE)
        if found is None:
            raise PackError(f"constraints.txt has no version of {name}")
        yield found.group()


def fetch_wheels(folder: Path) -> None:
    """Download the wheels for the machine's Python, without what they depend on."""
    wanted = list(pins((ROOT / "constraints.txt").read_text(encoding="utf-8"), PACKAGES))
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--python-version", PYTHON]
    command += ["--implementation", "cp", *platforms, "--dest", str(folder), *wanted]
    if subprocess.run(command).returncode:
        raise PackError(f"pip could not fetch {' '.join(wanted)}")
    for wheel in folder.glob("*.whl"):
        if not any(is_wheel_of(wheel.name, pin) for pin in wanted):
            wheel.unlink()  # of an earlier pack: of two versions neither can be installed


def is_wheel_of(file: str, pin: str) -> bool:
    """Whether a wheel holds just that version."""
    name, version = pin.split("==")
    return file.lower().startswith(f"{name.replace('-', '_')}-{version}-".lower())


def tree_bytes(root: Path) -> int:
    """Bytes of the files that git holds or would take."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout.decode()
    files = (root / name for name in names.split("\0") if name)
    return sum(file.stat().st_size for file in files if file.is_file())


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def sizes(root: Path, pack: Path) -> dict[str, int]:
    """Bytes of the tree and of each part of the pack."""
    parts = {part.name: part for part in sorted(pack.iterdir())} if pack.is_dir() else {}
    return {
        "tree": tree_bytes(root),
        **{n: folder_bytes(p) if p.is_dir() else p.stat().st_size for n, p in parts.items()},
    }


def check_size(found: dict[str, int], limit_mib: float = LIMIT_MIB) -> str:
    """The sizes on one line; PackError where they are above the limit together."""
    total = sum(found.values()) / 2**20
    parts = ", ".join(f"{name} {size / 2**20:.1f}" for name, size in found.items())
    line = f"{total:.1f} MiB of {limit_mib:g}: {parts}"
    if total > limit_mib:
        raise PackError(f"{line}; leave parts out, or make the clips shorter")
    return line


def fill(pack: Path, data: Path) -> None:
    """All parts for which there is material."""
    (pack / "wheels").mkdir(parents=True, exist_ok=True)
    fetch_wheels(pack / "wheels")
    if not data.is_dir():
        print(f"{data} is not there (`make data`): the pack is without clips to train on")
        return
    pack_media.fill(data, pack)
    weights = data / "metrics" / "vgg16.ckpt"
    if weights.is_file():
        pack_perceptual.reduce(weights, pack / "vgg16.ckpt")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.pack", description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="what `make data` filled")
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args()
    try:
        fill(args.out, args.data)
        print(check_size(sizes(ROOT, args.out)))
    except PackError as error:
        print(f"benchmarks.gpu.pack: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
