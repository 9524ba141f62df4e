"""A tokenizer of CLIP's kind with next to no vocabulary."""

from __future__ import annotations

import importlib
import json
from pathlib import Path


def write_tokenizer(folder: Path, merges: str = "") -> None:
    """SD 2.x's two files with the 256 letters of bytes, and `merges` ("a b", line by line)."""
    letters = importlib.import_module("transformers.convert_slow_tokenizer").bytes_to_unicode()
    pieces = [*letters.values(), *(f"{letter}</w>" for letter in letters.values())]
    pieces += [line.replace(" ", "") for line in merges.splitlines()]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(pieces)}))
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<|endoftext|>"}))
