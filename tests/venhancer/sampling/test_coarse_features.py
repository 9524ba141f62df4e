"""`--reuse`: some steps compute the finest level only, with coarse features kept by the window."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.support.clips import small_checkpoint
from tests.support.models import SMALL_UNET
from tests.support.sampler_parts import (
    PRESET,
    key_frames,
    nothing,
    run,
    sampler,
    sampling,
    scene,
    whole_and_resumed,
)
from tests.support.training_parts import small_v_preset
from tests.venhancer.model.test_denoiser import SMALL, inputs, randomised
from venhancer.config import RELEASED, TINY, ModelConfig, Shortcuts
from venhancer.model.denoiser import Denoiser, Prepared, UNetDenoiser, make_denoiser
from venhancer.model.unet import Keep
from venhancer.planning.capacity import capacity_for
from venhancer.planning.cost import denoiser_flop, finest_flop
from venhancer.planning.plan import Sampling
from venhancer.planning.window_order import held_windows, window_steps
from venhancer.planning.windows import Scene
from venhancer.sampling.evaluation import Conditions
from venhancer.sampling.latents import Latents
from venhancer.sampling.sampler import Placement, Sampler, Work
from venhancer.spans import Span, cover
from venhancer.weights.checkpoint import load_model

TILES = (Span(0, 6), Span(2, 8))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Denoiser:
    path = small_checkpoint(tmp_path_factory.mktemp("weights") / "small.safetensors")
    return load_model(path, PRESET)[0]


@pytest.mark.parametrize("config", [SMALL, TINY.model], ids=["sample", "v"])
def test_with_features_of_the_same_step_it_is_exact(config: ModelConfig) -> None:
    """It is exact with text too: the finest transformers compute their own keys and values."""
    model, given = randomised(config), inputs(config)
    latents, timestep = given.pop("latents"), given.pop("timestep")
    with torch.inference_mode():
        text_features = model.prepare_text(given.pop("text", None))
        prepared = model.prepare(**given, text_features=text_features)
        exact = model.step(latents, timestep, prepared)
        shown: list[Tensor] = []
        kept = model.step(latents, timestep, prepared, shown.append)
        (coarse,) = shown
        reused = model.step_reusing(latents, timestep, prepared, coarse)
        other = model.step_reusing(latents, timestep, prepared, coarse + 1)

    channels, rows, columns = config.unet.coarse_size(*latents.shape[-2:])
    assert coarse.shape == (latents.shape[2], channels, rows, columns)
    assert torch.equal(kept, exact)
    assert torch.equal(reused, exact)
    assert not torch.allclose(other, exact, atol=1e-3)


@pytest.mark.parametrize("rows", [90, 91, 46])
def test_the_size_that_is_kept_is_that_of_the_network(rows: int) -> None:
    """The kept size includes rows of the released padding, and odd ones."""
    sizes = [(SMALL_UNET.model.unet, rows), (TINY.model.unet, 90)]
    for unet, height in sizes:
        with torch.device("meta"):
            network = make_denoiser(ModelConfig(unet=unet))
            x = torch.zeros(1, unet.widths[0], height, 16)
            half = next(m for m in network.unet.encoder.stages if hasattr(m, "stride"))(x)
        assert unet.coarse_size(height, 16)[1:] == half.shape[-2:]


def reusing(reuse: int, steps: int = 6, **fields: object) -> str:
    plan = sampling(9, steps=steps, reuse=reuse, **fields)
    return "".join("-" if reuses else "x" for reuses in plan.reusing)


def test_which_steps_reuse() -> None:
    """Every n-th step computes all; a guided step cannot reuse an unguided step's features."""
    assert reusing(1) == "xxxxxx"
    assert reusing(2) == "x-x-x-"
    assert reusing(4) == "x---x-"
    assert reusing(4, guidance=7.5, guidance_interval=(0, 600)) == "x--x--"
    assert reusing(4, guidance=7.5, guidance_interval=(500, 999)) == "x---x-"


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("frames", [9, 25, 97])
def test_as_many_places_as_windows_on_their_way(frames: int, steps: int) -> None:
    """No window overwrites another's features before that one's last step."""
    windows = cover(frames, 9, 4)
    places = held_windows(windows, steps)
    holder: dict[int, int] = {}
    for window_step in window_steps(windows, steps):
        place = window_step.window % places
        if window_step.step:
            assert holder[place] == window_step.window
        holder[place] = window_step.window
    assert places <= min(2 * steps, len(windows))


class Marked(UNetDenoiser):
    """A model whose coarse features hold window and tile, which are checked at reuse."""

    reused = 0

    def step(
        self, latents: Tensor, timestep: Tensor, prepared: Prepared, keep: Keep | None = None
    ) -> Tensor:
        assert keep is not None
        return super().step(
            latents, timestep, prepared, lambda x: keep(torch.zeros_like(x) + self.mark(prepared))
        )

    def step_reusing(
        self, latents: Tensor, timestep: Tensor, prepared: Prepared, coarse: Tensor
    ) -> Tensor:
        torch.testing.assert_close(coarse, torch.zeros_like(coarse) + self.mark(prepared))
        self.reused += 1
        return super().step_reusing(latents, timestep, prepared, coarse)

    @staticmethod
    def mark(prepared: Prepared) -> Tensor:
        return prepared.hint_features.mean((1, 2, 3), keepdim=True)


@pytest.mark.parametrize("tiles", [(Span(0, 8),), TILES], ids=["one tile", "two tiles"])
def test_every_window_finds_its_own(model: Denoiser, tiles: tuple[Span, ...]) -> None:
    """This holds in every tile, while other windows are between their steps."""
    marked = Marked(PRESET.model)
    marked.load_state_dict(model.state_dict())

    run(marked.eval(), sampling(9, rows=tiles, steps=5, reuse=3), 41)

    assert marked.reused == 3 * len(tiles) * len(scene(41, 9).windows)


def test_it_is_near_and_not_the_same(model: Denoiser) -> None:
    """The result is closer than with the steps left out, and repeats bit for bit."""
    exact = run(model, sampling(9, steps=6, eta=0.0), 25)
    reused = run(model, sampling(9, steps=6, eta=0.0, reuse=2), 25)
    fewer = run(model, sampling(9, steps=2, eta=0.0), 25)

    assert torch.equal(reused, run(model, sampling(9, steps=6, eta=0.0, reuse=2), 25))
    assert 0 < (reused - exact).norm() < (fewer - exact).norm()


@pytest.mark.parametrize("tiles", [(Span(0, 8),), TILES], ids=["one tile", "two tiles"])
def test_what_a_graph_would_replay_gives_the_same_bits(
    model: Denoiser, tiles: tuple[Span, ...]
) -> None:
    """One work keeps, one reuses, and the features stay at one address."""
    captured = []

    def capture(work: Work) -> Work:
        captured.append(work)
        return lambda: work()

    plan = sampling(9, rows=tiles, reuse=2)
    out = run(model, plan, 25, Placement(capture=capture))

    assert torch.equal(out, run(model, plan, 25))
    assert len(captured) == 5  # to begin, to prepare, two evaluations, to finish


@pytest.mark.parametrize("cut_after", [1, 5, 8])
def test_it_goes_on_from_any_turn(model: Denoiser, cut_after: int) -> None:
    """The kept features of windows are part of a state."""
    assert torch.equal(*whole_and_resumed(model, sampling(9, reuse=3), 25, cut_after))


def test_what_other_tiles_have_kept_is_computed_anew(model: Denoiser) -> None:
    """After memory ran out, smaller tiles recompute their features, and never read zeros."""
    shown, keys = scene(25, 9), key_frames(25)
    marked = Marked(PRESET.model)
    marked.load_state_dict(model.state_dict())
    marked.eval()
    with torch.inference_mode():
        first = sampler(marked, sampling(9, reuse=3), shown)
        second = sampler(marked, sampling(9, reuse=3, rows=TILES), shown)
        begun = first.run(shown, iter(keys), 0, nothing)
        for _ in range(4):
            next(begun)
        second.restore(first.tensors())
        marked.reused = 0
        list(second.run(shown, iter(keys[second.first_key(shown, 4) :]), 4, nothing))

    turns_left = 3 * len(shown.windows) - 4
    assert 0 < marked.reused < 2 * turns_left


def test_scenes_do_not_share(model: Denoiser) -> None:
    """A used sampler does the next scene as a new sampler would."""
    shown, plan, keys = scene(25, 9), sampling(9, reuse=2), key_frames(25)
    with torch.inference_mode():
        own = sampler(model, plan, shown)
        first, again = (torch.cat(list(own.run(shown, iter(keys), 0, nothing))) for _ in range(2))
        assert own.coarse is not None
        own.coarse.kept.fill_(float("nan"))
        third = torch.cat(list(own.run(shown, iter(keys), 0, nothing)))

    assert torch.equal(first, again)
    assert torch.equal(first, third)


def test_guidance_may_end_between() -> None:
    """A step without guidance reuses the prompt's branch of a guided one."""
    preset = small_v_preset()
    network = randomised(preset.model)
    unet = preset.model.unet
    text = torch.randn(2, 5, unet.text_width)
    keys = torch.randn(2, unet.latent_channels, 8 + unet.row_remainder, 8)
    rows, shown = (Span(0, keys.shape[-2]),), Scene(Span(0, 2), 2, (Span(0, 3),))

    def result(plan: Sampling) -> Tensor:
        latents = Latents(capacity_for((shown,), 2), (4, keys.shape[-2], 8), "cpu")
        with torch.inference_mode():
            own = Sampler(network, plan, Conditions(11, 2.0, text), latents, Placement())
            return torch.cat(list(own.run(shown, iter(keys), 0, nothing)))

    late = {"guidance": 7.5, "guidance_interval": (700, 999), "rows": rows, "steps": 2}
    plan = sampling(3, reuse=2, **late)
    assert plan.reusing == (False, True)
    out = result(plan)
    assert out.isfinite().all()
    assert not torch.equal(out, result(sampling(3, **late)))


def test_it_costs_less_as_counted() -> None:
    """The released model keeps a third to a half of its cost, a small one about a half."""
    for model, rows in ((RELEASED.model, 90), (SMALL_UNET.model, 96)):
        share = finest_flop(model, 9, rows, 160) / denoiser_flop(model, 9, rows, 160)
        assert 0.3 < share < 0.6


def test_as_it_stands_nothing_is_cut_short() -> None:
    """`Shortcuts` without arguments is exact; a preset's fast mode is not."""
    assert Shortcuts() == Shortcuts(steps=None, reuse=1, guidance_interval=(0, 999))
    for preset in (SMALL_UNET, RELEASED):
        assert preset.defaults.fast != Shortcuts()


def test_memory_of_a_long_clip_is_that_of_a_short_one() -> None:
    """The number of places does not grow with the clip."""
    few, many = (held_windows(cover(frames, 9, 4), 4) for frames in (81, 4001))

    assert few == many
    assert all(b > a for a, b in pairwise([1, held_windows(cover(81, 9, 4), 2), few]))
