"""Building of a bundle: atomic, resumable, and never repeated for the same request.

Everything is made in a build folder `.NAME.partial` beside the bundle, which is renamed when it is
complete. Files that take long (weights, engines) are recorded with their hashes, and the next run
of the same request keeps them.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from venhancer.bundle.manifest import (
    NAME,
    Engine,
    Entry,
    Manifest,
    TensorInfo,
    check_files,
    read_manifest,
)
from venhancer.config import RunDefaults
from venhancer.contract import OPSET, Shape, TensorSpec, networks, sizes
from venhancer.diffusion.schedule import plan_steps
from venhancer.errors import BundleError, OutputError
from venhancer_export.engines.build_folder import BuildFolder
from venhancer_export.engines.builder import EngineBuilder, EngineOptions, open_builder
from venhancer_export.engines.versions import versions
from venhancer_export.onnx_graph.graph import Graph
from venhancer_export.onnx_graph.networks import Network
from venhancer_export.onnx_graph.onnx_file import write_onnx
from venhancer_export.onnx_graph.weights_file import file_size, lay_out, write_weights
from venhancer_export.request import Request
from venhancer_export.sources import Source, companions, denoiser_source, digest

Say = Callable[[str], None]
PER_PLAN = 1.2  # largest ratio of an engine's bytes to its weights' bytes
SPARE = 200_000_000  # bytes for graphs and kernels (40 MB in a small network's plan)


def silent(_: str) -> None:
    """Say nothing."""


def build_bundle(
    request: Request, folder: Path, *, overwrite: bool = False, say: Say = silent
) -> Manifest:
    """Build the bundle `folder`, unless it is built already.

    BundleError where `folder` is another bundle, OutputError where the disk is too small.
    """
    start = time.monotonic()
    sources = [
        denoiser_source(request.preset, request.weights, request.precision),
        *companions(request.preset, request.precision),
    ]
    builder = None if request.builder == "onnx" else open_builder(request.builder, request.targets)
    key = request.key(
        builder.version if builder else "", {s.name: digest(s.module) for s in sources[1:]}
    )
    existing = _existing(folder, key, overwrite)
    if existing is not None:
        say(f"{folder} is built already")
        return existing
    check_disk(folder, request, sources)
    shop = BuildFolder(folder, key, may_replace=overwrite)
    try:
        with shop:
            entries = [entry for s in sources for entry in _export(s, request, shop, say)]
            if builder is not None:
                entries = [_with_engines(e, request, builder, shop, say) for e in entries]
            manifest = _manifest(request, builder, key, entries, shop, time.monotonic() - start)
            shop.finish(NAME, manifest.to_json())
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        if shop.place.is_dir():
            say(f"what is finished is kept in {shop.place}: the same command goes on from there")
    return manifest


def _existing(folder: Path, key: str, overwrite: bool) -> Manifest | None:
    """Find an existing bundle that answers the request; BundleError for any other bundle."""
    if folder.is_symlink() and not folder.exists():
        raise OutputError(f"{folder} is a link to nothing: choose another -o")
    if not folder.exists():
        if not folder.absolute().parent.is_dir():
            raise OutputError(f"{folder.parent} is no folder: make it, or choose another -o")
        return None
    try:
        manifest = read_manifest(folder)
        if manifest.request == key:
            check_files(folder, manifest)
            return manifest
        reason = f"{folder} holds another bundle ({describe(manifest)})"
    except BundleError as error:
        reason = str(error).partition(": build ")[0]
        if not (folder / NAME).exists():  # never replace a folder that is not ours
            raise BundleError(f"{folder} exists and is no bundle: choose another -o") from error
    if not overwrite:
        raise BundleError(f"{reason}: choose another -o, or pass --overwrite")
    return None


def describe(manifest: Manifest) -> str:
    """Describe a bundle in a few words."""
    shapes = ", ".join(map(str, manifest.shapes))
    gpus = f" for {', '.join(manifest.gpus)}" if manifest.gpus else ""
    return f"{manifest.preset.name} {shapes}, {manifest.precision} {manifest.builder}{gpus}"


def check_disk(folder: Path, request: Request, sources: list[Source]) -> None:
    """Raise OutputError where weights and engines would not fit on the disk."""
    needed = SPARE
    for source in sources:
        size = file_size(lay_out(source.module))
        shapes = max(len(_shapes(network, request)) for network in source.networks.values())
        needed += size + int(PER_PLAN * size * shapes * bool(request.targets))
    free = shutil.disk_usage(folder.absolute().parent).free
    if free < needed:
        raise OutputError(
            f"{folder.absolute().parent} has {free / 1e9:.1f} GB free, the bundle may need "
            f"{needed / 1e9:.1f} GB: make room or choose another -o"
        )


def _shapes(network: Network, request: Request) -> list[Shape | None]:
    """List the shapes that need a graph of their own."""
    return list(request.shapes) if "h" in _letters(network) else [None]


def _letters(network: Network) -> set[str]:
    tensors = (*network.spec.inputs, *network.spec.outputs)
    return {letter for tensor in tensors for letter in tensor.axes.split()}


def _file_name(network: Network, shape: Shape | None) -> str:
    """Name a graph's file, without sizes that it does not depend on (the codec's: the window)."""
    if shape is None:
        return network.spec.name
    size = str(shape) if "f" in _letters(network) else f"{shape.width}x{shape.height}"
    return f"{network.spec.name}_{size}"


def _export(source: Source, request: Request, shop: BuildFolder, say: Say) -> Iterator[Entry]:
    """Write a module's weights once, and a graph for each of its networks and shapes."""
    weights = f"{source.name}.weights"
    places = lay_out(source.module)
    say(f"{source.name}: {file_size(places) / 1e9:.2f} GB of weights")
    shop.make(f"onnx/{weights}", lambda path: write_weights(path, places, source.read))
    if source.save_files is not None:
        shop.make_folder("tokenizer", source.save_files)
    for network in source.networks.values():
        for shape in _shapes(network, request):
            letters = sizes(request.preset.model, shape or request.shapes[0])
            graph = network.graph(letters)
            file = f"onnx/{_file_name(network, shape)}.onnx"
            write = partial(write_onnx, graph=graph, weights=weights, places=places)
            shop.make_anew(file, write)
            yield _entry(network, shape, file, letters, graph)


def _entry(
    network: Network, shape: Shape | None, file: str, letters: Mapping[str, int], graph: Graph
) -> Entry:
    def ports(tensors: Sequence[TensorSpec]) -> tuple[TensorInfo, ...]:
        return tuple(
            TensorInfo(name=t.name, shape=t.shape(letters), dtype=t.dtype) for t in tensors
        )

    return Entry(
        network=network.spec.name,
        shape=shape,
        file=file,
        inputs=ports(network.spec.inputs),
        outputs=ports(network.spec.outputs),
        operators=graph.operators(),
    )


def _with_engines(
    entry: Entry, request: Request, builder: EngineBuilder, shop: BuildFolder, say: Say
) -> Entry:
    """Build an engine, one file for all GPUs, and add it to the entry."""
    model = request.preset.model
    spec = networks(model, request.precision)[entry.network]
    letters = sizes(model, entry.shape or request.shapes[0])
    cache = shop.folder.with_name(f"{shop.folder.name}.timing")
    options = EngineOptions(workspace_gib=request.workspace_gib, timing_cache=cache)
    graph = shop.place / entry.file
    gpus = "-".join(target.name for target in request.targets)
    path = f"engines/{gpus}/{graph.stem}.plan"
    say(f"{graph.stem} for {gpus} ...")
    build = partial(builder.build, graph, spec, letters, options=options)
    shop.make(path, build, of=entry.file)
    seconds, size = shop.seconds[path], (shop.place / path).stat().st_size
    say(f"  {size / 1e6:.0f} MB in {seconds:.0f} s")
    engines = [
        Engine(gpu=t.name, capability=t.capability, file=path, seconds=round(seconds, 2))
        for t in request.targets
    ]
    return dataclasses.replace(entry, engines=tuple(engines))


def _manifest(
    request: Request,
    builder: EngineBuilder | None,
    key: str,
    entries: Sequence[Entry],
    shop: BuildFolder,
    seconds: float,
) -> Manifest:
    return Manifest(
        preset=request.preset,
        checkpoint=request.weights.name,
        checkpoint_sha256=request.checkpoint_sha256,
        precision=request.precision,
        opset=OPSET,
        builder=request.builder,
        builder_version=builder.version if builder else "",
        gpus=tuple(target.name for target in request.targets),
        shapes=request.shapes,
        schedule=_schedule(request.preset.defaults),
        request=key,
        versions=versions(),
        entries=tuple(entries),
        files=shop.files(),
        seconds=round(seconds, 2),
    )


def _schedule(defaults: RunDefaults) -> dict[str, Any]:
    """List the solver and the steps that the preset uses by default."""
    steps = plan_steps(defaults.solver, defaults.steps)
    return {
        "solver": defaults.solver,
        "steps": defaults.steps,
        "eta": defaults.eta,
        "guidance": defaults.guidance,
        "timesteps": steps.timesteps.tolist(),
        "sigmas": steps.sigmas.tolist(),
    }
