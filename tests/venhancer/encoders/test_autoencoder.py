"""The released model's codec, on tiny random networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from venhancer.encoders.autoencoder import AutoencoderCodec, load_codec
from venhancer.errors import DeviceError, WeightsError
from venhancer.weights import hub

diffusers = pytest.importorskip("diffusers")
LEVELS = 2


def network(kind: str = "AutoencoderKL") -> Any:
    """Make a tiny VAE; its two levels halve the size once."""
    torch.manual_seed(0)
    sizes = {"block_out_channels": (32, 64), "down_block_types": ("DownEncoderBlock2D",) * LEVELS}
    if kind == "AutoencoderKL":
        sizes["up_block_types"] = ("UpDecoderBlock2D",) * LEVELS
    return getattr(diffusers, kind)(**sizes).eval()


def frames() -> Tensor:
    return torch.rand(5, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def ldm_names(vae: Any) -> dict[str, Tensor]:
    """Convert to the original layout: levels up counted from the finest, attention as 1x1 convs."""
    return dict(_ldm_name(name, tensor) for name, tensor in vae.state_dict().items())


def _ldm_name(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    for level in range(LEVELS):
        name = name.replace(f"up_blocks.{level}.", f"up.{LEVELS - 1 - level}.")
    for theirs, original in {
        "down_blocks": "down",
        "samplers.0.conv": "sample.conv",
        "mid_block.attentions.0.group_norm": "mid.attn_1.norm",
        "mid_block.attentions.0.to_out.0": "mid.attn_1.proj_out",
        "mid_block.attentions.0.to_": "mid.attn_1.",
        "mid_block.resnets.0": "mid.block_1",
        "mid_block.resnets.1": "mid.block_2",
        "resnets": "block",
        "conv_shortcut": "nin_shortcut",
        "conv_norm_out": "norm_out",
    }.items():
        name = name.replace(theirs, original)
    is_attention = "attn_1" in name and tensor.ndim == 2
    return name, tensor[:, :, None, None] if is_attention else tensor


def assert_same_codec(codec: AutoencoderCodec, vae: Any) -> None:
    expected = vae.state_dict()
    assert all(torch.equal(t, expected[k]) for k, t in codec.network.state_dict().items())


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderKLTemporalDecoder"])
@pytest.mark.parametrize("place", ["vae", "."])
def test_a_folder_loads(kind: str, place: str, tmp_path: Path) -> None:
    """Either VAE class loads, from a pipeline's folder or from its own."""
    network(kind).save_pretrained(tmp_path / place)

    codec = load_codec(str(tmp_path))

    assert type(codec.network).__name__ == kind
    assert not any(p.requires_grad for p in codec.network.parameters())
    assert_same_codec(codec, network(kind))


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_a_single_file_loads_without_a_network(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original layout, alone or inside a whole checkpoint, needs no configuration."""
    monkeypatch.setenv("VENHANCER_VAE", str(tmp_path / "vae.safetensors"))
    tensors = {f"{prefix}{k}": v.contiguous() for k, v in ldm_names(network()).items()}
    save_file({**tensors, "model_ema.decay": torch.zeros(1)}, tmp_path / "vae.safetensors")

    assert_same_codec(load_codec(), network())


def test_what_is_no_vae_is_refused(tmp_path: Path) -> None:
    """An empty folder, a file of something else and a cut network are each refused by name."""
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    broken = {k: v.contiguous() for k, v in ldm_names(network()).items() if "mid.block_2" not in k}
    save_file(broken, tmp_path / "broken.safetensors")

    for path in (tmp_path, tmp_path / "other.safetensors", tmp_path / "broken.safetensors"):
        with pytest.raises(WeightsError, match=path.name):
            load_codec(str(path))


def test_encoding_samples_the_same_whatever_the_chunks() -> None:
    """Encoding gives scaled samples of the posterior; seed and position fix each frame's noise."""
    codec = AutoencoderCodec(network())
    whole = codec.encode(frames(), seeded(), chunk=5)
    generator = seeded()
    pieces = torch.cat([codec.encode(part, generator) for part in torch.split(frames(), 2)])
    with torch.inference_mode():
        posterior = codec.network.encode(frames()).latent_dist
    noise = (whole / 0.18215 - posterior.mean) / posterior.std

    assert whole.shape == (5, 4, 8, 12)
    assert noise.std() == pytest.approx(1, abs=0.15)
    for chunk in (1, 3):
        torch.testing.assert_close(
            codec.encode(frames(), seeded(), chunk=chunk), whole, atol=1e-5, rtol=1e-4
        )
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=1e-4)


def test_plain_decoding_does_not_depend_on_the_chunks() -> None:
    """Each frame decodes separately, and to the frames' own size."""
    codec = AutoencoderCodec(network())
    latents = torch.randn(5, 4, 8, 12, generator=seeded())

    whole = codec.decode(latents, chunk=5)

    assert whole.shape == (5, 3, 16, 24)
    torch.testing.assert_close(codec.decode(latents, chunk=2), whole, atol=1e-5, rtol=1e-4)


def test_the_temporal_decoder_sees_a_chunk_at_once() -> None:
    """Chunks of three equal diffusers' result for those three frames; the last may be shorter."""
    codec = AutoencoderCodec(network("AutoencoderKLTemporalDecoder"))
    latents = torch.randn(5, 4, 8, 12, generator=seeded())
    with torch.inference_mode():
        parts = [
            codec.network.decode(part / 0.18215, num_frames=len(part)).sample
            for part in torch.split(latents, 3)
        ]

    out = codec.decode(latents)

    assert out.shape == (5, 3, 16, 24)
    torch.testing.assert_close(out, torch.cat(parts))


def test_without_diffusers_the_pip_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The released model's packages are an extra; the error names it."""

    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(hub, "import_module", absent)
    with pytest.raises(DeviceError, match=r"diffusers.*pip install venhancer\[released\]"):
        load_codec()
