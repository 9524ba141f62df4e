"""Traced networks, run by ONNX Runtime, against the same code in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.clips import small_preset
from tests.support.models import SMALL_UNET
from tests.support.training_parts import small_v_preset
from venhancer.config import NANO, RELEASED, TINY, Preset
from venhancer.contract import NetworkSpec, Precision, Shape, TensorSpec, sizes
from venhancer.errors import WeightsError
from venhancer.model.denoiser import Denoiser, make_denoiser
from venhancer.weights.checkpoint import precision_of
from venhancer_export.onnx_graph.networks import Network, denoiser_networks
from venhancer_export.onnx_graph.onnx_file import write_onnx
from venhancer_export.onnx_graph.trace import UnknownOperatorError, trace
from venhancer_export.onnx_graph.weights_file import Stored, file_size, lay_out, write_weights

KINDS = [small_preset(), NANO, small_v_preset()]
NAIVE_TRANSPOSES = 649  # of the released model, exported by torch.onnx


def run(path: Path, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Run the graph in ONNX Runtime, on the inputs that it has."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = {x.name: inputs[x.name].numpy() for x in session.get_inputs()}
    return [torch.from_numpy(out) for out in session.run(None, feed)]


def convert(
    folder: Path, function: Callable[..., Tensor], module: nn.Module, **inputs: Tensor
) -> Tensor:
    """Trace `function` at the shapes of `inputs`, write and check the graph, and run it on them."""

    def spec(name: str, x: Tensor) -> TensorSpec:
        return TensorSpec(name, " ".join(map(str, x.shape)), str(x.dtype).removeprefix("torch."))

    expected = function(**inputs)
    described = NetworkSpec(
        "f", tuple(spec(n, x) for n, x in inputs.items()), (spec("out", expected),)
    )
    graph = trace(lambda **x: (function(**x),), module, described, {})
    places = lay_out(module)
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    write_weights(folder / "f.weights", places, tensors.__getitem__)
    write_onnx(folder / "f.onnx", graph, "f.weights", places)
    onnx.checker.check_model(str(folder / "f.onnx"), full_check=True)
    [found] = run(folder / "f.onnx", inputs)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    return found


X = torch.linspace(-2, 3, 2 * 4 * 6 * 5).reshape(2, 4, 6, 5)
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "reversed operands": lambda x: 1 - x + 2 / (x * x + 1),
    "powers": lambda x: (x**2).clamp(min=0.5).sqrt(),
    "numbers and types": lambda x: (x <= 0.5) * x.to(torch.float16).float() + (x > 1),
    "integers": lambda x: (x.round().long() == 1) * x,
    "slices": lambda x: x[:, 1:-1, ..., -1][:, None] + x[0, 1, 2, 3],
    "every other": lambda x: x[:, :, ::2, 1:],
    "split and cat": lambda x: torch.cat([*x.chunk(2, dim=1)[::-1], *x.split([1, 4], -1)[:0]], 1),
    "flatten": lambda x: x.flatten(1).unflatten(-1, (6, -1)).transpose(-1, 1).squeeze(),
    "expand": lambda x: x[:, :1].expand(-1, 3, -1, -1),
    "extremes": lambda x: x.amax(-1) - x.amin(1, keepdim=True).amax(-1),
    "padding": lambda x: F.pad(x, (0, 1, 2, 0)),
    "enlarging": lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"),
    "activations": lambda x: F.silu(x) + F.gelu(x) + torch.sigmoid(x).tanh() + F.relu(x),
    "where": lambda x: torch.where(x > 0, x, torch.zeros(1)),
    "waves": lambda x: x.cos() * x.sin() + (-x).exp(),
    "constants": lambda x: x + torch.arange(5, device=x.device) * 2,
    "groups": lambda x: F.group_norm(x, 2, torch.arange(4.0), torch.ones(4), 1e-4),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_keep_their_values(name: str, tmp_path: Path) -> None:
    """Broadcasting, promotion and indexing follow torch's rules, not ONNX's."""
    convert(tmp_path, FUNCTIONS[name], nn.Module(), x=X)


@pytest.mark.parametrize("is_causal", [False, True])
def test_attention_keeps_its_tokens(is_causal: bool, tmp_path: Path) -> None:
    """Heads of several channels and keys of another length give no transpose in the graph."""

    def attend(q: Tensor, k: Tensor) -> Tensor:
        heads = (x.unflatten(-1, (3, 4)).transpose(1, 2) for x in (q, k, k))
        return (
            F.scaled_dot_product_attention(*heads, is_causal=is_causal).transpose(1, 2).flatten(2)
        )

    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 7, 12, generator=generator)
    k = torch.randn(2, 7 if is_causal else 5, 12, generator=generator)
    convert(tmp_path, attend, nn.Module(), q=q, k=k)

    nodes = [node.op_type for node in onnx.load(tmp_path / "f.onnx").graph.node]
    assert nodes == ["Attention", "Identity"]


def test_layers_keep_their_weights(tmp_path: Path) -> None:
    """Convolutions of every kind, linear layers with and without bias, norms, embeddings agree."""
    torch.manual_seed(0)
    module = nn.ModuleDict(
        {
            "conv": nn.Conv2d(4, 8, 3, stride=2, padding=(2, 1)),
            "over_frames": nn.Conv3d(4, 4, (3, 1, 1), padding=(1, 0, 0)),
            "grouped": nn.Conv1d(4, 8, 3, dilation=2, groups=2),
            "linear": nn.Linear(5, 3, bias=False),
            "norm": nn.LayerNorm(3),
            "words": nn.Embedding(9, 3),
        }
    ).requires_grad_(False)

    def function(x: Tensor) -> Tensor:
        half = module["conv"](x).mul(1).flatten(2).amax(-1)
        deep = module["over_frames"](x[None].transpose(1, 2)).flatten(3).amax(-1).squeeze(0)
        line = module["grouped"](x.flatten(2)).amax(-1)
        words = module["words"](x[0, 0, 0].round().long().clamp(0, 8))
        return (
            half
            + line
            + module["norm"](module["linear"](x))[:, :2, 0, :1].flatten(1).amax(-1, keepdim=True)
            + deep.amax(-1)[:2, None]
            + words.amax(-1).amax(0)
        )

    convert(tmp_path, function, module, x=X)


def test_an_unknown_function_is_named_where_it_matters() -> None:
    """An unknown function is refused if an output needs it; an unused result is no error."""
    spec = NetworkSpec("f", (TensorSpec("x", "3"),), (TensorSpec("out", "3"),))

    def used(x: Tensor) -> tuple[Tensor, ...]:
        return (x.erfinv() + 1,)

    def unused(x: Tensor) -> tuple[Tensor, ...]:
        x.erfinv()
        return (x + 1,)

    with pytest.raises(UnknownOperatorError, match="erfinv"):
        trace(used, nn.Module(), spec, {})
    assert trace(unused, nn.Module(), spec, {}).operators() == {"Add": 1, "Identity": 1}


def random_denoiser(preset: Preset, precision: Precision) -> Denoiser:
    torch.manual_seed(0)
    model = make_denoiser(preset.model).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
        nn.init.normal_(parameter, std=fan_in**-0.5)
        parameter.data += 0.5 * (parameter.ndim == 1)
        parameter.data = parameter.data.to(precision_of(name, getattr(torch, precision)))
    return model


def shape_for(preset: Preset) -> Shape:
    model = preset.model
    rows = 8 + model.unet.row_remainder
    return Shape(width=8 * model.latent_stride, height=rows * model.latent_stride, window=5)


def exported_error(preset: Preset, precision: Precision, folder: Path) -> float:
    """Compute the relative error of the three graphs in sequence against float32 PyTorch."""
    model, shape = random_denoiser(preset, precision), shape_for(preset)
    letters = sizes(preset.model, shape)
    made = denoiser_networks(preset.model, precision)
    places = lay_out(made["denoiser"].module)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    write_weights(folder / "m.weights", places, tensors.__getitem__)
    assert (folder / "m.weights").stat().st_size == file_size(places)
    known = given(preset, letters)
    inputs = dict(known)
    for name in ("text_keys", "prepare", "denoiser"):
        if name in made:
            known.update(outputs(folder / f"{name}.onnx", made[name], letters, places, known))
    with torch.inference_mode():
        expected = model.float()(**inputs)
    return float((known["prediction"] - expected).norm() / expected.norm())


def given(preset: Preset, letters: dict[str, int]) -> dict[str, Tensor]:
    """Make inputs of `Denoiser.forward`; every third frame is a key frame."""
    generator = torch.Generator().manual_seed(1)
    b, f, c = letters["b"], letters["f"], preset.model.unet.latent_channels
    made = {
        name: torch.randn(b, c, f, letters["h"], letters["w"], generator=generator)
        for name in ("latents", "hint")
    }
    made["timestep"] = torch.full((b,), 400)
    made["is_key"] = (torch.arange(f) % 3 == 0).float().repeat(b, 1)
    made["noise_level"], made["scale"] = torch.full((b,), 20.0), torch.full((b,), 4.0)
    if channels := preset.model.neighbour_channels:
        size = (b, channels, f, letters["h"], letters["w"])
        made["neighbours"] = torch.randn(size, generator=generator)
    if preset.model.unet.text_width:
        made["text"] = torch.randn(b, 77, preset.model.unet.text_width, generator=generator)
    return made


def outputs(
    path: Path,
    network: Network,
    letters: dict[str, int],
    places: dict[str, Stored],
    known: dict[str, Tensor],
) -> dict[str, Tensor]:
    write_onnx(path, network.graph(letters), "m.weights", places)
    found = run(path, known)
    return {spec.name: x for spec, x in zip(network.spec.outputs, found, strict=True)}


@pytest.mark.parametrize("preset", KINDS, ids=["sample", "flat", "v"])
def test_exported_networks_equal_the_module(preset: Preset, tmp_path: Path) -> None:
    """Text keys, prepare and denoiser in sequence give the result of `forward`."""
    assert exported_error(preset, "float32", tmp_path) < 1e-5


@pytest.mark.parametrize("preset", KINDS, ids=["sample", "flat", "v"])
def test_half_precision_is_strongly_typed(preset: Preset, tmp_path: Path) -> None:
    """Results are close to float32; weights are float16 except embeddings of numbers."""
    assert exported_error(preset, "float16", tmp_path) < 3e-3

    graph = onnx.load(tmp_path / "denoiser.onnx", load_external_data=False).graph
    halves = {x.name for x in graph.initializer if x.data_type == onnx.TensorProto.FLOAT16}
    assert "unet.head.weight" in halves
    assert "time_embedding.0.weight" not in halves


@pytest.mark.parametrize(
    "preset", [RELEASED, TINY, NANO, SMALL_UNET], ids=lambda preset: preset.name
)
def test_every_preset_traces_without_weights(preset: Preset) -> None:
    """Even the 2 B model takes seconds; token layout is kept, so few transposes remain."""
    made = denoiser_networks(preset.model, "float16")
    graph = made["denoiser"].graph(sizes(preset.model, shape_for(preset)))

    counts = graph.operators()
    if preset.model.unet.text_width:
        assert counts["Attention"] == 96
        assert counts["GroupNormalization"] == 241
    assert counts["Transpose"] < 0.3 * NAIVE_TRANSPOSES
    assert "Where" not in counts
    if preset is NANO:
        assert not {"Attention", "GroupNormalization"} & set(counts)


def test_weights_beyond_float16_are_refused(tmp_path: Path) -> None:
    """The weight is named, with what to do."""
    module = nn.Linear(2, 1).requires_grad_(False)
    tensors = {"weight": torch.tensor([[1e5, 1.0]]), "bias": torch.zeros(1)}

    with pytest.raises(WeightsError, match=r"weight reaches 1e\+05, float16 ends at 65504"):
        write_weights(tmp_path / "w", lay_out(module.half()), tensors.__getitem__)
