"""Prior and controller as one network with dense, static inputs, listed in `contract.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn

from venhancer.config import ModelConfig
from venhancer.diffusion.schedule import alpha_sigma, noise_schedule
from venhancer.model import lapped
from venhancer.model.attention import KeysValues, SpatialTransformer
from venhancer.model.controller import Controller, HintEncoder
from venhancer.model.flat import FlatBody
from venhancer.model.layers import Embedding, per_frame
from venhancer.model.unet import Keep, UNet

Network = Callable[[Tensor, Tensor], Tensor]  # b c f h w, timestep (b) -> b c f h w


@dataclass(frozen=True, slots=True)
class Prepared:
    """Tensors independent of the timestep: text features once a run, the rest once a window."""

    hint_features: Tensor  # (b f) c h w
    condition: Tensor  # (b f) e, zero on interpolated frames
    text_features: Tensor | None = None  # b l t: all keys and values, the controller's first
    anchor: Tensor | None = None  # b c f h w: the hint, interpolated between key frames


def fill_between_keys(hint: Tensor, is_key: Tensor) -> Tensor:
    """Blend the two key frames around each frame, weighted by their distance in time.

    hint: b c f h w, is_key: b f, 1 on key frames -> b c f h w; frames before the first and after
    the last key frame get the nearest one. All arithmetic is dense, as a static graph needs.
    """
    _, c, frames, h, w = hint.shape
    index = torch.arange(frames, device=hint.device, dtype=torch.float32)
    here, there = index[:, None], index[None, :]
    is_key = is_key.float()[:, None, :]
    far = float(2 * frames)
    before = (there * is_key * (there <= here) - far * (1 - is_key * (there <= here))).amax(-1)
    after = (there * is_key * (there >= here) + far * (1 - is_key * (there >= here))).amin(-1)
    has_before, has_after = (before >= 0).float(), (after < frames).float()
    share = ((index - before) / (after - before).clamp(min=1)).clamp(0, 1)
    share = share * has_before * has_after + (1 - has_before) * has_after
    weights = (there == before[..., None]) * (1 - share)[..., None]
    weights = weights + (there == after[..., None]) * share[..., None]
    tokens = rearrange(hint, "b c f h w -> b f (c h w)")
    filled = torch.matmul(weights.to(hint.dtype), tokens)
    return rearrange(filled, "b f (c h w) -> b c f h w", c=c, h=h, w=w)


class Denoiser(nn.Module):
    """Base class of VEnhancer's network (paper, section 3); `make_denoiser` makes one."""

    sigmas: Tensor
    unet: UNet | FlatBody
    controller: HintEncoder

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.time_embedding = Embedding(config.unet)
        sigmas = noise_schedule().float().to(torch.get_default_device())
        self.register_buffer("sigmas", sigmas, persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """The precision that the network computes in; inputs and output keep their own."""
        return self.controller.hint_conv.get_parameter("weight").dtype

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
        """Compute what is the same at every timestep; inputs as in `forward`.

        text_features: output of `prepare_text`, the same for all windows
        """
        gain = self.controller.condition(noise_level, scale)
        condition = self._per_frame(gain, hint.shape[2]) * is_key.reshape(-1, 1).to(self.dtype)
        shown, anchor = self._shown(hint, is_key, noise_level, neighbours, condition)
        features = self.controller.hint_conv(shown)
        if anchor is None:  # no bias on other frames either
            features = features * is_key.reshape(-1, 1, 1, 1).to(features.dtype)
        return Prepared(features, condition, text_features, anchor)

    def _shown(
        self,
        hint: Tensor,
        is_key: Tensor,
        noise_level: Tensor,
        neighbours: Tensor | None,
        condition: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        """Make the input of the controller's first convolution, (b f) c h w, and any anchor.

        condition: (b f) e, used by a repair only
        """
        if self.config.prediction == "sample":
            anchor = self._anchor(hint, is_key, noise_level)
            return to_frames(anchor, self.dtype), anchor
        keys = hint * is_key[:, None, :, None, None].to(hint.dtype)
        return to_frames(keys, self.dtype), None

    def _anchor(self, hint: Tensor, is_key: Tensor, noise_level: Tensor) -> Tensor:
        """Interpolate between the key frames, and undo the alpha of their noise level."""
        alpha, _ = alpha_sigma(self.sigmas, noise_level.long(), hint.ndim)
        return fill_between_keys(hint, is_key) / alpha.to(hint.dtype)

    def prepare_text(self, text: Tensor | None) -> Tensor | None:
        """Prepare the text once a run: b l d -> b l t; None without text."""
        assert text is None, "this model has no text encoder"
        return None

    def step(self, latents: Tensor, timestep: Tensor, prepared: Prepared) -> Tensor:
        """Evaluate with the output of `prepare`: latents b c f h w, timestep (b) -> b c f h w.

        One clip (b = 1) may be given for all branches; it then gives one result per text.
        """
        return self._predict(latents, timestep, prepared, partial(self._network, prepared=prepared))

    def _network(self, latents: Tensor, timestep: Tensor, prepared: Prepared) -> Tensor:
        raise NotImplementedError

    def _predict(
        self, latents: Tensor, timestep: Tensor, prepared: Prepared, network: Network
    ) -> Tensor:
        if prepared.anchor is None:
            return network(latents, timestep)
        return self._corrected(latents, timestep, prepared.anchor, network)

    def _per_frame(self, embedding: Tensor, frames: int) -> Tensor:
        return per_frame(embedding.to(self.dtype), frames)

    def _corrected(
        self, latents: Tensor, timestep: Tensor, anchor: Tensor, network: Network
    ) -> Tensor:
        """Predict x0 as a correction to its Gaussian estimate.

        Assume that x0 is Gaussian around the anchor with standard deviation `residual_std`. Given
        x_t, its mean is then anchor + known, with known = gain (x_t - alpha anchor), and its
        standard deviation is `doubt`. The network sees `known`, which vanishes where x_t is noise
        only, and predicts the rest in units of `doubt`. This is the preconditioning of Karras et
        al. 2022 (EDM, section 5), centred on the hint instead of zero.
        """
        sigma = self.sigmas[timestep.round().long()][:, None, None, None, None]
        alpha = (1 - sigma**2).clamp(min=0).sqrt()
        spread = self.config.residual_std
        total = (alpha**2 * spread**2 + sigma**2).sqrt()
        gain = alpha * spread**2 / total**2
        known = gain * (latents.float() - alpha * anchor)
        rest = network(known / spread, timestep)
        doubt = spread * sigma / total
        return (anchor + known + doubt * rest).to(latents.dtype)

    def forward(  # noqa: PLR0913  the inputs of `contract.model_inputs`
        self,
        *,
        latents: Tensor,
        timestep: Tensor,
        hint: Tensor,
        is_key: Tensor,
        noise_level: Tensor,
        scale: Tensor,
        neighbours: Tensor | None = None,
        text: Tensor | None = None,
    ) -> Tensor:
        """Predict v (or x0, as the configuration says) of the noisy latents.

        latents: b c f h w; timestep: (b), 0 to 999; text: b l d, if the model has an encoder;
        hint: b c f h w, condition latents, ignored where `is_key` (b f) is 0;
        neighbours: b n f h w, if the model uses any (`venhancer.motion.neighbours`);
        noise_level: (b), the hint's noise_aug - 1; scale: (b), its conditioning scale s
        -> b c f h w
        """
        prepared = self.prepare(
            hint=hint,
            is_key=is_key,
            noise_level=noise_level,
            scale=scale,
            neighbours=neighbours,
            text_features=self.prepare_text(text),
        )
        return self.step(latents, timestep, prepared)


class UNetDenoiser(Denoiser):
    """The paper's network: a 3D-UNet as prior, and a controller that copies its encoder."""

    unet: UNet
    controller: Controller

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.unet = UNet(config.unet)
        self.controller = Controller(config)

    def prepare_text(self, text: Tensor | None) -> Tensor | None:
        """Compute the keys and values of all spatial transformers, joined: b l d -> b l t."""
        if text is None:
            return None
        text = text.to(self.dtype)
        pairs = [transformer.text_keys_values(text) for transformer in self._spatial_transformers()]
        return torch.cat([x for pair in pairs for x in pair], dim=-1)

    def _spatial_transformers(self) -> list[SpatialTransformer]:
        """List all spatial transformers in order of execution."""
        return _transformers(self.controller, self.unet)

    def _finest_transformers(self) -> list[SpatialTransformer]:
        encoder, decoder = self.unet.encoder, self.unet.decoder
        own = self.controller.encoder.stages[: encoder.finest_stages]
        fine = encoder.stages[: encoder.finest_stages], decoder.stages[-decoder.finest_stages :]
        return _transformers(own, *fine)

    def read_texts(
        self, text_features: Tensor | None, is_finest: bool = False
    ) -> Iterator[KeysValues]:
        """Split the output of `prepare_text` into keys and values for each spatial transformer.

        is_finest: for the finest level only
        """
        if text_features is None:
            return iter(())
        transformers = self._spatial_transformers()
        widths = [t.norm.num_channels for t in transformers for _ in range(2)]
        parts = iter(text_features.split(widths, dim=-1))
        texts = zip(transformers, zip(parts, parts, strict=True), strict=True)
        wanted = set(self._finest_transformers() if is_finest else transformers)
        return (text for transformer, text in texts if transformer in wanted)

    def step(
        self, latents: Tensor, timestep: Tensor, prepared: Prepared, keep: Keep | None = None
    ) -> Tensor:
        """Evaluate as `Denoiser.step` does.

        keep: called with the coarse features that `step_reusing` takes
        """
        network = partial(self._network, prepared=prepared, keep=keep)
        return self._predict(latents, timestep, prepared, network)

    def step_reusing(
        self, latents: Tensor, timestep: Tensor, prepared: Prepared, coarse: Tensor
    ) -> Tensor:
        """Approximate `step`: evaluate the finest level, with coarse features of another timestep.

        This is DeepCache (Ma et al. 2023), with the controller cut at the same level.
        """
        network = partial(self._finest, prepared=prepared, coarse=coarse)
        return self._predict(latents, timestep, prepared, network)

    def _network(
        self, latents: Tensor, timestep: Tensor, prepared: Prepared, keep: Keep | None = None
    ) -> Tensor:
        x, frames = to_frames(latents, self.dtype), latents.shape[2]
        texts = self.read_texts(prepared.text_features)
        own, embedding = self._embed(timestep, prepared, frames)
        control = self.controller(x, own, texts, frames, prepared.hint_features)
        out = self.unet(x, embedding, texts, frames, control, keep)
        return rearrange(out, "(b f) c h w -> b c f h w", f=frames).to(latents.dtype)

    def _finest(
        self, latents: Tensor, timestep: Tensor, prepared: Prepared, coarse: Tensor
    ) -> Tensor:
        x, frames = to_frames(latents, self.dtype), latents.shape[2]
        texts = self.read_texts(prepared.text_features, is_finest=True)
        own, embedding = self._embed(timestep, prepared, frames)
        control = self.controller.finest(x, own, texts, frames, prepared.hint_features)
        out = self.unet.finest(x, embedding, texts, frames, control, coarse)
        return rearrange(out, "(b f) c h w -> b c f h w", f=frames).to(latents.dtype)

    def _embed(self, timestep: Tensor, prepared: Prepared, frames: int) -> tuple[Tensor, Tensor]:
        """Compute the embeddings of the controller and of the UNet: (b) -> twice (b f) e."""
        own = self._per_frame(self.controller.time_embedding(timestep), frames)
        embedding = self._per_frame(self.time_embedding(timestep), frames)
        return own + prepared.condition, embedding


class FlatDenoiser(Denoiser):
    """Prior and controller in one flat body, for a lapped codec; frames are independent."""

    unet: FlatBody

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.unet = FlatBody(config.unet)
        self.controller = HintEncoder(config)

    def _shown(
        self,
        hint: Tensor,
        is_key: Tensor,
        noise_level: Tensor,
        neighbours: Tensor | None,
        condition: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        """Join anchor and neighbours, and repair both where the key frames are noisy."""
        anchor = self._anchor(hint, is_key, noise_level)
        means, details = anchor.split([lapped.MEANS, anchor.shape[1] - lapped.MEANS], dim=1)
        mean_spread, detail_spread = lapped.SPREADS
        parts = [means / mean_spread, details / detail_spread]
        shown = to_frames(
            torch.cat(parts if neighbours is None else [*parts, neighbours], dim=1), self.dtype
        )
        if self.controller.repair is None or _is_clean(noise_level):
            return shown, anchor
        is_noisy = per_frame((noise_level > 0).to(self.dtype)[:, None], hint.shape[2])
        added = self.controller.repair(shown, condition) * is_noisy[..., None, None]
        means, details = self._to_clip(added[:, : anchor.shape[1]], hint).split(
            [means.shape[1], details.shape[1]], dim=1
        )
        correction = torch.cat([means * mean_spread, details * detail_spread], dim=1)
        return shown + added, anchor + correction

    @staticmethod
    def _to_clip(x: Tensor, like: Tensor) -> Tensor:
        return rearrange(x, "(b f) c h w -> b c f h w", f=like.shape[2]).to(like.dtype)

    def _network(self, latents: Tensor, timestep: Tensor, prepared: Prepared) -> Tensor:
        x, frames = to_frames(latents, self.dtype), latents.shape[2]
        embedding = self._per_frame(self.time_embedding(timestep), frames) + prepared.condition
        out = self.unet(x, embedding, prepared.hint_features)
        return rearrange(out, "(b f) c h w -> b c f h w", f=frames).to(latents.dtype)


def _is_clean(noise_level: Tensor) -> bool:
    """Tell whether no key frame is noisy; checked on a CPU only, where reading a value is free.

    False on other devices, and where tensors hold no values (export, counting).
    """
    if type(noise_level) is not Tensor or noise_level.is_meta or torch.compiler.is_compiling():
        return False
    return noise_level.device.type == "cpu" and not bool(noise_level.any())


def make_denoiser(config: ModelConfig) -> Denoiser:
    """Make an untrained network with the body that the configuration names."""
    return FlatDenoiser(config) if config.unet.body == "flat" else UNetDenoiser(config)


def _transformers(*parts: nn.Module) -> list[SpatialTransformer]:
    return [m for part in parts for m in part.modules() if isinstance(m, SpatialTransformer)]


def to_frames(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Merge frames into the batch: b c f h w -> (b f) c h w, channels last in memory."""
    frames = rearrange(x.to(dtype), "b c f h w -> (b f) c h w")
    return frames.contiguous(memory_format=torch.channels_last)
