"""Tokenizer from a prompt to 77 token ids, based on transformers' CLIPTokenizer.

Clean-up and padding are our own: OpenCLIP resolves HTML entities and pads with zeros, while
published tokenizers pad with whatever their configuration says.
"""

from __future__ import annotations

import gzip
import html
import importlib.util
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from venhancer.errors import WeightsError
from venhancer.weights import hub

LENGTH = 77
MERGES = 49152 - 256 - 2  # the merges in OpenCLIP's file that its vocabulary uses
MERGES_FILE = "bpe_simple_vocab_16e6.txt.gz"
FILES = ("tokenizer.json", "vocab.json")  # a folder with either one holds a tokenizer
QUOTES = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")


class Tokenizer:
    """Encoder of prompts into rows of ids, by one of transformers' tokenizers."""

    def __init__(self, words: Any) -> None:
        self.words = words

    def encode(self, prompt: str) -> Tensor:
        """Encode a prompt: (1, 77) int64, start, words, end, zeros. Warns if words do not fit."""
        text = html.unescape(html.unescape(prompt)).translate(QUOTES).strip()
        found = self.words(text, return_offsets_mapping=True, verbose=False)
        ids = found["input_ids"]
        if len(ids) > LENGTH:
            first_cut = found["offset_mapping"][LENGTH - 1][0]
            warnings.warn(
                f"the prompt is too long; this is cut: {text[first_cut:]!r}", stacklevel=2
            )
            ids = [*ids[: LENGTH - 1], ids[-1]]
        return torch.tensor([ids + [0] * (LENGTH - len(ids))])

    def save(self, folder: Path) -> None:
        """Write the files that `load_tokenizer` reads from `folder`."""
        self.words.save_pretrained(folder)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer in or beside a text encoder's folder, else OpenCLIP's.

    WeightsError if there is neither.
    """
    for place in (folder / "tokenizer", folder, folder.parent / "tokenizer"):
        if any((place / name).is_file() for name in FILES):
            return Tokenizer(_from_folder(place))
    package = importlib.util.find_spec("open_clip")
    for place in map(Path, (package and package.submodule_search_locations) or ()):
        if (place / MERGES_FILE).is_file():
            return Tokenizer(_from_merges(place / MERGES_FILE))
    raise WeightsError(
        f"no tokenizer in {folder}: put vocab.json and merges.txt of a Stable Diffusion 2.x "
        f"tokenizer into {folder / 'tokenizer'}, or run `pip install open_clip_torch`"
    )


def _from_folder(folder: Path) -> Any:
    tokenizer = hub.require("transformers").CLIPTokenizer
    try:
        return tokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers package raises bare Exceptions
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(
            f"no tokenizer that transformers can read in {folder}: {reason}"
        ) from error


def _from_merges(file: Path) -> Any:
    """Build CLIP's vocabulary: a letter per byte, inside and ending a word, then merged pieces."""
    tokenizer = hub.require("transformers").CLIPTokenizer
    letters = hub.require("transformers.convert_slow_tokenizer").bytes_to_unicode().values()
    lines = gzip.decompress(file.read_bytes()).decode().split("\n")[1 : MERGES + 1]
    merges = [(left, right) for left, right in (line.split() for line in lines)]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    pieces += [left + right for left, right in merges]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    return tokenizer({piece: i for i, piece in enumerate(pieces)}, merges)
