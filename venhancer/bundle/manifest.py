"""`bundle.json`: what a folder of exported networks holds, and what it was made for.

Written by `venhancer_export`, read by it and by `venhancer_rt`. Every file is listed with its
SHA-256, so that a bundle which was cut short or edited is refused before anything runs.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from venhancer.config import Preset
from venhancer.contract import Precision, Shape
from venhancer.errors import BundleError, ConfigError
from venhancer.files import hash_file, hash_text

NAME = "bundle.json"
FORMAT = 1
PER_FRAME = ("vae_encoder", "vae_decoder")  # these networks are the same for every window


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """An input or an output of a graph."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A graph built for one GPU."""

    gpu: str
    capability: str  # compute capability, as "8.0"
    file: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One network at one shape."""

    network: str
    shape: Shape | None  # None: it is the same for every frame size and window
    file: str  # its ONNX graph
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    operators: Mapping[str, int]
    engines: tuple[Engine, ...] = ()

    def serves(self, shape: Shape) -> bool:
        if self.shape is None or self.shape == shape:
            return True
        same_frame = (self.shape.width, self.shape.height) == (shape.width, shape.height)
        return same_frame and self.network in PER_FRAME


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file of the bundle."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Contents of a bundle, and what it was made from."""

    preset: Preset
    checkpoint: str  # its file's name
    checkpoint_sha256: str
    precision: Precision
    opset: int
    builder: str  # "onnx", "tensorrt" or "tensorrt-rtx"
    builder_version: str
    gpus: tuple[str, ...]
    shapes: tuple[Shape, ...]
    schedule: Mapping[str, Any]  # the preset's steps: timesteps and sigmas
    request: str  # hash of the request; an equal request is not built again
    versions: Mapping[str, str]
    entries: tuple[Entry, ...]
    files: tuple[File, ...]
    seconds: float  # to build it
    format: int = FORMAT

    def to_json(self) -> str:
        return signed(dataclasses.asdict(self))

    def find(self, network: str, shape: Shape) -> Entry:
        """Find the entry of a network at a shape; BundleError where the bundle has none."""
        for entry in self.entries:
            if entry.network == network and entry.serves(shape):
                return entry
        has = ", ".join(sorted({entry.network for entry in self.entries}))
        raise BundleError(f"the bundle has no {network} for {shape}, only {has}: build it again")

    def lines(self) -> list[str]:
        """Describe the bundle in a few lines of text."""
        gpus = f" for {', '.join(self.gpus)}" if self.gpus else ""
        size = sum(file.size for file in self.files) / 1e6
        lines = [
            f"bundle   {self.preset.name}, {self.precision}, ONNX opset {self.opset}",
            f"shapes   {', '.join(map(str, self.shapes))} (width, height, window)",
            f"builder  {' '.join([self.builder, self.builder_version]).strip()}{gpus}",
            f"weights  {self.checkpoint}, SHA-256 {self.checkpoint_sha256[:16]}...",
            f"size     {size:.0f} MB in {len(self.files)} files, made in {self.seconds:.0f} s",
        ]
        for entry in self.entries:
            at = f" {entry.shape}" if entry.shape else ""
            nodes, moved = sum(entry.operators.values()), entry.operators.get("Transpose", 0)
            engines = ", ".join(f"{e.gpu} {e.seconds:.0f} s" for e in entry.engines)
            lines.append(
                f"network  {entry.network}{at}: {nodes} nodes, {moved} transposes"
                + (f"; engines {engines}" if engines else "")
            )
        return lines

    def command(self, folder: Path, gpus: tuple[str, ...] | None = None) -> str:
        """Write out the command that builds this bundle again, for other GPUs if given."""
        words = ["venhancer-export build-engines", f"--preset {self.preset.name}"]
        words += [
            f"--size {w}x{h}" for w, h in dict.fromkeys((s.width, s.height) for s in self.shapes)
        ]
        words += [f"--window {f}" for f in dict.fromkeys(s.window for s in self.shapes)]
        words += [f"--gpu {gpu}" for gpu in (self.gpus if gpus is None else gpus)]
        words += [f"--precision {self.precision}"]
        if self.checkpoint != f"{self.preset.name}.safetensors":  # not the one in the package
            words += [f"--weights {self.checkpoint}"]
        return " ".join([*words, f"--builder {self.builder}", "--overwrite", f"-o {folder}"])


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a bundle; BundleError where there is none that we can read."""
    path = folder / NAME
    if not path.is_file():
        raise BundleError(
            f"{folder} is no bundle (it has no {NAME}): make one with venhancer-export"
        )
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if _digest(fields) != fields.pop("digest"):
            raise ValueError("its digest is of another text")
        if fields.get("format") != FORMAT:
            raise BundleError(
                f"{path} has format {fields.get('format')}, this version reads {FORMAT}: "
                "build the bundle again"
            )
        return _manifest(fields)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise BundleError(f"{path} is cut short or edited ({error}): build it again") from error


def signed(fields: Mapping[str, Any]) -> str:
    """Write out the text of a manifest, with a digest of its contents."""
    return json.dumps({**fields, "digest": _digest(fields)}, indent=1) + "\n"


def _digest(fields: Mapping[str, Any]) -> str:
    said = {name: value for name, value in fields.items() if name != "digest"}
    return hash_text(json.dumps(said, sort_keys=True))


def _manifest(fields: dict[str, Any]) -> Manifest:
    return Manifest(
        **{
            **fields,
            "preset": Preset.from_json(json.dumps(fields["preset"])),
            "gpus": tuple(fields["gpus"]),
            "shapes": tuple(Shape(**shape) for shape in fields["shapes"]),
            "entries": tuple(_entry(entry) for entry in fields["entries"]),
            "files": tuple(File(**file) for file in fields["files"]),
        }
    )


def _entry(fields: dict[str, Any]) -> Entry:
    shape = fields["shape"]
    ports = {
        side: tuple(TensorInfo(**{**port, "shape": tuple(port["shape"])}) for port in fields[side])
        for side in ("inputs", "outputs")
    }
    engines = tuple(Engine(**engine) for engine in fields["engines"])
    return Entry(**{**fields, **ports, "shape": shape and Shape(**shape), "engines": engines})


def check_files(folder: Path, manifest: Manifest) -> None:
    """Check all files; BundleError names the first one that is missing, cut short or changed."""
    known = {file.path for file in manifest.files}
    for entry in manifest.entries:
        for name in (entry.file, *(engine.file for engine in entry.engines)):
            if name not in known:
                raise BundleError(f"{folder / NAME} lists no {name}: build the bundle again")
    for file in manifest.files:
        _check_file(folder / file.path, file)


def _check_file(path: Path, file: File) -> None:
    if not path.is_file():
        raise BundleError(f"{path} is missing from the bundle: build it again")
    size = path.stat().st_size
    if size != file.size:
        raise BundleError(f"{path} has {size} bytes, not {file.size}: build the bundle again")
    try:
        found = hash_file(path)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}") from error
    if found != file.sha256:
        raise BundleError(f"{path} was changed after it was built: build the bundle again")
