"""Open a bundle: read it, check its files, and that this machine and this version can run it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from venhancer.contract import NetworkSpec, Shape, TensorSpec, networks, sizes
from venhancer.errors import BundleError
from venhancer.manifest import Entry, Manifest, Port, check_files, read_manifest
from venhancer_rt.onnx_session import require_onnxruntime


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A folder of exported networks that can be run here."""

    folder: Path
    manifest: Manifest

    @property
    def specs(self) -> dict[str, NetworkSpec]:
        """What each of its networks takes and gives."""
        return networks(self.manifest.preset.model, self.manifest.precision)

    def sizes(self, shape: Shape) -> dict[str, int]:
        return sizes(self.manifest.preset.model, shape)

    def entries(self, shape: Shape) -> dict[str, Entry]:
        """Every network at one shape."""
        return {name: self.manifest.find(name, shape) for name in self.specs}


def open_bundle(folder: Path) -> Bundle:
    """BundleError for one that is cut short, edited or made for another machine.

    DeviceError where the package that runs it is missing.
    """
    manifest = read_manifest(folder)
    if manifest.builder == "onnx":
        require_onnxruntime()
    else:
        refuse_engines(folder, manifest)
    check_files(folder, manifest)
    bundle = Bundle(folder=folder, manifest=manifest)
    for shape in manifest.shapes:
        check_networks(bundle, shape)
    return bundle


def refuse_engines(folder: Path, manifest: Manifest) -> None:
    """BundleError: this version runs ONNX graphs; engines of another GPU would not run anyway."""
    gpus = ", ".join(manifest.gpus)
    here = _gpu_here()
    built = {e.capability: e.gpu for entry in manifest.entries for e in entry.engines}
    if here is not None and built and here[1] not in built:
        made_for = ", ".join(f"{gpu} ({capability})" for capability, gpu in built.items())
        raise BundleError(
            f"{folder} was built for {made_for}, this machine has {here[0]} ({here[1]}): "
            f"run `{manifest.command(folder, ('this',))}`"
        )
    raise BundleError(
        f"{folder} holds engines of {manifest.builder} for {gpus}, which this version does not "
        "run: build the bundle with `--builder onnx`"
    )


def _gpu_here() -> tuple[str, str] | None:
    """Name and compute capability of the first GPU."""
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return torch.cuda.get_device_name(), f"{major}.{minor}"


def check_networks(bundle: Bundle, shape: Shape) -> None:
    """BundleError for a network that is missing or takes other tensors than this version gives."""
    letters = bundle.sizes(shape)
    for name, entry in bundle.entries(shape).items():
        spec = bundle.specs[name]
        for found, wanted in ((entry.inputs, spec.inputs), (entry.outputs, spec.outputs)):
            _check_ports(bundle.folder / entry.file, found, wanted, letters)


def _check_ports(
    file: Path,
    found: tuple[Port, ...],
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
