"""The whole sampler by CUDA graphs: the bits of eager calls, and no allocation."""

from __future__ import annotations

import pytest
import torch

from tests.support.clips import small_checkpoint
from tests.support.sampler_parts import PRESET, key_frames, nothing, run, sampler, sampling, scene
from venhancer.sampling.evaluation import Model
from venhancer.sampling.sampler import Placement
from venhancer.spans import Span
from venhancer.weights.checkpoint import load_model
from venhancer_rt.cuda_graph import GraphCapture

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
WHOLE, TILES = (Span(0, 8),), (Span(0, 6), Span(2, 8))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = small_checkpoint(tmp_path_factory.mktemp("weights") / "small.safetensors")
    return load_model(path, PRESET, device="cuda")[0]


@pytest.mark.parametrize("rows", [WHOLE, TILES])
@pytest.mark.parametrize("held_on", ["cuda", "cpu"])
@pytest.mark.parametrize("reuse", [1, 2])
def test_graphs_give_the_same_bits(
    model: Model, rows: tuple[Span, ...], held_on: str, reuse: int
) -> None:
    """This holds for several windows, fresh noise, frames or tiles, latents on card or host."""
    plan, eager = sampling(9, rows=rows, eta=1.0, reuse=reuse), Placement(device="cuda")
    graphs = Placement(device="cuda", capture=GraphCapture())

    expected = run(model, plan, 41, eager, held_on)

    assert torch.equal(run(model, plan, 41, graphs, held_on), expected)


@pytest.mark.parametrize("rows", [WHOLE, TILES])
def test_turns_allocate_nothing_that_stays(model: Model, rows: tuple[Span, ...]) -> None:
    """After all captures, a window step that gives no frames allocates only its copied inputs.

    A replay itself allocates nothing.
    """
    shown, plan = scene(81, 9), sampling(9, rows=rows, eta=1.0)
    placement = Placement(device="cuda", capture=GraphCapture())
    with torch.inference_mode():
        own = sampler(model, plan, shown, placement)
        turns = own.run(shown, iter(key_frames(81)), 0, nothing)
        for _ in range(30):
            next(turns)
        before = torch.cuda.memory_stats()["reserved_bytes.all.current"]
        used = torch.cuda.memory_allocated()
        for _ in range(12):
            next(turns)

        assert torch.cuda.memory_stats()["reserved_bytes.all.current"] == before
        assert torch.cuda.memory_allocated() == used
        made = torch.cuda.memory_stats()["allocation.all.allocated"]
        for _ in range(5):
            own.works[9].evaluate(False)
        assert torch.cuda.memory_stats()["allocation.all.allocated"] == made
