"""Networks of fixed shapes (ONNX, engines) with the interface of the PyTorch ones.

A network takes exactly one number of branches, frames, rows and columns. Shorter inputs are
extended, and results are cut: branches by repeating the last one, frames by going back from the
last one, which keeps the spacing of key frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from venhancer.config import ModelConfig
from venhancer.contract import NetworkSpec
from venhancer.diffusion.schedule import noise_schedule
from venhancer.encoders.autoencoder import AutoencoderCodec
from venhancer.encoders.tiled_autoencoder import decode_in_tiles, encode_in_tiles
from venhancer.encoders.tokenizer import Tokenizer
from venhancer.errors import ShapeError
from venhancer.model.denoiser import Prepared

Inputs = Mapping[str, Tensor]
NetworkFunction = Callable[[Inputs], dict[str, Tensor]]  # inputs by name -> outputs by name


class StaticDenoiser:
    """`Denoiser` made of exported networks: `denoiser`, `prepare` and, with text, `text_keys`."""

    def __init__(
        self, config: ModelConfig, sizes: Mapping[str, int], runs: Mapping[str, NetworkFunction]
    ):
        self.config = config
        self.sizes = sizes
        self.runs = runs
        self.sigmas = noise_schedule().float()

    def prepare_text(self, text: Tensor | None) -> Tensor | None:
        """Compute text_features for `prepare`: text b l d -> b l t."""
        if text is None:
            return None
        made = self.runs["text_keys"]({"text": self._branches(text)})["text_features"]
        return made[: len(text)]

    def prepare(
        self,
        *,
        hint: Tensor,
        is_key: Tensor,
        noise_level: Tensor,
        scale: Tensor,
        neighbours: Tensor | None = None,
        text_features: Tensor | None = None,
    ) -> Prepared:
        """Do what `Denoiser.prepare` does, for a window of at most the network's frames."""
        inputs = {
            "hint": self._frames(hint, axis=2),
            "is_key": self._frames(is_key, axis=1),
            "noise_level": noise_level,
            "scale": scale,
        }
        if neighbours is not None:
            inputs["neighbours"] = self._frames(neighbours, axis=2)
        made = self.runs["prepare"]({name: self._branches(x) for name, x in inputs.items()})
        return Prepared(**made, text_features=text_features)

    def step(self, latents: Tensor, timestep: Tensor, prepared: Prepared) -> Tensor:
        """Do what `Denoiser.step` does; one clip may be given for the branches of all texts."""
        text, frames = prepared.text_features, latents.shape[2]
        branches = max(len(latents), 0 if text is None else len(text))
        inputs = {
            "latents": self._branches(self._frames(latents, axis=2)),
            "timestep": self._branches(timestep),
            "hint_features": prepared.hint_features,
            "condition": prepared.condition,
            "text_features": None if text is None else self._branches(text),
            "anchor": prepared.anchor,
        }
        run = self.runs["denoiser"]
        out = run({name: x for name, x in inputs.items() if x is not None})["prediction"]
        return out[:branches, :, :frames]

    def _branches(self, x: Tensor) -> Tensor:
        missing = self.sizes["b"] - len(x)
        return x if missing == 0 else torch.cat([x, x[-1:].expand(missing, *x.shape[1:])])

    def _frames(self, x: Tensor, axis: int) -> Tensor:
        found, wanted = x.shape[axis], self.sizes["f"]
        if found == wanted:
            return x
        if found > wanted:
            raise ShapeError(f"a window has {found} frames, the network takes {wanted}")
        return x.index_select(axis, there_and_back(found, wanted, x.device))


def there_and_back(frames: int, wanted: int, device: torch.device) -> Tensor:
    """Make `wanted` indices that run to the last of `frames`, back to the first, and so on.

    They are made on `device`: a CUDA graph cannot contain a copy from the host.
    """
    position = torch.arange(wanted, device=device) % max(2 * frames - 2, 1)
    return torch.minimum(position, 2 * frames - 2 - position)


class StaticCodec(AutoencoderCodec):
    """`AutoencoderCodec` made of exported networks: `vae_encoder` and `vae_decoder`.

    Frames larger than those of the networks are processed in tiles.
    """

    def __init__(
        self,
        specs: Mapping[str, NetworkSpec],
        sizes: Mapping[str, int],
        runs: Mapping[str, NetworkFunction],
    ) -> None:
        super().__init__(None)
        self.specs = specs
        self.sizes = sizes
        self.runs = runs
        self.tile = (sizes["h"], sizes["w"])

    def moments(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        run = partial(self._run, "vae_encoder")
        mean, std = encode_in_tiles(run, frames, self.tile)
        return mean, std

    def pixels(self, latents: Tensor) -> Tensor:
        run = partial(self._run, "vae_decoder")
        [frames] = decode_in_tiles(run, latents, self.tile)
        return frames

    def _run(self, network: str, x: Tensor) -> list[Tensor]:
        """Run on as many frames at a time as the network takes; the last one is repeated."""
        spec = self.specs[network]
        [given] = spec.inputs
        count, *size = given.shape(self.sizes)
        if list(x.shape[1:]) != size:
            raise ShapeError(f"{network} takes {size} or larger, not {list(x.shape[1:])}")
        made = []
        for part in torch.split(x, count):
            full = torch.cat([part, part[-1:].expand(count - len(part), *size)])
            out = self.runs[network]({given.name: full})
            made.append([out[tensor.name][: len(part)] for tensor in spec.outputs])
        return [torch.cat(parts) for parts in zip(*made, strict=True)]


class StaticTextEncoder:
    """`TextEncoder` made of an exported network, which takes a prompt for each branch."""

    def __init__(
        self, sizes: Mapping[str, int], run: NetworkFunction, tokenizer: Tokenizer
    ) -> None:
        self.branches = sizes["b"]
        self.run = run
        self.tokenizer = tokenizer

    def encode(self, prompt: str) -> Tensor:
        """Encode a prompt: (1, 77, d)."""
        ids = self.tokenizer.encode(prompt)
        return self.run({"ids": ids.expand(self.branches, -1)})["text"][:1]
