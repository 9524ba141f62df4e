"""The GPUs that engines are built for, as named by `--gpu`."""

from __future__ import annotations

from dataclasses import dataclass

from venhancer.errors import DeviceError, OptionError

Capability = tuple[int, int]
THIS = "this"
KNOWN: dict[str, Capability] = {
    "a100": (8, 0),
    "a10": (8, 6),
    "a10g": (8, 6),
    "a40": (8, 6),
    "rtx3090": (8, 6),
    "l4": (8, 9),
    "l40": (8, 9),
    "l40s": (8, 9),
    "rtx4090": (8, 9),
    "h100": (9, 0),
    "h200": (9, 0),
    "b200": (10, 0),
    "rtx5090": (12, 0),
}


@dataclass(frozen=True, slots=True)
class Target:
    """A model of GPU; its name is also used as a folder's name."""

    name: str
    compute_capability: Capability

    @property
    def capability(self) -> str:
        """Compute capability as text, such as 8.9."""
        return "{}.{}".format(*self.compute_capability)

    @property
    def sm(self) -> str:
        """Compute capability as TensorRT-RTX writes it, such as SM89."""
        return "SM{}{}".format(*self.compute_capability)


def find_target(name: str) -> Target:
    """Find the GPU `name`; `this` is the first GPU of this machine.

    OptionError for an unknown name, DeviceError for `this` where there is none.
    """
    if name.lower() == THIS:
        here = this_machine()
        if here is None:
            raise DeviceError(
                f"--gpu this: PyTorch finds no CUDA device here; name one of {', '.join(KNOWN)}"
            )
        return here
    if name.lower() not in KNOWN:
        raise OptionError(f"--gpu {name!r} is unknown: take {', '.join(KNOWN)} or {THIS}")
    return Target(name.lower(), KNOWN[name.lower()])


def this_machine() -> Target | None:
    """Find the first GPU of this machine, under its name in KNOWN if it has one."""
    import torch  # here, so that `--help` needs no torch

    if not torch.cuda.is_available():
        return None
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    return Target(short_name(name, capability), capability)


def short_name(device: str, capability: Capability) -> str:
    """Shorten a device's own name to our spelling: "NVIDIA A100-SXM4-80GB" -> a100."""
    words = device.lower().replace("-", " ").removeprefix("nvidia ").split()
    for name, known in KNOWN.items():
        if known == capability and set(name.replace("rtx", "rtx ").split()) <= set(words):
            return name
    return "-".join("".join(filter(str.isalnum, word)) for word in words)
