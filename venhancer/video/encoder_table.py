"""Table of encoders: how each takes quality and speed, what it can hold, and what else it needs.

Encoders that the table does not name can be chosen too; of the options they get only `crf`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from venhancer.options import Speed

_Speeds = Mapping[Speed, Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Encoders that take the same options."""

    encoders: tuple[str, ...]
    quality: str | None = None  # option that takes the value of --crf
    worst: int = 63  # its largest value; 0 is the best
    speeds: _Speeds = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    usual_depth: int = 16  # more bits are written only where a pixel format is named
    has_alpha: bool = False  # its formats with alpha are written with alpha
    is_lossless: bool = False  # so the source's pixel format is kept
    hdr: Literal["x265-params", "svtav1-params"] | None = None  # takes static HDR metadata


def _presets(fast: str, medium: str, slow: str) -> _Speeds:
    return {"fast": {"preset": fast}, "medium": {"preset": medium}, "slow": {"preset": slow}}


_NVENC = {"rc": "vbr", "b": "0"}  # without a bit rate, cq alone decides
_FAMILIES = (
    Family(  # `faster` takes half the time of `medium`, for as many bytes (measured at 720p)
        encoders=("libx264",),
        quality="crf",
        worst=51,
        speeds=_presets("veryfast", "faster", "slow"),
        usual_depth=8,  # few players show H.264 of more bits
    ),
    Family(
        encoders=("libx265",),
        quality="crf",
        worst=51,
        speeds=_presets("superfast", "faster", "slow"),
        options={"x265-params": "log-level=error"},
        usual_depth=10,  # few players show 12 bits
        hdr="x265-params",
    ),
    Family(
        encoders=("libsvtav1",),
        quality="crf",
        speeds=_presets("10", "8", "5"),  # 8 is its own default
        hdr="svtav1-params",
    ),
    Family(
        encoders=("libvpx-vp9",),
        quality="crf",
        speeds={"fast": {"cpu-used": "4"}, "medium": {"cpu-used": "1"}, "slow": {"cpu-used": "0"}},
        options={"b": "0", "row-mt": "1"},  # without a bit rate, crf alone decides
    ),
    Family(
        encoders=("h264_nvenc",),
        quality="cq",
        worst=51,
        speeds=_presets("p1", "p4", "p7"),
        options=_NVENC,
        usual_depth=8,
    ),
    Family(
        encoders=("hevc_nvenc",),
        quality="cq",
        worst=51,
        speeds=_presets("p1", "p4", "p7"),
        options=_NVENC,
        usual_depth=10,
    ),
    Family(
        encoders=("av1_nvenc",),
        quality="cq",
        speeds=_presets("p1", "p4", "p7"),
        options=_NVENC,
    ),
    Family(
        encoders=("h264_qsv", "hevc_qsv"),
        quality="global_quality",
        worst=51,
        speeds=_presets("veryfast", "medium", "veryslow"),
    ),
    Family(encoders=("prores_ks",), worst=51, has_alpha=True),  # crf chooses its profile
    Family(
        encoders=("ffv1",),
        options={"level": "3", "slicecrc": "1", "g": "1"},  # each frame can be read alone
        has_alpha=True,
        is_lossless=True,
    ),
)
_OTHER = Family(encoders=(), quality="crf")
_BY_NAME = {name: family for family in _FAMILIES for name in family.encoders}
_PRORES = ((20, "hq"), (26, "standard"), (32, "lt"), (51, "proxy"))  # up to a crf


def family_of(codec: str) -> Family:
    """Return what is known of an encoder; of any other one that it may take `crf`."""
    return _BY_NAME.get(codec, _OTHER)


def prores_profile(pixel_format: str, crf: int) -> str:
    """Choose the profile of ProRes for a quality; 4:4:4, with or without alpha, has its own."""
    if "444" in pixel_format:
        return "4444"
    return next(profile for limit, profile in _PRORES if crf <= limit)
