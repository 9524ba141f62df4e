"""The sampler with PyTorch's networks: one video for any windows, equal bits for equal seeds."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor

from tests.support.clips import small_checkpoint
from tests.support.sampler_parts import (
    GAP,
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
from venhancer.contract import DECODED_FRAMES
from venhancer.device import choose_device
from venhancer.diffusion.noise import frame_noise, noisy_start
from venhancer.diffusion.solver import advance, solver_table
from venhancer.errors import DeviceError
from venhancer.model.denoiser import make_denoiser
from venhancer.planning.capacity import capacity_for
from venhancer.planning.windows import Scene
from venhancer.sampling.blending import cut_tiles
from venhancer.sampling.evaluation import Conditions, Model
from venhancer.sampling.latents import Latents
from venhancer.sampling.sampler import Placement, Sampler, Work
from venhancer.spans import Span
from venhancer.weights.checkpoint import load_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = small_checkpoint(tmp_path_factory.mktemp("weights") / "small.safetensors")
    return load_model(path, PRESET)[0]


def test_same_seed_same_bits(model: Model) -> None:
    """Two runs agree bit for bit; another seed gives other bits."""
    first = run(model, sampling(5))

    assert torch.equal(first, run(model, sampling(5)))
    assert not torch.allclose(first, run(model, sampling(5, seed=8)), atol=1e-2)


def test_the_result_is_a_video_near_its_key_frames(model: Model) -> None:
    """The shape is right, and the result is near the hint: the small network corrects little."""
    out = run(model, sampling(9, eta=0.0))

    assert out.shape == (9, 48, 8, 8)
    assert (out[::GAP] - key_frames(9)).std() < 0.5


def test_tiles_and_windows_see_one_video(model: Model) -> None:
    """With windows and tiles, the result stays close to that of one piece."""
    tiled = sampling(5, rows=(Span(0, 6), Span(2, 8)), columns=(Span(0, 6), Span(2, 8)))

    difference = run(model, tiled) - run(model, sampling(9))

    assert difference.std() < 0.1


def test_shares_of_all_tiles_sum_to_one() -> None:
    """The sum is one over rows and columns together."""
    plan = sampling(5, rows=(Span(0, 6), Span(2, 8)), columns=(Span(0, 6), Span(2, 8)))
    total = torch.zeros(64)
    for tile in cut_tiles(plan):
        shares = torch.outer(torch.tensor(tile.row_shares), torch.tensor(tile.column_shares))
        total[tile.positions(8)] += shares.flatten()

    torch.testing.assert_close(total, torch.ones(64))


def test_a_window_step_by_step_is_the_solver_on_the_whole_clip(model: Model) -> None:
    """With one window the sampler is the textbook loop: x_0 of the network, a step, again."""
    plan, keys, frames = sampling(5, eta=0.6, steps=4), key_frames(5), 5
    steps, table = plan.schedule, solver_table(plan.schedule.sigmas, plan.eta).float()
    is_key = (torch.arange(frames) % GAP == 0).float()[None]
    hint = torch.zeros(frames, 48, 8, 8)
    hint[::GAP] = keys
    x = torch.stack([noisy_start(keys[j // GAP], j, 7) for j in range(frames)])
    x, previous = x * steps.sigmas[0].float(), torch.zeros_like(x)
    with torch.inference_mode():
        prepared = model.prepare(
            hint=hint.transpose(0, 1)[None],
            is_key=is_key,
            noise_level=torch.zeros(1),
            scale=torch.full((1,), 2.0),
        )
        for i, timestep in enumerate(steps.timesteps):
            seen = x * (1 + steps.sigmas[i].float() ** 2).rsqrt()
            out = model.step(seen.transpose(0, 1)[None], timestep[None], prepared)
            noise = torch.stack([frame_noise((48, 8, 8), 7, f"step {i}", j) for j in range(5)])
            denoised = out[0].transpose(0, 1)
            x = advance(x, denoised, previous, noise, table[i])
            previous = denoised

    torch.testing.assert_close(run(model, plan, 5), x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("frames", [9, 13, 15, 41])
def test_frames_leave_in_whole_chunks(model: Model, frames: int) -> None:
    """Frames come three at a time, the rest at the end; all of them, in order."""
    shown, plan = scene(frames, 9), sampling(9)
    with torch.inference_mode():
        made = list(sampler(model, plan, shown).run(shown, iter(key_frames(frames)), 0, nothing))

    assert all(len(part) % DECODED_FRAMES == 0 for part in made[:-1])
    assert sum(len(part) for part in made) == frames


@pytest.mark.parametrize("cut_after", [1, 4, 7, 8])
def test_it_goes_on_from_any_turn(model: Model, cut_after: int) -> None:
    """An earlier run's latents and the key frames from `first_key` on give the same bits."""
    assert torch.equal(*whole_and_resumed(model, sampling(9), 17, cut_after))


class Recorded:
    """Stands in for CUDA graphs: runs work directly, and counts."""

    def __init__(self) -> None:
        self.captured, self.replayed = 0, 0

    def __call__(self, work: Work) -> Work:
        self.captured += 1

        def replay() -> None:
            self.replayed += 1
            work()

        return replay


@pytest.mark.parametrize("tiles", [(Span(0, 8),), (Span(0, 6), Span(2, 8))])
def test_what_a_graph_would_replay_gives_the_same_bits(
    model: Model, tiles: tuple[Span, ...]
) -> None:
    """Every window does the same operations, in order, on buffers that stay where they are."""
    plan = sampling(9, rows=tiles, eta=1.0)
    graphs = Recorded()

    out = run(model, plan, 25, Placement(capture=graphs))

    assert torch.equal(out, run(model, plan, 25))
    evaluations = len(scene(25, 9).windows) * 3 * len(tiles)
    assert graphs.captured == 4  # to begin, to prepare, to evaluate, to finish
    assert graphs.replayed >= evaluations


def test_captured_work_holds_no_sampler(model: Model) -> None:
    """Deleting a sampler frees its graphs and buffers at once, since memory is needed elsewhere."""
    kept = []

    def capture(work: Work) -> Work:
        kept.append(weakref.ref(work))
        return lambda: work()

    shown, plan = scene(25, 9), sampling(9)
    gc.collect()
    gc.disable()
    try:
        with torch.inference_mode():
            own = sampler(model, plan, shown, Placement(capture=capture))
            turns = own.run(shown, iter(key_frames(25)), 0, nothing)
            for _ in range(4):
                next(turns)
        latents = weakref.ref(own.latents)
        del own, turns
        assert latents() is None
        assert [work() for work in kept] == [None] * len(kept)
    finally:
        gc.enable()


def test_buffers_stay_where_they_are(model: Model) -> None:
    """A graph knows tensors by address: between window steps none is replaced or added."""
    shown, plan = scene(25, 9), sampling(9)
    with torch.inference_mode():
        own = sampler(model, plan, shown)
        turns = own.run(shown, iter(key_frames(25)), 0, nothing)
        next(turns)
        work = own.works[9]

        def addresses() -> list[int]:
            holders = (own.latents, work.blending, work.evaluation, work.evaluation.prepared)
            found = [getattr(h, name) for h in holders for name in dir(h) if name[0] != "_"]
            return [x.data_ptr() for x in found if isinstance(x, Tensor)]

        before = addresses()
        for _ in turns:
            assert addresses() == before
    assert len(before) > 20


def test_memory_does_not_grow_with_the_clip() -> None:
    """The capacity for a thousand windows is that for twenty."""
    few, many = (capacity_for((scene(frames, 9),), 4) for frames in (81, 4001))

    assert few == many
    assert few.frames < 45


def test_noise_belongs_to_a_frame() -> None:
    """It depends on seed, purpose and frame only."""
    first = frame_noise((3, 4, 4), 0, "step 2", 5)
    frame_noise((3, 4, 4), 0, "step 2", 6)

    assert torch.equal(first, frame_noise((3, 4, 4), 0, "step 2", 5))
    others = [(1, "step 2", 5), (0, "step 3", 5), (0, "step 2", 6)]
    assert not any(torch.equal(first, frame_noise((3, 4, 4), *other)) for other in others)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none() -> None:
    """One line names an alternative."""
    with pytest.raises(DeviceError, match="take --device cpu"):
        choose_device("cuda")


def test_an_sde_step_matches_its_long_form() -> None:
    """The table's row is k-diffusion's 2M SDE update, written out (Lu et al. 2022, midpoint)."""
    sigmas = torch.tensor([8.0, 3.0, 1.0, 0.4, 0.0], dtype=torch.float64)
    row, eta = solver_table(sigmas, eta=0.7)[2], 0.7
    h, h_last = (sigmas[2] / sigmas[3]).log(), (sigmas[1] / sigmas[2]).log()
    main = -torch.expm1(-(1 + eta) * h)
    expected = [
        sigmas[3] / sigmas[2] * torch.exp(-eta * h),
        main * (1 + h / (2 * h_last)),
        -main * h / (2 * h_last),
        sigmas[3] * (1 - torch.exp(-2 * eta * h)).sqrt(),
    ]

    torch.testing.assert_close(row, torch.stack(expected))


def test_the_ode_agrees_with_diffusers() -> None:
    """An independent DPM-Solver++ (2M), on its own schedule, gives the same samples."""
    diffusers = pytest.importorskip("diffusers", reason="the `released` extra is not installed")
    theirs = diffusers.DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        prediction_type="sample",
        final_sigmas_type="zero",
        lower_order_final=False,
        use_karras_sigmas=False,
        timestep_spacing="trailing",
    )
    theirs.set_timesteps(12)
    sigmas = theirs.sigmas.double()
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    clean = torch.tanh(x)
    mine, other = x * sigmas[0], x * sigmas[0] / (1 + sigmas[0] ** 2).sqrt()
    previous = torch.zeros_like(x)
    for i, row in enumerate(solver_table(sigmas, eta=0.0)):
        denoised = torch.tanh(clean + 0.1 * mine / (1 + sigmas[i] ** 2).sqrt())
        guess = torch.tanh(clean + 0.1 * other)
        mine, previous = advance(mine, denoised, previous, None, row), denoised
        other = theirs.step(guess, theirs.timesteps[i], other).prev_sample

    torch.testing.assert_close(mine.float(), other.float(), atol=2e-3, rtol=0)


def test_guidance_acts_in_its_interval_only() -> None:
    """Outside the interval only the prompt's branch is evaluated; inside, both as one batch."""
    torch.manual_seed(0)
    preset = small_v_preset()
    model = make_denoiser(preset.model).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    unet = preset.model.unet
    text = torch.randn(2, 5, unet.text_width)
    keys = torch.randn(2, unet.latent_channels, 8 + unet.row_remainder, 8)
    rows, shown = (Span(0, keys.shape[-2]),), Scene(Span(0, 2), GAP, (Span(0, 3),))

    def result(**fields: object) -> Tensor:
        plan = sampling(3, rows=rows, steps=2, **fields)
        latents = Latents(capacity_for((shown,), 2), (4, keys.shape[-2], 8), "cpu")
        with torch.inference_mode():
            own = Sampler(model, plan, Conditions(11, 2.0, text), latents, Placement())
            return torch.cat(list(own.run(shown, iter(keys), 0, nothing)))

    plain = result(guidance=1.0)
    assert torch.equal(plain, result(guidance=7.5, guidance_interval=(0, 10)))
    late = result(guidance=7.5, guidance_interval=(0, 700))
    everywhere = result(guidance=7.5)
    assert not torch.allclose(plain, late, atol=1e-4)
    assert not torch.allclose(late, everywhere, atol=1e-4)
