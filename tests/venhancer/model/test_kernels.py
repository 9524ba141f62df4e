"""Layers in two forms: equal numbers from both, and one place that chooses between them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend
from torch.utils._python_dispatch import TorchDispatchMode

from tests.export.onnx_graph.test_trace import given, random_denoiser
from tests.support.clips import small_checkpoint, small_preset, write_clip
from tests.support.models import SMALL_UNET
from tests.support.paths import ROOT
from tests.support.training_parts import small_v_preset
from venhancer import Options, api
from venhancer.config import Preset
from venhancer.errors import OptionError
from venhancer.model.denoiser import Denoiser
from venhancer.model.kernels import back_ends, choice, plain
from venhancer.model.kernels.choice import Choice, choose_kernels
from venhancer.model.kernels.forms import PLAIN, Forms, Fusable, fuse
from venhancer_rt.backends import Request, choose_backend, identity, refuse_settled

V = small_v_preset()
CUDNN = SDPBackend.CUDNN_ATTENTION


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_kernels_equal_pytorch(device: str) -> None:
    """Each kernel, and a stage of the network, agree: interpreted on a CPU, compiled on a card."""
    environment = {**os.environ, "TRITON_INTERPRET": "1" if device == "cpu" else "0"}
    command = [sys.executable, "-m", "tests.support.kernel_checks", device]

    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


def evaluate(model: Denoiser, preset: Preset, branches: int = 1) -> Tensor:
    rows = 8 + preset.model.unet.row_remainder
    return model(**given(preset, {"b": branches, "f": 3, "h": rows, "w": 8}))


def counted(calls: Counter[str]) -> Forms:
    """Make PyTorch's form of every layer, with counted calls."""

    def count(name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            calls[name] += 1
            return getattr(PLAIN, name)(*args)

        return call

    return Forms(**{name: count(name) for name in Forms.__dataclass_fields__})


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count calls of layers in the fused form, which needs no Triton here."""
    found: Counter[str] = Counter()
    module = ModuleType("fused")
    module.__dict__["FUSED"] = counted(found)
    monkeypatch.setitem(sys.modules, "venhancer.model.kernels.fused", module)
    return found


@torch.no_grad()
def test_self_attention_is_projected_at_once(calls: Counter[str]) -> None:
    """Weights keep names and values, and become views of one tensor; those for text do not."""
    model = random_denoiser(V, "float32")
    before = {name: x.clone() for name, x in model.state_dict().items()}
    fuse(model)

    block = model.unet.middle.stage.spatial.block  # type: ignore[union-attr]
    own = block.first
    storages = {x.weight.untyped_storage().data_ptr() for x in (own.query, own.key, own.value)}
    assert storages == {own.joined.untyped_storage().data_ptr()}
    assert block.second.joined is None
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(x, before[name]) for name, x in after.items())


@torch.no_grad()
def test_a_fused_network_takes_kernels_for_every_layer(calls: Counter[str]) -> None:
    """All five kinds are used, as often as the network has them; `fuse` can be undone."""
    model = random_denoiser(V, "float32")
    before = evaluate(model, V)
    fuse(model)
    torch.testing.assert_close(evaluate(model, V), before)
    found = dict(calls)
    fuse(model, is_fused=False)
    assert torch.equal(evaluate(model, V), before)

    norms = sum(isinstance(m, torch.nn.GroupNorm) for m in model.modules())
    attentions = sum(type(m).__name__ == "Attention" for m in model.modules())
    assert found["norm"] + found["norm_silu"] == norms
    assert found["attend"] == attentions
    assert found["geglu"] * 2 == found["add_norm"] == attentions
    assert calls == found


def test_with_gradients_a_fused_network_is_plain(calls: Counter[str]) -> None:
    """The kernels have no backward pass."""
    model = random_denoiser(V, "float32").requires_grad_(True)
    fuse(model)

    evaluate(model, V).sum().backward()

    assert not calls
    assert model.unet.head.weight.grad is not None


def test_only_a_measured_card_takes_kernels_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` means PyTorch on every other card, without Triton, and on a CPU."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(choice, "_has_triton", lambda: True)
    plainly, measured = Choice(), Choice(takes_triton=True, back_ends={"spatial": CUDNN})
    assert choose_kernels("auto", "cuda") == plainly
    assert choose_kernels("triton", "cuda") == Choice(takes_triton=True)

    monkeypatch.setitem(choice.MEASURED_CARDS, "a card", measured)
    assert choose_kernels("auto", "cuda") == choose_kernels("triton", "cuda") == measured
    assert choose_kernels("auto", "cpu") == choose_kernels("torch", "cuda") == plainly

    monkeypatch.setattr(choice, "_has_triton", lambda: False)
    assert choose_kernels("auto", "cuda") == Choice(back_ends={"spatial": CUDNN})
    with pytest.raises(OptionError, match="triton package is missing; install it, or take"):
        choose_kernels("triton", "cuda")


def test_attention_takes_the_back_end_of_its_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the three kinds of attention takes its back end; PyTorch chooses if it has none."""
    taken: dict[str, set[bool]] = {}

    def spy(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        first = torch._C._get_sdp_priority_order()[0]
        kind = "text" if query.shape[2] != key.shape[2] else f"{query.shape[2]} tokens"
        taken.setdefault(kind, set()).add(first == int(CUDNN.value))
        return attend(query, key, value)

    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    monkeypatch.setattr(back_ends, "LONGEST_CLIP", 3)
    model, before = random_denoiser(V, "float32"), torch._C._get_sdp_priority_order()
    plainly = evaluate(model, V)
    taken.clear()
    fuse(model, is_fused=False, back_ends={"spatial": CUDNN, "text": CUDNN})
    found = evaluate(model, V)

    temporal = taken.pop("3 tokens")
    assert temporal == {False}
    assert "text" in taken and len(taken) > 1 and all(it == {True} for it in taken.values())
    assert torch._C._get_sdp_priority_order() == before
    assert torch.equal(found, plainly)


def test_kernels_are_refused_where_they_cannot_run() -> None:
    """They are refused on a CPU, with a flat body, and with a bundle, whose networks are fixed."""
    with pytest.raises(OptionError, match="needs a CUDA device; take --kernels torch"):
        api.Setup.choose(Options(device="cpu", kernels="triton", preset="released"))
    with pytest.raises(OptionError, match="preset 'nano' has no layers that Triton fuses"):
        api.Setup.choose(Options(device="cpu", kernels="triton"))
    with pytest.raises(OptionError, match="--kernels: settled when the bundle was built"):
        refuse_settled(Options(kernels="torch"))


def test_a_run_is_another_one_by_other_kernels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, calls: Counter[str]
) -> None:
    """Kernels are part of a run's identity, and the model that the run opens uses them."""
    clip = write_clip(tmp_path / "in.mp4", 5)
    options = Options(device="cpu", weights=small_checkpoint(tmp_path / "m.safetensors"))
    request = Request(source=clip, options=options)
    plain_run = choose_backend(request)
    triton = ModuleType("triton")
    triton.__dict__["__version__"] = "3.0"
    monkeypatch.setitem(sys.modules, "triton", triton)
    monkeypatch.setattr(api, "choose_kernels", lambda *_: Choice(takes_triton=True))
    fused_run = choose_backend(request)

    assert fused_run.name == f"{plain_run.name} with Triton 3.0"
    names = [identity(run, options, run.plan)["backend"] for run in (plain_run, fused_run)]
    assert names[0] != names[1]
    model = fused_run.open().model
    assert all(m.is_fused for m in model.modules() if isinstance(m, Fusable))


def test_attention_is_cut_where_a_card_takes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences beyond the limit are processed in parts, with the same result and gradient."""
    tensors = [torch.randn(7, 5, 32, requires_grad=True) for _ in range(3)]
    keys = [torch.randn(7, 4, 32) for _ in range(2)]
    whole, crossed = plain.attend(*tensors, 16), plain.attend(tensors[0], *keys, 16)
    wanted = torch.autograd.grad(whole.sum(), tensors)
    monkeypatch.setattr(plain, "MOST_SEQUENCES", 3)

    parts = plain.attend(*tensors, 16)

    assert torch.equal(parts, whole)
    assert torch.equal(plain.attend(tensors[0], *keys, 16), crossed)
    for found, gradient in zip(torch.autograd.grad(parts.sum(), tensors), wanted, strict=True):
        torch.testing.assert_close(found, gradient)


class Products(TorchDispatchMode):
    """Records batched products with a factor that is repeated, not stored."""

    def __init__(self) -> None:
        super().__init__()
        self.expanded: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        factors = [x for x in args if isinstance(x, Tensor) and x.ndim == 3]
        if "bmm" in str(func) and any(x.stride(0) == 0 and len(x) > 1 for x in factors):
            self.expanded.append(f"{func} {[tuple(x.shape) for x in factors]}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("branches", [1, 2])
@pytest.mark.parametrize("preset", [V, SMALL_UNET, small_preset()], ids=["v", "unet", "sample"])
@torch.no_grad()
def test_no_layer_multiplies_pixel_by_pixel(preset: Preset, branches: int) -> None:
    """All tokens of one clip form one matrix: no product repeats a weight for every pixel."""
    model = random_denoiser(preset, "float32")

    with Products() as found:
        evaluate(model, preset, branches)

    assert found.expanded == []
