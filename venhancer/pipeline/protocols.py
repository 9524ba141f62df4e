"""What the pipeline asks of a backend: the one seam between the flow and whoever computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from torch import Tensor

from venhancer.planning.plan import Plan
from venhancer.planning.windows import Scene

CodecTile = tuple[int, int]  # rows and columns of latents


class SceneSampler(Protocol):
    """`venhancer.sampling.sampler.Sampler`, or what stands for it."""

    def first_key(self, scene: Scene, taken: int) -> int:
        """The first key frame of a scene that is still to be shown after `taken` turns."""

    def run(
        self, scene: Scene, keys: Iterator[Tensor], taken: int, progress: Callable[[], None]
    ) -> Iterator[Tensor]:
        """After every turn the x_0 (f c h w) that are done now, none or some.

        keys: key frames as `Sampler.run` takes them
        """

    def tensors(self) -> Mapping[str, Tensor]:
        """What a state has to hold between two turns."""

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `tensors` gave."""


class Networks(Protocol):
    """The work of a backend. Frames: f 3 H W in [-1, 1]; latents: f c h w, float32.

    Latents and frames that come out are on `device`; those that go in may be anywhere.
    """

    @property
    def device(self) -> str:
        """The device that computes: `cpu` or `cuda`."""

    def encode_text(self, prompt: str, *, is_guided: bool) -> Tensor | None:
        """Prompt, then (guided) the negative prompt: 2 l d or 1 l d; None without text encoder."""

    def encode(self, frames: Tensor, first: int, tile: CodecTile | None) -> Tensor:
        """Latents of key frames `first` and following; tile: what the codec sees at a time."""

    def sampler(self, plan: Plan, text: Tensor | None) -> SceneSampler:
        """Ready for the plan's scenes, one after the other."""

    def decode(self, latents: Tensor, tile: CodecTile | None) -> Tensor:
        """Frames of neighbouring latents, at most `contract.DECODED_FRAMES` of them."""
