"""The GPUs that `--gpu` takes."""

from __future__ import annotations

import pytest
import torch

from venhancer.errors import DeviceError, OptionError
from venhancer_export.engines import targets
from venhancer_export.engines.targets import KNOWN, Target, find_target, short_name, this_machine

DEVICES = {
    "NVIDIA A100-SXM4-80GB": "a100",
    "NVIDIA A100 80GB PCIe": "a100",
    "NVIDIA A10G": "a10g",
    "NVIDIA GeForce RTX 3090": "rtx3090",
    "NVIDIA L4": "l4",
    "NVIDIA L40S": "l40s",
    "NVIDIA GeForce RTX 4090": "rtx4090",
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA H200": "h200",
    "NVIDIA GeForce RTX 5090": "rtx5090",
}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that this machine has an L4."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA L4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))


@pytest.mark.parametrize("name", KNOWN)
def test_every_listed_gpu_is_found(name: str) -> None:
    """A listed GPU is found in any spelling of its name, with its compute capability."""
    target = find_target(name.upper())

    assert target == Target(name, KNOWN[name])
    assert target.sm == "SM" + "".join(map(str, KNOWN[name]))


def test_an_unknown_gpu_is_refused_with_the_list() -> None:
    """The error for an unknown name lists the known ones."""
    with pytest.raises(OptionError, match=r"'gtx1080'.*a100, a10.*this") as caught:
        find_target("gtx1080")

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_gets_its_name_of_the_list(device: str) -> None:
    """A driver's name for a GPU becomes the name that `--gpu` takes."""
    name = DEVICES[device]

    assert short_name(device, KNOWN[name]) == name


@pytest.mark.parametrize(
    ("device", "name"),
    [("NVIDIA GeForce RTX 4060 Ti", "geforce-rtx-4060-ti"), ("Odd/GPU (8 GB)", "oddgpu-8-gb")],
)
def test_an_unlisted_device_gets_a_name_for_a_folder(device: str, name: str) -> None:
    """An unlisted GPU can still be built for; its name is safe as a folder's."""
    assert short_name(device, (8, 9)) == name


def test_this_gpu(gpu: None) -> None:
    """`this` is the GPU of the machine, as if it had been named."""
    assert find_target("this") == find_target("l4") == this_machine()


def test_without_a_gpu_this_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU, the error for `this` lists the names that may be given instead."""
    monkeypatch.setattr(targets, "this_machine", lambda: None)

    with pytest.raises(DeviceError, match=r"no CUDA device.*a100"):
        find_target("this")
