"""The text encoder and its tokenizer, against the libraries that they stand for."""

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

from venhancer.errors import WeightsError
from venhancer.model.text import TextEncoder, build_tower, load_text_encoder
from venhancer.tokenizer import MERGES, Tokenizer, load_tokenizer

PROMPTS = json.loads((Path(__file__).parents[1] / "golden" / "prompts.json").read_text())
WIDTH, VOCABULARY = 128, 514  # two heads; 512 pieces without merges, start and end


@pytest.fixture(scope="module")
def open_clip() -> Any:
    """Parts of open_clip: its package imports torchvision, which we do without."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None:
        pytest.skip("open_clip is not installed")
    package = types.ModuleType("open_clip")
    package.__spec__, package.__path__ = spec, list(spec.submodule_search_locations or ())
    misc = types.ModuleType("torchvision.ops.misc")
    vars(misc)["FrozenBatchNorm2d"] = torch.nn.Identity
    stubs = {"open_clip": package}
    if importlib.util.find_spec("torchvision") is None:
        empty = {name: types.ModuleType(name) for name in ("torchvision", "torchvision.ops")}
        stubs |= {**empty, "torchvision.ops.misc": misc}
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stubs.items():
            patch.setitem(sys.modules, name, module)
        parts = {n: importlib.import_module(f"open_clip.{n}") for n in ("tokenizer", "transformer")}
    for name in [name for name in sys.modules if name.startswith("open_clip.")]:
        del sys.modules[name]
    return types.SimpleNamespace(**parts)


def reference_tower(open_clip: Any) -> Any:
    """OpenCLIP's text tower of 24 layers, narrow and random."""
    torch.manual_seed(0)
    tower = open_clip.transformer.TextTransformer(
        vocab_size=VOCABULARY, width=WIDTH, heads=WIDTH // 64, layers=24, output_dim=8
    ).eval()
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return tower


def transformers_model(layers: int) -> Any:
    """Transformers' CLIPTextModel of SD 2.x's kind, narrow and random."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=WIDTH // 64,
        hidden_act="gelu",
    )
    return transformers.CLIPTextModel(config).eval()


def some_ids() -> Tensor:
    return torch.randint(VOCABULARY, (2, 77), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("prefix", ["", "cond_stage_model.model."])
def test_openclip_weights_give_openclip_numbers(open_clip: Any, prefix: str) -> None:
    """The penultimate of 24 layers through the final LayerNorm, alone or in an SD 2.x file."""
    reference = reference_tower(open_clip)
    tensors = {f"{prefix}{name}": tensor for name, tensor in reference.state_dict().items()}
    tensors["visual.proj"] = torch.zeros(2, 2)

    with torch.inference_mode():
        out = build_tower(tensors)(some_ids())
        layers = reference.forward_intermediates(
            some_ids(), normalize_intermediates=True, intermediates_only=True, output_fmt="NLC"
        )["text_intermediates"]

    torch.testing.assert_close(out, layers[-2], atol=1e-4, rtol=1e-4)


def test_stable_diffusion_folder_gives_transformers_numbers(tmp_path: Path) -> None:
    """SD 2.x's text_encoder has 23 layers: its last output is the penultimate one."""
    model = transformers_model(23)
    model.save_pretrained(tmp_path / "text_encoder")
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")

    encoder = load_text_encoder(str(tmp_path))
    with torch.inference_mode():
        expected = model(some_ids()).last_hidden_state
        out = encoder.tower(some_ids())

    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)
    assert encoder.encode("a").shape == (1, 77, WIDTH)


def test_of_24_layers_in_a_folder_the_last_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LAION's own folder holds the whole tower; the source may come from the environment."""
    model = transformers_model(24)
    model.save_pretrained(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    monkeypatch.setenv("VENHANCER_TEXT_ENCODER", str(tmp_path))

    with torch.inference_mode():
        out = load_text_encoder().tower(some_ids())
        hidden = model(some_ids(), output_hidden_states=True).hidden_states[-2]
        expected = getattr(model, "text_model", model).final_layer_norm(hidden)

    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)


def test_an_openclip_file_loads(open_clip: Any, tmp_path: Path) -> None:
    """A `.safetensors` and a `.bin` of OpenCLIP's names give the same tower."""
    tensors = {name: t.contiguous() for name, t in reference_tower(open_clip).state_dict().items()}
    save_file(tensors, tmp_path / "clip.safetensors")
    torch.save(tensors, tmp_path / "clip.bin")

    encoders = [
        load_text_encoder(str(tmp_path / f"clip.{kind}")) for kind in ("safetensors", "bin")
    ]

    assert torch.equal(encoders[0].tower(some_ids()), encoders[1].tower(some_ids()))


def test_other_networks_are_refused(tmp_path: Path) -> None:
    """OpenAI's activation, missing tensors, no tower at all: each is named."""
    transformers_model(1).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_act": "quick_gelu"}))
    with pytest.raises(WeightsError, match="quick_gelu"):
        load_text_encoder(str(tmp_path))
    with pytest.raises(WeightsError, match="no text tower"):
        build_tower({"unet.head.weight": torch.zeros(1)})
    tower = build_tower({**_bare_tower(), "positional_embedding": torch.zeros(77, 64)})
    assert len(tower.layers) == 0
    with pytest.raises(WeightsError, match="positions"):
        build_tower(_bare_tower())


def _bare_tower() -> dict[str, Tensor]:
    norm = {"ln_final.weight": torch.ones(64), "ln_final.bias": torch.zeros(64)}
    return {"token_embedding.weight": torch.zeros(9, 64), **norm}


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
def test_token_ids_are_openclips(open_clip: Any, prompt: str) -> None:
    """Start 49406, the same pieces, end 49407, zeros: the same 77 ids as OpenCLIP."""
    reference = open_clip.tokenizer.SimpleTokenizer()

    ids = load_tokenizer().encode(prompt)

    assert ids.dtype == torch.int64
    assert torch.equal(ids, reference([prompt]))


def test_words_beyond_the_end_are_named() -> None:
    """A prompt over 77 tokens warns of exactly the words that are cut."""
    tokenizer = Tokenizer([])
    prompt = " ".join(["ab"] * 37 + ["cde", "fin"])

    with pytest.warns(UserWarning, match="cut: 'cde fin'"):
        ids = tokenizer.encode(prompt)

    assert ids.shape == (1, 77)
    assert ids[0, -1] == tokenizer.end
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer.encode(" ".join(["abc"] * 25))


def test_the_tokenizer_comes_with_the_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """merges.txt in, under or beside the folder is used; none anywhere is one clear line."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r"merges\.txt"):
        load_tokenizer(tmp_path / "text_encoder")

    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "merges.txt").write_text("#version: 0.2\na b</w>\n")

    for folder in (tmp_path, tmp_path / "text_encoder", tmp_path / "tokenizer"):
        assert load_tokenizer(folder).word_ids("ab") == [512]
    assert MERGES + 512 == 49406


def test_encoding_is_the_tower_on_the_ids() -> None:
    """(1, 77, d), the same each time, and it follows the prompt."""
    tower = build_tower({**_bare_tower(), "positional_embedding": torch.randn(77, 64)})
    tower.tokens = torch.nn.Embedding(514, 64)
    encoder = TextEncoder(tower, Tokenizer([]))

    assert encoder.encode("a").shape == (1, 77, 64)
    assert torch.equal(encoder.encode("a"), encoder.encode("A "))
    assert not torch.equal(encoder.encode("a"), encoder.encode("b"))
