"""The pack for a card: small, with pinned wheels, and its reduced LPIPS equal to the whole."""

from __future__ import annotations

import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.frames import write_clip
from scripts import gpu_pack
from tests.support.paths import ROOT
from venhancer.training.perceptual import VGG16, Lpips
from venhancer.video.probe import probe


def test_a_pack_above_the_limit_is_an_error(tmp_path: Path) -> None:
    """Each part's size is listed, and the message says what to do."""
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "a.whl").write_bytes(bytes(2**20))
    found = gpu_pack.sizes(ROOT, tmp_path)

    assert found["wheels"] == 2**20
    assert found["tree"] > 2**20
    assert "wheels 1.0" in gpu_pack.check_size(found, 100)
    with pytest.raises(gpu_pack.PackError, match=r"MiB of 1: tree .*leave parts out"):
        gpu_pack.check_size(found, 1)


def test_the_tree_fits_beside_what_travels() -> None:
    """Wheels take 41 MiB of the limit; the files in git must fit into the rest."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    assert gpu_pack.tree_bytes(ROOT) < 20 * 2**20


def test_wheels_have_the_versions_of_the_constraints() -> None:
    """A package without a pin is refused by name."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    found = list(gpu_pack.pins(text, gpu_pack.PACKAGES))

    assert all(re.fullmatch(r"[\w-]+==[\d.]+", pin) for pin in found)
    assert gpu_pack.is_wheel_of("lazy_importer-0.1.0-py3-none-any.whl", "lazy-importer==0.1.0")
    with pytest.raises(gpu_pack.PackError, match="nothing"):
        list(gpu_pack.pins(text, ["nothing"]))


def test_clips_of_a_pack_are_short_and_small(tmp_path: Path) -> None:
    """Films become clips of two seconds, photos small JPEGs; existing files are kept."""
    for part in ("train", "validation"):
        (tmp_path / "data" / part).mkdir(parents=True)
    write_clip(tmp_path / "data" / "train" / "film.mp4", 100, 64, 48)
    Image.new("RGB", (2200, 100)).save(tmp_path / "data" / "train" / "photo.png")

    gpu_pack.fill_media(tmp_path / "data", tmp_path / "pack")

    made = sorted(path.name for path in (tmp_path / "pack" / "train").iterdir())
    assert made == ["film-00.mp4", "film-01.mp4", "photo.jpg"]
    clip = probe(tmp_path / "pack" / "train" / "film-01.mp4")
    assert (clip.frames, clip.width, clip.height, clip.fps) == (48, 64, 48, 24)
    assert Image.open(tmp_path / "pack" / "train" / "photo.jpg").size == (1100, 50)
    assert list(gpu_pack.starts(4.2, 12)) == [0.0, 2.1]
    assert gpu_pack.fitted(1920, 1081) == (1280, 720)


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
    small = gpu_pack.reduced(tree)

    frames = torch.rand(2, 3, 32, 32, requires_grad=True)
    distance = as_lpips(small, tmp_path / "vgg16.ckpt")(frames, torch.rand(2, 3, 32, 32))
    distance.sum().backward()

    assert small[VGG16.name]["Conv_6"]["kernel"].shape == (3, 3, 6, 6)
    assert small[VGG16.name]["Conv_12"]["kernel"].shape == (3, 3, 1, 1)
    assert (distance > 0).all()
    assert frames.grad is not None
    assert bool(frames.grad.isfinite().all())


def as_lpips(tree: dict[str, Any], path: Path) -> Lpips:
    """Write these weights to a file and load the distance from it."""
    path.write_bytes(pickle.dumps(tree, protocol=4))
    return Lpips(path, VGG16)
