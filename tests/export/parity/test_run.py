"""`venhancer-export verify`: equal results pass, different ones fail by name."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from tests.golden.test_denoiser import GOLDEN, OUTPUT, golden_denoiser, spread
from tests.support.bundles import Built, point_to, small_bundle, text_bundle
from tests.support.clips import small_checkpoint, small_preset
from venhancer.bundle.manifest import NAME, read_manifest, signed
from venhancer.config import TINY
from venhancer.contract import NetworkSpec, TensorSpec
from venhancer.errors import BundleError, OutputError
from venhancer.files import hash_file
from venhancer_export.engines.targets import Target
from venhancer_export.onnx_graph.networks import denoiser_networks
from venhancer_export.onnx_graph.onnx_file import write_onnx
from venhancer_export.onnx_graph.weights_file import lay_out, write_weights
from venhancer_export.parity import candidates
from venhancer_export.parity import run as parity
from venhancer_export.parity.graphs import is_different
from venhancer_export.parity.report import Report
from venhancer_export.parity.run import verify
from venhancer_export.parity.runners import Runs, engine_runs, onnx_run


def checked(built: Built, *, is_full: bool = False) -> Report:
    return verify(built.folder, built.weights, is_full=is_full, say=lambda _: None)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build a bundle of 64x64 in windows of 9 frames, float32."""
    return small_bundle(tmp_path_factory.mktemp("small"), [(64, 64)], [9])


@pytest.fixture
def poor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that this machine can only afford what is always measured."""
    monkeypatch.setattr(parity, "AFFORDABLE_FLOP", {"cpu": 1.0, "cuda": 1.0})
    monkeypatch.setattr(parity, "AFFORDABLE_RUN", {"cpu": 1.0, "cuda": 1.0})


@pytest.fixture(scope="module")
def report(built: Built) -> Report:
    return checked(built)


def run_golden(folder: Path, arrays: dict[str, Tensor]) -> Callable[[tuple[int, ...]], Tensor]:
    """Export the golden TINY as three ONNX graphs: (timestep, scale, noise level) -> prediction."""
    model = golden_denoiser(TINY, "tiny")
    networks = denoiser_networks(TINY.model, "float32", model)
    frames, rows, columns = arrays["x"].shape[2:]
    letters = {"b": 1, "f": frames, "n": frames, "h": rows, "w": columns, "l": 77}
    places = lay_out(model)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    write_weights(folder / "tiny.weights", places, tensors.__getitem__)
    for name, network in networks.items():
        write_onnx(folder / f"{name}.onnx", network.graph(letters), "tiny.weights", places)
    runs = {name: onnx_run(folder / f"{name}.onnx") for name in networks}
    mask = arrays["mask"].reshape(1, -1)

    def run(numbers: tuple[int, ...]) -> Tensor:
        timestep, scale, noise_level = (torch.tensor([n]) for n in numbers)
        given = {"text": arrays["y"], "hint": spread(arrays["hint"], mask), "scale": scale}
        given |= {"is_key": (mask == 0).float(), "noise_level": noise_level}
        given |= {"latents": arrays["x"], "timestep": timestep}
        for name in ("text_keys", "prepare", "denoiser"):
            given |= runs[name](given)
        return given["prediction"]

    return run


def test_onnx_gives_the_released_numbers(tmp_path: Path) -> None:
    """Three graphs on ONNX Runtime give the release's golden outputs within 1e-4."""
    arrays = {k: torch.from_numpy(a) for k, a in np.load(GOLDEN / "denoiser_tiny.npz").items()}
    run = run_golden(tmp_path, arrays)

    errors = {
        name: float((run(tuple(map(int, found.groups()))) - expected).abs().max())
        for name, expected in arrays.items()
        if (found := OUTPUT.fullmatch(name))
    }

    assert errors
    assert max(errors.values()) <= 1e-4, errors


def test_a_sound_bundle_passes(report: Report) -> None:
    """Every network is within its limit, in every way that it can be run here."""
    assert report.passed, "\n".join(report.lines())
    assert {row.network for row in report.rows} == {"denoiser", "prepare"}
    ways = {row.run_by for row in report.rows if row.stage == "one call"}
    assert ways == {"PyTorch float16", "ONNX float32", "ONNX float16"}
    assert {row.shape for row in report.rows} >= {"64x64x5", "64x128x9", "64x64x9"}
    assert {row.at for row in report.rows if row.stage == "whole run"} == {"eta 0", "eta 1"}


def test_every_row_says_what_it_was_held_to(report: Report) -> None:
    """Each row has a limit, finite numbers and a verdict; the terminal shows the worst of them."""
    for row in report.rows:
        assert row.limit
        assert set(row.limit) <= set(row.found)
        assert math.isfinite(row.found.get("relative_l2", 0.0))
    assert len(report.lines()) < len(report.rows)
    assert report.lines()[-1].startswith("passed: ")


def test_the_report_is_written_into_the_bundle(built: Built, report: Report) -> None:
    """JSON and Markdown are complete; no work files are left, and the bundle is unchanged."""
    fields = json.loads((built.folder / "parity.json").read_text())
    text = (built.folder / "parity.md").read_text()

    assert fields["passed"] is True
    assert len(fields["rows"]) == len(report.rows)
    assert {"torch", "onnx", "onnxruntime", "venhancer"} <= set(fields["versions"])
    assert fields["bundle"]["precision"] == "float32"
    assert fields["bundle"]["shapes"] == ["64x64x9"]
    assert fields["gates"]["psnr"] == 35
    assert all(layer in text for layer in report.layers)
    found = {path.name for path in built.folder.iterdir()}
    assert found == {NAME, "onnx", "parity.json", "parity.md"}


def test_verifying_again_changes_nothing_but_the_report(built: Built, report: Report) -> None:
    """The manifest does not cover the report: the bundle still verifies."""
    manifest = read_manifest(built.folder)

    assert not {file.path for file in manifest.files} & {"parity.json", "parity.md"}


def tampered(built: Built, folder: Path) -> Built:
    """Copy the bundle with changed weights, and a manifest that vouches for the change."""
    copy = built.copy(folder)
    weights = copy / "onnx" / "denoiser.weights"
    data = bytearray(weights.read_bytes())
    half = len(data) // 2 // 4096 * 4096
    data[half : half + 4096] = np.full(1024, 0.5, np.float32).tobytes()
    weights.write_bytes(data)
    resign(copy, weights)
    return dataclasses.replace(built, folder=copy)


@pytest.mark.usefixtures("poor")
def test_a_changed_weight_fails(built: Built, tmp_path: Path) -> None:
    """Weights that differ from the checkpoint's fail where the bundle's are read, and only there.

    This holds even if the bundle's own shape is too large to be run: small graphs use its weights.
    """
    found = checked(tampered(built, tmp_path / "tampered"))

    assert not found.passed
    assert {row.run_by for row in found.rows if row.verdict == "FAIL"} == {"ONNX float32"}
    assert found.lines()[-1].startswith("FAILED: ")
    assert json.loads((tmp_path / "tampered" / "parity.json").read_text())["passed"] is False


def test_an_edited_file_is_refused(built: Built, tmp_path: Path) -> None:
    """Verification does not start on a bundle whose files do not match its manifest."""
    copy = built.copy(tmp_path / "edited")
    graph = next((copy / "onnx").glob("*.onnx"))
    graph.write_bytes(graph.read_bytes()[:-1])

    with pytest.raises(BundleError, match=re.escape(graph.name)):
        verify(copy, built.weights, is_full=False, say=lambda _: None)


def test_another_checkpoint_is_refused(built: Built, tmp_path: Path) -> None:
    """The message names the bundle's checkpoint and the one that was given."""
    other = small_checkpoint(tmp_path / "other.safetensors")
    other.write_bytes(other.read_bytes() + b"\0")

    with pytest.raises(BundleError, match=r"small\.safetensors.*other\.safetensors"):
        verify(built.folder, other, is_full=False, say=lambda _: None)


@pytest.mark.usefixtures("poor")
def test_what_is_too_large_is_left_out_by_name(built: Built) -> None:
    """On a small budget the first probe is measured, and the rest are named."""
    found = checked(built)

    assert {row.shape for row in found.rows if row.stage == "one call"} == {"64x64x5"}
    notes = "\n".join(found.notes)
    assert "64x64x9" in notes
    assert "whole run at 64x64x5" in notes
    assert "--full" in notes


@pytest.mark.slow
@pytest.mark.usefixtures("poor")
def test_full_leaves_nothing_out(built: Built) -> None:
    """`--full` measures the bundle's own shape whatever it costs."""
    found = checked(built, is_full=True)

    assert "64x64x9" in {row.shape for row in found.rows}
    assert not found.notes


def test_a_folder_that_cannot_be_written_to_is_told(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is one line before the work, not a traceback after it."""

    def refuse(**_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)

    with pytest.raises(OutputError, match="cannot be written"):
        checked(built)


@pytest.mark.slow
def test_codec_and_text_encoder_are_verified_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle of the released kind has six networks, and frames are decoded by its autoencoder."""
    point_to(tmp_path, monkeypatch)

    found = checked(text_bundle(tmp_path, "float16"))

    assert found.passed, "\n".join(found.lines())
    assert {row.network for row in found.rows if row.stage == "one call"} == {
        "text_keys", "prepare", "denoiser", "vae_encoder", "vae_decoder", "text_encoder",
    }  # fmt: skip
    assert {row.network for row in found.rows if row.stage == "attention"} == {
        "denoiser", "vae", "text_encoder",
    }  # fmt: skip
    assert not found.notes


@pytest.mark.slow
@pytest.mark.usefixtures("poor")
def test_without_its_codec_the_rest_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the autoencoder is missing, the report says so, and latents are compared."""
    with monkeypatch.context() as patch:
        point_to(tmp_path, patch)
        made = text_bundle(tmp_path)
    monkeypatch.setenv("VENHANCER_VAE", str(tmp_path / "nowhere"))

    found = checked(made)

    assert found.passed, "\n".join(found.lines())
    assert {row.network for row in found.rows} == {"text_keys", "prepare", "denoiser"}
    assert found.notes[0].startswith("left out: vae_encoder, vae_decoder, text_encoder: ")
    assert "frames are latents" in "\n".join(found.notes)


def with_engines(built: Built, folder: Path) -> Built:
    """Copy the bundle with an L4 engine for each graph; the file is the graph itself."""
    entries = json.loads((built.folder / NAME).read_text())["entries"]
    for entry in entries:
        engine = {"gpu": "l4", "capability": "8.9", "file": entry["file"], "seconds": 1.0}
        entry["engines"] = [engine]
    copy = built.copy(folder, gpus=["l4"], builder="tensorrt-rtx", entries=entries)
    return dataclasses.replace(built, folder=copy)


@pytest.mark.usefixtures("poor")
@pytest.mark.parametrize(
    ("here", "reason"),
    [(None, "this machine has no GPU"), (Target("h100", (9, 0)), "this machine has h100")],
)
def test_engines_that_cannot_be_run_are_told(
    built: Built,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    here: Target | None,
    reason: str,
) -> None:
    """The verdict says that the engines were not run."""
    monkeypatch.setattr(candidates, "this_machine", lambda: here)

    found = checked(with_engines(built, tmp_path / "engines"))

    assert f"left out: engines for l4: {reason}" in found.notes


@pytest.mark.slow
def test_engines_are_run_at_their_own_shape(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engines run on their GPU, one call and whole runs; ONNX Runtime stands in for it here."""
    asked = []

    @contextmanager
    def stand_in(plans: dict[str, Path], specs: object, builder: str) -> Iterator[Runs]:
        asked.append(builder)
        yield {name: onnx_run(path) for name, path in plans.items()}

    monkeypatch.setattr(candidates, "this_machine", lambda: Target("l4", (8, 9)))
    monkeypatch.setattr(candidates.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(candidates, "engine_runs", stand_in)

    found = checked(with_engines(built, tmp_path / "engines"))

    rows = [row for row in found.rows if row.run_by == "tensorrt-rtx on l4"]
    assert found.passed
    assert asked == ["tensorrt-rtx"]
    assert {row.shape for row in rows} == {"64x64x9"}
    assert {(row.stage, row.network) for row in rows} == {
        ("one call", "prepare"), ("one call", "denoiser"), ("whole run", "denoiser"),
    }  # fmt: skip


class FakeRunner:
    """A stand-in for polygraphy's TrtRunner: it writes every result over the one before."""

    memory = torch.zeros(2)

    def __init__(self, engine: object) -> None:
        self.engine = engine

    def __enter__(self) -> FakeRunner:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def infer(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        assert {name: x.dtype for name, x in given.items()} == {"x": torch.float16}
        self.memory.copy_(given["x"])
        return {"y": self.memory}


def test_an_engine_gets_its_types_and_keeps_no_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inputs have the types that the network takes; a result outlives the next call."""
    monkeypatch.setenv("POLYGRAPHY_USE_TENSORRT_RTX", "0")
    monkeypatch.setattr("polygraphy.backend.trt.TrtRunner", FakeRunner)
    spec = NetworkSpec("plain", (TensorSpec("x", "2", "float16"),), (TensorSpec("y", "2"),))

    with engine_runs({"plain": tmp_path / "no.plan"}, {"plain": spec}, "tensorrt-rtx") as runs:
        first = runs["plain"]({"x": torch.ones(2), "unused": torch.ones(1)})
        second = runs["plain"]({"x": torch.zeros(2)})

    assert os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] == "1"
    assert (first["y"].tolist(), second["y"].tolist()) == ([1, 1], [0, 0])


def test_the_small_model_has_attention_to_watch(report: Report) -> None:
    """Every attention layer that ran is in the report, by its name in the model."""
    assert small_preset().model.unet.temporal_levels
    assert report.layers
    assert all(name.startswith("denoiser.") for name in report.layers)


def test_a_graph_of_another_network_fails(built: Built, tmp_path: Path, poor: None) -> None:
    """Even at a shape too costly to run, it fails by comparison with a fresh export."""
    folder = built.copy(tmp_path / "bundle")
    manifest = read_manifest(folder)
    file = folder / manifest.find("denoiser", manifest.shapes[0]).file
    model = onnx.load(str(file), load_external_data=False)
    model.graph.node[5].input[0] = model.graph.node[5].input[0] + "x"
    file.write_bytes(model.SerializeToString())
    resign(folder, file)

    found = verify(folder, built.weights, is_full=False, say=lambda _: None)

    assert not found.passed
    assert [row.network for row in found.rows if row.verdict == "FAIL"] == ["denoiser"]
    file.write_text("garbage")
    assert is_different(file, built.folder / file.relative_to(folder))


def resign(folder: Path, changed: Path) -> None:
    """Update the manifest for a file that was changed."""
    fields = json.loads((folder / NAME).read_text())
    for file in fields["files"]:
        if folder / file["path"] == changed:
            file.update(size=changed.stat().st_size, sha256=hash_file(changed))
    (folder / NAME).write_text(signed(fields))
