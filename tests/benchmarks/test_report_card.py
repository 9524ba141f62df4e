"""After a run on a card and before: what its results become, and what travels there."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import report, report_card
from benchmarks.gpu import keep, pack, pack_media, pack_perceptual, pool
from benchmarks.gpu.records import RESULTS, STEPS, read_results
from benchmarks.gpu.table import lines
from benchmarks.machine import ROOT
from benchmarks.waves import write_clip
from venhancer.training.perceptual import VGG16, Lpips
from venhancer.video.probe import probe

COMMIT = 40 * "b"


def kept_run(folder: Path, steps: list[tuple[str, str, str]], what: str = "exact") -> Path:
    """A folder as a run on a card brings it back."""
    folder.mkdir(parents=True)
    machine = {
        "device": {"name": "NVIDIA H200"},
        "versions": {"torch": "2.11.0"},
        "commit": "",
        "date": "2026-01-02",
    }
    found = [
        {"step": "environment", "what": "machine", "at": 0.1, **machine},
        {"step": "denoise", "what": what, "at": 3.0, "seconds": [1.25], "reserved_bytes": 21e9},
    ]
    (folder / RESULTS).write_text("".join(json.dumps(line) + "\n" for line in found) + '{"cut')
    rows = [("stage", "step", "code", "seconds", "limit"), *((*s, "9", "60") for s in steps)]
    (folder / STEPS).write_text("".join("\t".join(row) + "\n" for row in rows))
    return folder


def test_a_stage_is_done_when_all_its_steps_are(tmp_path: Path) -> None:
    """Until then the table names the steps that are left; steps that ran again count."""
    steps = [("B", name, "0") for name in report_card.STEPS["B"]]
    run = kept_run(tmp_path / "first", [*steps[:-1], (*steps[-1][:2], "124")])
    target = tmp_path / "card" / keep.folder_name(keep.machine_of(read_results(run)), COMMIT)
    keep.keep(run, target)
    before = report_card.status("B", report_card.read_runs(tmp_path))
    keep.keep(kept_run(tmp_path / "again", steps[-1:], "plain"), target)
    runs = report_card.read_runs(tmp_path)

    assert before == "on NVIDIA H200 at bbbbbbbbbb all but denoise_compiled"
    assert report_card.status("B", runs) == "done on NVIDIA H200 at bbbbbbbbbb"
    assert report_card.status("A", runs) == "waiting"
    assert len(runs[0].steps) == len(steps)
    assert {r["what"] for r in runs[0].results} == {"machine", "exact", "plain"}


def test_the_page_has_the_figures_of_a_run(tmp_path: Path) -> None:
    """A section for each run, with steps and results; without any it says so."""
    kept_run(tmp_path / "card" / "nvidia-h200-bbbbbbbbbb", [("B", "denoise", "0")])

    page = report_card.section(report_card.read_runs(tmp_path))

    assert "### NVIDIA H200, commit bbbbbbbbbb, 2026-01-02" in page
    assert "| denoise | exact | seconds 1.25, reserved_bytes 21.00 GB |" in page
    assert report_card.NO_RUN in report_card.section([])
    assert "denoise: exact: seconds 1.25" in "\n".join(
        lines(tmp_path / "card" / "nvidia-h200-bbbbbbbbbb")
    )


def test_the_list_of_stages_is_what_the_runs_say() -> None:
    """GPU_TODO.md holds a generated table: after a run, `python -m benchmarks.report`."""
    assert report.GPU_TODO.read_text(encoding="utf-8") == report.render_todo(report.RESULTS)


def test_a_run_without_a_commit_is_not_kept() -> None:
    """Figures that belong to no commit are worth nothing."""
    machine = {"device": {"name": "NVIDIA H200"}, "commit": ""}

    with pytest.raises(SystemExit, match="--commit"):
        keep.folder_name(machine, "")


def test_a_pack_above_the_limit_is_an_error(tmp_path: Path) -> None:
    """The parts are told one by one, and the message says what to do."""
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "a.whl").write_bytes(bytes(2**20))
    found = pack.sizes(ROOT, tmp_path)

    assert found["wheels"] == 2**20
    assert found["tree"] > 2**20
    assert "wheels 1.0" in pack.check_size(found, 100)
    with pytest.raises(pack.PackError, match=r"MiB of 1: tree .*leave parts out"):
        pack.check_size(found, 1)


def test_the_tree_fits_beside_what_travels() -> None:
    """Forty-one MiB are wheels: what git holds may not grow into the rest."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    assert pack.tree_bytes(ROOT) < 20 * 2**20


def test_wheels_have_the_versions_of_the_constraints() -> None:
    """A package without a pin is refused by name."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    found = list(pack.pins(text, pack.PACKAGES))

    assert all(re.fullmatch(r"[\w-]+==[\d.]+", pin) for pin in found)
    assert pack.is_wheel_of("lazy_importer-0.1.0-py3-none-any.whl", "lazy-importer==0.1.0")
    with pytest.raises(pack.PackError, match="nothing"):
        list(pack.pins(text, ["nothing"]))


def test_clips_of_a_pack_are_short_and_small(tmp_path: Path) -> None:
    """Films become clips of two seconds, photos small JPEGs; what is there is kept."""
    for part in ("train", "validation"):
        (tmp_path / "data" / part).mkdir(parents=True)
    write_clip(tmp_path / "data" / "train" / "film.mp4", 100, 64, 48)
    Image.new("RGB", (2200, 100)).save(tmp_path / "data" / "train" / "photo.png")

    pack_media.fill(tmp_path / "data", tmp_path / "pack")

    made = sorted(path.name for path in (tmp_path / "pack" / "train").iterdir())
    assert made == ["film-00.mp4", "film-01.mp4", "photo.jpg"]
    clip = probe(tmp_path / "pack" / "train" / "film-01.mp4")
    assert (clip.frames, clip.width, clip.height, clip.fps) == (48, 64, 48, 24)
    assert Image.open(tmp_path / "pack" / "train" / "photo.jpg").size == (1100, 50)
    assert list(pack_media.starts(4.2, 12)) == [0.0, 2.1]
    assert pack_media.fitted(1920, 1081) == (1280, 720)


def test_the_first_layers_of_lpips_are_lpips_of_these(tmp_path: Path) -> None:
    """The reduced file is read like the whole; later features add nothing, and no NaN."""
    random = np.random.default_rng(0)
    widths = [3, 4, 4, 5, 5, 6, 6, 6, 7, 7, 7, 8, 8, 8]

    def layer(number: int) -> dict[str, Any]:
        shape = (3, 3, widths[number], widths[number + 1])
        kernel = random.standard_normal(shape).astype(np.float32) / 4
        return {"kernel": kernel, "bias": np.zeros(widths[number + 1], np.float32)}

    tree = {VGG16.name: {f"Conv_{n}": layer(n) for n in range(13)}}
    for number, tap in enumerate(VGG16.taps):
        kernel = np.ones((1, 1, widths[tap + 1], 1), np.float32)
        tree[f"NetLinLayer_{number}"] = {"Conv_0": {"kernel": kernel}}
    small = pack_perceptual.reduced(tree)

    frames = torch.rand(2, 3, 32, 32, requires_grad=True)
    distance = as_lpips(small, tmp_path / "vgg16.ckpt")(frames, torch.rand(2, 3, 32, 32))
    distance.sum().backward()

    assert small[VGG16.name]["Conv_6"]["kernel"].shape == (3, 3, 6, 6)
    assert small[VGG16.name]["Conv_12"]["kernel"].shape == (3, 3, 1, 1)
    assert (distance > 0).all()
    assert frames.grad is not None
    assert bool(frames.grad.isfinite().all())


def as_lpips(tree: dict[str, Any], path: Path) -> Lpips:
    """The distance with these weights, by way of the file that it reads."""
    path.write_bytes(pickle.dumps(tree, protocol=4))
    return Lpips(path, VGG16)


def test_a_pool_is_put_together_from_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process has a share and a seed; the parts have one numbering."""
    seeds: list[int] = []

    class Process:
        def wait(self) -> int:
            return 0

    def start(media: Path, out: Path, samples: int, seed: int) -> Process:
        seeds.append(seed)
        out.mkdir(parents=True)
        (out / "pool.json").write_text("{}")
        (out / "part-0000.npz").write_text(f"{media.name} {samples}")
        return Process()

    monkeypatch.setattr(pool, "start", start)
    pool.make(tmp_path, tmp_path / "out", 3, {"train": 10, "validation": 5})

    made = sorted((tmp_path / "out" / "train").glob("part-*.npz"))
    assert [path.read_text() for path in made] == ["train 4", "train 3", "train 3"]
    assert seeds == [0, 1, 2, pool.VALIDATION_SEED]
    assert (tmp_path / "out" / "validation" / "pool.json").is_file()
