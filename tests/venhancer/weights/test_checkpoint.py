"""Checkpoints: names both ways, loading without a second copy, errors that name the cause."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.support.paths import GOLDEN
from venhancer.config import NANO, RELEASED, TINY, ModelConfig, Preset, RunDefaults, UNetConfig
from venhancer.errors import WeightsError
from venhancer.model.denoiser import Denoiser, make_denoiser
from venhancer.weights import checkpoint as weights
from venhancer.weights import hub
from venhancer.weights.released_names import from_prior, from_released, to_released

SHAPES = GOLDEN / "released_state_dict.json"
SMALL = Preset(  # the released layout, with one of everything
    name="small",
    model=ModelConfig(
        unet=UNetConfig(
            base_channels=8,
            multipliers=(1, 2),
            blocks_per_level=1,
            spatial_levels=(0,),
            temporal_levels=(0,),
            head_channels=4,
            norm_groups=4,
            text_width=6,
        )
    ),
)


@pytest.fixture(scope="module")
def small() -> Denoiser:
    """Make SMALL with random weights everywhere, zero-initialised layers included."""
    torch.manual_seed(0)
    model = make_denoiser(SMALL.model)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


@pytest.fixture(scope="module")
def released(small: Denoiser) -> dict[str, Tensor]:
    """Convert the weights of `small` to the release's names."""
    return to_released(small.state_dict(), SMALL.model.unet)


def assert_same(ours: nn.Module, other: nn.Module) -> None:
    theirs = other.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in ours.state_dict().items())


@pytest.mark.parametrize(("preset", "layout"), [(RELEASED, "full"), (TINY, "tiny")])
def test_every_released_tensor_has_one_of_ours(preset: Preset, layout: str) -> None:
    """All 2,180 released names and shapes convert to ours, fit the model, and convert back."""
    shapes = json.loads(SHAPES.read_text())[layout]
    released = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    with torch.device("meta"):
        model = make_denoiser(preset.model)

    ours = from_released(released, preset.model.unet)
    model.load_state_dict(ours, strict=True)
    back = to_released(ours, preset.model.unet)

    assert len(ours) == 2180
    assert {name: list(tensor.shape) for name, tensor in back.items()} == shapes


def test_errors_name_what_is_missing_unexpected_and_misshaped(released: dict[str, Tensor]) -> None:
    """A checkpoint of another model is refused by name, with both shapes."""
    wrong = dict(released)
    del wrong["out.2.bias"]
    wrong["ema.decay"] = torch.zeros(1)
    wrong["out.2.weight"] = torch.zeros(3, 8, 3, 3)

    with pytest.raises(WeightsError) as caught:
        from_released(wrong, SMALL.model.unet)

    for part in ("out.2.bias", "ema.decay", "out.2.weight is (3, 8, 3, 3), not (4, 8, 3, 3)"):
        assert part in str(caught.value)


@pytest.mark.parametrize("preset", [SMALL, NANO])
def test_our_checkpoints_carry_their_configuration(preset: Preset, tmp_path: Path) -> None:
    """A saved model loads with any preset asked for: the file's own preset wins."""
    model = make_denoiser(preset.model)
    path = tmp_path / "model.safetensors"
    weights.save_checkpoint(path, model, preset)

    loaded, found = weights.load_model(path, TINY)

    assert found == preset
    assert weights.read_preset(path) == preset
    assert path.stat().st_mode & 0o777 == 0o644
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert loaded.get_buffer("sigmas").equal(model.get_buffer("sigmas"))
    assert_same(loaded, model.half().float())


def test_a_configuration_from_before_there_was_a_fast_mode() -> None:
    """Checkpoints that do not define a fast mode get the usual one."""
    fields = json.loads(NANO.to_json())
    del fields["defaults"]["fast"]

    read = Preset.from_json(json.dumps(fields))

    assert Preset.from_json(NANO.to_json()) == NANO
    assert read.defaults.fast == RunDefaults().fast
    assert read.model == NANO.model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("form", ["nested.pt", "bare.pt", "legacy.pt", "file.safetensors"])
def test_released_files_load(
    form: str, dtype: torch.dtype, small: Denoiser, released: dict[str, Tensor], tmp_path: Path
) -> None:
    """Torch files, nested or bare, old or new, and safetensors, in either precision, are read."""
    path = tmp_path / form
    tensors = {name: tensor.to(dtype) for name, tensor in released.items()}
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        content = {"state_dict": tensors} if form.startswith("nested") else tensors
        torch.save(content, path, _use_new_zipfile_serialization=not form.startswith("legacy"))

    loaded, preset = weights.load_model(path, SMALL, dtype=dtype)

    assert preset == SMALL
    assert loaded.dtype == dtype
    assert loaded.unet.head.weight.is_contiguous(memory_format=torch.channels_last)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, small.state_dict()[name].to(dtype)), name


def test_loading_makes_no_second_copy(released: dict[str, Tensor]) -> None:
    """Tensors become the weights themselves, and the source drops each one in turn."""
    state = from_released(released, SMALL.model.unet)
    addresses = {name: tensor.data_ptr() for name, tensor in state.items() if tensor.ndim < 4}

    model = weights.assign(SMALL.model, state, dtype=torch.float32, device="cpu")

    assert not state
    found = model.state_dict()
    assert all(found[name].data_ptr() == address for name, address in addresses.items())


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
@pytest.mark.parametrize("kept", [0, 300, 100_000])
def test_a_file_cut_short_is_one_clear_line(
    name: str, kept: int, released: dict[str, Tensor], tmp_path: Path
) -> None:
    """A truncated download or a file of another kind is refused by name."""
    path = tmp_path / name
    if path.suffix == ".pt":
        torch.save(released, path)
    else:
        save_file(released, path)
    path.write_bytes(path.read_bytes()[:kept])

    with pytest.raises(WeightsError, match=name) as caught:
        weights.load_model(path, SMALL)
    assert "\n" not in str(caught.value)


def test_a_pickle_of_something_else_is_refused(tmp_path: Path) -> None:
    """Neither code nor plain objects are loaded from a torch file."""
    for content in ({"epoch": 3}, [1, 2], Path("x")):  # a Path is an object with code
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(WeightsError, match=r"other\.pt"):
            weights.load_model(tmp_path / "other.pt", SMALL)


def test_a_checkpoint_of_another_preset_is_refused_by_name(
    released: dict[str, Tensor], tmp_path: Path
) -> None:
    """The error names the file, the preset and the first wrong tensor."""
    torch.save(released, tmp_path / "small.pt")

    with pytest.raises(
        WeightsError, match=r"small\.pt, preset 'tiny'.*time_embed.*, not \(128, 32"
    ):
        weights.load_model(tmp_path / "small.pt", TINY)


def test_the_prior_alone_starts_unet_and_controller(
    small: Denoiser, released: dict[str, Tensor], tmp_path: Path
) -> None:
    """Encoder, middle and time embedding are copied; the controller adds nothing yet."""
    prior = {k: v for k, v in released.items() if not k.startswith("VideoControlNet.")}
    torch.save({"state_dict": prior}, tmp_path / "prior.pt")

    model = weights.load_prior(tmp_path / "prior.pt", SMALL)

    controller = model.controller
    assert_same(model.unet, small.unet)
    assert_same(controller.encoder, small.unet.encoder)
    assert_same(controller.middle, small.unet.middle)
    assert_same(controller.time_embedding, small.time_embedding)
    for layer in (controller.hint_conv, controller.noise_level_embedding, controller.zero_convs):
        assert all(not p.any() for p in layer.parameters())
    assert not controller.get_parameter("scale_embedding.2.weight").any()
    assert controller.get_parameter("scale_embedding.0.weight").any()
    first, copy = model.unet.encoder.input.conv.weight, controller.encoder.input.conv.weight
    assert first.data_ptr() != copy.data_ptr()
    assert first.requires_grad


def test_the_prior_is_strict_and_is_no_model(released: dict[str, Tensor], tmp_path: Path) -> None:
    """The prior is not accepted as a whole model, nor a whole model as the prior."""
    prior = {k: v for k, v in released.items() if not k.startswith("VideoControlNet.")}
    torch.save(prior, tmp_path / "prior.pt")

    with pytest.raises(WeightsError, match="prior alone"):
        weights.load_model(tmp_path / "prior.pt", SMALL)
    with pytest.raises(WeightsError, match=r"unexpected \(VideoControlNet"):
        from_prior(released, SMALL.model.unet)


def test_weights_are_found_by_path_name_or_preset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file wins, `paper` and `v2` name released files, the released preset means v2."""
    monkeypatch.setattr(hub, "fetch", lambda name: Path("fetched") / name)
    file = tmp_path / "mine.safetensors"
    file.touch()

    assert weights.find_weights(TINY, file) == file
    assert weights.find_weights(RELEASED, Path("paper")) == Path("fetched/paper")
    assert weights.find_weights(RELEASED, None) == Path("fetched/v2")


def test_missing_weights_say_what_to_do(tmp_path: Path) -> None:
    """No file, no weights for the test preset, none embedded: each is one line with a remedy."""
    with pytest.raises(WeightsError, match="no weights at"):
        weights.find_weights(RELEASED, tmp_path / "absent.pt")
    with pytest.raises(WeightsError, match="no weights at"):
        weights.read_preset(tmp_path / "absent.safetensors")
    with pytest.raises(WeightsError, match="--weights FILE"):
        weights.find_weights(TINY, None)
    with pytest.raises(WeightsError, match=r"absent.*--weights FILE"):
        weights.embedded_checkpoint("absent")
