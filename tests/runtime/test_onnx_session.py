"""One network by ONNX Runtime: PyTorch's numbers, on PyTorch's memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor

from tests.support.bundles import (
    Built,
    point_to,
    small_text_encoder,
    small_vae,
    text_bundle,
    text_preset,
)
from tests.support.training_parts import TEXT_WIDTH
from venhancer.bundle.static_networks import StaticCodec, StaticDenoiser, StaticTextEncoder
from venhancer.encoders.autoencoder import AutoencoderCodec
from venhancer.encoders.text_encoder import ClipTextEncoder
from venhancer.encoders.tokenizer import load_tokenizer
from venhancer.errors import BundleError, DeviceError, ShapeError
from venhancer.model.denoiser import Denoiser
from venhancer.weights.checkpoint import load_model
from venhancer_rt.bundle_reader import Bundle, open_bundle
from venhancer_rt.onnx_session import OnnxSession, choose_onnx_device

MODEL = text_preset().model


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("text")
    with pytest.MonkeyPatch.context() as patch:
        point_to(folder, patch)
        return text_bundle(folder)


@pytest.fixture(scope="module")
def bundle(built: Built) -> Bundle:
    return open_bundle(built.folder)


@pytest.fixture(scope="module")
def runs(bundle: Bundle) -> dict[str, OnnxSession]:
    [shape] = bundle.manifest.shapes
    entries = bundle.entries(shape).items()
    return {n: OnnxSession(bundle.folder / e.file, e, "cpu") for n, e in entries}


@pytest.fixture(scope="module")
def letters(bundle: Bundle) -> dict[str, int]:
    return bundle.sizes(bundle.manifest.shapes[0])


def inputs(letters: dict[str, int], batch: int, frames: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    size = (batch, 4, frames, letters["h"], letters["w"])
    return {
        "text": torch.randn(2, 77, TEXT_WIDTH, generator=generator)[:batch],
        "hint": torch.randn(1, *size[1:], generator=generator).expand(size),
        "is_key": (torch.arange(frames) % 4 == 0).float().expand(batch, -1),
        "noise_level": torch.full((batch,), 199.0),
        "scale": torch.full((batch,), 2.0),
        "latents": torch.randn(1, *size[1:], generator=generator).expand(size),
        "timestep": torch.full((batch,), 500),
    }


def evaluate(model: Denoiser | StaticDenoiser, given: dict[str, Tensor]) -> Tensor:
    shown = {name: given[name] for name in ("hint", "is_key", "noise_level", "scale")}
    with torch.inference_mode():
        features = model.prepare_text(given["text"])
        prepared = model.prepare(**shown, text_features=features)
        return model.step(given["latents"], given["timestep"], prepared)


def relative(out: Tensor, reference: Tensor) -> float:
    return float((out - reference).norm() / reference.norm())


@pytest.mark.parametrize("batch", [1, 2])
def test_the_denoiser(
    batch: int, built: Built, runs: dict[str, OnnxSession], letters: dict[str, int]
) -> None:
    """Text, preparation and evaluation give PyTorch's numbers, with both branches and with one."""
    model, _ = load_model(built.weights, text_preset())
    given = inputs(letters, batch, letters["f"])

    out = evaluate(StaticDenoiser(MODEL, letters, runs), given)

    assert relative(out, evaluate(model, given)) < 1e-5


def test_half_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and prepared tensors are float16; results equal PyTorch's within its precision."""
    point_to(tmp_path, monkeypatch)
    half = text_bundle(tmp_path, precision="float16")
    bundle = open_bundle(half.folder)
    [shape] = bundle.manifest.shapes
    entries = bundle.entries(shape)
    names = ("denoiser", "prepare", "text_keys")
    runs = {n: OnnxSession(half.folder / entries[n].file, entries[n], "cpu") for n in names}
    given = inputs(bundle.sizes(shape), 2, 9)
    static = StaticDenoiser(MODEL, bundle.sizes(shape), runs)
    model, _ = load_model(half.weights, text_preset())

    out = evaluate(static, given)

    features = static.prepare_text(given["text"])
    assert features is not None and features.dtype == torch.float16
    assert relative(out, evaluate(model, given)) < 5e-3


def test_the_codec(bundle: Bundle, runs: dict[str, OnnxSession], letters: dict[str, int]) -> None:
    """Any number of frames is encoded and decoded to PyTorch's latents and frames."""
    static = StaticCodec(bundle.specs, letters, runs)
    codec = AutoencoderCodec(small_vae().eval())
    frames = torch.rand(4, 3, 48, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1

    latents = static.encode(frames, torch.Generator().manual_seed(2))

    reference = codec.encode(frames, torch.Generator().manual_seed(2))
    torch.testing.assert_close(latents, reference, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(static.decode(latents), codec.decode(latents), atol=1e-4, rtol=1e-4)


def test_the_text_encoder(
    built: Built, runs: dict[str, OnnxSession], letters: dict[str, int]
) -> None:
    """The text encoder agrees, with the tokenizer of the bundle."""
    tokenizer = load_tokenizer(built.folder / "tokenizer")
    static = StaticTextEncoder(letters, runs["text_encoder"], tokenizer)
    encoder = ClipTextEncoder(small_text_encoder().eval(), tokenizer)

    for prompt in ("", "a cat"):
        out = static.encode(prompt)
        assert out.shape == (1, 77, TEXT_WIDTH)
        torch.testing.assert_close(out, encoder.encode(prompt), atol=1e-5, rtol=1e-4)


def test_results_are_kept_and_inputs_may_lie_anyhow(runs: dict[str, OnnxSession]) -> None:
    """A second call leaves the first outputs unchanged; strides and types are converted."""
    run = runs["text_keys"]
    text = torch.randn(2, 77, TEXT_WIDTH, generator=torch.Generator().manual_seed(1))
    first = run({"text": text})["text_features"]
    before = first.clone()

    run({"text": text * 2})
    strided = torch.empty(77, 2, TEXT_WIDTH, dtype=torch.float64).transpose(0, 1).copy_(text)

    assert torch.equal(first, before)
    assert torch.equal(run({"text": strided})["text_features"], first)


def test_an_input_of_another_size_is_refused(runs: dict[str, OnnxSession]) -> None:
    """The error comes before anything is read beyond the input's end."""
    with pytest.raises(ShapeError, match=r"text_keys\.onnx takes text of \(2, 77, 16\), not"):
        runs["text_keys"]({"text": torch.zeros(1, 77, TEXT_WIDTH)})


def test_a_graph_that_is_not_what_the_bundle_says(bundle: Bundle) -> None:
    """The graph's file is named."""
    entry = bundle.entries(bundle.manifest.shapes[0])["text_keys"]
    ports = (dataclasses.replace(entry.inputs[0], name="words"),)

    with pytest.raises(BundleError, match=r"text_keys\.onnx has .*'text'.*, the bundle says .*"):
        OnnxSession(bundle.folder / entry.file, dataclasses.replace(entry, inputs=ports), "cpu")


def test_the_codec_serves_every_window_of_its_frame(bundle: Bundle) -> None:
    """A bundle has one codec; it has a denoiser for each window, and none for any other."""
    other = dataclasses.replace(bundle.manifest.shapes[0], window=17)

    assert bundle.manifest.find("vae_decoder", other).network == "vae_decoder"
    for network, shape in (
        ("denoiser", other),
        ("vae_decoder", dataclasses.replace(other, width=80)),
    ):
        with pytest.raises(BundleError, match=f"no {network} for {shape}"):
            bundle.manifest.find(network, shape)


def test_the_session_has_pytorchs_threads(runs: dict[str, OnnxSession]) -> None:
    """`OMP_NUM_THREADS` applies to both."""
    options: Any = runs["denoiser"].session.get_session_options()

    assert options.intra_op_num_threads == torch.get_num_threads()


def test_cuda_needs_both_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` falls back to the CPU, `cuda` says what to install; with both, CUDA is used."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])

    assert choose_onnx_device("auto") == "cpu"
    with pytest.raises(DeviceError, match=r"pip install 'venhancer\[onnx-gpu\]'"):
        choose_onnx_device("cuda")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert choose_onnx_device("auto") == "cuda"


def test_cuda_libraries_that_do_not_load(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime falls back silently; we raise an error."""
    entry = bundle.entries(bundle.manifest.shapes[0])["text_keys"]
    fallen = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: fallen)

    with pytest.raises(DeviceError, match="take --device cpu"):
        OnnxSession(bundle.folder / entry.file, entry, "cuda")
