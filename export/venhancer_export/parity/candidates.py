"""Ways to run a bundle's networks: PyTorch in float32, and the candidates compared with it."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import nn

from venhancer.bundle.manifest import Manifest
from venhancer.config import Preset
from venhancer.contract import Precision, networks, sizes
from venhancer.errors import VEnhancerError
from venhancer.model.denoiser import Denoiser
from venhancer.weights.checkpoint import load_model
from venhancer_export.engines.targets import Target, this_machine
from venhancer_export.onnx_graph.networks import Network, denoiser_networks
from venhancer_export.onnx_graph.onnx_file import write_onnx
from venhancer_export.onnx_graph.weights_file import lay_out, write_weights
from venhancer_export.parity.cases import Case
from venhancer_export.parity.runners import Runs, engine_runs, onnx_run, pytorch_run
from venhancer_export.sources import Source, companions, denoiser_source

PRECISIONS: tuple[Precision, ...] = ("float32", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A bundle to verify, its checkpoint, and a folder for graphs exported during verification."""

    folder: Path
    manifest: Manifest
    weights: Path
    place: Path
    device: str  # of PyTorch
    has_companions: bool  # codec and text encoder are in the bundle and on this machine
    target: Target | None  # this machine's GPU, if the bundle has engines that can be run here

    @property
    def preset(self) -> Preset:
        return self.manifest.preset

    def companions(self, precision: Precision) -> list[Source]:
        return companions(self.preset, precision) if self.has_companions else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to run the networks of a case."""

    name: str
    precision: Precision
    device: str
    open: Callable[[Case], AbstractContextManager[Runs]]
    is_yardstick: bool = False  # PyTorch's own float16, which shows what half precision loses
    is_for_own_shapes: bool = False  # engines have no other shapes


@dataclass(slots=True, kw_only=True)
class PyTorch:
    """All networks of a bundle, in PyTorch."""

    denoiser: Denoiser
    runs: Runs
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    vocabulary: int = 0  # of the text encoder, if there is one


def in_pytorch(subject: Subject, precision: Precision) -> PyTorch:
    """Load every network; embeddings of numbers stay in float32, as in a run."""
    dtype, device = getattr(torch, precision), subject.device
    denoiser, preset = load_model(subject.weights, subject.preset, dtype=dtype, device=device)
    made: dict[str, Network] = denoiser_networks(preset.model, precision, denoiser)
    modules: dict[str, nn.Module] = {"denoiser": denoiser}
    vocabulary = 0
    for source in subject.companions(precision):
        modules[source.name] = source.module.to(device)
        made.update(source.networks)
        if source.name == "text_encoder":
            vocabulary = source.module.get_input_embeddings().num_embeddings  # type: ignore
    runs = {name: pytorch_run(network, device) for name, network in made.items()}
    return PyTorch(denoiser=denoiser, runs=runs, modules=modules, vocabulary=vocabulary)


def candidates(subject: Subject) -> Iterator[Candidate]:
    """Iterate over candidates, so that only one is in memory at a time; the yardstick first."""
    yield _pytorch(subject)
    for precision in PRECISIONS:
        yield Candidate(
            name=f"ONNX {precision}",
            precision=precision,
            device="cpu",
            open=partial(_open_graphs, subject, precision),
        )
    if subject.target is not None:
        yield Candidate(
            name=f"{subject.manifest.builder} on {subject.target.name}",
            precision=subject.manifest.precision,
            device="cuda",
            open=partial(_open_engines, subject, subject.target),
            is_for_own_shapes=True,
        )


def find_engines(manifest: Manifest) -> tuple[Target | None, str]:
    """Find the GPU whose engines can run here; if the bundle's engines cannot, also say why."""
    if not manifest.gpus:
        return None, ""
    left_out, here = f"left out: engines for {', '.join(manifest.gpus)}", this_machine()
    if here is None:
        return None, f"{left_out}: this machine has no GPU"
    if here.name not in manifest.gpus:
        return None, f"{left_out}: this machine has {here.name}"
    for package in (manifest.builder.replace("-", "_"), "polygraphy"):
        if importlib.util.find_spec(package) is None:
            return None, f"{left_out}: {package} is not installed"
    return here, ""


def _pytorch(subject: Subject) -> Candidate:
    half = in_pytorch(subject, "float16")
    return Candidate(
        name="PyTorch float16",
        precision="float16",
        device=subject.device,
        open=lambda _: nullcontext(half.runs),
        is_yardstick=True,
    )


def _open_graphs(
    subject: Subject, precision: Precision, case: Case
) -> AbstractContextManager[Runs]:
    """Open the bundle's own graphs where it has them, else export graphs now."""
    if case.is_own and precision == subject.manifest.precision:
        entries = {name: subject.manifest.find(name, case.shape) for name in _names(subject)}
        paths = {name: subject.folder / entry.file for name, entry in entries.items()}
    else:
        paths = _export(subject, precision, case)
    return nullcontext({name: onnx_run(path) for name, path in paths.items()})


def _names(subject: Subject) -> list[str]:
    """List the networks to compare: those of the bundle that this machine has in PyTorch."""
    found = dict.fromkeys(entry.network for entry in subject.manifest.entries)
    return [n for n in found if subject.has_companions or n in ("denoiser", "prepare", "text_keys")]


def _export(subject: Subject, precision: Precision, case: Case) -> dict[str, Path]:
    """Export graphs for one shape; in the bundle's precision, with a copy of its weights."""
    preset, paths = subject.preset, {}
    sources = [
        denoiser_source(preset, subject.weights, precision),
        *subject.companions(precision),
    ]
    for source in sources:
        weights, places = f"{source.name}.{precision}.weights", lay_out(source.module)
        if not (subject.place / weights).exists():
            built = subject.folder / "onnx" / f"{source.name}.weights"
            if precision == subject.manifest.precision:
                shutil.copyfile(built, subject.place / weights)
            else:
                write_weights(subject.place / weights, places, source.read)
        for name, network in source.networks.items():
            paths[name] = subject.place / f"{name}.{precision}.onnx"
            graph = network.graph(sizes(preset.model, case.shape))
            write_onnx(paths[name], graph, weights, places)
    return paths


def _open_engines(subject: Subject, target: Target, case: Case) -> AbstractContextManager[Runs]:
    manifest, plans = subject.manifest, {}
    for name in _names(subject):
        for engine in manifest.find(name, case.shape).engines:
            if engine.gpu == target.name:
                plans[name] = subject.folder / engine.file
    specs = networks(manifest.preset.model, manifest.precision)
    return engine_runs(plans, specs, manifest.builder)


def find_companions(manifest: Manifest) -> tuple[bool, str]:
    """Tell whether codec and text encoder can be compared; if the bundle's cannot, also why."""
    if not any(entry.network == "vae_decoder" for entry in manifest.entries):
        return False, ""
    try:
        companions(manifest.preset, "float32")
    except VEnhancerError as error:
        return False, f"left out: vae_encoder, vae_decoder, text_encoder: {error}"
    return True, ""
