"""CUDA graphs: when work is captured, by a stand-in; results of a replay, if there is a GPU."""

from __future__ import annotations

import collections
import gc
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.support.models import SMALL_UNET
from venhancer.config import NANO, Preset
from venhancer.contract import Shape, model_inputs, sizes
from venhancer.model.denoiser import make_denoiser
from venhancer.weights.checkpoint import precision_of
from venhancer_rt.cuda_graph import CudaRecorder, Graph, GraphCapture, Work, lack_of_memory

OutOfMemory = torch.cuda.OutOfMemoryError
BUSY = "the capture cannot end"


class FakeGraph:
    """A graph that does the work when it is replayed, and records that."""

    def __init__(self, work: Work, log: list[str], pool: object) -> None:
        self.work = work
        self.log = log
        self._pool = pool

    def replay(self) -> None:
        self.log.append("replay")
        self.work()

    def pool(self) -> object:
        return self._pool


class FakeRecorder:
    """A recorder that notes its calls; a capture fails if `room` (memory for it) is gone."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.pools: list[object] = []
        self.has_room = True
        self.nodes: collections.Counter[str] = collections.Counter()

    def run(self, work: Work) -> None:
        self.log.append("run")
        work()

    def capture(self, work: Work, beside: Graph | None) -> FakeGraph:
        self.log.append("capture")
        if not self.has_room:
            raise OutOfMemory("no room")
        self.pools.append(beside.pool() if beside else object())
        return FakeGraph(work, self.log, self.pools[-1])

    def take(self) -> list[str]:
        """Return the events since the last call."""
        taken = self.log.copy()
        self.log.clear()
        return taken


class Counter:
    """Work that counts its calls in a tensor at a fixed address."""

    def __init__(self) -> None:
        self.count = torch.zeros(1)
        self.is_inference: list[bool] = []

    def __call__(self) -> None:
        self.count += 1
        self.is_inference.append(torch.is_inference_mode_enabled())


def test_the_second_call_captures() -> None:
    """The first two calls run the work directly, and later ones only replay."""
    recorder, work = FakeRecorder(), Counter()
    step = GraphCapture(recorder)(work)

    happened = []
    for _ in range(5):
        step()
        happened.append(recorder.take())

    assert happened == [["run"], ["run", "capture"], ["replay"], ["replay"], ["replay"]]
    assert work.count == 5
    assert all(work.is_inference)


def test_graphs_share_one_pool() -> None:
    """All graphs lie in the memory of the first; later work is captured after one call."""
    recorder = FakeRecorder()
    capture = GraphCapture(recorder)
    steps = [capture(Counter()) for _ in range(3)]
    for step in steps:
        for _ in range(3):
            step()

    first, other = ["run", "run", "capture", "replay"], ["run", "capture", "replay", "replay"]
    assert recorder.take() == [*first, *other, *other]
    assert len(set(recorder.pools)) == 1


def test_work_that_takes_turns_is_captured_too() -> None:
    """Work that was called before there was a graph is captured at its next call, once."""
    recorder = FakeRecorder()
    capture = GraphCapture(recorder)
    first, second = capture(Counter()), capture(Counter())
    for _ in range(3):
        first()
        second()

    turns = ["run", "run", "run", "capture", "run", "capture", "replay", "replay"]
    assert recorder.take() == turns


def test_lack_of_memory_leaves_the_work_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """Each call runs the work once without a graph, and the fallback is reported."""
    recorder, work = FakeRecorder(), Counter()
    capture = GraphCapture(recorder)
    step = capture(work)
    recorder.has_room = False
    for _ in range(5):
        step()

    assert recorder.take() == ["run", "run", "capture", *["run"] * 3]
    assert work.count == 5
    assert "no memory for a CUDA graph" in caplog.text

    recorder.has_room = True
    other = capture(Counter())
    for _ in range(3):
        other()
    assert recorder.take() == ["run", "run", "capture", "replay"]
    assert len(recorder.pools) == 1


def test_another_failure_is_raised() -> None:
    """A capture that the work does not permit is a bug, so its error is raised."""

    class Broken(FakeRecorder):
        def capture(self, work: Work, beside: Graph | None) -> FakeGraph:
            raise RuntimeError(BUSY)

    step = GraphCapture(Broken())(Counter())
    step()
    with pytest.raises(RuntimeError, match=BUSY):
        step()


def test_a_function_that_is_gone_takes_its_graph_along() -> None:
    """Nothing else holds the graph: the pool is freed with the last of its graphs."""
    recorder = FakeRecorder()
    capture = GraphCapture(recorder)
    for _ in range(2):
        step = capture(Counter())
        for _ in range(3):
            step()
        del step
        gc.collect()

    assert len(set(recorder.pools)) == 2


def test_nothing_is_asked_of_cuda_before_there_is_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Capturing objects can be made on a machine without CUDA."""

    def never(*_: object) -> None:
        raise AssertionError("CUDA was asked")

    for name in ("Stream", "current_stream", "stream", "graph", "CUDAGraph"):
        monkeypatch.setattr(torch.cuda, name, never)

    GraphCapture()(lambda: None)


def test_lack_of_memory_is_found_behind_what_followed() -> None:
    """Ending a broken capture fails too; the error raised is the one that broke it."""
    lack = OutOfMemory("no room")
    try:
        try:
            raise lack
        except OutOfMemory:
            raise RuntimeError(BUSY)  # noqa: B904 (as PyTorch does)
    except RuntimeError as error:
        assert lack_of_memory(error) is lack
    assert lack_of_memory(RuntimeError(BUSY)) is None


# -- with a GPU ------------------------------------------------------------------------------------

SHAPE = Shape(width=64, height=64, window=9)
COMPILED = [False, pytest.param(True, marks=pytest.mark.slow)]


class Evaluation:
    """One evaluation of a network, from buffers into a buffer."""

    def __init__(
        self, is_compiled: bool = False, seed: int = 0, preset: Preset = SMALL_UNET
    ) -> None:
        torch.manual_seed(seed)
        model = preset.model
        letters = sizes(model, SHAPE)
        self.inputs = {
            spec.name: torch.randint(1, 900, spec.shape(letters), device="cuda")
            if spec.dtype == "int64"
            else torch.rand(spec.shape(letters), device="cuda")
            for spec in model_inputs(model)
        }
        network = make_denoiser(model).eval().requires_grad_(False).to("cuda")
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
            parameter.data = parameter.data.to(precision_of(name, torch.float16))
        self.network: Callable[..., Tensor] = torch.compile(network) if is_compiled else network
        self.out = torch.zeros(model_inputs(model)[0].shape(letters), device="cuda")

    def __call__(self) -> None:
        self.out.copy_(self.network(**self.inputs))

    def expected(self) -> Tensor:
        """Compute the result without a graph."""
        CudaRecorder().run(torch.inference_mode()(self))
        return self.out.clone()


def allocated() -> int:
    """Return how often PyTorch's allocator was called."""
    return int(torch.cuda.memory_stats()["allocation.all.allocated"])


def private_pools() -> set[tuple[int, int]]:
    """Return the pools of graphs that hold memory."""
    torch.cuda.empty_cache()
    return {s["segment_pool_id"] for s in torch.cuda.memory_snapshot()} - {(0, 0)}


@pytest.mark.gpu
@pytest.mark.parametrize("is_compiled", COMPILED)
@pytest.mark.parametrize("preset", [SMALL_UNET, NANO], ids=lambda preset: preset.name)
def test_a_replay_is_the_work_bit_for_bit(preset: Preset, is_compiled: bool) -> None:
    """A replay gives equal bits for changing inputs and both bodies, and allocates nothing."""
    work = Evaluation(is_compiled, preset=preset)
    step = GraphCapture()(work)
    seen = []
    for call in range(8):
        work.inputs["latents"].normal_()
        work.inputs["timestep"].fill_(100 + call)
        expected = work.expected()
        work.out.zero_()
        before = allocated()
        step()
        assert call < 3 or allocated() == before
        assert torch.equal(work.out, expected)
        seen.append(expected)

    assert all(x.isfinite().all() and x.abs().max() > 0 for x in seen)
    assert not any(torch.equal(a, b) for a, b in pairwise(seen))


@pytest.mark.gpu
def test_a_capture_changes_nothing() -> None:
    """Only replays count: four calls add four, in order with the other work in the queue."""
    counter = Counter()
    counter.count = torch.zeros(1, device="cuda")
    step = GraphCapture()(counter)
    for _ in range(4):
        counter.count.mul_(10)
        step()

    assert counter.count.item() == 1111


@pytest.mark.gpu
def test_two_graphs_in_one_pool() -> None:
    """Two alternating graphs each give their own result; their memory is freed with them."""
    first, second = Evaluation(seed=1), Evaluation(seed=2)
    expected = [first.expected(), second.expected()]
    before = private_pools()
    capture = GraphCapture()
    steps = [capture(first), capture(second)]
    for _ in range(5):
        for work, step, x in zip((first, second), steps, expected, strict=True):
            work.out.zero_()
            step()
            assert torch.equal(work.out, x)

    assert len(private_pools() - before) == 1
    del steps, step
    gc.collect()
    assert private_pools() <= before


@pytest.mark.gpu
def test_a_capture_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The current stream is restored, and the work goes on."""
    needs = [1]

    def work() -> None:
        total.add_(torch.ones(needs[0], device="cuda")[0])

    total = torch.zeros(1, device="cuda")
    capture = GraphCapture()
    step, current = capture(work), torch.cuda.current_stream()
    step()
    monkeypatch.setattr(CudaRecorder, "run", lambda self, work: needs.__setitem__(0, 2**50))
    step()  # does nothing, and leaves too little memory for the capture

    assert torch.cuda.current_stream() == current
    assert not torch.cuda.is_current_stream_capturing()
    monkeypatch.undo()
    needs[0] = 1
    step()
    assert total.item() == 2
    other = Evaluation()
    expected, step = other.expected(), capture(other)
    for _ in range(4):
        step()
    assert torch.equal(other.out, expected)
