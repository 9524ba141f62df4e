"""Engines of small graphs: real ones by TensorRT-RTX, and the requests made to TensorRT."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.support.fake_tensorrt import FakeTensorRT
from venhancer.contract import NetworkSpec, TensorSpec
from venhancer.errors import BundleError, DeviceError, OptionError, OutputError
from venhancer_export.engines import builder, job
from venhancer_export.engines.builder import EngineOptions, open_builder
from venhancer_export.engines.job import ContractError, EngineBuildError, allow_decomposition
from venhancer_export.engines.targets import Target, find_target

SIZES = {"b": 2, "l": 64}
SPEC = NetworkSpec(
    "small", (TensorSpec("x", "b l 32", "float16"),), (TensorSpec("y", "b l 32", "float16"),)
)
L4, A100, H100 = find_target("l4"), find_target("a100"), find_target("h100")


def save(path: Path, nodes: Sequence[Any], ports: str, dtype: int, tensors: Sequence[Any]) -> Path:
    """Write a graph of opset 23 from x (and others, by letter) to y, its weights beside it."""
    described = {
        name: helper.make_tensor_value_info(name, dtype, [int(n) for n in shape.split("x")])
        for name, shape in (port.split("=") for port in ports.split())
    }
    inputs = [described[name] for name in described if name != "y"]
    body = helper.make_graph(nodes, "small", inputs, [described["y"]], tensors)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    onnx.checker.check_model(model)
    weights = f"{path.stem}.bin"
    onnx.save(model, path, save_as_external_data=True, location=weights, size_threshold=0)
    return path


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """Write a graph of projections and attention in heads of 16, as `SPEC` describes."""
    weights = [numpy_helper.from_array(np.eye(32, dtype=np.float16), f"w{n}") for n in "qkv"]
    nodes = [helper.make_node("MatMul", ["x", w.name], [w.name[1]]) for w in weights]
    nodes += [helper.make_node("Attention", [*"qkv"], ["y"], q_num_heads=2, kv_num_heads=2)]
    half = onnx.TensorProto.FLOAT16
    return save(tmp_path / "small.onnx", nodes, "x=2x64x32 y=2x64x32", half, weights)


def attention(path: Path, head: int, dtype: int) -> Path:
    """Write a graph of one attention of two heads, batch first, heads second."""
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"])
    ports = " ".join(f"{name}=1x2x64x{head}" for name in "qkvy")
    return save(path, [node], ports, dtype, [])


def build(graph: Path, *targets: Target, spec: NetworkSpec = SPEC, **options: Any) -> Path:
    pytest.importorskip("tensorrt_rtx")
    plan = graph.with_suffix(".plan")
    builder = open_builder("tensorrt-rtx", targets or [L4])
    builder.build(graph, spec, SIZES, plan, EngineOptions(**options))
    return plan


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("target", [A100, L4], ids=lambda target: target.name)
def test_an_engine_is_built_without_a_gpu(graph: Path, target: Target) -> None:
    """TensorRT-RTX makes a plan for a GPU that is not here, and leaves no other file behind."""
    plan = build(graph, target, workspace_gib=1.0)

    assert plan.stat().st_size > 1000
    assert files(graph.parent) == {"small.onnx", "small.bin", "small.plan"}


def test_one_plan_serves_several_gpus(graph: Path) -> None:
    """A plan for several GPUs is hardly larger than for one, since it holds the weights once."""
    one = build(graph, A100).stat().st_size
    both = build(graph, A100, L4, A100).stat().st_size

    assert one < both < 1.5 * one


def test_an_older_opset_is_refused(graph: Path) -> None:
    """The error has both opsets: an older one has no attention layer to fuse."""
    model = onnx.load(graph, load_external_data=False)
    model.opset_import[0].version = 20
    graph.write_bytes(model.SerializeToString())

    with pytest.raises(BundleError, match="has opset 20, attention is a layer from 23 on"):
        build(graph)


@pytest.mark.parametrize("where", ["write", "log"])
def test_an_interruption_is_not_lost(
    graph: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C inside a C++ callback ends the build, and no incomplete plan is kept."""
    trt = pytest.importorskip("tensorrt_rtx")

    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    class Interrupted:
        write = interrupt

    if where == "write":
        real = job.file_stream
        monkeypatch.setattr(job, "file_stream", lambda t, _: real(t, Interrupted()))
    else:
        log = job.collect_log(trt)
        monkeypatch.setattr(type(log), "_keep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(graph)

    assert files(graph.parent) == {"small.onnx", "small.bin"}


@pytest.mark.parametrize("head", [16, 64, 512])
@pytest.mark.parametrize("dtype", ["FLOAT16", "FLOAT"])
def test_attention_of_any_kind_is_built(tmp_path: Path, head: int, dtype: str) -> None:
    """The codec's head of 512 and float32 have no fused kernel, and are built all the same."""
    kind = {"FLOAT16": "float16", "FLOAT": "float32"}[dtype]
    names = [TensorSpec(name, f"1 2 l {head}", kind) for name in "qkvy"]
    spec = NetworkSpec("attention", tuple(names[:3]), tuple(names[3:]))
    path = attention(tmp_path / "attention.onnx", head, getattr(onnx.TensorProto, dtype))

    assert build(path, spec=spec).exists()


@pytest.mark.parametrize(("head", "is_split"), [(64, False), (256, False), (512, True)])
def test_attention_stays_fused_where_it_can(tmp_path: Path, head: int, is_split: bool) -> None:
    """Attention may be decomposed only without a fused kernel, so no engine is silently slow."""
    trt = pytest.importorskip("tensorrt_rtx")
    builder = trt.Builder(log := job.collect_log(trt))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    half = onnx.TensorProto.FLOAT16
    assert parser.parse_from_file(str(attention(tmp_path / "attention.onnx", head, half)))

    allow_decomposition(trt, network)

    layers = [network.get_layer(i) for i in range(network.num_layers)]
    [entry] = [layer for layer in layers if layer.type == trt.LayerType.ATTENTION_INPUT]
    entry.__class__ = trt.IAttentionInputLayer
    assert entry.attention.decomposable == is_split


def test_a_failed_build_tells_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one-line error contains the builder's message, and no plan is left."""
    monkeypatch.setattr(job, "allow_decomposition", lambda trt, network: None)
    names = [TensorSpec(name, "1 2 l 512", "float16") for name in "qkvy"]
    spec = NetworkSpec("attention", tuple(names[:3]), tuple(names[3:]))
    path = attention(tmp_path / "attention.onnx", 512, onnx.TensorProto.FLOAT16)

    with pytest.raises(EngineBuildError, match=r"attention\.onnx: .*not supported") as caught:
        build(path, spec=spec)

    assert "\n" not in str(caught.value)
    assert files(tmp_path) == {"attention.onnx"}


@pytest.mark.parametrize(
    ("x", "y", "difference"),
    [
        (("x", "b l 16", "float16"), None, r"x \(2, 64, 32\) float16 instead of x \(2, 64, 16\)"),
        (("x", "b l 32", "float32"), None, "x .* float16 instead of x .* float32"),
        (("z", "b l 32", "float16"), None, "x .* instead of y .*, y .* instead of z"),
        (None, ("y", "b l 32", "int64"), "y .* float16 instead of y .* int64"),
    ],
    ids=["shape", "type", "name", "output"],
)
def test_another_network_is_a_bug(graph: Path, x: Any, y: Any, difference: str) -> None:
    """A graph whose tensors are not the contract's is not built, and each such tensor is named."""
    spec = NetworkSpec(
        "small",
        (TensorSpec(*x) if x else SPEC.inputs[0],),
        (TensorSpec(*y) if y else SPEC.outputs[0],),
    )

    with pytest.raises(ContractError, match=difference):
        build(graph, spec=spec)

    assert "small.plan" not in files(graph.parent)


@pytest.mark.parametrize(
    ("file", "kept"),
    [("small.onnx", 0.0), ("small.onnx", 0.5), ("small.bin", 0.5), ("small.onnx", None)],
    ids=["empty", "graph", "weights", "missing"],
)
def test_a_graph_that_is_cut_short_is_named(graph: Path, file: str, kept: float | None) -> None:
    """An incomplete graph, or incomplete weights, are refused by name in one line."""
    broken = graph.with_name(file)
    data = broken.read_bytes()
    broken.unlink()
    if kept is not None:
        broken.write_bytes(data[: int(len(data) * kept)])

    with pytest.raises(BundleError, match=r"small\.onnx") as caught:
        build(graph)

    assert "\n" not in str(caught.value)
    assert "small.plan" not in files(graph.parent)


def test_a_full_disk_is_told(graph: Path) -> None:
    """A plan that does not fit on the disk is an error in one line, and nothing of it is left."""
    if not Path("/dev/full").exists():
        pytest.skip("needs a device that is always full")
    graph.with_name(".small.plan.part").symlink_to("/dev/full")

    with pytest.raises(OutputError, match=r"small\.plan: No space left"):
        build(graph)

    assert files(graph.parent) == {"small.onnx", "small.bin"}


@pytest.mark.parametrize("asked", ["auto", "tensorrt-rtx"])
def test_hopper_is_not_for_rtx(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT-RTX has no SM90: the error lists what it supports, and names the other builder."""
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(builder, "this_machine", lambda: None)

    with pytest.raises(
        (DeviceError, OptionError), match=r"SM80.*SM89.*not for SM90 \(h100\).*--builder tensorrt "
    ):
        open_builder(asked, [L4, H100])


def test_rtx_plans_hold_their_weights(graph: Path) -> None:
    """TensorRT-RTX cannot make a plan without weights; the error comes before it tries."""
    with pytest.raises(OptionError, match="take --builder tensorrt,"):
        build(graph, is_weightless=True)


def test_an_unknown_builder_is_refused() -> None:
    """The error lists the builders that exist."""
    with pytest.raises(OptionError, match="'onnx' is unknown: take auto, tensorrt, tensorrt-rtx"):
        open_builder("onnx", [L4])


@pytest.mark.trt
def test_an_engine_for_this_gpu_is_looked_at(graph: Path) -> None:
    """If the GPU is present, the engine is loaded and has the tensors of the contract."""
    target = find_target("this")
    plan = graph.with_suffix(".plan")
    open_builder("auto", [target]).build(graph, SPEC, SIZES, plan, EngineOptions())

    assert plan.exists()


# -- packages --------------------------------------------------------------------------------------


@pytest.fixture
def l4(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that this machine has an L4."""
    monkeypatch.setattr(builder, "this_machine", lambda: L4)


@pytest.fixture
def fake(l4: None, monkeypatch: pytest.MonkeyPatch, graph: Path) -> FakeTensorRT:
    """Install a stand-in for TensorRT that makes correct engines."""
    module = FakeTensorRT()
    module.loads(graph)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


def test_no_package_is_imported_before_it_is_needed() -> None:
    """Importing the builders imports neither a builder's package nor torch."""
    code = "import sys, venhancer_export.engines.builder; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert not {"tensorrt", "tensorrt_rtx", "torch", "onnx"} & set(done.stdout.split())


def test_a_missing_package_is_named_with_its_command(
    l4: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever builder is asked for, the error has the exact command that installs it."""
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)

    for asked in ("tensorrt", "tensorrt-rtx"):
        with pytest.raises(DeviceError, match=rf"run `pip install 'venhancer\[{asked}\]'`$"):
            open_builder(asked, [L4])
    with pytest.raises(DeviceError, match=r"venhancer\[tensorrt\].*venhancer\[tensorrt-rtx\]"):
        open_builder("auto", [L4])


@pytest.mark.parametrize(
    ("asked", "module", "version", "floor"),
    [
        ("tensorrt", "tensorrt", "10.9.0.34", "10.14"),
        ("tensorrt-rtx", "tensorrt_rtx", "1.3", "1.4"),
    ],
)
def test_an_old_package_is_refused(
    l4: None, monkeypatch: pytest.MonkeyPatch, asked: str, module: str, version: str, floor: str
) -> None:
    """A version without fused attention is refused; the error names the first one that has it."""
    monkeypatch.setitem(sys.modules, module, FakeTensorRT(version))

    with pytest.raises(DeviceError, match=f"{asked} {version} is too old, {floor} .*--upgrade"):
        open_builder(asked, [L4])


def test_auto_takes_tensorrt_for_the_gpu_that_is_here(fake: FakeTensorRT) -> None:
    """TensorRT is chosen if it is installed and the GPU is the one asked for; else RTX."""
    pytest.importorskip("tensorrt_rtx")

    assert open_builder("auto", [L4]).name == "tensorrt"
    assert open_builder("auto", [A100]).name == "tensorrt-rtx"


@pytest.mark.parametrize("here", [None, A100])
def test_tensorrt_builds_for_the_gpu_that_is_here(
    fake: FakeTensorRT, monkeypatch: pytest.MonkeyPatch, here: Target | None
) -> None:
    """TensorRT refuses a GPU that is not in this machine, by name."""
    monkeypatch.setattr(builder, "this_machine", lambda: here)

    with pytest.raises(OptionError, match=r"not for l4: .*--builder tensorrt-rtx"):
        open_builder("tensorrt", [L4])


def test_what_tensorrt_is_asked_for(fake: FakeTensorRT, graph: Path) -> None:
    """The network is strongly typed, the workspace has its limit, and no flag is set."""
    plan = graph.with_suffix(".plan")
    options = EngineOptions(workspace_gib=1.5)
    open_builder("tensorrt", [L4]).build(graph, SPEC, SIZES, plan, options)

    assert plan.read_bytes() == b"a plan"
    assert [network.flags for network in fake.networks] == [
        1 << fake.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    ]
    assert [config.flags for config in fake.configs] == [[]]
    assert [config.limits for config in fake.configs] == [{"workspace": 1_610_612_736}]


def test_a_plan_without_weights_may_be_refitted_with_the_same(
    fake: FakeTensorRT, graph: Path
) -> None:
    """Weights are left out by the one kind of refitting that costs no speed."""
    options = EngineOptions(is_weightless=True)
    plan = graph.with_suffix(".plan")
    open_builder("tensorrt", [L4]).build(graph, SPEC, SIZES, plan, options)

    assert fake.configs[0].flags == ["strip", "identical"]


def test_timings_are_kept(fake: FakeTensorRT, graph: Path) -> None:
    """A file keeps timings from build to build; those of another GPU are dropped."""
    cache = graph.with_name("timings")
    builder, options = open_builder("tensorrt", [L4]), EngineOptions(timing_cache=cache)
    kept = []
    for before in (None, b"this GPU+", b"another GPU"):
        if before is not None:
            cache.write_bytes(before)
        builder.build(graph, SPEC, SIZES, graph.with_suffix(".plan"), options)
        kept.append(fake.configs[-1].timings)

    assert kept == [b"this GPU", b"this GPU+", b"this GPU"]
    assert cache.read_bytes() == b"this GPU+"


def test_an_engine_with_other_tensors_is_not_kept(fake: FakeTensorRT, graph: Path) -> None:
    """If the engine can be loaded, it too is compared with the contract before it gets its name."""
    half = onnx.TensorProto.FLOAT16
    other = attention(graph.with_name("other.onnx"), 64, half)
    fake.loads(other)

    with pytest.raises(ContractError, match=r"small\.plan has k "):
        plan = graph.with_suffix(".plan")
        open_builder("tensorrt", [L4]).build(graph, SPEC, SIZES, plan, EngineOptions())

    assert files(graph.parent) == {"small.onnx", "small.bin", "other.onnx"}
