"""The sampler: the one loop over steps, windows and tiles.

It takes key frames as they are read and yields x_0 of frames as they are finished. `Latents` holds
the frames in between; its size does not depend on the clip's length. Windows are blended on x_0 at
every step, so that the solver sees one video.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from venhancer.contract import DECODED_FRAMES
from venhancer.device import to_device
from venhancer.diffusion.noise import frame_noise, noisy_hint, noisy_start
from venhancer.diffusion.solver import solver_table
from venhancer.planning.plan import Sampling
from venhancer.planning.window_order import SceneProgress, WindowStep, window_steps
from venhancer.planning.windows import Scene
from venhancer.sampling.blending import Blending, cut_tiles
from venhancer.sampling.coarse_features import CoarseFeatures
from venhancer.sampling.evaluation import Conditions, Evaluation, Model, ReusingModel
from venhancer.sampling.latents import Latents
from venhancer.spans import Span, join_shares

Work = Callable[[], None]  # reads and writes tensors at fixed addresses, on one device
Capture = Callable[[Work], Work]  # work -> the same work, replayed


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Device of the network, and how its work is repeated."""

    device: str = "cpu"
    capture: Capture | None = None  # None: run without capture


class WindowWork:
    """Work that is repeated for windows of one length; captured if the placement says so.

    If latents are on the network's device, a graph holds all work on a tile or, for a frame of one
    tile, a whole window step. Work functions hold no reference to this object, so deleting it frees
    their CUDA graphs.
    """

    def __init__(self, blending: Blending, evaluation: Evaluation, capture: Capture | None) -> None:
        self.blending = blending
        self.evaluation = evaluation
        is_whole = blending.is_static
        self.outer = capture if capture is not None and is_whole else _as_it_is
        self.inner = capture if capture is not None and not is_whole else _as_it_is
        self.begin = self.outer(blending.begin)
        self.finish = self.outer(blending.finish)
        self.evaluations: dict[tuple[bool, bool], Work] = {}  # by `evaluate`'s arguments
        self.preparation = self.outer(partial(_prepare, blending, evaluation))
        self.shown: object = None  # the window and tile that were prepared last

    def prepare(self, part: object) -> None:
        """Prepare a window and tile for all timesteps, unless they were prepared last."""
        if self.shown == part:
            return
        self.shown = part
        self.preparation()

    def evaluate(self, is_guided: bool, is_reusing: bool = False) -> None:
        """Cut out, evaluate and blend one tile; with one tile a frame, do the whole window step."""
        kind = is_guided, is_reusing
        if kind not in self.evaluations:
            network = self.inner(partial(self.evaluation.run, *kind))
            work = _evaluate_tile if self.blending.is_tiled else _evaluate_window
            self.evaluations[kind] = self.outer(
                partial(work, self.blending, self.evaluation, network)
            )
        self.evaluations[kind]()


def _as_it_is(work: Work) -> Work:
    return work


def _prepare(blending: Blending, evaluation: Evaluation) -> None:
    blending.gather_hint(evaluation.shown)
    evaluation.prepare()


def _evaluate_tile(blending: Blending, evaluation: Evaluation, network: Work) -> None:
    blending.gather(evaluation.latents)
    network()
    blending.blend(evaluation.x0)


def _evaluate_window(blending: Blending, evaluation: Evaluation, network: Work) -> None:
    blending.begin()
    _evaluate_tile(blending, evaluation, network)
    blending.finish()


class Sampler:
    """Samples the scenes of one clip, one after the other."""

    def __init__(
        self,
        model: Model,
        sampling: Sampling,
        conditions: Conditions,
        latents: Latents,
        placement: Placement,
    ) -> None:
        self.model = model
        self.sampling = sampling
        self.conditions = conditions
        self.latents = latents
        self.placement = placement
        self.tiles = cut_tiles(sampling)
        self.schedule = sampling.schedule
        self.steps = len(self.schedule)
        self.timesteps = self.schedule.timesteps.tolist()
        self.fresh = solver_table(self.schedule.sigmas, sampling.eta)[:, 3].tolist()
        text = conditions.text
        self.text_features = model.prepare_text(None if text is None else text.to(placement.device))
        self.works: dict[int, WindowWork] = {}
        self.reusing = sampling.reusing
        self.coarse = self._coarse() if any(self.reusing) else None

    def _coarse(self) -> CoarseFeatures:
        assert isinstance(self.model, ReusingModel)
        config, windows = self.model.config.unet, self.latents.capacity.windows
        dtype, device = self.model.dtype, self.placement.device  # where graphs can reach them
        return CoarseFeatures(config, self.sampling, windows, dtype, device)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a state has to hold between two window steps."""
        coarse = {} if self.coarse is None else self.coarse.tensors()
        return {**self.latents.tensors(), **coarse}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` returned."""
        self.latents.restore(tensors)
        if self.coarse is not None:
            self.coarse.restore(tensors)

    def scene_progress(self, scene: Scene, taken: int) -> SceneProgress:
        """Count how far a scene has come after `taken` window steps."""
        reached = SceneProgress(scene.windows, self.steps)
        for window_step in islice(window_steps(scene.windows, self.steps), taken):
            reached.take(window_step)
        return reached

    def first_key(self, scene: Scene, taken: int) -> int:
        """Find the first key frame, counted in the scene, that the sampler still needs."""
        return self.scene_progress(scene, taken).settled // scene.key_stride

    def run(
        self, scene: Scene, keys: Iterator[Tensor], taken: int, progress: Callable[[], None]
    ) -> Iterator[Tensor]:
        """Yield after every window step the x_0 (f c h w) that it has finished: none or some.

        keys: the scene's key frames from `first_key` on: clean latents (c h w), followed by the
            channels of their neighbours, where the model sees any
        taken: window steps of an earlier run, whose latents were restored
        progress: called after every evaluation
        """
        reached = self.scene_progress(scene, taken)
        shares = join_shares(list(scene.windows), self.sampling.join)
        given, shown = self._ready(reached, scene), reached.settled // scene.key_stride
        if self.coarse is not None and not taken:
            self.coarse.forget()
        for number, window_step in enumerate(window_steps(scene.windows, self.steps)):
            if number < taken:
                continue
            window = scene.windows[window_step.window]
            while shown * scene.key_stride < window.stop:
                self._enter(scene, shown, next(keys), reached.entered)
                shown += 1
            reached.take(window_step)
            self._take(scene, window_step, shares[window_step.window], progress)
            ready = self._ready(reached, scene)
            yield self.latents.get(Span(given, ready))
            given = ready

    def _ready(self, reached: SceneProgress, scene: Scene) -> int:
        """Count the frames that can be decoded: whole chunks, or all at the end of a scene."""
        if reached.settled == scene.frames:
            return scene.frames
        return reached.settled // DECODED_FRAMES * DECODED_FRAMES

    def _enter(self, scene: Scene, key: int, shown: Tensor, entered: int) -> None:
        """Add a key frame, and start the frames up to the next one from noise."""
        seed, first, channels = self.sampling.seed, scene.start, self.latents.size[0]
        frame = key * scene.key_stride
        shown = to_device(shown, self.placement.device)
        clean, neighbours = shown.split([channels, len(shown) - channels])
        hint = noisy_hint(clean, self.conditions.refine, first + frame, seed)
        self.latents.show(key, torch.cat([hint, neighbours]))
        sigma = float(self.schedule.sigmas[0])
        for j in range(max(frame, entered), min(frame + scene.key_stride, scene.frames)):
            self.latents.enter(j, noisy_start(clean, first + j, seed).mul_(sigma))

    def _take(
        self,
        scene: Scene,
        window_step: WindowStep,
        shares: list[float],
        progress: Callable[[], None],
    ) -> None:
        """Evaluate every tile of one window at one step."""
        window = scene.windows[window_step.window]
        work = self._work(len(window))
        work.evaluation.step.fill_(window_step.step)
        work.blending.select_window(window_step, scene.windows, shares)
        if self.fresh[window_step.step] > 0:
            work.blending.add_noise(self._noise(window_step, scene.start + window.start))
        is_guided = self.sampling.is_guided(self.timesteps[window_step.step])
        if work.blending.is_tiled:
            work.begin()
        for number, tile in enumerate(self.tiles):
            work.blending.select_tile(tile)
            work.prepare((scene.start, window_step.window, number))
            if self.coarse is None:
                work.evaluate(is_guided)
            else:
                self.coarse.select(window_step.window, number)
                work.evaluate(is_guided, self.reusing[window_step.step] and self.coarse.is_kept)
                self.coarse.claim(window_step.window)
            progress()
        if work.blending.is_tiled:
            work.finish()

    def _noise(self, window_step: WindowStep, first: int) -> list[Tensor]:
        size, seed, device = self.latents.size, self.sampling.seed, self.placement.device
        frames = range(first, first + window_step.final)
        return [frame_noise(size, seed, f"step {window_step.step}", j, device) for j in frames]

    def _work(self, length: int) -> WindowWork:
        """Make the work for a window length once; it frees the work of shorter scenes."""
        if length not in self.works:
            for other in [n for n in self.works if n < self.sampling.window]:
                del self.works[other]
            device = self.placement.device
            is_static = self.placement.capture is not None and self.latents.device == device
            self.works[length] = WindowWork(
                Blending(self.latents, self.sampling, length, is_static),
                self._evaluation(length, device),
                self.placement.capture,
            )
        return self.works[length]

    def _evaluation(self, length: int, device: str) -> Evaluation:
        return Evaluation(
            self.model,
            self.sampling,
            self.conditions,
            self.text_features,
            length,
            device,
            self.coarse,
        )
