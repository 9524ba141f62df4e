"""Bundles of engines: opened, refused and run, by a stand-in; real ones if there is a GPU."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tests.support.bundles import Built, small_bundle
from tests.support.clips import small_checkpoint, write_clip
from tests.support.fake_engine import VERSION, FakeNetwork, FakeTensorRT, one_line, use_cpu
from venhancer.bundle.manifest import Entry
from venhancer.errors import BundleError, DeviceError, OptionError
from venhancer.options import Options
from venhancer.pipeline import run as pipeline
from venhancer_export.bundle_writer import build_bundle
from venhancer_export.engines.targets import KNOWN, short_name
from venhancer_export.request import make_request
from venhancer_rt.backends import Request, choose_backend, open_bundle_networks
from venhancer_rt.bundle_reader import Bundle, Gpu, open_bundle
from venhancer_rt.cuda_graph import GraphCapture
from venhancer_rt.engine import open_engines
from venhancer_rt.onnx_session import OnnxSession

Patch = pytest.MonkeyPatch


def pictures(folder: Path) -> NDArray[np.uint8]:
    return np.stack([np.asarray(Image.open(file)) for file in sorted(folder.iterdir())])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return small_bundle(tmp_path_factory.mktemp("small"), sizes=[(96, 64)], windows=[9])


def with_engines(built: Built, folder: Path, builder: str) -> FakeTensorRT:
    """Make an A100's bundle in `folder`, and a stand-in whose engines run its graphs on the CPU."""
    source = open_bundle(built.folder)
    manifest = json.loads((built.folder / "bundle.json").read_text())
    plans = {}
    for entry in manifest["entries"]:
        file, content = f"engines/a100/{Path(entry['file']).stem}.plan", entry["file"].encode()
        entry["engines"] = [{"gpu": "a100", "capability": "8.0", "file": file, "seconds": 1.0}]
        digest = hashlib.sha256(content).hexdigest()
        manifest["files"].append({"path": file, "size": len(content), "sha256": digest})
        plans[file] = content
    changed = {"builder": builder, "builder_version": VERSION, "gpus": ["a100"]}
    built.copy(folder, entries=manifest["entries"], files=manifest["files"], **changed)
    (folder / "engines" / "a100").mkdir(parents=True)
    for file, content in plans.items():
        (folder / file).write_bytes(content)
    networks = {
        entry.file.encode(): FakeNetwork(
            inputs=entry.inputs,
            outputs=entry.outputs,
            run=OnnxSession(source.folder / entry.file, entry, "cpu"),
            scratch=1000 * len(entry.network),
        )
        for entry in source.manifest.entries
    }
    return FakeTensorRT(networks, VERSION)


def use_gpu(monkeypatch: Patch, name: str, capability: tuple[int, int]) -> None:
    """Let PyTorch report a GPU in this machine."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def bundle(
    request: pytest.FixtureRequest, built: Built, tmp_path: Path, monkeypatch: Patch
) -> tuple[Path, FakeTensorRT]:
    """Make engines for this machine's GPU, and the package that runs them."""
    trt = with_engines(built, tmp_path / "bundle", request.param)
    use_gpu(monkeypatch, "NVIDIA A100-SXM4-80GB", (8, 0))
    monkeypatch.setitem(sys.modules, request.param.replace("-", "_"), trt)
    use_cpu(monkeypatch)
    return tmp_path / "bundle", trt


def test_a_run_by_engines(
    bundle: tuple[Path, FakeTensorRT], built: Built, tmp_path: Path, monkeypatch: Patch
) -> None:
    """The bundle is opened, named and run: the frames equal those of its graphs, bit for bit."""
    clip, options = write_clip(tmp_path / "in.mp4", 5), Options(interpolate=2, memory=8)

    request = Request(source=clip, options=options, bundle=bundle[0])
    backend, engines = choose_backend(request), open_bundle(bundle[0])
    assert backend.name in (f"TensorRT {VERSION}", f"TensorRT-RTX {VERSION}")
    assert (backend.compute.device, backend.compute.dtype) == ("cuda", torch.float32)
    assert backend.weights() == engines.manifest.request[:16]

    opened = {"engines": engines, "graphs": open_bundle(built.folder)}
    networks = {
        name: open_bundle_networks(bundle_, backend.plan, "cpu", None)
        for name, bundle_ in opened.items()
    }
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = []
    for name in networks:
        pipeline.enhance(backend.plan, tmp_path / name, networks[name], options)
        out.append(pictures(tmp_path / name))
    assert out[0].shape == (9, 64, 96, 3)
    assert np.array_equal(out[0], out[1])


def test_engines_share_their_memory(bundle: tuple[Path, FakeTensorRT]) -> None:
    """All engines share one block, as large as the largest of them needs."""
    folder, trt = bundle
    opened = open_bundle(folder)
    engines = open_engines(opened, opened.manifest.shapes[0], "cpu")

    assert set(engines) == set(opened.specs)
    [(address, size)] = {context.scratch for e in trt.engines for context in e.contexts}
    assert address % 64 == 0 and size == max(e.scratch_bytes for e in engines.values())
    assert size == 1000 * max(map(len, engines))


def test_engines_do_not_run_on_a_cpu(bundle: tuple[Path, FakeTensorRT], tmp_path: Path) -> None:
    """`--device cpu` is refused, and the line names a bundle that would run there."""
    clip = write_clip(tmp_path / "in.mp4", 5)

    request = Request(source=clip, options=Options(device="cpu"), bundle=bundle[0])
    found = one_line(lambda: choose_backend(request), OptionError)

    assert "--device cpu" in found and "`--builder onnx`" in found


def test_engines_of_another_version(bundle: tuple[Path, FakeTensorRT]) -> None:
    """The error has both versions, and the command that builds again."""
    folder, trt = bundle
    trt.__version__ = "11.5.0.1"

    found = one_line(lambda: open_bundle(folder), BundleError)

    assert VERSION in found and "this machine has 11.5.0.1" in found
    assert "venhancer-export build-engines" in found and "--gpu this" in found


def test_tensorrt_wants_the_very_model(
    bundle: tuple[Path, FakeTensorRT], monkeypatch: Patch
) -> None:
    """TensorRT-RTX compiles for the device when loading a plan; TensorRT's plan fits one model."""
    folder, _ = bundle
    use_gpu(monkeypatch, "NVIDIA A30", (8, 0))
    if "rtx" in json.loads((folder / "bundle.json").read_text())["builder"]:
        assert open_bundle(folder).plan(open_bundle(folder).manifest.entries[0]).is_file()
        return

    found = one_line(lambda: open_bundle(folder), BundleError)

    assert "for a100 (8.0), this machine has NVIDIA A30 (8.0)" in found


@pytest.mark.parametrize(
    "device",
    [
        "NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe", "NVIDIA L4", "NVIDIA L40S", "NVIDIA A10G",
        "NVIDIA H100 80GB HBM3", "NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4080 SUPER",
        "Tesla T4", "NVIDIA RTX 6000 Ada Generation",
    ],
)  # fmt: skip
def test_a_gpu_has_the_name_that_the_exporter_gives_it(device: str) -> None:
    """A GPU is named by its short name or, without one, by all of its words, and by no other."""
    names = {*KNOWN, "geforce-rtx-4080"}
    for capability in {*KNOWN.values(), (7, 5)}:
        here, name = Gpu(device, "{}.{}".format(*capability)), short_name(device, capability)
        alike = {n for n in names if KNOWN.get(n, (8, 9)) == capability}
        assert here.is_called(name)
        assert not any(here.is_called(other) for other in alike - {name})


# -- with a GPU ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Build engines here, for the GPU of this machine."""
    folder = tmp_path_factory.mktemp("real")
    weights = small_checkpoint(folder / "small.safetensors")
    try:
        request = make_request(
            preset=None, weights=weights, sizes=[(96, 64)], windows=[9], gpus=["this"]
        )
    except (DeviceError, OptionError) as error:
        pytest.skip(f"needs TensorRT for this GPU: {error}")
    build_bundle(request, folder / "bundle")
    return open_bundle(folder / "bundle")


def random_inputs(entry: Entry) -> dict[str, Tensor]:
    """Make a network's inputs on the GPU; timesteps are small numbers."""
    torch.manual_seed(0)
    return {
        port.name: torch.randint(0, 9, port.shape, device="cuda")
        if port.dtype == "int64"
        else torch.randn(port.shape, device="cuda").to(getattr(torch, port.dtype))
        for port in entry.inputs
    }


@pytest.mark.trt
def test_engines_compute_what_their_graphs_do(real: Bundle) -> None:
    """Every network of a bundle, in shared memory, agrees with ONNX Runtime on the CPU."""
    for name, run in open_engines(real, real.manifest.shapes[0], "cuda").items():
        inputs = random_inputs(run.entry)
        made = run(inputs)
        expected = OnnxSession(real.folder / run.entry.file, run.entry, "cpu")(inputs)
        for key, x in expected.items():
            difference = (made[key].cpu().float() - x.float()).norm()
            assert difference <= 2e-2 * x.float().norm(), (name, key)


@pytest.mark.trt
def test_engines_can_be_captured(real: Bundle) -> None:
    """A graph of two engines in sequence gives their separate results, for new inputs too."""
    engines = open_engines(real, real.manifest.shapes[0], "cuda")
    prepare, denoiser = engines["prepare"], engines["denoiser"]
    shown, noisy = random_inputs(prepare.entry), random_inputs(denoiser.entry)
    kept = denoiser({**noisy, **prepare(shown)})

    def work() -> None:
        for name, x in denoiser({**noisy, **prepare(shown)}).items():
            kept[name].copy_(x)

    step = GraphCapture()(work)
    for round_ in range(6):
        noisy["latents"].normal_()
        expected = denoiser({**noisy, **prepare(shown)})
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        step()
        after = torch.cuda.memory_stats()["allocation.all.allocated"]
        assert all(torch.equal(kept[name], x) for name, x in expected.items())
        assert round_ < 3 or after == before


@pytest.mark.trt
def test_a_whole_run_by_real_engines(real: Bundle, tmp_path: Path) -> None:
    """`enhance --bundle` on the GPU gives the frames of the graphs on the CPU, up to rounding."""
    clip, options = write_clip(tmp_path / "in.mp4", 5), Options(interpolate=2)
    backend = choose_backend(Request(source=clip, options=options, bundle=real.folder))
    graphs = Bundle(folder=real.folder, manifest=replace(real.manifest, builder="onnx"))
    networks = {
        "engines": backend.open(),
        "graphs": open_bundle_networks(graphs, backend.plan, "cpu", None),
    }
    out = {}
    for name in networks:
        pipeline.enhance(backend.plan, tmp_path / name, networks[name], options)
        out[name] = pictures(tmp_path / name).astype(float)

    assert out["engines"].shape == (9, 64, 96, 3)
    assert np.square(out["engines"] - out["graphs"]).mean() < 255**2 / 10**4  # 40 dB
