"""Bundles: complete or absent, not built twice, and continued after an interruption."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.clips import small_checkpoint
from venhancer.bundle.manifest import Manifest, check_files, read_manifest, signed
from venhancer.contract import Shape
from venhancer.errors import BundleError, OutputError
from venhancer.files import hash_file
from venhancer_export import bundle_writer
from venhancer_export.bundle_writer import build_bundle
from venhancer_export.cli import main
from venhancer_export.engines.build_folder import BuildFolder
from venhancer_export.request import Request, make_request

SHAPE = Shape(width=64, height=32, window=9)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("weights") / "small.safetensors")


@pytest.fixture
def request_for(checkpoint: Path) -> Callable[..., Request]:
    def make(**wanted: Any) -> Request:
        given = {"sizes": [(64, 32)], "windows": [9], "builder": "onnx", **wanted}
        return make_request(preset=None, weights=checkpoint, **given)

    return make


class FakeBuilder:
    """A builder that writes what it was asked for; it fails at plan number `limit`."""

    name, version = "tensorrt-rtx", "9.9"

    def __init__(self, limit: int = 1000) -> None:
        self.limit = limit
        self.built: list[str] = []

    def build(
        self,
        graph: Path,
        spec: Any,
        sizes: Mapping[str, int],
        plan: Path,
        options: Any,
    ) -> None:
        assert graph.is_file()
        assert sizes["f"] == SHAPE.window
        if len(self.built) == self.limit:
            raise KeyboardInterrupt
        self.built.append(spec.name)
        plan.write_bytes(spec.name.encode())


def beside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.parent.iterdir())


def test_a_bundle_says_what_it_is(
    request_for: Callable[..., Request], checkpoint: Path, tmp_path: Path
) -> None:
    """The manifest has contract, shapes, hashes, operators and schedule; no other file is left."""
    made = build_bundle(request_for(), tmp_path / "b")
    found = read_manifest(tmp_path / "b")

    assert json.loads(found.to_json()) == json.loads(made.to_json())
    assert found.shapes == (SHAPE,)
    assert found.checkpoint_sha256 == hash_file(checkpoint)
    assert (found.builder, found.precision, found.opset) == ("onnx", "float32", 23)
    assert found.schedule["timesteps"][0] == 899
    denoiser = found.find("denoiser", SHAPE)
    assert [(p.name, p.shape) for p in denoiser.inputs][:2] == [
        ("latents", (1, 48, 9, 8, 16)),
        ("timestep", (1,)),
    ]
    assert denoiser.operators["Conv"] > 10
    assert {file.path for file in found.files} == {
        "onnx/denoiser.weights", "onnx/denoiser_64x32x9.onnx", "onnx/prepare_64x32x9.onnx",
    }  # fmt: skip
    check_files(tmp_path / "b", found)
    assert beside(tmp_path / "b") == ["b"]


def test_several_shapes_share_their_weights(
    request_for: Callable[..., Request], tmp_path: Path
) -> None:
    """There is one file of weights, and a graph for each shape."""
    request = request_for(sizes=[(64, 32), (32, 32)], windows=[9, 17])
    build_bundle(request, tmp_path / "b")

    names = sorted(path.name for path in (tmp_path / "b" / "onnx").iterdir())
    assert names[0] == "denoiser.weights"
    assert len([name for name in names if name.startswith("denoiser_")]) == 4


def test_the_same_request_is_built_once(
    request_for: Callable[..., Request], tmp_path: Path
) -> None:
    """An existing bundle keeps its bytes and its time stamps."""
    build_bundle(request_for(), tmp_path / "b")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "b").rglob("*")}
    said: list[str] = []

    build_bundle(request_for(), tmp_path / "b", say=said.append)

    assert said == [f"{tmp_path / 'b'} is built already"]
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "b").rglob("*")} == before


def test_another_bundle_is_not_overwritten(
    request_for: Callable[..., Request], tmp_path: Path
) -> None:
    """It needs `--overwrite`; a folder that is no bundle is never overwritten."""
    build_bundle(request_for(), tmp_path / "b")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").touch()
    other = request_for(windows=[17])

    with pytest.raises(BundleError, match=r"holds another bundle \(nano 64x32x9, .*--overwrite"):
        build_bundle(other, tmp_path / "b")
    with pytest.raises(BundleError, match="is no bundle: choose another -o"):
        build_bundle(other, tmp_path / "mine", overwrite=True)
    assert read_manifest(tmp_path / "b").shapes == (SHAPE,)
    assert (tmp_path / "mine" / "photo.jpg").is_file()

    build_bundle(other, tmp_path / "b", overwrite=True)
    assert read_manifest(tmp_path / "b").shapes[0].window == 17
    assert beside(tmp_path / "b") == ["b", "mine"]


def test_a_damaged_bundle_is_not_taken_for_the_one_wanted(
    request_for: Callable[..., Request], tmp_path: Path
) -> None:
    """A changed byte is found; `--overwrite` repairs it."""
    build_bundle(request_for(), tmp_path / "b")
    weights = tmp_path / "b" / "onnx" / "denoiser.weights"
    data = bytearray(weights.read_bytes())
    data[100] ^= 1
    weights.write_bytes(data)

    with pytest.raises(BundleError, match=r"denoiser\.weights was changed after it was built"):
        build_bundle(request_for(), tmp_path / "b")
    build_bundle(request_for(), tmp_path / "b", overwrite=True)
    check_files(tmp_path / "b", read_manifest(tmp_path / "b"))


def test_a_build_that_broke_off_goes_on(
    request_for: Callable[..., Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished engines are not built again; until the end there is no bundle."""
    request = request_for(builder="tensorrt-rtx", gpus=["a100", "l4"])
    first, second = FakeBuilder(limit=1), FakeBuilder()

    monkeypatch.setattr(bundle_writer, "open_builder", lambda *_: first)
    with pytest.raises(KeyboardInterrupt):
        build_bundle(request, tmp_path / "b")
    assert beside(tmp_path / "b") == [".b.partial"]

    monkeypatch.setattr(bundle_writer, "open_builder", lambda *_: second)
    manifest = build_bundle(request, tmp_path / "b")

    assert first.built + second.built == ["denoiser", "prepare"]
    assert beside(tmp_path / "b") == ["b"]
    engines = manifest.find("denoiser", SHAPE).engines
    assert [(e.gpu, e.capability) for e in engines] == [("a100", "8.0"), ("l4", "8.9")]
    assert (tmp_path / "b" / engines[1].file).read_text() == "denoiser"
    check_files(tmp_path / "b", manifest)


def test_a_plan_that_changed_while_it_lay_there_is_built_again(
    request_for: Callable[..., Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files kept from an interrupted build are checked by hash, not only by size."""
    request = request_for(builder="tensorrt-rtx", gpus=["a100"])
    monkeypatch.setattr(bundle_writer, "open_builder", lambda *_: FakeBuilder(limit=1))
    with pytest.raises(KeyboardInterrupt):
        build_bundle(request, tmp_path / "b")
    [plan] = (tmp_path / ".b.partial").rglob("denoiser*.plan")
    plan.write_bytes(b"Denoiser")

    again = FakeBuilder()
    monkeypatch.setattr(bundle_writer, "open_builder", lambda *_: again)
    build_bundle(request, tmp_path / "b")

    assert again.built == ["denoiser", "prepare"]


def test_what_comes_to_its_place_meanwhile_is_kept(
    request_for: Callable[..., Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder made by somebody under the bundle's name during the build is not overwritten."""
    thesis = tmp_path / "b" / "thesis.txt"

    class Meddler(FakeBuilder):
        def build(self, *given: Any, **named: Any) -> None:
            thesis.parent.mkdir(exist_ok=True)
            thesis.write_text("precious")
            super().build(*given, **named)

    monkeypatch.setattr(bundle_writer, "open_builder", lambda *_: Meddler())
    request = request_for(builder="tensorrt-rtx", gpus=["a100"])
    with pytest.raises(BundleError, match="has come to be while the bundle was built"):
        build_bundle(request, tmp_path / "b", overwrite=True)
    assert thesis.read_text() == "precious"

    thesis.unlink()
    thesis.parent.rmdir()
    unused = FakeBuilder(limit=0)
    monkeypatch.setattr(bundle_writer, "open_builder", lambda *_: unused)
    build_bundle(request, tmp_path / "b")
    assert beside(tmp_path / "b") == ["b"]


def test_a_read_only_place_is_told(
    request_for: Callable[..., Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is one line, not a traceback."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle_writer, "write_weights", full)
    with pytest.raises(OutputError, match="b cannot be written: No space left on device"):
        build_bundle(request_for(), tmp_path / "b")

    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(OutputError, match="is a link to nothing"):
        build_bundle(request_for(), tmp_path / "link")


def test_another_request_begins_anew(
    request_for: Callable[..., Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engines of an interrupted build for another GPU do not get into the bundle."""
    monkeypatch.setattr(bundle_writer, "open_builder", lambda *_: FakeBuilder(limit=1))
    with pytest.raises(KeyboardInterrupt):
        build_bundle(request_for(builder="tensorrt-rtx", gpus=["a100"]), tmp_path / "b")

    build_bundle(request_for(), tmp_path / "b")

    assert not (tmp_path / "b" / "engines").exists()


def test_two_builds_of_one_bundle_do_not_meet(
    request_for: Callable[..., Request], tmp_path: Path
) -> None:
    """The second build says so; a lock left by a dead process does not count."""
    with BuildFolder(tmp_path / "b", "key"):
        with pytest.raises(BundleError, match="another process is building"):
            build_bundle(request_for(), tmp_path / "b")
        (tmp_path / ".b.partial" / "begun").touch()

    build_bundle(request_for(), tmp_path / "b")
    assert beside(tmp_path / "b") == ["b"]
    assert not (tmp_path / "b" / "lock").exists()


def test_a_small_disk_is_told_before(
    request_for: Callable[..., Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has the free and the needed bytes, and nothing is begun."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10_000_000))

    with pytest.raises(OutputError, match=r"0\.0 GB free, the bundle may need 0\.2 GB"):
        build_bundle(request_for(), tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_nowhere_to_put_it(request_for: Callable[..., Request], tmp_path: Path) -> None:
    """The parent folder must exist."""
    with pytest.raises(OutputError, match="nowhere is no folder"):
        build_bundle(request_for(), tmp_path / "nowhere" / "b")


def edited(**changes: Any) -> Callable[[str], str]:
    """Make an edit as another version, or a bug of ours, would write it."""
    return lambda text: signed({**json.loads(text), **changes})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text[:100], "cut short or edited"),
        (lambda text: "[]", "cut short or edited"),
        (edited(format=99), "has format 99, this version reads 1"),
        (edited(shapes=[{"width": 1}]), "cut short or edited"),
        (edited(surprise=1), "cut short or edited"),
        (lambda text: text.replace('"window": 9', '"window": 17'), "digest is of another text"),
        (lambda text: text.replace('"steps": 2', '"steps": 3'), "digest is of another text"),
    ],
)
def test_an_edited_manifest_is_refused(
    edit: Callable[[str], str], message: str, request_for: Callable[..., Request], tmp_path: Path
) -> None:
    """The error is one line that says to build again."""
    build_bundle(request_for(), tmp_path / "b")
    file = tmp_path / "b" / "bundle.json"
    file.write_text(edit(file.read_text()))

    with pytest.raises(BundleError, match=message):
        read_manifest(tmp_path / "b")


def test_the_command_that_builds_it_again(
    request_for: Callable[..., Request], tmp_path: Path
) -> None:
    """The parser accepts that command, and it asks for the same bundle."""
    manifest: Manifest = build_bundle(request_for(), tmp_path / "b")

    assert manifest.command(Path("b"), ("l4",)) == (
        "venhancer-export build-engines --preset nano --size 64x32 --window 9 --gpu l4 "
        "--precision float32 --weights small.safetensors --builder onnx --overwrite -o b"
    )


def test_the_command_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`onnx`, `build-engines` and `info` run as commands; errors are one line and code 2."""
    bundle = tmp_path / "b"
    what = ["--weights", str(checkpoint), "--size", "64x32", "--window", "9", "-o", str(bundle)]

    assert main(["onnx", *what, "--precision", "float16"]) == 0
    assert f"{bundle}: nano 64x32x9, float16 onnx" in capsys.readouterr().out
    assert main(["info", str(bundle)]) == 0
    shown = capsys.readouterr().out
    assert "network  denoiser 64x32x9:" in shown
    assert "transposes" in shown
    assert shown.endswith("all there and unchanged\n")

    assert main(["build-engines", *what, "--builder", "onnx"]) == 2
    assert "pass --overwrite" in capsys.readouterr().err
    assert main(["build-engines", *what, "--builder", "onnx", "--overwrite"]) == 0

    (bundle / "onnx" / "denoiser.weights").unlink()
    assert main(["info", str(bundle)]) == 2
    assert "denoiser.weights is missing" in capsys.readouterr().err
    assert main(["info", str(tmp_path)]) == 2
    assert "is no bundle" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_one_line(
    package: str,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The line has the command that installs it, before any work."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "venhancer_export"]:
        if "onnx" in name or "parity" in name or "writer" in name:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)

    assert main(["verify", str(tmp_path)]) == 2

    shown = capsys.readouterr().err
    assert f"{package} is not installed: run `pip install 'venhancer[export]'`" in shown
    assert shown.count("\n") == 1
