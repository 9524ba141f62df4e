"""The sampler: the one loop over steps, windows and tiles.

It sees key frames as they are read and gives x_0 of frames as they are done; what lies between is
held in `Latents`, however long the clip. Windows meet on x_0 at every step, so that the solver sees
one video.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from venhancer.contract import DECODED_FRAMES
from venhancer.device import to_device
from venhancer.diffusion.noise import frame_noise, noisy_hint, noisy_start
from venhancer.diffusion.solver import solver_table
from venhancer.planning.plan import Sampling
from venhancer.planning.window_order import Front, Turn, turns
from venhancer.planning.windows import Scene
from venhancer.sampling.blending import Blending, cut_tiles
from venhancer.sampling.coarse_features import CoarseFeatures
from venhancer.sampling.evaluation import Conditions, Evaluation, Model, ReusingModel
from venhancer.sampling.latents import Latents
from venhancer.spans import Span, join_shares

Work = Callable[[], None]  # reads and writes tensors at fixed addresses, on one device
Capture = Callable[[Work], Work]  # -> the same, replayed


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the network computes, and how work is repeated."""

    device: str = "cpu"
    capture: Capture | None = None  # None: run as it is


class WindowWork:
    """What is repeated for windows of one length; captured, where the placement says so.

    Where latents are on the network's device, a graph holds all that is done to a tile, and for
    a frame that is one tile, a whole turn. Works name no `WindowWork`: with it go their graphs.
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
        self.shown: object = None  # the window and tile that `prepare` saw

    def prepare(self, part: object) -> None:
        """Show the controller its part, unless it has just seen it."""
        if self.shown == part:
            return
        self.shown = part
        self.preparation()

    def evaluate(self, is_guided: bool, is_reusing: bool = False) -> None:
        """One tile: cut out, evaluate, blend; for a frame of one tile, the whole turn."""
        kind = is_guided, is_reusing
        if kind not in self.evaluations:
            network = self.inner(partial(self.evaluation.run, *kind))
            turn = _evaluate_tile if self.blending.is_tiled else _evaluate_window
            self.evaluations[kind] = self.outer(
                partial(turn, self.blending, self.evaluation, network)
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
        """What a state has to hold between two turns."""
        coarse = {} if self.coarse is None else self.coarse.tensors()
        return {**self.latents.tensors(), **coarse}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `tensors` gave."""
        self.latents.restore(tensors)
        if self.coarse is not None:
            self.coarse.restore(tensors)

    def front(self, scene: Scene, taken: int) -> Front:
        """How far a scene has come after so many turns."""
        front = Front(scene.windows, self.steps)
        for _, turn in zip(range(taken), turns(scene.windows, self.steps), strict=False):
            front.take(turn)
        return front

    def first_key(self, scene: Scene, taken: int) -> int:
        """The first key frame, counted in the scene, that is still to be shown."""
        return self.front(scene, taken).settled // scene.gap

    def run(
        self, scene: Scene, keys: Iterator[Tensor], taken: int, progress: Callable[[], None]
    ) -> Iterator[Tensor]:
        """After every turn the x_0 (f c h w) that are done now, none or some.

        keys: the scene's key frames from `first_key` on: clean latents (c h w), behind them the
            channels of their neighbours, where the model sees any
        taken: turns of an earlier run, whose latents were restored
        progress: told after every evaluation
        """
        front = self.front(scene, taken)
        shares = join_shares(list(scene.windows), self.sampling.join)
        given, shown = self._ready(front, scene), front.settled // scene.gap
        if self.coarse is not None and not taken:
            self.coarse.forget()
        for number, turn in enumerate(turns(scene.windows, self.steps)):
            if number < taken:
                continue
            window = scene.windows[turn.window]
            while shown * scene.gap < window.stop:
                self._enter(scene, shown, next(keys), front.entered)
                shown += 1
            front.take(turn)
            self._take(scene, turn, shares[turn.window], progress)
            ready = self._ready(front, scene)
            yield self.latents.get(Span(given, ready))
            given = ready

    def _ready(self, front: Front, scene: Scene) -> int:
        """Frames that can be decoded: whole chunks, but for the last of a scene."""
        if front.settled == scene.frames:
            return scene.frames
        return front.settled // DECODED_FRAMES * DECODED_FRAMES

    def _enter(self, scene: Scene, key: int, shown: Tensor, entered: int) -> None:
        """A key frame is shown, and the frames up to the next one begin."""
        seed, first, channels = self.sampling.seed, scene.start, self.latents.size[0]
        frame = key * scene.gap
        shown = to_device(shown, self.placement.device)
        clean, neighbours = shown.split([channels, len(shown) - channels])
        hint = noisy_hint(clean, self.conditions.refine, first + frame, seed)
        self.latents.show(key, torch.cat([hint, neighbours]))
        sigma = float(self.schedule.sigmas[0])
        for j in range(max(frame, entered), min(frame + scene.gap, scene.frames)):
            self.latents.enter(j, noisy_start(clean, first + j, seed).mul_(sigma))

    def _take(
        self, scene: Scene, turn: Turn, shares: list[float], progress: Callable[[], None]
    ) -> None:
        """Every tile of one window at one step."""
        window = scene.windows[turn.window]
        work = self._work(len(window))
        work.evaluation.step.fill_(turn.step)
        work.blending.aim_window(turn, scene.windows, shares)
        if self.fresh[turn.step] > 0:
            work.blending.add_noise(self._noise(turn, scene.start + window.start))
        is_guided = self.sampling.is_guided(self.timesteps[turn.step])
        if work.blending.is_tiled:
            work.begin()
        for number, tile in enumerate(self.tiles):
            work.blending.aim_tile(tile)
            work.prepare((scene.start, turn.window, number))
            if self.coarse is None:
                work.evaluate(is_guided)
            else:
                self.coarse.aim(turn.window, number)
                work.evaluate(is_guided, self.reusing[turn.step] and self.coarse.is_kept)
                self.coarse.own(turn.window)
            progress()
        if work.blending.is_tiled:
            work.finish()

    def _noise(self, turn: Turn, first: int) -> list[Tensor]:
        size, seed, device = self.latents.size, self.sampling.seed, self.placement.device
        frames = range(first, first + turn.final)
        return [frame_noise(size, seed, f"step {turn.step}", j, device) for j in frames]

    def _work(self, length: int) -> WindowWork:
        """Made once for the plan's window; that of a shorter scene makes room for the next."""
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
