"""Generation of the model's frames from the input frames, scene by scene."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import repeat

import torch
from torch import Tensor

from venhancer.contract import DECODED_FRAMES
from venhancer.device import to_device, wait_for
from venhancer.motion.neighbours import Aligner, Key, needed_from
from venhancer.options import Options
from venhancer.pipeline.colour_fix import InputColours
from venhancer.pipeline.networks import Networks
from venhancer.pipeline.pixels import Frame, crop, pad, resize, to_pixels
from venhancer.pipeline.queues import ahead
from venhancer.pipeline.state import State
from venhancer.pipeline.stopwatch import Stopwatch
from venhancer.planning.plan import Plan
from venhancer.planning.windows import Scene
from venhancer.sampling.sampler import Sampler
from venhancer.spans import Span
from venhancer.video.reading import read_frames

Progress = Callable[[str, int, int], None]  # stage, parts done, parts in all
QUEUE = 4  # frames read ahead; also frames that wait to be written


@dataclass(frozen=True, slots=True)
class GeneratedFrames:
    """Frames that a window step has finished, and the state of the run after it."""

    latents: Tensor  # x_0 of the frames that are done: f c h w, f may be 0
    first: int  # the number of the first of them
    held: int  # how often the last one is repeated, up to a cut
    state: State


@dataclass(slots=True)
class Flow:
    """Part of a run that makes frames; it does not know the output."""

    plan: Plan
    networks: Networks
    options: Options
    progress: Progress
    watch: Stopwatch = field(default_factory=Stopwatch)
    text: Tensor | None = None
    evaluations: int = 0  # so far
    colours: InputColours | None = field(init=False)

    def __post_init__(self) -> None:
        has_fix = self.plan.color_fix != "none"
        self.colours = InputColours(self.plan, self.networks.device) if has_fix else None

    def generated(self, state: State) -> Generator[GeneratedFrames]:
        """Yield the frames that each remaining window step finishes, after `state`."""
        scenes = self.plan.scenes[state.scene :]
        if not scenes:
            return
        if self.text is None:
            is_guided = self.plan.sampling.branches == 2
            with self.watch("prompt"):
                self.text = self.networks.encode_text(self.options.prompt, is_guided=is_guided)
        sampler = self.networks.sampler(self.plan, self.text)
        if state.window_steps:
            sampler.restore(state.tensors)
        first = scenes[0].keys.start + sampler.first_key(scenes[0], state.window_steps)
        begin = needed_from(scenes[0].keys, first, self.plan.preset.model.neighbours)
        self._count(state)
        with closing(self), ahead(read_frames(self.plan.source, begin), QUEUE) as frames:
            for number, scene in enumerate(scenes, state.scene):
                keys = self._keys(frames, scene.keys, max(first, scene.keys.start))
                for made in self._scene(number, scene, sampler, keys, state):
                    yield made
                    self.progress("decode", made.state.frames, self.plan.sampled_frames)
                    state = made.state

    def _count(self, state: State) -> None:
        """Count the evaluations that an earlier run has made."""
        plan = self.plan
        taken = sum(map(plan.window_steps_of, plan.scenes[: state.scene])) + state.window_steps
        self.evaluations = taken * len(plan.sampling.rows) * len(plan.sampling.columns)

    def _keys(self, frames: Iterator[Frame], scene: Span, first: int) -> Iterator[Tensor]:
        """Yield the key frames of a scene from `first` on, as the sampler takes them: c h w each.

        frames: input frames from `needed_from(scene, first, ...)` on; a few are encoded early
        """
        count = self.plan.preset.model.neighbours
        aligner = Aligner(count, self.plan.geometry)
        waiting: deque[Tensor] = deque()
        reached = needed_from(scene, first, count)
        for number in range(first, scene.stop):
            for early in range(reached, min(scene.stop, number + count // 2 + 1)):
                with self.watch("read"):
                    frame = next(frames)
                waiting.extend(self._encoded(frame, early, aligner, is_shown=early >= first))
                reached = early + 1
            latents = waiting.popleft()
            if count:
                with self.watch("align"):
                    hint = to_device(aligner.hint(number), self.networks.device)
                    latents = torch.cat([latents, hint])
            self.progress("encode", number + 1, self.plan.source.frames)
            yield latents

    def _encoded(self, frame: Frame, number: int, aligner: Aligner, is_shown: bool) -> Tensor:
        """Resize, pad and encode an input frame -> its latents, 1 c h w; empty if not shown."""
        plan = self.plan
        geometry, upsampling = plan.geometry, plan.preset.model.upsampling
        with self.watch("encode"):
            pixels = resize(
                frame, geometry.width, geometry.height, upsampling, self.networks.device
            )
            padded = pad(pixels, geometry, self.options.padding)
            if aligner.count:
                aligner.add(number, Key.of(frame, padded))
            if not is_shown:
                return padded.new_empty(0)
            return self.networks.encode(plan, padded, number)

    def _scene(
        self,
        number: int,
        scene: Scene,
        sampler: Sampler,
        keys: Iterator[Tensor],
        state: State,
    ) -> Iterator[GeneratedFrames]:
        """Yield the finished frames of one scene's remaining window steps, after `state`."""
        last = self.plan.window_steps_of(scene)
        left = state.frames
        finished = sampler.run(scene, keys, state.window_steps, self._evaluated)
        for taken in range(state.window_steps + 1, last + 1):
            with self.watch("denoise"):
                latents = next(finished)
                if len(latents):
                    wait_for(latents)  # otherwise this time would be counted as decoding
            is_end = taken == last
            is_cut = is_end and number + 1 < len(self.plan.scenes)
            held = scene.key_stride - 1 if is_cut else 0  # repeat up to the cut
            first, left = left, left + len(latents) + held
            after = State(number, taken, left, sampler.tensors())
            if is_end:
                after = State(number + 1, 0, left)
            yield GeneratedFrames(latents, first, held, after)

    def _evaluated(self) -> None:
        self.evaluations += 1
        total = self.plan.parts * len(self.plan.sampling.schedule)
        self.progress("denoise", self.evaluations, total)

    def frames(self, generated: GeneratedFrames) -> Iterator[Frame]:
        """Decode the frames of a window step, chunk by chunk: H W 3 each, cropped."""
        frame: Frame | None = None
        latents, number = generated.latents, generated.first
        for part in latents.split(DECODED_FRAMES) if len(latents) else ():
            for frame in self._pixels(part, number):
                yield frame
            number += len(part)
        if frame is not None:
            yield from repeat(frame, generated.held)

    def _pixels(self, latents: Tensor, first: int) -> Frame:
        """Decode, fix the colours and round: f c h w, numbered from `first` on -> f H W 3."""
        with self.watch("decode"):
            made = crop(self.networks.decode(self.plan, latents), self.plan.geometry)
            if self.colours is None:
                return to_pixels(made, self.plan.source.frame_type)
            wait_for(made)  # otherwise this time would be counted as fixing
        with self.watch("colours"):
            return to_pixels(self.colours.fix(made, first), self.plan.source.frame_type)

    def close(self) -> None:
        """Close the input that is read for the colours; it is opened again when it is needed."""
        if self.colours is not None:
            self.colours.close()
