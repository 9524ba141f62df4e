"""`venhancer-rt doctor`: facts about the machine, and what will work with them."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from venhancer.weights.hub import SOURCES, STABLE_DIFFUSION
from venhancer_rt import doctor, machine_facts
from venhancer_rt.cli import main
from venhancer_rt.machine_facts import Card, Encoder, Facts, Hub, gather

Capture = pytest.CaptureFixture[str]
GIB = 2**30


def facts(**changed: object) -> Facts:
    """Make the facts of a machine with one card, on which everything works."""
    made = Facts(
        versions={
            "venhancer": "1.0", "onnxruntime": "1.23", "tensorrt": "10.14", "tensorrt-rtx": "1.4",
            "diffusers": "0.30", "transformers": "5.0",
        },
        cores=16,
        has_bfloat16=True,
        dtypes={"cpu": "bfloat16", "cuda": "float16"},
        cards=(Card(name="H100", memory=80 * GIB, free=79 * GIB, capability="9.0"),),
        driver={"NVIDIA driver": "570.1"},
        memory_free=100 * GIB,
        memory_total=128 * GIB,
        disk_free={"here": 50 * GIB},
        encoders=(
            Encoder(name="libx265", is_deep=True),
            Encoder(name="h264_nvenc"),
            Encoder(name="hevc_nvenc", is_deep=True),
        ),
        providers=("CUDAExecutionProvider", "CPUExecutionProvider"),
        tensorrt={"tensorrt": None, "tensorrt-rtx": None},
        hub=Hub(folder="cache", sizes={"someone/released": 5 * GIB}, weights=("v2",)),
    )  # fmt: skip
    return dataclasses.replace(made, **changed)  # type: ignore[arg-type]


def told(given: Facts) -> dict[str, str]:
    """Return the verdicts as sentences, by what they are about."""
    return {verdict.what: verdict.line for verdict in doctor.verdicts(given)}


def test_a_card_does_everything() -> None:
    """Every verdict is yes, and names what does it."""
    assert list(told(facts()).values()) == [
        "built-in model: yes, on cuda in float16",
        "released model: yes, v2, on cuda in float16",
        "bundles of ONNX files: yes, by ONNX Runtime 1.23 on cuda",
        "bundles of TensorRT engines: yes, by TensorRT 10.14",
        "bundles of TensorRT-RTX engines: yes, by TensorRT-RTX 1.4",
        "HDR in 10 bits: yes, by libx265",
        "encoding by hardware: yes, by h264_nvenc, hevc_nvenc",
    ]


def test_a_card_is_described() -> None:
    """Name, memory, compute capability and driver are told, and so are the other facts."""
    lines = doctor.report_lines(facts())

    card = "  cuda 0: H100, compute capability 9.0, 84.8 of 85.9 GB free"
    assert lines.index("devices") < lines.index(card) < lines.index("memory")
    for line in (
        "  NVIDIA driver 570.1",
        "  cpu: cores that can be used 16, with instructions for bfloat16",
        "  memory 107.4 GB free of 137.4 GB",
        "  disk 53.7 GB free in here",
        "  libx265, 10 bits too",
        "  someone/released, 5.4 GB",
    ):
        assert line in lines


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"cards": ()}, "built-in model: yes, on cpu in bfloat16"),
        ({"cards": ()}, "bundles of ONNX files: yes, by ONNX Runtime 1.23 on cpu"),
        ({"cards": ()}, "bundles of TensorRT engines: no, no CUDA device"),
        ({"built_in": "no weights"}, "built-in model: no, no weights"),
        ({"providers": ()}, "bundles of ONNX files: no, onnxruntime is not installed"),
        (
            {"tensorrt": {"tensorrt": "it is not installed", "tensorrt-rtx": None}},
            "bundles of TensorRT engines: no, it is not installed",
        ),
        (
            {"hub": Hub(folder="cache", sizes={}, missing_parts=("VAE",))},
            "released model: no, its weights are not downloaded yet, its VAE is not downloaded yet",
        ),
        (
            {"versions": {"transformers": "5.0"}},
            "released model: no, diffusers is not installed",
        ),
        ({"torch_error": "torch is broken"}, "released model: no, torch is broken"),
        ({"encoders": ()}, "HDR in 10 bits: no, no encoder of this FFmpeg takes 10 bits"),
        (
            {"encoders": (Encoder(name="hevc_nvenc", is_deep=True, refusal="no card"),)},
            "encoding by hardware: no, no such encoder opens here",
        ),
        (
            {"encoders": (Encoder(name="libx265"), Encoder(name="ffv1", is_deep=True))},
            "HDR in 10 bits: yes, by ffv1",
        ),
    ],
)
def test_what_is_missing_is_named(changed: dict[str, object], line: str) -> None:
    """A verdict is no for a reason that names the missing part."""
    assert line in told(facts(**changed)).values()


def test_an_encoder_that_does_not_open_says_why() -> None:
    """The reason is on the encoder's line."""
    given = facts(encoders=(Encoder(name="av1_nvenc", refusal="no driver"),))

    assert "  av1_nvenc, up to 8 bits, does not open: no driver" in doctor.report_lines(given)


def test_doctor_tells_of_this_machine(capsys: Capture) -> None:
    """The command prints every group of facts, and succeeds."""
    assert main(["doctor"]) == 0

    lines = capsys.readouterr().out.splitlines()
    titles = [line for line in lines if not line.startswith(" ")]
    assert titles == ["versions", "devices", "memory", "encoders", "weights", "what will work"]
    assert any(line.startswith("  built-in model: yes, on ") for line in lines)


def test_doctor_tells_of_this_machine_in_json(capsys: Capture) -> None:
    """One line of JSON has the facts and the verdicts."""
    assert main(["doctor", "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert found["cores"] >= 1
    assert 0 < found["memory_free"] <= found["memory_total"]
    assert len(found["disk_free"]) >= 1
    assert found["versions"]["numpy"]
    assert found["works"]["built-in model"]["works"] is True
    assert {encoder["name"] for encoder in found["encoders"]} <= set(machine_facts.ENCODERS)


@pytest.mark.parametrize("missing", [["torch"], ["av"], ["onnxruntime", "huggingface_hub"]])
def test_a_missing_package_is_a_fact(missing: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """If a package cannot be imported, the others are still told of."""
    for name in missing:
        for known in [known for known in sys.modules if known.startswith(f"{name}.")]:
            monkeypatch.setitem(sys.modules, known, None)
        monkeypatch.setitem(sys.modules, name, None)

    found = gather()

    assert found.cores >= 1
    assert (found.torch_error is not None) == ("torch" in missing)
    assert (found.versions["FFmpeg"] is None) == ("av" in missing)
    assert (not found.providers) >= ("onnxruntime" in missing)
    assert (found.hub.folder is None) == ("huggingface_hub" in missing)
    assert doctor.report_lines(found)
    assert json.dumps(doctor.report_json(found))


def test_weights_in_the_cache_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that was put there by hand counts, and its size is told."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for variable in ("VENHANCER_VAE", "VENHANCER_TEXT_ENCODER"):
        monkeypatch.delenv(variable, raising=False)
    source = SOURCES["v2"]
    folder = tmp_path / f"models--{source.repo.replace('/', '--')}"
    folder.mkdir()
    (folder / source.file).write_bytes(bytes(1000))
    (folder / "link").symlink_to(folder / source.file)

    found = machine_facts._hub()
    assert found == Hub(
        folder=str(tmp_path),
        sizes={source.repo: 1000},
        weights=("v2",),
        missing_parts=("VAE", "text encoder"),
    )
    (tmp_path / f"models--{STABLE_DIFFUSION.replace('/', '--')}").mkdir()
    assert machine_facts._hub().missing_parts == ()
