"""Requests that cannot be built are refused before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.clips import small_checkpoint
from venhancer.config import NANO, TINY
from venhancer.contract import Shape
from venhancer.errors import OptionError, VEnhancerError, WeightsError
from venhancer.model.denoiser import make_denoiser
from venhancer.weights.checkpoint import save_checkpoint
from venhancer_export.request import Request, make_request


def request(**wanted: Any) -> Request:
    return make_request(
        **{"preset": "nano", "weights": None, "sizes": [(256, 128)], "builder": "onnx", **wanted}
    )


def test_what_is_left_out_comes_from_the_preset() -> None:
    """The window and the checkpoint come from the preset; sizes x windows give each shape once."""
    assert request().shapes == (Shape(width=256, height=128, window=NANO.defaults.window),)
    assert request().weights.name == "nano.safetensors"

    found = request(sizes=[(256, 128), (128, 128), (256, 128)], windows=[9, 17]).shapes
    assert [str(shape) for shape in found] == [
        "256x128x9", "256x128x17", "128x128x9", "128x128x17",
    ]  # fmt: skip


def test_onnx_is_float32_and_engines_are_float16() -> None:
    """These are the defaults; another precision can be asked for."""
    assert request().precision == "float32"
    assert request(precision="float16").precision == "float16"
    engines = request(builder="tensorrt-rtx", gpus=["l4", "A100", "a100"])
    assert engines.precision == "float16"
    assert [target.name for target in engines.targets] == ["a100", "l4"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_without_a_gpu_named_or_present_graphs_are_the_bundle() -> None:
    """Then `auto` is ONNX; an engine builder asks for a GPU."""
    assert request(builder="auto").builder == "onnx"
    with pytest.raises(VEnhancerError, match="--gpu this: PyTorch finds no CUDA device"):
        request(builder="tensorrt-rtx")


def test_a_checkpoint_brings_its_preset(tmp_path: Path) -> None:
    """The sizes come too; the name of another preset beside it is refused."""
    path = small_checkpoint(tmp_path / "small.safetensors")

    assert request(preset=None, weights=path).preset.model.unet.base_channels == 16
    with pytest.raises(WeightsError, match="carries preset 'nano', not 'released'"):
        request(preset="released", weights=path)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"sizes": [(250, 130)]}, "the nearest are 248x128 and 252x132"),
        ({"sizes": [(2, 2)]}, "the nearest are 4x4"),
        ({"sizes": [(9000, 128)]}, "take a width and height to 4096"),
        ({"windows": [1]}, "take 2 to 129 frames, here 2$"),
        ({"windows": [500]}, "take 2 to 129 frames, here 129$"),
        ({"gpus": ["voodoo2"], "builder": "auto"}, "take a100, a10"),
        ({"gpus": ["a100"]}, "leave --gpu out"),
        ({"workspace_gib": -1.0}, "take GiB, to 1024"),
        ({"workspace_gib": float("nan")}, "take GiB, to 1024"),
        ({"preset": "huge"}, "take nano, released, tiny"),
    ],
)
def test_what_cannot_be_built_is_told(wanted: dict[str, Any], message: str) -> None:
    """The message says what can be built."""
    with pytest.raises(OptionError, match=message):
        request(**wanted)


def test_windows_of_a_temporal_model_are_longer(tmp_path: Path) -> None:
    """They hold two key frames at up to eight times the frames."""
    small = {"preset": None, "weights": small_checkpoint(tmp_path / "small.safetensors")}

    assert request(windows=[9], **small).shapes[0].window == 9
    for window, nearest in ((4, 9), (500, 129)):
        with pytest.raises(OptionError, match=f"take 9 to 129 frames, here {nearest}; 25 or 49"):
            request(windows=[window], **small)


def test_heights_of_the_release_have_a_remainder(tmp_path: Path) -> None:
    """720 lines have 90 latent rows, not 88 or 96, and are kept; 704 lines are not."""
    save_checkpoint(tmp_path / "tiny.safetensors", make_denoiser(TINY.model), TINY)
    tiny = {"preset": "tiny", "weights": tmp_path / "tiny.safetensors"}

    assert request(sizes=[(1280, 720)], **tiny).shapes[0].height == 720
    with pytest.raises(OptionError, match=r"heights 64 n \+ 16; the nearest are .*656 and .*720"):
        request(sizes=[(1280, 704)], **tiny)


def test_equal_requests_have_equal_keys(tmp_path: Path) -> None:
    """Shapes, precision, builder and its version, GPUs and weights all count."""
    keys = {
        request().key("", {}),
        request(sizes=[(128, 128)]).key("", {}),
        request(precision="float16").key("", {}),
        request(weights=small_checkpoint(tmp_path / "a.safetensors")).key("", {}),
        request().key("11.4", {}),
        request().key("", {"vae": "another"}),
        request(builder="tensorrt-rtx", gpus=["a100"]).key("", {}),
        request(builder="tensorrt-rtx", gpus=["l4"]).key("", {}),
    }

    assert len(keys) == 8
    assert request().key("", {}) in keys
