"""Networks of fixed shapes: short input is extended and cut, and the sampler sees no seam."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.training_parts import TEXT_WIDTH, small_v_preset
from venhancer.bundle.static_networks import (
    NetworkFunction,
    StaticCodec,
    StaticDenoiser,
    StaticTextEncoder,
    there_and_back,
)
from venhancer.contract import Shape, networks, sizes
from venhancer.encoders.autoencoder import AutoencoderCodec
from venhancer.errors import ShapeError
from venhancer.model.denoiser import Denoiser, Prepared, make_denoiser

MODEL = small_v_preset().model
SHAPE = Shape(width=64, height=48, window=5)
SIZES = sizes(MODEL, SHAPE)


@pytest.fixture(scope="module")
def model() -> Denoiser:
    torch.manual_seed(0)
    made = make_denoiser(MODEL).eval().requires_grad_(False)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return made


def runs(model: Denoiser) -> dict[str, NetworkFunction]:
    """Make the denoiser's exported parts, as functions that refuse any other shape."""

    def prepare(inputs: Any) -> dict[str, Tensor]:
        made = model.prepare(**inputs)
        return {"hint_features": made.hint_features, "condition": made.condition}

    def step(inputs: Any) -> dict[str, Tensor]:
        once = {k: inputs[k] for k in ("hint_features", "condition", "text_features")}
        out = model.step(inputs["latents"], inputs["timestep"], Prepared(**once))
        return {"prediction": out}

    def text_keys(inputs: Any) -> dict[str, Tensor]:
        features = model.prepare_text(inputs["text"])
        assert features is not None
        return {"text_features": features}

    functions = {"prepare": prepare, "denoiser": step, "text_keys": text_keys}
    return {name: checked(name, function) for name, function in functions.items()}


def checked(network: str, function: NetworkFunction) -> NetworkFunction:
    spec = networks(MODEL, "float32")[network]

    def run(inputs: Any) -> dict[str, Tensor]:
        found = {name: (tuple(x.shape), x.dtype) for name, x in inputs.items()}
        assert found == {t.name: (t.shape(SIZES), getattr(torch, t.dtype)) for t in spec.inputs}
        return function(inputs)

    return run


def inputs(batch: int, frames: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    h, w = SIZES["h"], SIZES["w"]
    return {
        "hint": torch.randn(1, 4, frames, h, w, generator=generator).expand(batch, -1, -1, -1, -1),
        "is_key": (torch.arange(frames) % 2 == 0).float().expand(batch, -1),
        "noise_level": torch.full((batch,), 10.0),
        "scale": torch.full((batch,), 2.0),
        "text": torch.randn(2, 77, TEXT_WIDTH, generator=generator)[:batch],
        "latents": torch.randn(batch, 4, frames, h, w, generator=generator),
        "timestep": torch.full((batch,), 500),
    }


def evaluate(model: Denoiser | StaticDenoiser, given: dict[str, Tensor]) -> Tensor:
    shown = {name: given[name] for name in ("hint", "is_key", "noise_level", "scale")}
    features = model.prepare_text(given["text"])
    prepared = model.prepare(**shown, text_features=features)
    return model.step(given["latents"], given["timestep"], prepared)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_branch_alone_is_what_pytorch_gives(model: Denoiser, batch: int) -> None:
    """The networks always get two branches: the second is a dummy, and its result is dropped."""
    given = inputs(batch, SHAPE.window)

    out = evaluate(StaticDenoiser(MODEL, SIZES, runs(model)), given)

    torch.testing.assert_close(out, evaluate(model, given), atol=1e-5, rtol=1e-4)


def test_a_shorter_window_goes_there_and_back(model: Denoiser) -> None:
    """The result is PyTorch's for the extended window, cut to the frames that were asked for."""
    given = inputs(2, 3)
    index = torch.tensor([0, 1, 2, 1, 0])
    longer = {
        **given,
        "hint": given["hint"][:, :, index],
        "is_key": given["is_key"][:, index],
        "latents": given["latents"][:, :, index],
    }

    out = evaluate(StaticDenoiser(MODEL, SIZES, runs(model)), given)

    assert out.shape == given["latents"].shape
    torch.testing.assert_close(out, evaluate(model, longer)[:, :, :3], atol=1e-5, rtol=1e-4)


def test_a_longer_window_is_refused(model: Denoiser) -> None:
    """The error names both lengths."""
    with pytest.raises(ShapeError, match="a window has 6 frames, the network takes 5"):
        evaluate(StaticDenoiser(MODEL, SIZES, runs(model)), inputs(2, 6))


@pytest.mark.parametrize(
    ("frames", "wanted", "expected"),
    [(1, 4, [0, 0, 0, 0]), (2, 5, [0, 1, 0, 1, 0]), (4, 9, [0, 1, 2, 3, 2, 1, 0, 1, 2])],
)
def test_frames_run_to_the_last_and_back(frames: int, wanted: int, expected: list[int]) -> None:
    """Padding goes back from the last frame and forth again as needed; one frame is repeated."""
    assert there_and_back(frames, wanted, torch.device("cpu")).tolist() == expected


class Codec(AutoencoderCodec):
    """A codec of means instead of a network: an eighth of the size; channel four is their mean."""

    def __init__(self) -> None:
        super().__init__(None)

    def moments(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        small = torch.nn.functional.avg_pool2d(frames, 8)
        mean = torch.cat([small, small.mean(dim=1, keepdim=True)], dim=1)
        return mean, mean.abs()

    def pixels(self, latents: Tensor) -> Tensor:
        return latents[:, :3].repeat_interleave(8, -1).repeat_interleave(8, -2)


def static_codec() -> StaticCodec:
    codec, specs = Codec(), networks(MODEL, "float32")

    def encode(inputs: Any) -> dict[str, Tensor]:
        return dict(zip(("mean", "std"), codec.moments(inputs["frames"]), strict=True))

    def decode(inputs: Any) -> dict[str, Tensor]:
        return {"frames": codec.pixels(inputs["latents"])}

    functions = {"vae_encoder": encode, "vae_decoder": decode}
    return StaticCodec(specs, SIZES, {n: checked(n, f) for n, f in functions.items()})


@pytest.mark.parametrize("frames", [1, 3, 5])
def test_the_codec_takes_any_number_of_frames(frames: int) -> None:
    """Frames go in chunks of the networks' length, the last one padded; results are the same."""
    pictures = torch.rand(frames, 3, 48, 64, generator=torch.Generator().manual_seed(1))
    codec, static = Codec(), static_codec()

    latents = static.encode(pictures, torch.Generator().manual_seed(2))

    torch.testing.assert_close(latents, codec.encode(pictures, torch.Generator().manual_seed(2)))
    torch.testing.assert_close(static.decode(latents), codec.decode(latents))
    assert static.decode(latents).shape == pictures.shape


def test_a_smaller_frame_than_the_codec_takes_is_refused() -> None:
    """The error names both sizes."""
    named = r"vae_encoder takes \[3, 48, 64\] or larger, not \[3, 40, 64\]"
    with pytest.raises(ShapeError, match=named):
        static_codec().encode(torch.zeros(1, 3, 40, 64), torch.Generator())


def test_one_prompt_is_encoded_by_a_network_of_two() -> None:
    """The prompt is repeated for the network, and one result is returned."""

    class Numbers:
        def encode(self, prompt: str) -> Tensor:
            return torch.arange(77)[None] + len(prompt)

    def embed(inputs: Any) -> dict[str, Tensor]:
        return {"text": inputs["ids"][..., None].expand(-1, -1, TEXT_WIDTH).float()}

    encoder = StaticTextEncoder(SIZES, checked("text_encoder", embed), Numbers())  # type: ignore[arg-type]

    text = encoder.encode("cat")

    assert text.shape == (1, 77, TEXT_WIDTH)
    assert text[0, :, 0].tolist() == list(range(3, 80))
