"""What is carried from an input to its output, decided before the work: alpha, depth, tracks."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from venhancer.options import Options
from venhancer.video.carriage import choose_tracks
from venhancer.video.clip import Clip, Reading
from venhancer.video.encoders import Encoding, check_start, choose_encoding, keeps_alpha
from venhancer.video.probe import probe
from venhancer.video.target import check_suffix, is_folder_target


def open_clip(source: Path, options: Options, target: Path | None = None) -> Clip:
    """Probe a video file, or a folder of numbered PNG files, for an output to `target`.

    Alpha that the output cannot hold is put over black as the frames are read.
    target: None for frames that stay in memory, without alpha
    """
    clip = probe(source, Reading.of(options))
    if not clip.has_alpha or _is_alpha_kept(clip, options, target):
        return clip
    notes = (*clip.notes, _alpha_note(options, target))
    return dataclasses.replace(clip, is_over_black=True, notes=notes)


def _is_alpha_kept(clip: Clip, options: Options, target: Path | None) -> bool:
    if options.alpha == "black" or target is None:
        return False
    check_suffix(target)
    return keeps_alpha(target, clip, options.codec, options.pixel_format)


def _alpha_note(options: Options, target: Path | None) -> str:
    if options.alpha == "black" or target is None:
        return "alpha: the picture is put over black"
    return (
        "alpha: the output cannot hold it, so the picture is put over black; .mov (prores_ks), "
        ".mkv (ffv1) and folders of PNG files keep it"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Decision about how an output is written."""

    encoding: Encoding
    notes: tuple[str, ...]  # one line each: what the output will not have as the input has it


def plan_delivery(clip: Clip, target: Path, width: int, height: int, options: Options) -> Delivery:
    """Decide how frames of a size are written to `target`; nothing is written.

    OptionError for an encoder, a pixel format or a container that cannot do what is asked.
    """
    check_suffix(target)
    encoding = choose_encoding(
        target,
        clip,
        width,
        height,
        codec=options.codec,
        pixel_format=options.pixel_format,
        crf=options.crf,
        speed=options.preset_speed,
        has_alpha=clip.gives_alpha,
    )
    check_start(target, encoding)
    notes = [*clip.notes, *encoding.notes, *choose_tracks(clip, target, options.audio).notes]
    is_avi = target.suffix.lower() == ".avi" and not is_folder_target(target)
    if is_avi and clip.is_variable and options.fps is None:
        notes.append(
            "AVI has a constant rate: frames are repeated and times rounded, -o x.mkv keeps them"
        )
    return Delivery(encoding=encoding, notes=tuple(notes))
