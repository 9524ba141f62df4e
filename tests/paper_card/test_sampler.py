"""The sampler on the paper card: graphs give the bits of eager calls, with few host copies."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.paper_card import parts
from tests.paper_card.card import Card
from tests.paper_card.parts import PLAIN, TEXTUAL, TILES, WHOLE, plan_of, sampled
from tests.support.sampler_parts import nothing
from venhancer.config import Preset
from venhancer.sampling.sampler import Placement
from venhancer.spans import Span
from venhancer_rt import cuda_graph
from venhancer_rt.cuda_graph import GraphCapture

EAGER = Placement(device="cuda")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write checkpoints by preset: one without text, one whose steps are guided."""
    folder = tmp_path_factory.mktemp("weights")
    return {
        preset.name: parts.write_random(folder / f"{preset.name}.safetensors", preset)
        for preset in (PLAIN, TEXTUAL)
    }


@pytest.mark.parametrize("preset", [PLAIN, TEXTUAL], ids=["unguided", "guided"])
@pytest.mark.parametrize("rows", [WHOLE, TILES], ids=["whole", "tiles"])
@pytest.mark.parametrize("reuse", [1, 2])
def test_graphs_give_the_same_bits(
    preset: Preset,
    rows: tuple[Span, ...],
    reuse: int,
    card: Card,
    checkpoints: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The bits are the same with latents on the card and on the host."""
    monkeypatch.setattr(cuda_graph, "WARM_UPS", 1)
    model, plan = parts.on_card(checkpoints[preset.name], preset), plan_of(preset, rows, reuse)

    expected = sampled(model, preset, plan, EAGER)

    assert expected.isfinite().all()
    for held_on in ("cuda", "cpu"):
        graphs = Placement(device="cuda", capture=GraphCapture())
        assert torch.equal(sampled(model, preset, plan, graphs, held_on), expected), held_on


def test_all_work_of_a_run_is_captured(card: Card, checkpoints: dict[str, Path]) -> None:
    """A run calls preparation and evaluation often enough for both to be captured."""
    model = parts.on_card(checkpoints[PLAIN.name], PLAIN)
    plan, capture = plan_of(PLAIN, WHOLE, 1), GraphCapture()
    with torch.inference_mode():
        placement = Placement(device="cuda", capture=capture)
        own, shown = parts.make_sampler(model, PLAIN, plan, placement, "cuda")
        for _ in own.run(shown, iter(parts.key_latents(PLAIN)), 0, nothing):
            pass

    [work] = own.works.values()
    steps = [work.preparation, *work.evaluations.values()]
    assert [step.graph is not None for step in steps] == [True, True]


ALLOWED = {"blending.set": 2}  # copies in a window step of a whole frame: places and shares


def test_a_turn_crosses_no_more_than_this(
    card: Card, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After all captures, a window step makes only these copies to the card, and no wait."""
    monkeypatch.setattr(cuda_graph, "WARM_UPS", 1)
    model = parts.on_card(checkpoints[TEXTUAL.name], TEXTUAL)
    placement = Placement(device="cuda", capture=GraphCapture())
    plan = plan_of(TEXTUAL, WHOLE, 1)
    with torch.inference_mode():
        own, shown = parts.make_sampler(model, TEXTUAL, plan, placement, "cuda")
        turns = own.run(shown, iter(parts.key_latents(TEXTUAL)), 0, nothing)
        for _ in range(3):
            next(turns)
        with card.watched() as crossings:
            next(turns)

    assert not [crossing for crossing in crossings if crossing.kind != "host to card"]
    assert Counter(crossing.function for crossing in crossings) == ALLOWED
