"""The text encoder and its tokenizer, compared with the libraries whose numbers they reproduce."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.random_models import write_tokenizer
from tests.support.paths import GOLDEN
from venhancer.encoders.text_encoder import ClipTextEncoder, build_network, load_text_encoder
from venhancer.encoders.tokenizer import Tokenizer, load_tokenizer
from venhancer.errors import DeviceError, WeightsError
from venhancer.weights import hub

transformers = pytest.importorskip("transformers", reason="the text encoder is transformers'")
PROMPTS = json.loads((GOLDEN / "prompts.json").read_text())
WIDTH, VOCABULARY = 128, 514  # two heads; a letter for each byte, twice, start and end


@pytest.fixture(scope="module")
def open_clip() -> Any:
    """Load open_clip's tokenizer and text tower, without its package, which imports torchvision."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None:
        pytest.skip("the reference is open_clip itself: pip install open_clip_torch")
    package, misc = types.ModuleType("open_clip"), types.ModuleType("torchvision.ops.misc")
    package.__path__ = list(spec.submodule_search_locations or ())
    vars(misc)["FrozenBatchNorm2d"] = torch.nn.Identity
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "open_clip", package)
        patch.setitem(sys.modules, misc.__name__, misc)
        parts = {n: importlib.import_module(f"open_clip.{n}") for n in ("tokenizer", "transformer")}
    for name in [name for name in sys.modules if name.startswith("open_clip.")]:
        del sys.modules[name]
    return types.SimpleNamespace(**parts)


def openclip_tower(open_clip: Any) -> Any:
    """Make OpenCLIP's text tower of 24 layers, narrow and random."""
    torch.manual_seed(0)
    tower = open_clip.transformer.TextTransformer(
        vocab_size=VOCABULARY, width=WIDTH, heads=WIDTH // 64, layers=24, output_dim=8
    ).eval()
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return tower


def transformers_model(layers: int) -> Any:
    """Make Transformers' CLIPTextModel of SD 2.x's kind, narrow and random."""
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=WIDTH // 64,
        hidden_act="gelu",
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
    )
    return transformers.CLIPTextModel(config).eval()


def some_ids() -> Tensor:
    return torch.randint(VOCABULARY, (2, 77), generator=torch.Generator().manual_seed(1))


def output(network: Any) -> Tensor:
    with torch.inference_mode():
        return network(some_ids()).last_hidden_state


@pytest.mark.parametrize("prefix", ["", "cond_stage_model.model."])
def test_openclip_weights_give_openclip_numbers(open_clip: Any, prefix: str) -> None:
    """The result is the penultimate of 24 layers through the final LayerNorm, from either file."""
    reference = openclip_tower(open_clip)
    tensors = {f"{prefix}{name}": tensor for name, tensor in reference.state_dict().items()}
    tensors[f"{prefix}visual.transformer.resblocks.0.ln_1.weight"] = torch.zeros(2)

    with torch.inference_mode():
        layers = reference.forward_intermediates(
            some_ids(), normalize_intermediates=True, intermediates_only=True, output_fmt="NLC"
        )["text_intermediates"]

    torch.testing.assert_close(output(build_network(tensors)), layers[-2], atol=1e-4, rtol=1e-4)


def test_a_stable_diffusion_folder_is_used_to_its_last_layer(tmp_path: Path) -> None:
    """SD 2.x's text_encoder has 23 layers: its last output is the penultimate one of 24."""
    model = transformers_model(23)
    model.save_pretrained(tmp_path / "text_encoder")
    write_tokenizer(tmp_path / "tokenizer")

    encoder = load_text_encoder(str(tmp_path))

    torch.testing.assert_close(output(encoder.network), output(model), atol=1e-5, rtol=1e-4)
    assert encoder.encode("a").shape == (1, 77, WIDTH)


def test_of_24_layers_in_a_folder_the_last_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LAION's own folder has all 24 layers; the path may come from the environment."""
    model = transformers_model(24)
    model.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    monkeypatch.setenv("VENHANCER_TEXT_ENCODER", str(tmp_path))

    with torch.inference_mode():
        hidden = model(some_ids(), output_hidden_states=True).hidden_states[-2]
        expected = model.final_layer_norm(hidden)
    out = output(load_text_encoder().network)

    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_file_loads_in_any_precision(tmp_path: Path, kind: str) -> None:
    """Older files with `text_model.` names load; a tokenizer beside the file is enough."""
    tensors = {f"text_model.{k}": v for k, v in transformers_model(2).state_dict().items()}
    if kind == "safetensors":
        save_file(tensors, tmp_path / "clip.safetensors")
    else:
        torch.save({"state_dict": tensors}, tmp_path / "clip.bin")
    write_tokenizer(tmp_path / "tokenizer")

    encoder = load_text_encoder(str(tmp_path / f"clip.{kind}"), dtype=torch.bfloat16)

    assert encoder.encode("a cat").dtype == torch.bfloat16
    assert encoder.encode("a cat").isfinite().all()


def test_other_networks_are_refused(tmp_path: Path) -> None:
    """OpenAI's activation, missing tensors and a missing tower are each named."""
    model = transformers_model(1)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_act": "quick_gelu"}))
    state = model.state_dict()

    with pytest.raises(WeightsError, match="quick_gelu"):
        load_text_encoder(str(tmp_path))
    with pytest.raises(WeightsError, match="no text tower"):
        build_network({"unet.head.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"missing \(final_layer_norm\.bias\)"):
        build_network({k: v for k, v in state.items() if k != "final_layer_norm.bias"})
    with pytest.raises(WeightsError, match=r"none of model\.safetensors"):
        load_text_encoder(str(tmp_path / ".."))


def test_without_transformers_the_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A missing package is one line with the command that installs it."""
    monkeypatch.setitem(sys.modules, "transformers", None)

    with pytest.raises(DeviceError, match=r"transformers is not installed.*pip install"):
        load_text_encoder(str(tmp_path))


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "A close-up of a  Cat, it's 4K!! don't   blur",
        "caf\u00e9 na\u00efve \u2014 \u65e5\u672c\u8a9e \u0928\u092e\u0938\u094d \U0001f600 9%",
        "snake_case &amp; <b>html</b> x\u00b2 \u00bd 3.14 e=mc\u00b2",
        "\u2018quoted\u2019 \u201ctext\u201d, o'clock 'street !'s",
        *PROMPTS.values(),
    ],
)
@pytest.mark.filterwarnings("ignore:the prompt is too long")
def test_without_a_folder_token_ids_are_openclips(
    open_clip: Any, prompt: str, tmp_path: Path
) -> None:
    """The 77 ids are OpenCLIP's: start 49406, the same pieces, end 49407, zeros."""
    reference = open_clip.tokenizer.SimpleTokenizer()

    ids = load_tokenizer(tmp_path).encode(prompt)

    assert ids.dtype == torch.int64
    assert torch.equal(ids, reference([prompt]))


def test_the_folders_own_tokenizer_comes_first(tmp_path: Path) -> None:
    """It may lie in, under or beside the encoder's folder; padding is zeros in any case."""
    write_tokenizer(tmp_path / "tokenizer", merges="a b</w>")

    for folder in (tmp_path, tmp_path / "text_encoder", tmp_path / "tokenizer"):
        ids = load_tokenizer(folder).encode("AB b")[0].tolist()
        assert ids == [513, 512, 256 + ord("b") - ord("!"), 514] + [0] * 73


def test_no_tokenizer_is_one_line_that_says_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without files in the folder and open_clip, the line names the folder and the package."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(WeightsError, match=r"merges\.txt .*tokenizer, or .*open_clip_torch"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text("{")
    with pytest.raises(WeightsError, match="no tokenizer that transformers can read"):
        load_tokenizer(tmp_path)


def test_words_beyond_the_end_are_named(tmp_path: Path) -> None:
    """A prompt over 77 tokens gives a warning with the exact words cut; one of 77 gives none."""
    write_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)

    with pytest.warns(UserWarning, match="cut: 'Cde fin'"):
        ids = tokenizer.encode(" ".join(["abc"] * 25 + ["Cde", "fin"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        full = tokenizer.encode(" ".join(["abc"] * 25))

    assert ids.shape == (1, 77)
    assert torch.equal(ids, full)
    assert ids[0, -1] == VOCABULARY - 1


def test_encoding_is_the_network_on_the_ids(tmp_path: Path) -> None:
    """The result depends on the prompt, not on its case, and is the same each time."""
    write_tokenizer(tmp_path)
    words = hub.require("transformers").CLIPTokenizer.from_pretrained(tmp_path)
    encoder = ClipTextEncoder(build_network(transformers_model(1).state_dict()), Tokenizer(words))

    assert torch.equal(encoder.encode("a"), encoder.encode("A "))
    assert not torch.equal(encoder.encode("a"), encoder.encode("b"))
