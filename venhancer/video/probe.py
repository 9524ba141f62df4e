"""Find out the properties of a video: a file, a still image, or a folder of numbered PNG files."""

import dataclasses
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from venhancer.errors import VideoError
from venhancer.video.clip import Clip, Reading
from venhancer.video.colour import BT709, LIMITED, Colour, found_colour
from venhancer.video.decode import Health, decode
from venhancer.video.fields import field_times
from venhancer.video.folders import numbered_pngs, read_picture
from venhancer.video.hdr import dynamic_metadata, read_hdr
from venhancer.video.inputs import open_input, refuse_address
from venhancer.video.orientation import display_matrix, is_transposed, upright_size
from venhancer.video.rgb import depth_of, has_transparency
from venhancer.video.scene_cuts import CutFinder
from venhancer.video.streams import codec_name, describe, video_stream
from venhancer.video.times import burst_rate, find_pauses, is_variable, sensible_fps, steady

READING = Reading()
_SIZED_FORMATS = ("mov", "matroska", "avi")  # their headers tell how long the file should be
_SHORTEST_TICK = Fraction(1, 100_000)
_SDR = Colour(matrix=BT709, range=LIMITED, primaries=BT709, transfer=BT709)


def probe(path: Path, reading: Reading = READING) -> Clip:
    """Decode the video once, a frame at a time, and return its properties.

    A truncated file gives the frames that can be read, and a line in `Clip.damage`.
    Raises VideoError for a missing file, no video, no frame, PNG files of mixed sizes.
    """
    refuse_address(path)
    if path.is_dir():
        clip = _probe_folder(path, reading)
    elif path.is_file():
        with open_input(path, reading.limits) as container:
            clip = _probe_container(path, container, reading)
    else:
        raise VideoError(f"{path} does not exist or is no file")
    return _as_read(clip)


@dataclass(slots=True)
class _Census:
    """Facts about the frames of a video, collected one by one."""

    reading: Reading
    first: av.VideoFrame | None = None
    frames: int = 0
    interlaced: int = 0
    depth: int = 8  # of the deepest frame
    has_alpha: bool = False
    other_sizes: dict[tuple[int, int], int] = field(default_factory=dict)  # to their first frame
    dynamic: tuple[str, ...] = ()  # names of HDR metadata that change from scene to scene
    cuts: CutFinder = field(default_factory=CutFinder)

    def add(self, frame: av.VideoFrame) -> None:
        most = self.reading.limits.frames
        if most is not None and self.frames >= most:
            raise VideoError(f"the video has more than {most} frames, the limit: cut it shorter")
        if self.first is None:
            self.first = frame
            self.dynamic = dynamic_metadata(frame)
        elif upright_size(frame) != upright_size(self.first):
            self.other_sizes.setdefault(upright_size(frame), self.frames)
        self.depth = max(self.depth, depth_of(frame.format))
        self.interlaced += frame.interlaced_frame
        self.has_alpha = self.has_alpha or has_transparency(frame)
        self.cuts.add(frame)
        self.frames += 1

    @property
    def is_interlaced(self) -> bool:
        wanted = self.reading.deinterlace
        return wanted == "double" or (wanted == "auto" and self.interlaced > 0)


def _as_read(clip: Clip) -> Clip:
    """Apply the choices of how the clip is read to its description."""
    if clip.reading.hdr == "sdr" and clip.colour.is_hdr:
        notes = (*clip.notes, "HDR is tone-mapped to SDR (BT.709, 8 bits)")
        clip = dataclasses.replace(clip, tagged=clip.colour, colour=_SDR, depth=8, notes=notes)
    if clip.is_interlaced and clip.reading.deinterlace == "double":
        clip = dataclasses.replace(
            clip,
            stored=clip.stored_times,
            times=field_times(clip.times, clip.end),
            fps=2 * clip.fps,
            burst_fps=clip.burst_fps and 2 * clip.burst_fps,
            cuts=tuple(2 * cut for cut in clip.cuts),
            pauses=tuple(2 * pause for pause in clip.pauses),
        )
    return clip


# --- files -------------------------------------------------------------------------------------


def _probe_container(path: Path, container: InputContainer, reading: Reading) -> Clip:
    stream = video_stream(container, path, reading.stream)
    health, census = Health(), _Census(reading)
    times: list[Fraction] = []
    last_duration = Fraction(0)
    for frame, time in decode(container, stream, health, reading.limits):
        census.add(frame)
        times.append(time)
        last_duration = (frame.duration or 0) * (frame.time_base or Fraction(0))
    first = census.first
    if first is None:
        raise VideoError(f"{path} holds no frame that can be decoded")
    is_still = container.format.name.endswith("_pipe")
    timing = _timing(stream, times, reading.folder_fps if is_still else None, last_duration)
    clip = Clip(
        path=path,
        width=upright_size(first)[0],
        height=upright_size(first)[1],
        times=timing.times,
        stored=() if timing.times == tuple(times) else tuple(times),
        fps=timing.fps,
        is_variable=timing.is_variable,
        burst_fps=timing.burst_fps,
        pauses=timing.pauses,
        end=timing.end,
        codec=codec_name(stream),
        pixel_format=first.format.name,
        colour=found_colour(first),
        hdr=read_hdr(first),
        depth=census.depth,
        has_alpha=census.has_alpha,
        is_interlaced=census.is_interlaced,
        reading=reading,
        stream=stream.index,
        tracks=tuple(map(describe, container.streams)),
        lines=first.height,
        sample_aspect=_sample_aspect(stream, first),
        cuts=census.cuts.cuts(),
        notes=tuple(_notes(census, health)),
    )
    damage = _damage(clip, container, stream, health)
    return dataclasses.replace(clip, damage=damage, can_seek=damage is None and not health.jumps)


def _sample_aspect(stream: VideoStream, first: av.VideoFrame) -> Fraction:
    aspect = stream.sample_aspect_ratio or Fraction(1)
    if aspect <= 0:
        return Fraction(1)
    return 1 / aspect if is_transposed(display_matrix(first)) else aspect


@dataclass(frozen=True, slots=True)
class _Timing:
    times: tuple[Fraction, ...]
    fps: Fraction
    end: Fraction
    is_variable: bool
    burst_fps: Fraction | None = None
    pauses: tuple[int, ...] = ()


def _timing(
    stream: VideoStream,
    stored: list[Fraction],
    still_fps: Fraction | None,
    last_duration: Fraction,
) -> _Timing:
    """Find the rate of a video, and its exact times if the rate is constant."""
    rates = [stream.guessed_rate, stream.average_rate] if still_fps is None else [still_fps]
    found = steady(stored, rates, max(stream.time_base or Fraction(1, 1000), _SHORTEST_TICK))
    if found is not None:
        fps, times = found
        return _Timing(times, fps, times[-1] + 1 / fps, is_variable=False)
    fps = sensible_fps(rates, stored)
    end = stored[-1] + (last_duration if last_duration > 0 and still_fps is None else 1 / fps)
    if not is_variable(stored):
        return _Timing(tuple(stored), fps, end, is_variable=False)
    burst_fps = burst_rate(stored, rates)
    pauses = find_pauses(stored, burst_fps)
    return _Timing(tuple(stored), fps, end, is_variable=True, burst_fps=burst_fps, pauses=pauses)


def _notes(census: _Census, health: Health) -> list[str]:
    """Tell in a line each what of the video is not read as it is stored."""
    notes = [
        f"{name} metadata are left out: they describe the frames of the input"
        for name in census.dynamic
    ]
    if health.jumps:
        often = "once" if health.jumps == 1 else f"{health.jumps} times"
        notes.append(f"the clock of the input jumps {often}: its parts follow one another")
    if census.is_interlaced:
        double = census.reading.deinterlace == "double"
        notes.append(
            "interlaced: each field becomes a frame" if double else "the frames are deinterlaced"
        )
    for (width, height), number in census.other_sizes.items():
        notes.append(
            f"from frame {number} on some frames are {width}x{height}: "
            "they are fitted into the first size, with black bars"
        )
    return notes


def _damage(
    clip: Clip, container: InputContainer, stream: VideoStream, health: Health
) -> str | None:
    """Describe damage in a line: broken packets, or an end before the one in the header."""
    promised, end = _promised_end(container, stream), max(clip.end, health.end)
    missing = []
    if promised and end < promised - 2 / clip.fps - Fraction(1, 10):
        missing.append(f"it ends at {float(end):.2f} s of {float(promised):.2f} s")
    if health.errors:
        missing.append(f"broken packets: {health.errors}")
    if health.corrupt:
        missing.append(f"frames with gaps: {health.corrupt}")
    if not missing:
        return None
    told = ", ".join(missing)
    return f"{clip.path.name} is damaged: {told}; {clip.frames} frames could be read"


def _promised_end(container: InputContainer, stream: VideoStream) -> Fraction | None:
    if not container.format.name.startswith(_SIZED_FORMATS):
        return None
    if stream.duration is not None and stream.time_base:
        return ((stream.start_time or 0) + stream.duration) * stream.time_base
    return Fraction(container.duration, av.time_base) if container.duration else None


# --- folders -----------------------------------------------------------------------------------


def _probe_folder(folder: Path, reading: Reading) -> Clip:
    files = numbered_pngs(folder)
    if not files:
        raise VideoError(f"{folder} holds no numbered PNG file such as 000001.png")
    fps, census = reading.folder_fps, _Census(reading)
    first = None
    for file in files:
        frame = read_picture(file, reading.limits)
        census.add(frame)
        first = first or frame
        if upright_size(frame) != upright_size(first):
            sizes = ["{}x{}".format(*upright_size(it)) for it in (frame, first)]
            raise VideoError(f"{file} is {sizes[0]}, but {files[0].name} is {sizes[1]}")
    assert first is not None
    width, height = upright_size(first)
    return Clip(
        path=folder,
        width=width,
        height=height,
        times=tuple(n / fps for n in range(len(files))),
        fps=fps,
        is_variable=False,
        end=len(files) / fps,
        codec="png",
        pixel_format=first.format.name,
        colour=found_colour(first),
        depth=census.depth,
        has_alpha=census.has_alpha,
        reading=reading,
        is_folder=True,
        lines=first.height,
        cuts=census.cuts.cuts(),
    )
