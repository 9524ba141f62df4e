"""Open a bundle: read it, check its files, and that this machine and this version can run it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from venhancer.bundle.manifest import (
    Engine,
    Entry,
    Manifest,
    TensorInfo,
    check_files,
    read_manifest,
)
from venhancer.contract import NetworkSpec, Shape, TensorSpec, networks, sizes
from venhancer.errors import BundleError
from venhancer_rt.onnx_session import require_onnxruntime
from venhancer_rt.tensorrt_package import require_tensorrt


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU of this machine."""

    name: str  # the driver's name, such as "NVIDIA A100-SXM4-80GB"
    capability: str  # compute capability, such as "8.0"

    def __str__(self) -> str:
        return f"{self.name} ({self.capability})"

    def is_called(self, gpu: str) -> bool:
        """True if `gpu` names this model: by its short name, "a100", or by all of its words."""
        words = self.name.lower().replace("-", " ").removeprefix("nvidia ").split()
        full = "-".join("".join(filter(str.isalnum, word)) for word in words)
        return gpu == full or set(gpu.replace("rtx", "rtx ").split()) <= set(words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A folder of exported networks that can be run here."""

    folder: Path
    manifest: Manifest

    @property
    def specs(self) -> dict[str, NetworkSpec]:
        """Inputs and outputs of each network, by its name."""
        return networks(self.manifest.preset.model, self.manifest.precision)

    def sizes(self, shape: Shape) -> dict[str, int]:
        return sizes(self.manifest.preset.model, shape)

    def entries(self, shape: Shape) -> dict[str, Entry]:
        """Find the entry of every network at one shape."""
        return {name: self.manifest.find(name, shape) for name in self.specs}

    def plan(self, entry: Entry) -> Path:
        """Return the path of a network's engine; `open_bundle` has checked that there is one."""
        gpu = gpu_here()
        engine = find_engine(self.manifest, entry, gpu) if gpu else None
        assert engine is not None
        return self.folder / engine.file


def open_bundle(folder: Path) -> Bundle:
    """Open a bundle; BundleError if it is cut short, edited or made for another machine.

    DeviceError if the package that runs it is missing.
    """
    manifest = read_manifest(folder)
    if manifest.builder == "onnx":
        require_onnxruntime()
    else:
        check_engines(folder, manifest)
    check_files(folder, manifest)
    bundle = Bundle(folder=folder, manifest=manifest)
    for shape in manifest.shapes:
        check_networks(bundle, shape)
    return bundle


def check_engines(folder: Path, manifest: Manifest) -> None:
    """Raise BundleError unless this machine has the engines' GPU and the package they need."""
    built = dict.fromkeys(
        (e.gpu, e.capability) for entry in manifest.entries for e in entry.engines
    )
    made_for = ", ".join(f"{gpu} ({capability})" for gpu, capability in built)
    anywhere = "build the bundle with `--builder onnx`"
    gpu = gpu_here()
    if gpu is None:
        raise BundleError(
            f"{folder} holds engines of {manifest.builder} for {made_for}, and PyTorch finds no "
            f"CUDA device here: run it where that GPU is, or {anywhere}"
        )
    again = f"run `{manifest.command(folder, ('this',))}`"
    if any(find_engine(manifest, entry, gpu) is None for entry in manifest.entries):
        raise BundleError(
            f"{folder} was built for {made_for}, this machine has {gpu}: {again}, or {anywhere}"
        )
    version = require_tensorrt(manifest.builder).__version__
    if version != manifest.builder_version:
        raise BundleError(
            f"{folder} was built by {manifest.builder} {manifest.builder_version} and runs with "
            f"no other, this machine has {version}: {again}"
        )


def find_engine(manifest: Manifest, entry: Entry, gpu: Gpu) -> Engine | None:
    """Find the engine of a network for `gpu`.

    TensorRT-RTX compiles an engine for the device when it is loaded, so the compute capability must
    match. TensorRT compiled it when it was built, so the model must match too.
    """
    for engine in entry.engines:
        is_same_model = manifest.builder == "tensorrt-rtx" or gpu.is_called(engine.gpu)
        if engine.capability == gpu.capability and is_same_model:
            return engine
    return None


def gpu_here() -> Gpu | None:
    """Return the first GPU of this machine, or None."""
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return Gpu(torch.cuda.get_device_name(), f"{major}.{minor}")


def check_networks(bundle: Bundle, shape: Shape) -> None:
    """Raise BundleError for a network that is missing or has other tensors than this version's."""
    letters = bundle.sizes(shape)
    for name, entry in bundle.entries(shape).items():
        spec = bundle.specs[name]
        for found, wanted in ((entry.inputs, spec.inputs), (entry.outputs, spec.outputs)):
            _check_ports(bundle.folder / entry.file, found, wanted, letters)


def _check_ports(
    file: Path,
    found: tuple[TensorInfo, ...],
    wanted: tuple[TensorSpec, ...],
    letters: Mapping[str, int],
) -> None:
    has = {port.name: (port.shape, port.dtype) for port in found}
    needs = {spec.name: (spec.shape(letters), spec.dtype) for spec in wanted}
    for name in sorted(has.keys() | needs.keys()):
        if has.get(name) != needs.get(name):
            raise BundleError(
                f"{file} has {name} as {has.get(name)}, this version needs {needs.get(name)}: "
                "build the bundle again"
            )
