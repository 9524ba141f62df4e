"""`enhance --bundle`: PyTorch's frames without PyTorch's networks; bad bundles in one line."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.support.bundles import Built, point_to, small_bundle, text_bundle
from tests.support.clips import read_all, write_clip
from venhancer import api
from venhancer.bundle.manifest import read_manifest
from venhancer.errors import BundleError
from venhancer.files import hash_file
from venhancer.options import Options
from venhancer.pipeline import run as pipeline
from venhancer.planning.plan import make_plan
from venhancer_rt.backends import Request, choose_backend
from venhancer_rt.bundle_reader import open_bundle
from venhancer_rt.cli import main

Capture = pytest.CaptureFixture[str]
Frames = NDArray[np.int64]  # f H W 3


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return small_bundle(tmp_path_factory.mktemp("small"), sizes=[(96, 64)], windows=[9])


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "in.mp4", 5)


def pictures(folder: Path) -> Frames:
    return np.stack([np.asarray(Image.open(file)) for file in sorted(folder.iterdir())]).astype(int)


def by_onnx(clip: Path, built: Built, options: Options) -> Frames:
    backend = choose_backend(Request(source=clip, options=options, bundle=built.folder))
    target = clip.with_name("onnx")
    pipeline.enhance(backend.plan, target, backend.open(), options)
    return pictures(target)


def by_pytorch(clip: Path, built: Built, options: Options, is_static: bool = True) -> Frames:
    """Make the frames of the same plan with the checkpoint; or of one without extended windows."""
    plan = choose_backend(Request(source=clip, options=options, bundle=built.folder)).plan
    if not is_static:
        window = read_manifest(built.folder).shapes[0].window
        plan = make_plan(plan.source, plan.preset, dataclasses.replace(options, window=window))
    chosen = dataclasses.replace(options, weights=built.weights, dtype="float32")
    target = clip.with_name("pytorch")
    pipeline.enhance(plan, target, api.load_networks(api.Setup.choose(chosen)), chosen)
    return pictures(target)


def psnr(left: Frames, right: Frames) -> float:
    return float(10 * np.log10(255**2 / max(np.square(left - right).mean(), 1e-9)))


@pytest.mark.parametrize(
    ("frames", "size", "options", "expected"),
    [
        (5, (48, 32), {"interpolate": 2}, (9, 64, 96)),
        (9, (48, 32), {"interpolate": 2, "eta": 1.0, "seed": 3}, (17, 64, 96)),
        (9, (40, 22), {}, (9, 44, 80)),
        (9, (74, 40), {}, (9, 80, 148)),
    ],
    ids=["it fits", "windows", "a smaller frame", "tiles"],
)
def test_frames_are_those_of_pytorch(
    frames: int,
    size: tuple[int, int],
    options: dict[str, int],
    expected: tuple[int, int, int],
    built: Built,
    tmp_path: Path,
) -> None:
    """The frames have the exact size and number; no pixel differs by more than rounding."""
    clip, chosen = write_clip(tmp_path / "in.mp4", frames, *size), Options(**options)  # type: ignore[arg-type]

    out = by_onnx(clip, built, chosen)

    assert out.shape == (*expected, 3)
    reference = by_pytorch(clip, built, chosen)
    assert abs(out - reference).max() <= 1
    assert psnr(out, reference) >= 60


@pytest.mark.parametrize(
    ("frames", "factor", "expected"), [(1, 1, 1), (4, 1, 4), (3, 3, 7), (4, 5, 16), (3, 7, 15)]
)
def test_windows_that_do_not_fit_are_extended(
    frames: int, factor: int, expected: int, built: Built, tmp_path: Path
) -> None:
    """Short clips, and factors with misaligned key frames, give frames close to PyTorch's."""
    clip, options = write_clip(tmp_path / "in.mp4", frames), Options(interpolate=factor)

    out = by_onnx(clip, built, options)

    assert out.shape == (expected, 64, 96, 3)
    assert psnr(out, by_pytorch(clip, built, options, is_static=False)) > 45


def test_a_model_with_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codec, text encoder and guidance interval of the bundle alone give PyTorch's frames."""
    point_to(tmp_path, monkeypatch)
    built = text_bundle(tmp_path)
    clip = write_clip(tmp_path / "in.mp4", 5, 32, 20)
    options = Options(interpolate=2, prompt="a b", guidance_interval=(0, 700))
    with pytest.warns(UserWarning, match="the prompt is too long"):
        reference = by_pytorch(clip, built, options)
    for name in ("vae", "text_encoder", "tokenizer", "text.safetensors"):
        (tmp_path / name).rename(tmp_path / f"no {name}")

    with pytest.warns(UserWarning, match="the prompt is too long"):
        out = by_onnx(clip, built, options)

    assert out.shape == (9, 40, 64, 3)
    assert abs(out - reference).max() <= 1
    assert psnr(out, reference) >= 60


def test_the_shape_that_suits_the_clip_is_used(tmp_path: Path, capsys: Capture) -> None:
    """A bundle of two shapes uses the suitable one, with one file of weights."""
    built = small_bundle(tmp_path, sizes=[(96, 64), (32, 32)], windows=[9])
    clip = write_clip(tmp_path / "in.mp4", 9, 16, 16)

    assert main(["enhance", str(clip), "--bundle", str(built.folder)]) == 0

    assert "networks of 32x32x9" in capsys.readouterr().out
    assert read_all(tmp_path / "in_enhanced.mp4")[0].shape == (32, 32, 3)
    assert len(list((built.folder / "onnx").glob("*.weights"))) == 1


def test_the_command_says_what_runs(built: Built, clip: Path, capsys: Capture) -> None:
    """`plan` and `enhance` name the bundle in words and as JSON; PyTorch is named where it runs."""
    for arguments in (["plan"], ["enhance"]):
        assert main([*arguments, str(clip), "--bundle", str(built.folder), "--json"]) == 0
        out = capsys.readouterr().out
        assert "\nruns on  ONNX Runtime " in out
        told = json.loads(out.splitlines()[-1])
        assert (told["backend"].split()[0], told["shape"]) == ("ONNX", "96x64x9")
        assert (told["device"], told["dtype"]) == ("cpu", "float32")

    assert main(["plan", str(clip), "--weights", str(built.weights)]) == 0
    assert "\nruns on  PyTorch" in capsys.readouterr().out


def test_info_describes_a_bundle(built: Built, capsys: Capture) -> None:
    """`info` has model, shapes, builder, checkpoint, size, each network and its transposes."""
    assert main(["info", str(built.folder)]) == 0

    out = capsys.readouterr().out
    for part in ("nano", "96x64x9", "onnx", "float32", hash_file(built.weights)[:12], " MB"):
        assert part in out
    assert "denoiser 96x64x9" in out and "transposes" in out


def refused(capsys: Capture, bundle: Path, clip: Path, *options: str) -> str:
    """Return the one line on stderr of `enhance --bundle`, which writes nothing."""
    before = sorted(clip.parent.iterdir())
    assert main(["enhance", str(clip), "--bundle", str(bundle), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("venhancer-rt: ")
    assert error.count("\n") == 1
    assert sorted(clip.parent.iterdir()) == before
    return error


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--preset", "nano"], "--preset"),
        (["--weights", "w.safetensors"], "--weights"),
        (["--window", "9", "--tile", "96x64"], "--window, --tile"),
        (["--dtype", "float16"], "--dtype"),
        (["--geometry", "released"], "--geometry"),
        (["--reuse", "2"], "--reuse"),
    ],
)
def test_what_the_bundle_has_settled(
    options: list[str], named: str, built: Built, clip: Path, capsys: Capture
) -> None:
    """One line names all options that would need another bundle."""
    found = refused(capsys, built.folder, clip, *options)

    assert f"{named}: settled when the bundle was built" in found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "a cat"], "no text encoder"),
        (["--scale", "9"], "take a number from 1 to 8"),
        (["--device", "cuda"], "take --device cpu"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_options_are_refused_as_without_a_bundle(
    options: list[str], message: str, built: Built, clip: Path, capsys: Capture
) -> None:
    """Wrong options are refused in the same words with a bundle as without."""
    assert message in refused(capsys, built.folder, clip, *options)


def test_no_bundle(clip: Path, tmp_path: Path, capsys: Capture) -> None:
    """A missing folder, and one without a manifest, are refused."""
    (tmp_path / "empty").mkdir()

    for name in ("empty", "missing"):
        assert f"{name} is no bundle" in refused(capsys, tmp_path / name, clip)


def test_damaged_bundles(built: Built, clip: Path, tmp_path: Path, capsys: Capture) -> None:
    """A file cut short, changed or missing, and a bad manifest, are each refused in one line."""
    graph, weights = "onnx/denoiser_96x64x9.onnx", "onnx/denoiser.weights"

    def damaged(name: str, file: str, data: bytes | None) -> str:
        path = built.copy(tmp_path / name) / file
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)
        return refused(capsys, tmp_path / name, clip)

    whole = (built.folder / graph).read_bytes()
    manifest = (built.folder / "bundle.json").read_bytes()
    assert "denoiser.weights has 100 bytes" in damaged("cut", weights, bytes(100))
    assert f"{graph} was changed" in damaged("edited", graph, whole[:-1] + b"?")
    assert f"{graph} is missing" in damaged("missing", graph, None)
    assert "cut short or edited" in damaged("half", "bundle.json", manifest[: len(manifest) // 2])
    other = built.copy(tmp_path / "other", format=2)
    assert "has format 2, this version reads 1" in refused(capsys, other, clip)


def test_a_graph_that_is_none(
    built: Built, clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A file with the right hash that is no graph is named, and ONNX Runtime prints nothing."""
    folder, name = tmp_path / "broken", "onnx/prepare_96x64x9.onnx"
    files = json.loads((built.folder / "bundle.json").read_text())["files"]
    (tmp_path / "graph").write_bytes(b"no graph")
    changed = {"path": name, "size": 8, "sha256": hash_file(tmp_path / "graph")}
    built.copy(folder, files=[changed if f["path"] == name else f for f in files])
    (folder / name).write_bytes(b"no graph")

    found = refused(capfd, folder, clip)

    assert f"{name}: onnxruntime " in found and "cannot load it" in found


def test_networks_that_do_not_belong(
    built: Built, clip: Path, tmp_path: Path, capsys: Capture
) -> None:
    """A missing network, and one with another version's tensors, are named."""
    entries = json.loads((built.folder / "bundle.json").read_text())["entries"]
    rest = [entry for entry in entries if entry["network"] != "prepare"]
    bare = built.copy(tmp_path / "bare", entries=rest)
    entries[0]["inputs"][0]["dtype"] = "float16"
    other = built.copy(tmp_path / "other", entries=entries)

    assert "the bundle has no prepare for 96x64x9, only denoiser" in refused(capsys, bare, clip)
    found = refused(capsys, other, clip)
    assert entries[0]["file"] in found and "this version needs" in found


def with_engines(built: Built, folder: Path) -> Path:
    """Write a manifest that says the bundle has engines for an A100."""
    entries = json.loads((built.folder / "bundle.json").read_text())["entries"]
    engine = {"gpu": "a100", "capability": "8.0", "file": "engines/a100/x.plan", "seconds": 1.0}
    made = [{**entry, "engines": [engine]} for entry in entries]
    return built.copy(folder, builder="tensorrt", gpus=["a100"], entries=made)


def test_engines_need_a_gpu(
    built: Built, clip: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU, the line names builder, GPUs, and a builder whose bundles run anywhere."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    found = refused(capsys, with_engines(built, tmp_path / "trt"), clip)

    assert "engines of tensorrt for a100 (8.0)" in found
    assert "no CUDA device" in found and "`--builder onnx`" in found


def test_engines_of_another_gpu(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line names both GPUs, and the command that builds the bundle for this one."""
    folder = with_engines(built, tmp_path / "trt")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA L4")
    message = (
        r"built for a100 \(8\.0\), this machine has NVIDIA L4 \(8\.9\): "
        r"run `venhancer-export build-engines .* --gpu this .*`, .*`--builder onnx`"
    )

    with pytest.raises(BundleError, match=message):
        open_bundle(folder)


def test_without_onnxruntime(
    built: Built, clip: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line says what to install."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    assert "pip install 'venhancer[onnx]'" in refused(capsys, built.folder, clip)
