"""One engine: its inputs and outputs, and which engines are refused, by a stand-in."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support import fake_engine
from tests.support.fake_engine import VERSION, FakeNetwork, FakeTensorRT, one_line, use_cpu
from venhancer.bundle.manifest import Entry, TensorInfo
from venhancer.bundle.static_networks import Inputs
from venhancer.errors import BundleError, DeviceError, ShapeError
from venhancer_rt import tensorrt_package
from venhancer_rt.engine import Engine
from venhancer_rt.tensorrt_package import collect_log, require_tensorrt

Patch = pytest.MonkeyPatch
AGAIN = "run `build it`"
INPUTS = (
    TensorInfo(name="x", shape=(2, 3), dtype="float16"),
    TensorInfo(name="step", shape=(2,), dtype="int64"),
)
OUTPUTS = (
    TensorInfo(name="sum", shape=(2, 3), dtype="float32"),
    TensorInfo(name="next", shape=(2,), dtype="int64"),
)
ENTRY = Entry(
    network="adder", shape=None, file="adder.onnx", inputs=INPUTS, outputs=OUTPUTS, operators={}
)


def add(inputs: Inputs) -> dict[str, Tensor]:
    """Compute the result of the engine of `ENTRY`."""
    x, step = inputs["x"].float(), inputs["step"]
    return {"sum": x + step[:, None], "next": step + 1}


def adder(**fields: Any) -> FakeNetwork:
    return FakeNetwork(**{"inputs": INPUTS, "outputs": OUTPUTS, "run": add, **fields})


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: Patch) -> None:
    """Replace the stream, and use PyTorch's address rules of the CPU."""
    use_cpu(monkeypatch)


def load(folder: Path, network: FakeNetwork, entry: Entry = ENTRY, **fields: Any) -> Engine:
    """Load the engine of a plan, by a stand-in."""
    plan = folder / "adder.plan"
    plan.write_bytes(b"adder")
    trt = FakeTensorRT({b"adder": network})
    trt.__dict__.update(fields)
    return Engine(trt, plan, entry, "cpu", AGAIN)


# -- calls -----------------------------------------------------------------------------------------


def test_inputs_may_lie_anyhow(tmp_path: Path) -> None:
    """Other types, strides and odd addresses are converted; the given tensors are unchanged."""
    run = load(tmp_path, adder())
    x = torch.arange(24.0, dtype=torch.float64).reshape(4, 6)
    parts = {
        "strided": x[1:3, ::2],
        "turned": x.T[1:4, :2].T,
        "at an odd address": x.half().flatten()[1:7].view(2, 3),
        "as it should be": x[:2, :3].half().contiguous(),
    }

    for part in parts.values():
        before, step = part.clone(), torch.tensor([3, 4], dtype=torch.int32)
        made = run({"x": part, "step": step, "unknown": x})
        assert torch.equal(made["sum"], before.float() + torch.tensor([[3.0], [4.0]]))
        assert torch.equal(made["next"], torch.tensor([4, 5]))
        assert torch.equal(part, before)


def test_outputs_are_as_the_bundle_says(tmp_path: Path) -> None:
    """Every output has the bundle's shape and type; a later call does not overwrite it."""
    run = load(tmp_path, adder())
    first = run({"x": torch.ones(2, 3), "step": torch.zeros(2)})
    second = run({"x": torch.zeros(2, 3), "step": torch.zeros(2)})

    assert {name: (tuple(x.shape), x.dtype) for name, x in first.items()} == {
        "sum": ((2, 3), torch.float32),
        "next": ((2,), torch.int64),
    }
    assert first["sum"].eq(1).all() and second["sum"].eq(0).all()


def test_it_runs_on_pytorchs_stream(tmp_path: Path) -> None:
    """The engine runs in order with PyTorch's work, and in a graph that PyTorch captures."""
    network = adder()
    plan = tmp_path / "adder.plan"
    plan.write_bytes(b"adder")
    trt = FakeTensorRT({b"adder": network})
    Engine(trt, plan, ENTRY, "cpu", AGAIN)({"x": torch.ones(2, 3), "step": torch.zeros(2)})

    assert trt.engines[0].contexts[0].streams == [fake_engine.STREAM]


def test_an_input_of_another_size_is_refused(tmp_path: Path) -> None:
    """The error has both sizes, and comes before the input is bound."""
    run = load(tmp_path, adder())

    with pytest.raises(ShapeError, match=r"adder\.plan takes x of \(2, 3\), not \(3, 2\)"):
        run({"x": torch.ones(3, 2), "step": torch.zeros(2)})


def test_a_call_that_fails_tells_why(tmp_path: Path) -> None:
    """The error has TensorRT's message, once."""
    run = load(tmp_path, adder(failure="no\nkernel"))

    for _ in range(2):
        found = one_line(lambda: run({"x": torch.ones(2, 3), "step": torch.zeros(2)}), DeviceError)
        assert found.endswith(f"adder.plan: tensorrt {VERSION} failed: no kernel")


def test_a_call_without_memory_can_be_recovered_from(tmp_path: Path) -> None:
    """A run falls back to a smaller plan, as it does with PyTorch's own networks."""
    run = load(tmp_path, adder(failure="out of\nmemory"))

    with pytest.raises(torch.OutOfMemoryError, match="failed: out of memory"):
        run({"x": torch.ones(2, 3), "step": torch.zeros(2)})


# -- loading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"inputs": (INPUTS[0],)}, r"\[\('x', .*\)\], the bundle says \[\('step'"),
        ({"inputs": (INPUTS[0], *OUTPUTS[1:]), "outputs": (OUTPUTS[0], INPUTS[1])}, "'next'"),
        ({"outputs": (replace(OUTPUTS[0], shape=(3, 2)), OUTPUTS[1])}, r"\(3, 2\)"),
        ({"outputs": (replace(OUTPUTS[0], dtype="float16"), OUTPUTS[1])}, "float16"),
        ({"inputs": (INPUTS[0], replace(INPUTS[1], dtype="int32"))}, "INT32"),
    ],
    ids=["missing", "turned round", "shape", "type", "unknown type"],
)
def test_an_engine_of_another_network(tmp_path: Path, fields: Any, found: str) -> None:
    """Names, shapes, types and directions are compared with the bundle's manifest."""
    with pytest.raises(BundleError, match=rf"adder\.plan has .*{found}.*: run `build it`$"):
        load(tmp_path, adder(**fields))


@pytest.mark.parametrize(
    ("network", "fields", "kind", "reason"),
    [
        (adder(), {"networks": {}}, BundleError, "another version"),
        (adder(has_context=False), {}, BundleError, "no kernel fits"),
        (adder(), {"can_start": False}, DeviceError, "no driver"),
        (adder(stripped=4000), {}, BundleError, "without its weights"),
    ],
    ids=["plan", "context", "driver", "weights"],
)
def test_an_engine_that_cannot_be_loaded(
    tmp_path: Path, network: FakeNetwork, fields: Any, kind: type[Exception], reason: str
) -> None:
    """One line has TensorRT's message, the engine's file, and the command to run."""
    found = one_line(lambda: load(tmp_path, network, **fields), kind)

    assert reason in found
    assert kind is DeviceError or ("adder.plan" in found and found.endswith(AGAIN))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_the_real_package_refuses_in_one_line(tmp_path: Path) -> None:
    """TensorRT-RTX receives the mapped file and our logger, and has no GPU to load it on."""
    trt = pytest.importorskip("tensorrt_rtx")
    (tmp_path / "x.plan").write_bytes(bytes(1000))

    found = one_line(lambda: Engine(trt, tmp_path / "x.plan", ENTRY, "cpu", AGAIN), BundleError)

    assert "x.plan" in found and f"tensorrt_rtx {trt.__version__} cannot load it here" in found


def test_the_stand_in_is_like_the_real_package() -> None:
    """Every name that the tests call exists in TensorRT-RTX."""
    trt = pytest.importorskip("tensorrt_rtx")
    pairs: list[tuple[Any, Iterable[str]]] = [
        (trt.ICudaEngine, vars(fake_engine.FakeEngine)),
        (trt.IExecutionContext, vars(fake_engine.FakeContext)),
        (trt.Runtime, ["deserialize_cuda_engine"]),
        (trt.TensorIOMode, fake_engine.TensorIOMode.__members__),
        (trt.EngineStat, fake_engine.EngineStat.__members__),
        (trt.ExecutionContextAllocationStrategy, fake_engine.Strategy.__members__),
        (trt.DataType, fake_engine.NAMES.values()),
        (trt.ILogger, fake_engine.Severity.__members__),
    ]

    for real, names in pairs:
        assert [n for n in names if not n.startswith("_") and not hasattr(real, n)] == []


def test_one_logger_for_a_package(tmp_path: Path) -> None:
    """The package keeps the first logger it receives, so it is the same object and stays alive."""
    plan = tmp_path / "adder.plan"
    plan.write_bytes(b"adder")
    trt = FakeTensorRT({b"adder": adder()})
    for _ in range(2):
        Engine(trt, plan, ENTRY, "cpu", AGAIN)

    assert trt.loggers == [collect_log(trt)] * 2
    assert isinstance(collect_log(trt), trt.ILogger)


def test_an_interruption_is_not_lost(tmp_path: Path, monkeypatch: Patch) -> None:
    """Ctrl-C while C++ calls the logger ends the loading."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tensorrt_package.logger, "info", interrupt)

    with pytest.raises(KeyboardInterrupt):
        load(tmp_path, adder(), networks={})


@pytest.mark.parametrize("builder", ["tensorrt", "tensorrt-rtx"])
def test_a_missing_package_is_named_with_its_command(builder: str, monkeypatch: Patch) -> None:
    """For a missing and for a broken package, the error has the command that installs it."""
    module = builder.replace("-", "_")
    monkeypatch.setitem(sys.modules, module, None)
    assert f"pip install 'venhancer[{builder}]'" in one_line(
        lambda: require_tensorrt(builder), DeviceError
    )

    def broken(name: str) -> None:
        raise OSError("libnvinfer.so.11: not found\nat all")

    monkeypatch.setattr(tensorrt_package, "import_module", broken)
    found = one_line(lambda: require_tensorrt(builder), DeviceError)
    assert "cannot be loaded (libnvinfer.so.11: not found)" in found and " anew" in found
