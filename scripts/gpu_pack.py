"""The first layers of LPIPS in float16: 3.5 MB that may travel, where VGG16 takes 59.

The file has the layers that `venhancer.training.perceptual.Lpips` reads. Those behind the third of
the five features are one channel wide and give a constant whatever is shown, and their heads are
zero: what they add to the distance is zero, and no gradient passes.
"""

from __future__ import annotations

import argparse
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from venhancer.training.perceptual import VGG16, ArraysOnly

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".gpu"
LIMIT_MIB = 64.0
PACKAGES = ("av", "diffusers", "importlib_metadata", "lazy-importer")
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


class PackError(Exception):
    """A part of the pack is missing or too large; the message is one line."""


def pins(constraints: str, names: Sequence[str]) -> Iterator[str]:
    """Yield `NAME==VERSION` of each package from constraints.txt; PackError if it has none."""
    for name in names:
        found = re.search(rf"^{re.escape(name)}==[^\s;]+", constraints, flags=re.MULTILINE)
        if found is None:
            raise PackError(f"constraints.txt has no version of {name}")
        yield found.group()


def fetch_wheels(folder: Path) -> None:
    """Download the wheels for the machine's Python, without their dependencies."""
    wanted = list(pins((ROOT / "constraints.txt").read_text(encoding="utf-8"), PACKAGES))
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--python-version", PYTHON]
    command += ["--implementation", "cp", *platforms, "--dest", str(folder), *wanted]
    if subprocess.run(command).returncode:
        raise PackError(f"pip could not fetch {' '.join(wanted)}")
    for wheel in folder.glob("*.whl"):
        if not any(is_wheel_of(wheel.name, pin) for pin in wanted):
            wheel.unlink()  # from an earlier pack: with two versions neither can be installed


def is_wheel_of(file: str, pin: str) -> bool:
    """Tell if a wheel has exactly that version."""
    name, version = pin.split("==")
    return file.lower().startswith(f"{name.replace('-', '_')}-{version}-".lower())


def tree_bytes(root: Path) -> int:
    """Sum the bytes of the files that git tracks or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout.decode()
    files = (root / name for name in names.split("\0") if name)
    return sum(file.stat().st_size for file in files if file.is_file())


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def sizes(root: Path, pack: Path) -> dict[str, int]:
    """Return the bytes of the tree and of each part of the pack."""
    parts = {part.name: part for part in sorted(pack.iterdir())} if pack.is_dir() else {}
    return {
        "tree": tree_bytes(root),
        **{n: folder_bytes(p) if p.is_dir() else p.stat().st_size for n, p in parts.items()},
    }


def check_size(found: dict[str, int], limit_mib: float = LIMIT_MIB) -> str:
    """Format the sizes on one line; PackError if their sum is above the limit."""
    total = sum(found.values()) / 2**20
    parts = ", ".join(f"{name} {size / 2**20:.1f}" for name, size in found.items())
    line = f"{total:.1f} MiB of {limit_mib:g}: {parts}"
    if total > limit_mib:
        raise PackError(f"{line}; leave parts out, or make the clips shorter")
    return line


# --- clips and photos -----------------------------------------------------------------------------


CLIP_SECONDS = 2.0
FILM_CLIPS = {"train": 10, "validation": 2}  # of each film, evenly spread
CRF = 24  # of x264
LONGEST_SIDE = 1280  # pixels of a clip: larger films are shrunk to it
PHOTO_SIDE, PHOTO_QUALITY = 1100, 87
FILMS = {".mp4", ".mpg", ".mov", ".mkv", ".webm"}
PHOTOS = {".jpg", ".jpeg", ".png"}


def fill_media(data: Path, pack: Path) -> None:
    """Fill pack/train and pack/validation; existing files are kept."""
    for part, clips in FILM_CLIPS.items():
        (pack / part).mkdir(parents=True, exist_ok=True)
        for source in sorted((data / part).rglob("*")):
            kind = source.suffix.lower()
            if kind in FILMS:
                cut_film(source, pack / part, clips)
            elif kind in PHOTOS:
                shrink_photo(source, pack / part / f"{source.stem}.jpg")


def starts(duration: float, clips: int) -> Iterator[float]:
    """Yield the seconds at which clips begin; no two clips overlap."""
    count = max(1, min(clips, int(duration / CLIP_SECONDS)))
    for number in range(count):
        yield number * duration / count


def cut_film(source: Path, folder: Path, clips: int) -> None:
    """Cut some clips out of a film, encoded anew, without sound."""
    with av.open(str(source), "r") as film:
        duration = (film.duration or 0) / av.time_base
    for number, start in enumerate(starts(duration, clips)):
        target = folder / f"{source.stem}-{number:02d}.mp4"
        if not target.is_file():
            write_clip(source, start, target)


def write_clip(source: Path, start: float, target: Path) -> None:
    """Write CLIP_SECONDS of a film from `start` on, in 4:2:0 by x264."""
    temporary = target.with_suffix(".part")
    with av.open(str(source), "r") as film, av.open(str(temporary), "w", format="mp4") as clip:
        shown = film.streams.video[0]
        rate = Fraction(shown.average_rate or 24)
        width, height = fitted(shown.codec_context.width, shown.codec_context.height)
        options = {"crf": str(CRF), "preset": "slow"}
        made = clip.add_stream("libx264", rate=rate, options=options)
        made.width, made.height, made.pix_fmt = width, height, "yuv420p"
        film.seek(int(start * av.time_base))
        later = (f for f in film.decode(shown) if f.time is None or f.time >= start)
        for number, frame in enumerate(islice(later, round(CLIP_SECONDS * rate))):
            picture = frame.reformat(width, height, format="yuv420p")
            picture.pts, picture.time_base = number, 1 / rate
            clip.mux(made.encode(picture))
        clip.mux(made.encode(None))
    temporary.replace(target)


def fitted(width: int, height: int) -> tuple[int, int]:
    """Shrink to at most LONGEST_SIDE pixels a side, and to even sides."""
    share = min(1.0, LONGEST_SIDE / max(width, height))
    return 2 * round(share * width / 2), 2 * round(share * height / 2)


def shrink_photo(source: Path, target: Path) -> None:
    """Write a JPEG of at most PHOTO_SIDE pixels a side."""
    if target.is_file():
        return
    with Image.open(source) as photo:
        upright = ImageOps.exif_transpose(photo).convert("RGB")
    upright.thumbnail((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.LANCZOS)
    upright.save(target, quality=PHOTO_QUALITY)


# --- the first layers of LPIPS --------------------------------------------------------------------


TAPS = 3  # the number of features that are kept
Tree = dict[str, Any]


def reduce_weights(source: Path, target: Path) -> None:
    """Write the reduced weights of a VGG16 file; WeightsError where it holds more than arrays."""
    with source.open("rb") as file:
        tree = ArraysOnly(file).load()
    temporary = target.with_suffix(".part")
    with temporary.open("wb") as file:
        pickle.dump(reduced(tree.get("params", tree)), file, protocol=4)
    temporary.replace(target)


def reduced(tree: Tree) -> Tree:
    """Return the same names, with the layers behind the last kept feature replaced."""
    layers, last = tree[VGG16.name], VGG16.taps[TAPS - 1]
    own: Tree = {}
    for number in range(len(VGG16.stride_padding)):
        name = f"Conv_{number}"
        if number <= last:
            own[name] = {part: half(layers[name][part]) for part in ("kernel", "bias")}
        else:
            own[name] = constant_layer(own[f"Conv_{number - 1}"]["bias"].size)
    heads = {f"NetLinLayer_{n}": head(tree, n) for n in range(len(VGG16.taps))}
    return {VGG16.name: own, **heads}


def head(tree: Tree, number: int) -> Tree:
    """Return the weights of the channels of a feature."""
    if number < TAPS:
        return {"Conv_0": {"kernel": half(tree[f"NetLinLayer_{number}"]["Conv_0"]["kernel"])}}
    return {"Conv_0": {"kernel": np.zeros((1, 1, 1, 1), np.float16)}}


def constant_layer(channels: int) -> Tree:
    """Make a convolution that gives 1 everywhere; 0 could not be normalised."""
    kernel = np.zeros((3, 3, channels, 1), np.float16)
    return {"kernel": kernel, "bias": np.ones(1, np.float16)}


def half(values: Any) -> NDArray[np.float16]:
    return np.asarray(values, dtype=np.float16)


# --- all of it ------------------------------------------------------------------------------------


def fill(pack: Path, data: Path) -> None:
    """Make all parts for which there is material."""
    (pack / "wheels").mkdir(parents=True, exist_ok=True)
    fetch_wheels(pack / "wheels")
    if not data.is_dir():
        print(f"{data} is not there (`make data`): the pack is without clips to train on")
        return
    fill_media(data, pack)
    weights = data / "metrics" / "vgg16.ckpt"
    if weights.is_file():
        reduce_weights(weights, pack / "vgg16.ckpt")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.gpu_pack", description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="what `make data` filled")
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args()
    try:
        fill(args.out, args.data)
        print(check_size(sizes(ROOT, args.out)))
    except PackError as error:
        print(f"scripts.gpu_pack: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
