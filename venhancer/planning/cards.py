"""Table of devices by name; the numbers of graphics cards are their makers'."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class Card:
    """Memory and dense peak rates of a device."""

    name: str
    memory_gib: float
    half_tflops: float  # bfloat16 or float16
    float32_tflops: float  # in TF32, which PyTorch's convolutions use
    kind: Kind = "cuda"


CARDS = {
    card.name: card
    for card in (
        Card("A100-40G", 40, 312, 156),
        Card("A100-80G", 80, 312, 156),
        Card("H100", 80, 989, 495),
        Card("H200", 139, 989, 495),
        Card("L4", 22, 121, 60),
        Card("RTX 4090", 24, 165, 83),
    )
}
