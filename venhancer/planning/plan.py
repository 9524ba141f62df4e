"""Plan of a run, complete before it runs; the run, the command and the tests all read it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from venhancer.config import (
    ColorFix,
    ModelConfig,
    NewFrames,
    Preset,
    RunDefaults,
    Shortcuts,
    SolverName,
    UNetConfig,
)
from venhancer.contract import Shape
from venhancer.diffusion.schedule import Steps, plan_steps
from venhancer.errors import OptionError
from venhancer.options import Join, Options
from venhancer.planning.capacity import Capacity, capacity_for
from venhancer.planning.geometry import Geometry, fit, released_padding, released_size, target_size
from venhancer.planning.timeline import Timeline, at_rate, interpolated
from venhancer.planning.windows import Scene, cut_scenes
from venhancer.spans import Span, tiles
from venhancer.video.clip import Clip

STORED_BYTES_PER_PIXEL = {8: 1.0, 16: 3.0}  # lossless, by bits: measured 0.65 to 1.6, 1.4 to 4.4
BYTES_PER_PIXEL = 0.35  # H.264 at crf 17, with a margin: measured 0.05 to 0.25 on our clips


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Settings of the solver over the grid; lengths in frames and latent positions."""

    solver: SolverName
    steps: int
    eta: float
    guidance: float
    guidance_interval: tuple[int, int]
    reuse: int  # steps that share coarse features: one computes them, the others reuse them
    seed: int
    window: int  # frames of the clip's longest window
    key_stride: int  # frames that the model makes from one key frame to the next
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]
    join: Join
    schedule: Steps = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedule", plan_steps(self.solver, self.steps))

    def is_guided(self, timestep: int) -> bool:
        low, high = self.guidance_interval
        return self.guidance != 1 and low <= timestep <= high

    @property
    def branches(self) -> int:
        return 1 if self.guidance == 1 else 2

    @property
    def reusing(self) -> tuple[bool, ...]:
        """Flags of the steps: True for a step that computes the finest level only."""
        guided = [self.is_guided(t) for t in self.schedule.timesteps.tolist()]
        found, kept = [], 0
        for step, is_guided in enumerate(guided):
            has_kept = step > 0 and (guided[kept] or not is_guided)
            found.append(has_kept and step - kept < self.reuse)
            kept = kept if found[-1] else step
        return tuple(found)

    def coarse_shape(self, config: UNetConfig, windows: int) -> tuple[int, ...]:
        """Compute the shape of kept coarse features: tiles of all held windows, (b f), h w c."""
        tiles = len(self.rows) * len(self.columns)
        channels, *size = config.coarse_size(len(self.rows[0]), len(self.columns[0]))
        return windows * tiles, self.branches * self.window, *size, channels


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrangement:
    """Choices that make a plan fit into memory; a resumed run has to keep them."""

    window: int  # frames
    tile: tuple[int, int]  # width and height of what the network sees of a frame, in pixels
    codec_tile: int | None  # side in pixels of what the codec sees at a time; None: whole frames
    holds_latents_on_host: bool

    @property
    def words(self) -> str:
        """Description for messages."""
        told = [f"windows of {self.window}", "tiles of {}x{}".format(*self.tile)]
        if self.codec_tile is not None:
            told.append(f"a codec in tiles of {self.codec_tile}")
        if self.holds_latents_on_host:
            told.append("latents in the host's memory")
        return ", ".join(told)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Arrangement:
        """Read what `dataclasses.asdict` gave; TypeError or KeyError for anything else."""
        width, height = fields["tile"]
        return cls(**{**fields, "tile": (width, height)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Plan of one run, with every choice made."""

    source: Clip
    preset: Preset
    geometry: Geometry
    timeline: Timeline
    sampling: Sampling
    scenes: tuple[Scene, ...]
    conditioning_scale: float  # s, an input of the network
    refine: int
    latents: tuple[int, int, int]  # channels, rows, columns
    new_frames: NewFrames = "model"
    color_fix: ColorFix = "none"
    shape: Shape | None = None  # of the static networks, if the plan is made for them
    codec_tile: tuple[int, int] | None = None  # rows and columns of latents in a codec's tile
    holds_latents_on_host: bool = False

    @property
    def is_by_motion(self) -> bool:
        """True if the model makes only key frames, and motion makes the frames between."""
        return self.new_frames == "motion" and self.timeline.key_stride > 1

    @property
    def sampled_frames(self) -> int:
        """Frames that the model makes, and repeats of a scene's last frame up to a cut."""
        return self.source.frames if self.is_by_motion else self.timeline.grid_frames

    @property
    def frames_by_motion(self) -> int:
        """New frames that motion makes, not the model."""
        if not self.is_by_motion:
            return 0
        key_stride, starts = self.timeline.key_stride, {scene.keys.start for scene in self.scenes}
        return sum(
            j % key_stride > 0 and j // key_stride + 1 not in starts for j in {*self.timeline.shown}
        )

    @property
    def windows(self) -> int:
        """Number of windows in all scenes."""
        return sum(len(scene.windows) for scene in self.scenes)

    def window_steps_of(self, scene: Scene) -> int:
        """Count the window steps that the sampler takes in a scene: windows times steps."""
        return len(scene.windows) * len(self.sampling.schedule)

    def computed_frames(self, scene: Scene) -> int:
        """Count the frames computed for a window; static networks always compute full windows."""
        return len(scene.windows[0]) if self.shape is None else self.shape.window

    @property
    def parts(self) -> int:
        """Windows times tiles: the evaluations of one unguided step."""
        return self.windows * len(self.sampling.rows) * len(self.sampling.columns)

    @property
    def evaluations(self) -> int:
        """Passes through the network; a guided step counts twice."""
        s = self.sampling
        steps = s.schedule.timesteps.tolist()
        return self.parts * sum(2 if s.is_guided(t) else 1 for t in steps)

    @property
    def tile(self) -> tuple[int, int]:
        """Width and height of what the network sees of a frame, in pixels."""
        stride, s = self.preset.model.latent_stride, self.sampling
        return stride * len(s.columns[0]), stride * len(s.rows[0])

    @property
    def arrangement(self) -> Arrangement:
        """Choices that make the plan fit into memory."""
        side = None
        if self.codec_tile is not None:
            side = self.preset.model.latent_stride * self.codec_tile[1]
        return Arrangement(
            window=self.sampling.window,
            tile=self.tile,
            codec_tile=side,
            holds_latents_on_host=self.holds_latents_on_host,
        )

    @property
    def capacity(self) -> Capacity:
        """Numbers of latents that are held at a time."""
        return capacity_for(self.scenes, len(self.sampling.schedule))

    @property
    def latent_bytes(self) -> int:
        """Bytes of the held latents; they do not depend on the clip's length."""
        return self.capacity.bytes(self.latents, self.preset.model.neighbour_channels)

    @property
    def coarse_values(self) -> int:
        """Count of the values kept for steps that reuse coarse features."""
        sampling = self.sampling
        if not any(sampling.reusing):
            return 0
        return math.prod(sampling.coarse_shape(self.preset.model.unet, self.capacity.windows))

    @property
    def output_bytes(self) -> int:
        """Bytes on disk that the output may need."""
        pixels = self.geometry.width * self.geometry.height * len(self.timeline.shown)
        return int(pixels * BYTES_PER_PIXEL) + 1_000_000

    @property
    def job_bytes(self) -> int:
        """Bytes on disk that finished frames and two states may take during the run, if free."""
        pixels = self.geometry.width * self.geometry.height * self.sampled_frames
        state = self.latent_bytes + 4 * self.coarse_values  # at most float32
        return int(pixels * STORED_BYTES_PER_PIXEL[8 if self.source.depth <= 8 else 16]) + 2 * state


def make_plan(clip: Clip, preset: Preset, options: Options, shape: Shape | None = None) -> Plan:
    """Make every open choice; OptionError where one cannot be carried out.

    shape: of static networks; it replaces the options' window and tile
    """
    geometry = _geometry(clip, preset, options, shape)
    starts = _scene_starts(clip, options)
    timeline = _timeline(clip, options, starts)
    stride = preset.model.latent_stride
    rows, columns = geometry.padded_height // stride, geometry.padded_width // stride
    new_frames = _or(options.new_frames, preset.defaults.new_frames)
    key_stride = timeline.key_stride if new_frames == "model" else 1
    usual = max(preset.defaults.window, key_stride + 1)  # at least two key frames
    window = _or(options.window, usual) if shape is None else shape.window
    scenes = cut_scenes(clip.frames, starts, key_stride, window, preset.defaults.overlap)
    if options.prompt and not preset.model.unet.text_width:
        raise OptionError(
            f"preset {preset.name!r} has no text encoder: leave the prompt out, "
            "or take --preset released"
        )
    return Plan(
        source=clip,
        preset=preset,
        geometry=geometry,
        timeline=timeline,
        sampling=_sampling(preset, options, scenes, (rows, columns), shape),
        scenes=scenes,
        conditioning_scale=_conditioning_scale(clip, preset, geometry, options),
        refine=_or(options.refine, preset.defaults.refine),
        latents=(preset.model.unet.latent_channels, rows, columns),
        new_frames=new_frames,
        color_fix=_or(options.color_fix, preset.defaults.color_fix),
        shape=shape,
    )


def cheapest_window(clip: Clip, preset: Preset, options: Options) -> int:
    """Find the window with the fewest evaluated frames, from the preset's own to its longest.

    The shortest one wins a tie. A given `--window` is returned as it is.
    """
    usual, longest = preset.defaults.window, preset.defaults.longest_window
    if options.window is not None or longest is None:
        return _or(options.window, usual)

    def evaluated(window: int) -> int:
        plan = make_plan(clip, preset, dataclasses.replace(options, window=window))
        return sum(len(span) for scene in plan.scenes for span in scene.windows)

    return min(range(usual, longest + 1), key=evaluated)


def static_plans(
    clip: Clip, preset: Preset, options: Options, shapes: Sequence[Shape]
) -> list[Plan]:
    """Make a plan for each of `shapes`, sorted by the least work, then by the fewest evaluations.

    If no shape can carry out the run, the OptionError of the largest shape is raised.
    """
    plans, refusal = [], OptionError("there are no shapes to plan for")
    for shape in sorted(shapes, key=lambda s: (_voxels(s), s.width, s.height, s.window)):
        try:
            plans.append((shape, make_plan(clip, preset, options, shape)))
        except OptionError as error:
            refusal = error
    if not plans:
        raise refusal
    plans.sort(key=lambda pair: (pair[1].parts * _voxels(pair[0]), pair[1].parts))
    return [plan for _, plan in plans]


def _voxels(shape: Shape) -> int:
    return shape.width * shape.height * shape.window


T = TypeVar("T")


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def _geometry(clip: Clip, preset: Preset, options: Options, shape: Shape | None) -> Geometry:
    scale = _or(options.scale, preset.defaults.scale)
    if options.geometry == "released":
        size = released_size(clip.width, clip.height, scale)
        return released_padding(*size)
    wanted = target_size(clip.width, clip.height, scale, options.size, options.even)
    least = (0, 0) if shape is None else (shape.width, shape.height)  # tiles cover larger frames
    return fit(*wanted, preset.model, least)


def _scene_starts(clip: Clip, options: Options) -> tuple[int, ...]:
    """List the key frames before which nothing is interpolated: after a pause or a cut."""
    return tuple(sorted({*clip.pauses, *(clip.cuts if options.scene_cuts else ())}))


def _timeline(clip: Clip, options: Options, starts: tuple[int, ...]) -> Timeline:
    if options.fps is not None:
        return at_rate(clip, options.fps, starts)
    return interpolated(clip, _or(options.interpolate, 1))


def _conditioning_scale(clip: Clip, preset: Preset, geometry: Geometry, options: Options) -> float:
    real = max(geometry.width / clip.width, geometry.height / clip.height)
    scale = _or(options.detail, min(max(real * preset.defaults.detail, 1.0), 8.0))
    return float(int(scale)) if options.geometry == "released" else scale


def _sampling(
    preset: Preset,
    options: Options,
    scenes: Sequence[Scene],
    size: tuple[int, int],
    shape: Shape | None,
) -> Sampling:
    defaults, unet = preset.defaults, preset.model.unet
    shortcuts = _shortcuts(preset, options)
    tile_rows, tile_columns = _tile(preset.model, defaults, options, shape)
    rows, columns = size
    return Sampling(  # refuses impossible steps here, before any work
        solver=_or(options.solver, defaults.solver),
        steps=_or(options.steps, shortcuts.steps or defaults.steps),
        eta=_or(options.eta, defaults.eta),
        guidance=_or(options.guidance, defaults.guidance) if unet.text_width else 1.0,
        guidance_interval=_or(options.guidance_interval, shortcuts.guidance_interval),
        reuse=_or(options.reuse, shortcuts.reuse),
        seed=options.seed,
        window=max(len(scene.windows[0]) for scene in scenes),
        key_stride=scenes[0].key_stride,
        rows=tuple(tiles(rows, tile_rows, unet.size_step)),
        columns=tuple(tiles(columns, tile_columns, unet.size_step)),
        join=options.join,
    )


def _shortcuts(preset: Preset, options: Options) -> Shortcuts:
    """Choose the preset's shortcuts for `--mode fast`; OptionError for those the model lacks."""
    if preset.model.unet.has_coarse_features:
        return preset.defaults.fast if options.mode == "fast" else Shortcuts()
    if options.reuse is not None and options.reuse > 1:
        raise OptionError(
            f"reuse={options.reuse}: the model of preset {preset.name!r} has one level, "
            "and no coarse features to reuse: leave it out"
        )
    if options.mode == "exact":
        return Shortcuts()
    steps = preset.defaults.fast.steps
    if steps in (None, preset.defaults.steps):
        raise OptionError(
            f"mode=fast: preset {preset.name!r} has no shortcuts, it takes "
            f"steps={preset.defaults.steps} anyway: leave it out"
        )
    return Shortcuts(steps=steps)


def _tile(
    model: ModelConfig, defaults: RunDefaults, options: Options, shape: Shape | None
) -> tuple[int, int]:
    """Compute a tile's rows and columns in latents: as asked for, rounded up to a valid size."""
    if shape is not None:
        return shape.height // model.latent_stride, shape.width // model.latent_stride
    width, height = _or(options.tile, defaults.tile)
    if min(width, height) < 64:
        raise OptionError(f"tile {width}x{height}: take 64x64 or more")
    padded = fit(width, height, model)
    return padded.padded_height // model.latent_stride, padded.padded_width // model.latent_stride
