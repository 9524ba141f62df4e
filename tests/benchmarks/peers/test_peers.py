"""The wrappers of third-party networks, and the methods that are made of them."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from benchmarks.frames import write_clip
from benchmarks.peers import methods
from benchmarks.peers.methods import ENLARGERS, note_of
from benchmarks.peers.networks import BasicVsr, PeerError, Rife, Span, module_of
from scripts import data
from venhancer.pipeline.pixels import Frame
from venhancer.video.probe import probe

NETWORK = """
from torch import nn, ones

class IFNet(nn.Module):
    def __init__(self, device):
        super().__init__()
        self.gain = nn.Parameter(ones(1))

    def forward(self, pair, t, scales):
        assert pair.shape[2] % 128 == pair.shape[3] % 128 == 0
        mixed = (1 - t) * pair[:, :3] + t * pair[:, 3:]
        return None, None, [None, None, None, self.gain * mixed]
"""


def flat(level: int) -> Frame:
    return np.full((10, 12, 3), level, np.uint8)


@pytest.fixture
def rife(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rife:
    """Make RIFE's wrapper with a network that only mixes, whose weight is 0.5."""
    for name in ("rife", "rife.IFNet_HDv3"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in ("refine.py", "warplayer.py"):
        (tmp_path / name).touch()
    (tmp_path / "IFNet_HDv3.py").write_text(NETWORK)
    torch.save({"module.gain": torch.tensor([0.5])}, tmp_path / "flownet.pkl")
    return Rife(tmp_path)


def test_a_peer_that_was_not_fetched_says_what_to_do(tmp_path: Path) -> None:
    """The error is one line: the missing file, and the command that fetches it."""
    with pytest.raises(PeerError, match=r"IFNet_HDv3\.py is missing: run `make data`$"):
        Rife(tmp_path)
    with pytest.raises(PeerError, match=r"spanx2_ch48\.param is missing: run `make data`$"):
        Span(2, tmp_path)


def test_the_network_is_padded_and_its_weights_are_read(rife: Rife) -> None:
    """Sides become multiples of 128 and are cut back; levels are rounded, not truncated."""
    made = rife.between(flat(100), flat(201), 0.25)

    assert made.shape == (10, 12, 3)
    assert (made == round(0.5 * (0.75 * 100 + 0.25 * 201))).all()


def test_new_frames_stand_between_the_old_ones(rife: Rife, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old frames stay unchanged; new ones lie at even times between their two neighbours."""
    monkeypatch.setattr(rife, "between", lambda a, b, t: (a[0, 0, 0], b[0, 0, 0], t))

    made = list(rife.interpolate([flat(1), flat(2), flat(3)], 4))

    assert [frame[0, 0, 0] for frame in made[::4]] == [1, 2, 3]
    assert made[5:8] == [(2, 3, 0.25), (2, 3, 0.5), (2, 3, 0.75)]


def test_the_peers_go_from_file_to_file(
    rife: Rife, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result has the number, size and rate of frames asked for; every stage has its seconds."""
    span = SimpleNamespace(enlarge=lambda frame: frame.repeat(2, axis=0).repeat(2, axis=1))
    monkeypatch.setattr(methods, "load_rife_span", lambda scale, folder: (rife, span))
    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    write_clip(source, frames=3, width=64, height=48)

    seconds = methods.enhance_file(source, target, scale=2, factor=2)

    clip = probe(target)
    assert (clip.frames, clip.width, clip.height, clip.fps) == (5, 128, 96, Fraction(48))
    assert set(seconds) == {"load", "read", "interpolate", "enlarge", "write"}


ARCHITECTURE = """
import torch
from torch import nn

def flow_warp(features, flow):
    assert features.shape[2:] == flow.shape[1:3]
    return features

class BasicVSR(nn.Module):
    def __init__(self, num_block):
        super().__init__()
        self.num_feat = 2
        self.forward_trunk = nn.Conv2d(5, 2, 1)
        self.backward_trunk = nn.Conv2d(5, 2, 1)
        self.fusion = nn.Conv2d(4, 2, 1)
        self.upconv1 = nn.Conv2d(2, 8, 1)
        self.upconv2 = nn.Conv2d(2, 8, 1)
        self.conv_hr = nn.Conv2d(2, 2, 1)
        self.conv_last = nn.Conv2d(2, 3, 1)
        self.pixel_shuffle = nn.PixelShuffle(2)
        self.lrelu = nn.LeakyReLU(0.5)

    def get_flow(self, x):
        b, f, _, h, w = x.shape
        pairs = torch.arange(1.0, f).view(1, -1, 1, 1, 1).expand(b, -1, 2, h, w)
        return pairs, 10 * pairs
"""


@pytest.fixture
def basicvsr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BasicVsr:
    """Make BasicVSR with tiny modules that add up: every weight is 0.5, there is no bias."""
    for name in ("basicvsr", "basicvsr.basicvsr_arch"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in data.BASICVSR:
        (tmp_path / name).touch()
    (tmp_path / "basicvsr_arch.py").write_text(ARCHITECTURE)
    network = module_of(tmp_path, "basicvsr", "basicvsr_arch").BasicVSR(num_block=1)
    state = {n: torch.full_like(p, 0.5 * (p.ndim > 1)) for n, p in network.state_dict().items()}
    torch.save({"params": state}, tmp_path / data.BASICVSR[-1])
    return BasicVsr(tmp_path)


def test_basicvsr_makes_every_frame_of_all(basicvsr: BasicVsr) -> None:
    """Frames are four times as large and depend on all frames before and after, as sums show."""
    levels = np.array([2, 4, 8])
    frames = np.broadcast_to(levels[:, None, None, None], (3, 5, 6, 3)).astype(np.uint8)

    made = basicvsr.enlarge(frames)

    before, behind = levels.cumsum(), levels[::-1].cumsum()[::-1]
    expected = 1.5 * (before + behind) + levels
    assert made.shape == (3, 20, 24, 3)
    assert (made == expected[:, None, None, None]).all()


def test_basicvsr_goes_along_the_motion_of_each_pair(
    basicvsr: BasicVsr, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward propagation uses the flows in order, backward the reverse ones from the last on."""
    flows = []

    def warp(features: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        flows.append(flow.mean().item())
        return features

    monkeypatch.setattr(basicvsr, "_warp", warp)
    basicvsr.enlarge(np.zeros((4, 4, 4, 3), np.uint8))

    assert flows == [1, 2, 3, 30, 20, 10]


def test_a_peer_enlarges_what_rife_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """All frames of twice the rate, old and new, go to the enlarger in order."""
    mixing = SimpleNamespace(interpolate=lambda frames, factor: iter([1, 2, 3]))
    monkeypatch.setattr(methods, "Rife", lambda folder: mixing)
    monkeypatch.setitem(ENLARGERS, "rife-span", lambda peers, scale: lambda f: scale * f)

    made = methods.load_method("rife-span", Path("peers"))(np.zeros((2, 1, 1, 3), np.uint8))

    assert made.tolist() == [4, 8, 12]


@pytest.mark.parametrize("name", ENLARGERS)
def test_every_peer_says_which_file_is_missing(name: str, tmp_path: Path) -> None:
    """The error for a missing enlarger file is like that for RIFE's."""
    with pytest.raises(PeerError, match=r"(param|arch_util\.py) is missing: run `make data`$"):
        ENLARGERS[name](tmp_path, 4)


class Doubling:
    """A network that repeats pixels, loaded as SPAN's would be."""

    loaded: ClassVar[list[int]] = []

    def __init__(self, factor: int, folder: Path) -> None:
        self.factor = factor
        self.loaded.append(factor)

    def enlarge(self, frame: Any) -> Any:
        return frame.repeat(self.factor, axis=0).repeat(self.factor, axis=1)


@pytest.mark.parametrize(
    ("scale", "networks", "note"),
    [
        (2, [2], ""),
        (3, [4], "SPAN x4, then made smaller to 3x by antialiased bicubic"),
        (4, [4], ""),
        (8, [4, 2], "SPAN x4, then x2"),
    ],
)
def test_span_reaches_every_scale(
    scale: int, networks: list[int], note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPAN uses its own weights for a scale if there are any, else a way noted beside its name."""
    monkeypatch.setattr(Doubling, "loaded", [])
    monkeypatch.setattr(methods, "Span", Doubling)

    made = methods.load_method("rife-span", Path("peers"), scale, 1)(
        np.zeros((2, 6, 8, 3), np.uint8)
    )

    assert made.shape == (2, 6 * scale, 8 * scale, 3)
    assert Doubling.loaded == networks
    assert note_of("rife-span", scale, 2) == note
    assert "without RIFE" in note_of("rife-span", scale, 1)
