"""Test cases of the verification: shapes, and inputs that look like those of a real run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from venhancer.config import ModelConfig, Preset, Shortcuts
from venhancer.contract import DECODED_FRAMES, TEXT_LENGTH, Shape, sizes
from venhancer.diffusion.noise import frame_noise, noisy_hint
from venhancer.diffusion.schedule import diffuse, noise_schedule
from venhancer.model import lapped
from venhancer.motion.neighbours import Aligner, Key
from venhancer.pipeline.pixels import resize, to_pixels
from venhancer.planning.cost import denoiser_flop
from venhancer.planning.geometry import fit
from venhancer.planning.plan import Sampling
from venhancer.planning.windows import Scene
from venhancer.sampling.evaluation import Conditions
from venhancer.spans import Span

TIMESTEPS = (899, 500, 60)  # at the start of a run, in its middle, near its end
GAP = 2  # grid frames from one key frame to the next
SEED = 0
PROBES = ((64, 64, 5), (64, 128, 9))  # least width and height, window; all differ between the two


@dataclass(frozen=True, slots=True)
class Case:
    """A shape at which every network is compared."""

    shape: Shape
    is_own: bool  # the bundle has graphs of this shape

    def __str__(self) -> str:
        return str(self.shape)


def all_cases(model: ModelConfig, own: Sequence[Shape]) -> list[Case]:
    """List all cases: small probes first, then the bundle's own shapes."""
    made = []
    for width, height, window in PROBES:
        size = fit(width, height, model)
        made.append(Shape(width=size.padded_width, height=size.padded_height, window=window))
    return [
        *(Case(shape, is_own=False) for shape in made if shape not in own),
        *(Case(shape, is_own=True) for shape in own),
    ]


def evaluation_flop(model: ModelConfig, shape: Shape) -> int:
    """Count operations of one evaluation of the denoiser, with all branches."""
    letters = sizes(model, shape)
    return letters["b"] * denoiser_flop(model, letters["f"], letters["h"], letters["w"])


def run_flop(preset: Preset, shape: Shape) -> int:
    """Count operations of one sampling run."""
    return evaluation_flop(preset.model, shape) * len(sampling(preset, shape, 0.0).schedule)


def moving_pictures(frames: int, width: int, height: int) -> Tensor:
    """Make soft colour waves that drift two pixels a frame, with edges: f 3 H W in [-1, 1]."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    moved = x - 2.0 * torch.arange(frames)[:, None, None]
    waves = [torch.sin(moved / 6), torch.cos(moved / 9 + y / 5), torch.sin(moved / 15 - y / 4)]
    edge = 0.3 * torch.sign(torch.sin(moved / 11 + y / 17))
    return torch.stack([0.6 * wave + edge for wave in waves], dim=1)


def smooth_field(channels: int, frames: int, rows: int, columns: int) -> Tensor:
    """Make a drifting wave of unit variance in every channel: f c h w."""
    generator = torch.Generator().manual_seed(SEED)
    phase, across, down = torch.rand(3, channels, 1, 1, generator=generator)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    moved = x - 0.5 * torch.arange(frames)[:, None, None, None]
    return 2**0.5 * torch.sin(across * moved + down * y + 2 * torch.pi * phase)


def clean_latents(model: ModelConfig, shape: Shape) -> Tensor:
    """Make latents, f c h w: of moving pictures for the lapped codec, else a smooth field."""
    if not model.has_learned_codec:
        pictures = moving_pictures(shape.window, shape.width, shape.height)
        return lapped.encode(pictures, model.latent_scale)
    letters = sizes(model, shape)
    return smooth_field(model.unet.latent_channels, letters["f"], letters["h"], letters["w"])


def conditions(preset: Preset, shape: Shape) -> Conditions:
    """Make conditions: the preset's default noise level and scale, and random text features."""
    unet = preset.model.unet
    generator = torch.Generator().manual_seed(SEED)
    features = torch.randn(2, TEXT_LENGTH, unet.text_width, generator=generator)
    text = features if unet.text_width else None
    return Conditions(preset.defaults.refine, preset.defaults.scale, text)


def keys(preset: Preset, shape: Shape) -> Tensor:
    """Make clean latents of the key frames, then their neighbours' channels, if any: k c h w."""
    clean = clean_latents(preset.model, shape)[::GAP]
    if not preset.model.neighbours:
        return clean
    return torch.cat([clean, aligned_neighbours(preset.model, shape)], dim=1)


def aligned_neighbours(model: ModelConfig, shape: Shape) -> Tensor:
    """Align the neighbours of the key frames as a run does: k n h w."""
    pictures = moving_pictures(shape.window, shape.width, shape.height)[::GAP]
    seen = {number: _half_as_large(model, x) for number, x in enumerate(pictures.split(1))}
    aligner = Aligner(model.neighbours, fit(shape.width, shape.height, model), seen)
    return torch.stack([aligner.hint(number) for number in seen])


def _half_as_large(model: ModelConfig, picture: Tensor) -> Key:
    """Make a key frame whose input has half the size of `picture`, 1 3 H W."""
    height, width = picture.shape[-2:]
    frame = to_pixels(F.avg_pool2d(picture, 2))[0]
    return Key.of(frame, resize(frame, width, height, model.upsampling))


def random_neighbours(model: ModelConfig, shape: Shape) -> Tensor:
    """Make random differences and gates at key frames: 1 n f h w."""
    letters = sizes(model, shape)
    size = (letters["f"], letters["h"], letters["w"])
    gates = model.neighbours
    generator = torch.Generator().manual_seed(SEED)
    shown = torch.zeros(1, model.neighbour_channels, *size)
    shown.normal_(std=0.5, generator=generator)
    shown[:, -gates:].uniform_(generator=generator)
    is_key = torch.arange(size[0]) % GAP == 0
    return shown * is_key[:, None, None]


def scene(shape: Shape) -> Scene:
    """Make a scene of one window, which is the whole clip."""
    window = Span(0, shape.window)
    return Scene(Span(0, (shape.window - 1) // GAP + 1), GAP, (window,))


def sampling(preset: Preset, shape: Shape, eta: float) -> Sampling:
    """Set up the preset's steps over one window, which is the whole clip."""
    letters, defaults, shortcuts = sizes(preset.model, shape), preset.defaults, Shortcuts()
    return Sampling(
        solver=defaults.solver,
        steps=defaults.steps,
        eta=eta,
        guidance=defaults.guidance if preset.model.unet.text_width else 1.0,
        guidance_interval=shortcuts.guidance_interval,
        reuse=shortcuts.reuse,
        seed=SEED,
        window=letters["f"],
        key_stride=GAP,
        rows=(Span(0, letters["h"]),),
        columns=(Span(0, letters["w"]),),
        join="blend",
    )


def once_inputs(preset: Preset, shape: Shape) -> dict[str, Tensor]:
    """Make the inputs of `prepare` and `text_keys`, by name."""
    branches = sizes(preset.model, shape)["b"]
    known = conditions(preset, shape)
    hint, is_key = hint_of(preset, shape)
    inputs = {
        "hint": hint.repeat(branches, 1, 1, 1, 1),
        "is_key": is_key.repeat(branches, 1),
        "noise_level": torch.full((branches,), float(known.noise_level)),
        "scale": torch.full((branches,), known.scale),
    }
    if preset.model.neighbours:
        shown = random_neighbours(preset.model, shape)
        inputs["neighbours"] = shown.repeat(branches, 1, 1, 1, 1)
    return inputs if known.text is None else {**inputs, "text": known.text}


def hint_of(preset: Preset, shape: Shape) -> tuple[Tensor, Tensor]:
    """Make noisy key frames with zeros between them (1 c f h w), and their mask (1 f)."""
    clean = clean_latents(preset.model, shape)
    is_key = (torch.arange(shape.window) % GAP == 0).float()[None]
    hint = torch.zeros_like(clean)
    for j in range(0, shape.window, GAP):
        hint[j] = noisy_hint(clean[j], preset.defaults.refine, j, SEED)
    return hint.transpose(0, 1)[None], is_key


def noisy_inputs(preset: Preset, shape: Shape, timestep: int) -> dict[str, Tensor]:
    """Make the inputs of `denoiser` that are not outputs of `prepare` and `text_keys`."""
    branches = sizes(preset.model, shape)["b"]
    clean = clean_latents(preset.model, shape)
    size = clean.shape[1:]
    noise = [frame_noise(size, SEED, f"parity {timestep}", j) for j in range(len(clean))]
    at = torch.full((1,), timestep)
    noisy = diffuse(noise_schedule().float(), clean[None], torch.stack(noise)[None], at)
    return {
        "latents": noisy.transpose(1, 2).repeat(branches, 1, 1, 1, 1),
        "timestep": at.repeat(branches),
    }


def pictures_and_ids(shape: Shape, vocabulary: int) -> Mapping[str, Tensor]:
    """Make inputs of VAE and text encoder: k moving pictures, and two short arbitrary texts."""
    ids = torch.zeros(2, TEXT_LENGTH, dtype=torch.int64)
    for row, words in zip(ids, (range(5, 15), range(20, 45)), strict=True):
        text = [vocabulary - 2, *(word % vocabulary for word in words), vocabulary - 1]
        row[: len(text)] = torch.tensor(text)
    return {"frames": moving_pictures(DECODED_FRAMES, shape.width, shape.height), "ids": ids}
