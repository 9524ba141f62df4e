"""From file to file on the paper card: the backend that a command takes, and a full card."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.paper_card.card import Card
from tests.support.clips import small_checkpoint, write_clip
from venhancer import Options
from venhancer.device import is_out_of_memory
from venhancer.pipeline import run as pipeline
from venhancer_rt import cuda_graph
from venhancer_rt.backends import Request, choose_backend

OPTIONS = Options(
    window=9, interpolate=2, scale=1.0, steps=2, eta=1.0, device="cuda", dtype="float32"
)

Run = Callable[..., list[bytes]]


@pytest.fixture
def run(card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a clip of seven key frames through `choose_backend`; return its pictures."""
    monkeypatch.setattr(cuda_graph, "WARM_UPS", 1)
    source = write_clip(tmp_path / "in.mp4", 7, 48, 32)
    weights = small_checkpoint(tmp_path / "small.safetensors")

    def enhance(name: str, uses_graphs: bool = True, is_on_host: bool = False) -> list[bytes]:
        options = dataclasses.replace(OPTIONS, weights=weights)
        backend = choose_backend(Request(source=source, options=options, uses_graphs=uses_graphs))
        assert backend.compute.device == "cuda"
        plan = dataclasses.replace(backend.plan, holds_latents_on_host=is_on_host)
        pipeline.enhance(
            plan, tmp_path / name, backend.open(), options, fallbacks=backend.fallbacks
        )
        return [path.read_bytes() for path in sorted((tmp_path / name).glob("*.png"))]

    return enhance


def test_graph_eager_and_latents_on_the_host_give_the_same_frames(run: Run) -> None:
    """The frames come from the backend that the command takes."""
    frames = run("eager", uses_graphs=False)

    assert len(frames) == 13
    assert run("graphs") == frames
    assert run("host", is_on_host=True) == frames


class Full:
    """A card whose memory is exhausted at the n-th tensor that a given function of ours makes."""

    def __init__(self, where: str, number: int, in_capture: bool = False) -> None:
        self.where, self.left, self.in_capture = where, number, in_capture
        self.has_failed = False

    def __call__(self, function: str) -> bool:
        from tests.paper_card.card import CARD

        if self.where not in function or (CARD.recorder is not None) != self.in_capture:
            return False
        self.left -= 1
        self.has_failed = self.has_failed or self.left == 0
        return self.left == 0


@pytest.mark.parametrize(
    ("full", "uses_graphs"),
    [
        (Full("layers.", 40), False),
        (Full("lapped.decode", 2), True),
    ],
    ids=["eager call", "codec"],
)
def test_a_full_card_is_recovered_from(
    full: Full, uses_graphs: bool, run: Run, card: Card, caplog: pytest.LogCaptureFixture
) -> None:
    """Latents move to the host, and the run goes on to equal frames."""
    expected = run("expected", uses_graphs=uses_graphs)
    card.lacks_memory = full
    with caplog.at_level(logging.WARNING):
        frames = run("full", uses_graphs=uses_graphs)

    assert full.has_failed
    assert frames == expected
    assert "out of memory: goes on with" in caplog.text


def test_without_room_for_a_graph_it_goes_on(
    run: Run, card: Card, caplog: pytest.LogCaptureFixture
) -> None:
    """Without memory for a graph, the run reports it and goes on to equal frames."""
    expected = run("expected")
    card.lacks_memory = Full("layers.", 10, in_capture=True)
    with caplog.at_level(logging.WARNING):
        frames = run("full")

    assert frames == expected
    assert "no memory for a CUDA graph" in caplog.text


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be reported later",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)",
        "[virtualMemoryBuffer.cpp::resizePhysical::154] Error Code 2: OutOfMemory",
    ],
)
def test_lack_of_memory_has_many_words(words: str) -> None:
    """The messages of PyTorch, CUDA's libraries and TensorRT are all recognised."""
    assert is_out_of_memory(RuntimeError(words))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access"))
