"""The PyTorch networks: one video whatever the windows, same seed same bits."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.clips import small_checkpoint, small_preset
from tests.training_parts import small_v_preset
from venhancer.conditioning import Conditions, dense_hint, noisy_start
from venhancer.device import choose_device
from venhancer.diffusion.solver import frame_noise
from venhancer.errors import DeviceError
from venhancer.model.denoiser import Denoiser
from venhancer.pipeline import NO_JOURNAL, silent
from venhancer.plan import Sampling
from venhancer.reference import LappedCodec, Reference, parts
from venhancer.state import SolverState
from venhancer.weights import load_model
from venhancer.windows import Span, cover

PRESET = small_preset()
GAP = 2


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    path = small_checkpoint(tmp_path_factory.mktemp("weights") / "small.safetensors")
    model, _ = load_model(path, PRESET)
    return Reference(model, LappedCodec(PRESET.model.latent_scale))


def sampling(frames: int, window: int, eta: float = 1.0, **fields: object) -> Sampling:
    whole = Sampling(
        solver="normal",
        steps=3,
        eta=eta,
        guidance=1.0,
        guidance_interval=(0, 999),
        seed=7,
        windows=tuple(cover(frames, window, 4)),
        rows=(Span(0, 8),),
        columns=(Span(0, 8),),
        join="blend",
    )
    return dataclasses.replace(whole, **fields)  # type: ignore[arg-type]


def conditions(frames: int) -> Conditions:
    generator = torch.Generator().manual_seed(1)
    hint = torch.randn((frames - 1) // GAP + 1, 48, 8, 8, generator=generator)
    return Conditions(hint=hint, gap=GAP, noise_level=0, scale=2.0, text=None)


def run(networks: Reference, plan: Sampling, frames: int = 9) -> torch.Tensor:
    shown = conditions(frames)
    with torch.inference_mode():
        start = noisy_start(shown.hint, frames, GAP, plan.seed)
        return networks.sample(SolverState.begin(start, plan), shown, plan, silent, NO_JOURNAL)


def test_same_seed_same_bits(networks: Reference) -> None:
    """Two runs agree bit for bit; another seed does not."""
    first = run(networks, sampling(9, 5))

    assert torch.equal(first, run(networks, sampling(9, 5)))
    assert not torch.allclose(first, run(networks, sampling(9, 5, seed=8)), atol=1e-2)


def test_the_result_is_a_video_near_its_key_frames(networks: Reference) -> None:
    """Of the right shape, and tied to the hint: the small network's corrections are small."""
    out, shown = run(networks, sampling(9, 9, eta=0.0)), conditions(9)

    assert out.shape == (9, 48, 8, 8)
    assert (out[::GAP] - shown.hint).std() < 0.5


def test_tiles_and_windows_see_one_video(networks: Reference) -> None:
    """Cut into windows and tiles, the result stays close to that of one piece."""
    tiled = sampling(9, 5, rows=(Span(0, 6), Span(2, 8)), columns=(Span(0, 6), Span(2, 8)))

    difference = run(networks, tiled) - run(networks, sampling(9, 9))

    assert difference.std() < 0.1


def test_shares_of_all_parts_sum_to_one() -> None:
    """Over windows and tiles together."""
    plan = sampling(9, 5, rows=(Span(0, 6), Span(2, 8)), columns=(Span(0, 6), Span(2, 8)))
    total = torch.zeros(9, 1, 8, 8)
    for part in parts(plan):
        part.cut(total).add_(part.share)

    torch.testing.assert_close(total, torch.ones_like(total))


def test_noise_belongs_to_a_frame() -> None:
    """It depends on seed, purpose and frame, and on nothing else."""
    first = frame_noise((3, 4, 4), 0, "step 2", 5)
    frame_noise((3, 4, 4), 0, "step 2", 6)

    assert torch.equal(first, frame_noise((3, 4, 4), 0, "step 2", 5))
    others = [(1, "step 2", 5), (0, "step 3", 5), (0, "step 2", 6)]
    assert not any(torch.equal(first, frame_noise((3, 4, 4), *other)) for other in others)


@pytest.mark.parametrize(("start", "stop"), [(0, 5), (2, 7), (1, 4), (3, 4)])
def test_the_dense_hint_holds_key_frames_only(start: int, stop: int) -> None:
    """Each at its place in the window, zero in between."""
    shown = conditions(9)
    hint, is_key = dense_hint(shown, start, stop)

    for k in range(start, stop):
        expected = shown.hint[k // GAP] if k % GAP == 0 else torch.zeros(48, 8, 8)
        assert torch.equal(hint[0, :, k - start], expected)
        assert bool(is_key[0, k - start]) == (k % GAP == 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none() -> None:
    """One line that names the way out."""
    with pytest.raises(DeviceError, match="take --device cpu"):
        choose_device("cuda")


def test_an_sde_step_matches_its_long_form() -> None:
    """The table's row is k-diffusion's 2M SDE update, written out (Lu et al. 2022, midpoint)."""
    from venhancer.diffusion.solver import solver_table

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
    """DPM-Solver++ (2M) of another hand, on its own schedule, gives the same samples."""
    diffusers = pytest.importorskip("diffusers", reason="the `released` extra is not installed")
    from venhancer.diffusion.solver import solver_table, step

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
        mine, previous = step(mine, denoised, previous, torch.zeros_like(x), row), denoised
        other = theirs.step(guess, theirs.timesteps[i], other).prev_sample

    torch.testing.assert_close(mine.float(), other.float(), atol=2e-3, rtol=0)


def test_guidance_acts_in_its_interval_only() -> None:
    """Outside of it the prompt's branch alone is evaluated; inside, both as one batch."""
    torch.manual_seed(0)
    preset = small_v_preset()
    model = Denoiser(preset.model).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    networks = Reference(model, LappedCodec(1.0))
    unet = preset.model.unet
    text = torch.randn(2, 5, unet.text_width)
    hint = torch.randn(2, unet.latent_channels, 8 + unet.row_remainder, 8)
    shown = Conditions(hint=hint, gap=GAP, noise_level=10, scale=2.0, text=text)
    rows = (Span(0, hint.shape[-2]),)

    def result(**fields: object) -> torch.Tensor:
        plan = sampling(3, 3, rows=rows, steps=2, **fields)
        with torch.inference_mode():
            state = SolverState.begin(noisy_start(hint, 3, GAP, 0), plan)
            return networks.sample(state, shown, plan, silent, NO_JOURNAL)

    plain = result(guidance=1.0)
    assert torch.equal(plain, result(guidance=7.5, guidance_interval=(0, 10)))
    late = result(guidance=7.5, guidance_interval=(0, 700))
    everywhere = result(guidance=7.5)
    assert not torch.allclose(plain, late, atol=1e-4)
    assert not torch.allclose(late, everywhere, atol=1e-4)
