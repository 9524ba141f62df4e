"""A device that runs out of memory: the run continues with a smaller plan."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.clips import small_checkpoint, small_preset, write_clip
from venhancer.errors import DeviceError
from venhancer.model.denoiser import Prepared
from venhancer.options import Options
from venhancer.pipeline import run as pipeline
from venhancer.pipeline.networks import LappedCodec, Networks
from venhancer.planning.plan import Plan, make_plan
from venhancer.video.probe import probe
from venhancer.weights.checkpoint import load_model

PRESET = small_preset()
OPTIONS = Options(window=9, interpolate=2, scale=2.0, steps=3, eta=1.0)


class Scarce(Networks):
    """Networks that run out of memory at given calls, counted from the first."""

    def __init__(
        self, weights: Path, steps: set[int] = frozenset(), decodes: set[int] = frozenset()
    ):  # type: ignore[assignment]
        model, _ = load_model(weights, PRESET)
        super().__init__(model, LappedCodec(PRESET.model.latent_scale))
        self.failing = {"step": set(steps), "decode": set(decodes)}
        self.calls = {"step": 0, "decode": 0}
        self.step, self.model.step = model.step, self._step  # type: ignore[method-assign]

    def _count(self, name: str) -> None:
        self.calls[name] += 1
        if self.calls[name] in self.failing[name]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def _step(self, latents: Tensor, timestep: Tensor, prepared: Prepared) -> Tensor:
        self._count("step")
        return self.step(latents, timestep, prepared)

    def decode(self, plan: Plan, latents: Tensor) -> Tensor:
        self._count("decode")
        return super().decode(plan, latents)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("weights") / "small.safetensors")


Run = Callable[..., list[bytes]]


@pytest.fixture
def run(weights: Path, tmp_path: Path) -> Run:
    plan = make_plan(probe(write_clip(tmp_path / "in.mp4", 15)), PRESET, OPTIONS)

    def enhance(
        name: str, smaller: Callable[[Plan], Plan] | None, **failing: set[int]
    ) -> list[bytes]:
        plans = [] if smaller is None else [smaller(plan)]
        networks = Scarce(weights, **failing)
        pipeline.enhance(plan, tmp_path / name, networks, OPTIONS, fallbacks=plans)
        return [path.read_bytes() for path in sorted((tmp_path / name).glob("*.png"))]

    return enhance


def on_host(plan: Plan) -> Plan:
    return dataclasses.replace(plan, holds_latents_on_host=True)


def tiled(plan: Plan) -> Plan:
    small = make_plan(plan.source, PRESET, dataclasses.replace(OPTIONS, tile=(64, 64)))
    assert small.parts > plan.parts
    return small


@pytest.mark.parametrize(
    "failing", [{"steps": {1}}, {"steps": {8}}, {"decodes": {1}}, {"decodes": {4}}]
)
def test_it_goes_on_to_the_same_frames(
    failing: dict[str, set[int]], run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """With the same windows and tiles, no frame is written twice, and the fallback is reported."""
    with caplog.at_level(logging.WARNING):
        frames = run("scarce", on_host, **failing)

    assert frames == run("whole", None)
    assert "goes on with windows of 9, tiles of 96x64, latents in the host's" in caplog.text


def test_smaller_tiles_go_on_from_the_last_turn(run: Run) -> None:
    """All frames are written, and those written before the fallback are unchanged."""
    frames, whole = run("scarce", tiled, steps={14}), run("whole", None)

    assert len(frames) == len(whole) == 29
    same = [a == b for a, b in zip(frames, whole, strict=True)]
    assert same[0]
    assert not all(same)


def test_without_a_smaller_plan_it_fails(run: Run, tmp_path: Path) -> None:
    """After every plan was tried the run fails in one line, and leaves no file."""
    with pytest.raises(DeviceError, match=r"out of memory with windows of 9, .* --window"):
        run("scarce", on_host, steps={3, 4})

    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]
