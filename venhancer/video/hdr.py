"""Static HDR metadata: read from decoded frames, and put into the options of an encoder."""

from collections.abc import Callable
from fractions import Fraction
from typing import Protocol, TypeAlias, cast

import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType

from venhancer.video.clip import HDR, Mastering
from venhancer.video.colour import PQ

_DYNAMIC = {  # side data of a frame, and its common name
    "DOVI_RPU_BUFFER": "Dolby Vision",
    "DOVI_METADATA": "Dolby Vision",
    "DYNAMIC_HDR_PLUS": "HDR10+",
}
_RATIONALS = 10  # of AVMasteringDisplayMetadata: four points x, y, then two luminances
_CHROMATICITY, _LUMINANCE = 50_000, 10_000  # steps of one and of 1 cd/m2 in HEVC's message

_Writer: TypeAlias = Callable[[Fraction], str]  # of a number


class _Frame(Protocol):
    @property
    def side_data(self) -> object: ...


def read_hdr(frame: _Frame) -> HDR:
    """Read the mastering display and the light levels of a decoded frame.

    A mastering display without its colours or without its luminance counts as none.
    """
    display = _side_data(frame, "MASTERING_DISPLAY_METADATA")
    light = _side_data(frame, "CONTENT_LIGHT_LEVEL")
    return HDR(
        mastering=None if display is None else _mastering(display),
        light=None if light is None else _light(light),
    )


def dynamic_metadata(frame: _Frame) -> tuple[str, ...]:
    """Name the metadata of a decoded frame that changes during the video."""
    found = (name for kind, name in _DYNAMIC.items() if _side_data(frame, kind) is not None)
    return tuple(dict.fromkeys(found))


def x265_parameters(hdr: HDR, transfer: int | None) -> dict[str, str]:
    """Write the metadata as x265 parameters; the numbers are integers in HEVC's steps."""
    parameters = {}
    if hdr.mastering is not None:
        parameters["master-display"] = _display(
            hdr.mastering, _whole(_CHROMATICITY), _whole(_LUMINANCE)
        )
    if hdr.light is not None:
        parameters["max-cll"] = "{},{}".format(*hdr.light)
    if transfer == PQ:
        parameters["hdr10"] = "1"
    return parameters


def svtav1_parameters(hdr: HDR) -> dict[str, str]:
    """Write the metadata as SVT-AV1 parameters; the numbers are decimals."""
    parameters = {}
    if hdr.mastering is not None:
        parameters["mastering-display"] = _display(hdr.mastering, _decimal, _decimal)
    if hdr.light is not None:
        parameters["content-light"] = "{},{}".format(*hdr.light)
    return parameters


def _side_data(frame: _Frame, kind: str) -> bytes | None:
    """Return the bytes of a kind of side data; None for one that PyAV does not name."""
    found = SideDataType.__members__.get(kind)
    if found is None:
        return None
    try:
        return bytes(cast(SideDataContainer, frame.side_data)[found])
    except (KeyError, ValueError):  # ValueError: the frame has side data unknown to PyAV
        return None


def _mastering(data: bytes) -> Mastering | None:
    numbers = np.frombuffer(data, np.int32, 2 * _RATIONALS + 2)
    if not numbers[-2:].all():  # has_primaries, has_luminance
        return None
    parts = [int(n) for n in numbers[:-2]]
    if not all(parts[1::2]):
        return None
    values = [Fraction(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
    red, green, blue, white = zip(values[0:8:2], values[1:8:2], strict=True)
    return Mastering(
        red=red, green=green, blue=blue, white=white, darkest=values[8], brightest=values[9]
    )


def _light(data: bytes) -> tuple[int, int]:
    most, average = np.frombuffer(data, np.uint32, 2)
    return int(most), int(average)


def _display(mastering: Mastering, write_chromaticity: _Writer, write_luminance: _Writer) -> str:
    """Write a mastering display in the notation that both encoders share."""
    points = zip(
        ("G", "B", "R", "WP"),
        (mastering.green, mastering.blue, mastering.red, mastering.white),
        strict=True,
    )
    colours = "".join(f"{name}{_pair(*map(write_chromaticity, point))}" for name, point in points)
    luminances = map(write_luminance, (mastering.brightest, mastering.darkest))
    return f"{colours}L{_pair(*luminances)}"


def _whole(steps: int) -> _Writer:
    return lambda value: str(round(value * steps))


def _decimal(value: Fraction) -> str:
    return f"{float(value):.5f}"


def _pair(first: str, second: str) -> str:
    return f"({first},{second})"
