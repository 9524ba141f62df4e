"""The VAE and the text encoder of a bundle, against their source networks."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from tests.support.bundles import Built, point_to, small_vae, text_bundle, text_preset
from venhancer.bundle.manifest import read_manifest
from venhancer.contract import Precision, networks, sizes
from venhancer.encoders.autoencoder import load_codec
from venhancer.encoders.text_encoder import load_text_encoder
from venhancer.encoders.tokenizer import load_tokenizer
from venhancer.errors import BundleError
from venhancer_export.bundle_writer import build_bundle
from venhancer_export.request import make_request

pytest.importorskip("diffusers", reason="the released model's VAE is from there")
pytest.importorskip("transformers", reason="the released model's text encoder is from there")


def run(built: Built, network: str, x: Tensor) -> list[Tensor]:
    manifest = read_manifest(built.folder)
    path = built.folder / manifest.find(network, manifest.shapes[0]).file
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    [name] = [given.name for given in session.get_inputs()]
    return [torch.from_numpy(out) for out in session.run(None, {name: x.numpy()})]


def sample(built: Built, network: str) -> Tensor:
    model, [shape] = text_preset().model, read_manifest(built.folder).shapes
    [spec] = networks(model, "float32")[network].inputs
    generator = torch.Generator().manual_seed(2)
    return torch.randn(spec.shape(sizes(model, shape)), generator=generator)


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderKLTemporalDecoder"])
def test_the_vae_is_exported(
    kind: str, precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoder and decoder, plain and temporal, are exported in both precisions."""
    point_to(tmp_path, monkeypatch)
    built = text_bundle(tmp_path, precision, kind)
    codec, limit = load_codec(), 1e-4 if precision == "float32" else 2e-2
    pixels, latents = sample(built, "vae_encoder"), sample(built, "vae_decoder")

    found = run(built, "vae_encoder", pixels) + run(built, "vae_decoder", latents)

    with torch.inference_mode():
        expected = [*codec.moments(pixels), codec.pixels(latents)]
    for made, wanted in zip(found, expected, strict=True):
        assert made.dtype == torch.float32
        assert float((made - wanted).norm() / wanted.norm()) < limit


def test_the_text_encoder_brings_its_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids become PyTorch's text features, causally; the bundle holds the vocabulary."""
    point_to(tmp_path, monkeypatch)
    built = text_bundle(tmp_path)
    encoder = load_text_encoder()

    ids = load_tokenizer(built.folder).encode("a cat, asleep")
    assert torch.equal(ids, encoder.tokenizer.encode("a cat, asleep"))
    [text] = run(built, "text_encoder", ids.repeat(2, 1))
    expected = encoder.encode("a cat, asleep").repeat(2, 1, 1)
    torch.testing.assert_close(text, expected, atol=1e-4, rtol=1e-4)
    graph = onnx.load(built.folder / "onnx" / "text_encoder.onnx", load_external_data=False).graph
    attention = next(node for node in graph.node if node.op_type == "Attention")
    assert {a.name: a.i for a in attention.attribute}["is_causal"] == 1


def test_another_vae_is_another_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request includes the VAE's weights, so a bundle with another VAE does not match."""
    point_to(tmp_path, monkeypatch)
    built = text_bundle(tmp_path)
    small_vae(seed=1).save_pretrained(tmp_path / "vae")
    asked = make_request(preset=None, weights=built.weights, sizes=[(64, 48)], windows=[9])

    with pytest.raises(BundleError, match="holds another bundle"):
        build_bundle(asked, built.folder)
