"""WebDataset shards: plain tar files in which the members of a sample share a key.

    000017.mp4                    the clip; .mkv, .webm and .mov will do as well
    000017.txt                    its caption
    000017.json                   facts, which training does not read
    000017.latents.safetensors    the clip and hints as latents, see `training.data.latents`
    000017.text.safetensors       the caption's embedding by the text encoder

Members are located once, when a shard is opened; each is then read from its place in the file.
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import Path

from venhancer.errors import OptionError
from venhancer.training.data.media import Extent

SHARD_VIDEOS = ("mp4", "mkv", "webm", "mov")
LATENTS, TEXT, CAPTION = "latents.safetensors", "text.safetensors", "txt"
BLOCK = 512  # bytes in a block of a tar file

Members = Mapping[str, Extent]  # by extension


def index_shard(path: Path) -> dict[str, Members]:
    """Locate the members of every sample, by key.

    OptionError if the shard is no tar file or was cut short; it says how many samples are whole.
    """
    samples: dict[str, dict[str, Extent]] = {}
    end = 0  # end of the last whole member, in bytes
    size = path.stat().st_size
    damage = None
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                stop = member.offset_data + member.size
                if member.isfile() and stop <= size:
                    key, extension = split_name(member.name)
                    extent = Extent(path, member.offset_data, member.size)
                    samples.setdefault(key, {})[extension] = extent
                end = -(-stop // BLOCK) * BLOCK
    except (tarfile.TarError, OSError) as error:
        damage = error
    if damage is not None or end + BLOCK > size:  # a tar ends with blocks of zeros
        whole = max(0, len(samples) - 1)  # the last one may lack members
        raise OptionError(
            f"shard {path} is cut short or no tar: {whole} whole samples were found; make it anew"
        )
    return dict(samples)


def split_name(name: str) -> tuple[str, str]:
    """Split a name into key and extension, at the file's first dot, as WebDataset does."""
    folder, _, file = name.rpartition("/")
    key, _, extension = file.partition(".")
    return (f"{folder}/{key}" if folder else key), extension.lower()


def video_of(members: Members) -> Extent | None:
    """Find the clip of a sample."""
    return next((members[kind] for kind in SHARD_VIDEOS if kind in members), None)
