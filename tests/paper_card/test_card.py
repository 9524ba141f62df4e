"""The paper card itself: it refuses what a card refuses, and a pool does not keep values."""

from __future__ import annotations

import pytest
import torch

from tests.paper_card.card import CaptureError, Card, PaperError


def test_tensors_of_two_devices_are_refused(card: Card) -> None:
    """CPU scalars and copies are accepted."""
    x = torch.ones(2, device="cuda")

    assert x.device.type == "cuda"
    with pytest.raises(PaperError, match="has cuda and cpu"):
        x + torch.ones(2)
    assert (x + torch.tensor(1.0)).cpu().tolist() == [2, 2]
    assert x.copy_(torch.zeros(2)).cpu().tolist() == [0, 0]
    with pytest.raises(PaperError, match="expected a 'cuda' generator"):
        torch.randn(2, device="cuda", generator=torch.Generator())


def test_memory_that_elements_share_is_not_pinned(card: Card) -> None:
    """`copy_` would refuse to write to it."""
    with pytest.raises(PaperError, match="cannot be pinned"):
        torch.ones(3).expand(2, 3).pin_memory()


def test_crossings_are_logged(card: Card) -> None:
    """Copies both ways, and every wait for a number, are logged."""
    with card.watched() as crossings:
        x = torch.ones(2).to("cuda")
        x.cpu()
        float(x[0])
        x[torch.tensor([True, False])]

    kinds = [crossing.kind for crossing in crossings]
    assert kinds == ["host to card", "card to host", "wait", "host to card"]
    assert crossings[0].function == "test_card.test_crossings_are_logged"


@pytest.mark.parametrize("what", ["copy in", "copy out", "item", "synchronize", "scalar"])
def test_a_capture_refuses_the_host(card: Card, what: str) -> None:
    """Waiting for the host, or reading its memory, ends the capture with an error."""
    x, number = torch.zeros(2, device="cuda"), torch.tensor(1.0)
    works = {
        "copy in": lambda: x.copy_(torch.ones(2)),
        "copy out": x.cpu,
        "item": lambda: x.sum().item(),
        "synchronize": torch.cuda.synchronize,
        "scalar": lambda: x.add_(number),
    }
    with pytest.raises(CaptureError), torch.cuda.graph(torch.cuda.CUDAGraph()):
        works[what]()

    assert not torch.cuda.is_current_stream_capturing()


def test_a_capture_does_nothing_and_a_replay_does_it_again(card: Card) -> None:
    """The replay computes with the present values of the inputs."""
    x, total = torch.ones(2, device="cuda"), torch.zeros(2, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        total.add_(x * 2)

    assert total.cpu().tolist() == [0, 0]
    graph.replay()
    x.fill_(5)
    graph.replay()
    assert total.cpu().tolist() == [12, 12]


def test_what_a_graph_leaves_in_its_pool_is_lost(card: Card) -> None:
    """Another graph of the same pool, or the host, reads poison there."""
    x, out = torch.ones(2, device="cuda"), torch.zeros(2, device="cuda")
    first, second = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(first):
        left = x * 2
    with torch.cuda.graph(second, pool=first.pool()):
        out.copy_(left)
    first.replay()
    second.replay()

    assert left.isnan().all()
    assert out.isnan().all()


def test_memory_can_run_out(card: Card) -> None:
    """A test chooses the tensor at which memory runs out."""
    card.lacks_memory = lambda _: True
    with pytest.raises(torch.OutOfMemoryError):
        torch.zeros(2, device="cuda")


def test_without_the_fixture_there_is_no_card() -> None:
    """Outside the fixture the machine is unchanged."""
    if torch.version.cuda is None:
        assert not torch.cuda.is_available()
