"""A prompt -> 77 token ids, as OpenCLIP makes them: byte-pair encoding of lower-case words.

The merges come from the text encoder's own files (`merges.txt`) or from an installed open_clip; the
vocabulary follows from them.
"""

from __future__ import annotations

import gzip
import html
import importlib.util
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from venhancer.errors import WeightsError

LENGTH = 77
MERGES = 49152 - 256 - 2  # of those in the file, the ones that CLIP's vocabulary uses
WORD = re.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d"
    r"|[^\W\d_\u00b2\u00b3\u00b9\u00bc-\u00be]+"  # letters; superscripts and fractions are numbers
    r"|[^\W_]|(?:[^\s\w]|_)+"
)
QUOTES = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")


def _byte_letters() -> dict[int, str]:
    """A printable letter for each byte, in the order of CLIP's vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    letters = {byte: chr(byte) for byte in plain}
    return letters | {byte: chr(256 + i) for i, byte in enumerate(others)}


def clean(prompt: str) -> str:
    """Entities resolved, straight quotes, single spaces, lower case."""
    text = html.unescape(html.unescape(prompt)).translate(QUOTES)
    return " ".join(unicodedata.normalize("NFC", text).split()).lower()


class Tokenizer:
    """Words -> ids by merging the pairs of `merges` ("a b"), most frequent first."""

    def __init__(self, merges: Sequence[str]) -> None:
        self.letters = _byte_letters()
        pairs = [(left, right) for left, right in (line.split() for line in merges)]
        pieces = [*self.letters.values(), *(f"{c}</w>" for c in self.letters.values())]
        pieces += [left + right for left, right in pairs]
        self.ids = {piece: i for i, piece in enumerate(pieces)}
        self.ranks = {pair: i for i, pair in enumerate(pairs)}
        self.start, self.end = len(pieces), len(pieces) + 1

    def encode(self, prompt: str) -> Tensor:
        """(1, 77) int64: start, the words, end, zeros. Warns of the words that do not fit."""
        ids: list[int] = []
        words = WORD.findall(clean(prompt))
        for i, word in enumerate(words):
            ids += self.word_ids(word)
            if len(ids) > LENGTH - 2:
                cut = " ".join(words[i:])
                warnings.warn(f"the prompt is too long; this is cut: {cut!r}", stacklevel=2)
                break
        row = [self.start, *ids[: LENGTH - 2], self.end]
        return torch.tensor([row + [0] * (LENGTH - len(row))])

    def word_ids(self, word: str) -> list[int]:
        """Ids of the pieces of one word."""
        *pieces, last = (self.letters[byte] for byte in word.encode())
        pieces.append(f"{last}</w>")
        while len(pieces) > 1:
            best = min(pairwise(pieces), key=self._rank)
            if best not in self.ranks:
                break
            pieces = list(_merged(pieces, best))
        return [self.ids[piece] for piece in pieces]

    def _rank(self, pair: tuple[str, str]) -> int:
        return self.ranks.get(pair, len(self.ranks))


def _merged(pieces: Sequence[str], pair: tuple[str, str]) -> Iterator[str]:
    """`pieces` with every occurrence of `pair`, from the left, made one."""
    i = 0
    while i < len(pieces):
        is_pair = tuple(pieces[i : i + 2]) == pair
        yield "".join(pair) if is_pair else pieces[i]
        i += 2 if is_pair else 1


def load_tokenizer(folder: Path | None = None) -> Tokenizer:
    """The tokenizer that lies in or beside a text encoder's folder, else open_clip's.

    WeightsError if there is neither.
    """
    places = [] if folder is None else [folder, folder / "tokenizer", folder.parent / "tokenizer"]
    files = [place / "merges.txt" for place in places]
    if package := importlib.util.find_spec("open_clip"):
        places = [Path(place) for place in package.submodule_search_locations or ()]
        files += [place / "bpe_simple_vocab_16e6.txt.gz" for place in places]
    for file in files:
        if file.is_file():
            return Tokenizer(_read_merges(file))
    where = "" if folder is None else f" in {folder} or beside it (tokenizer/merges.txt)"
    raise WeightsError(
        f"no tokenizer{where}: take a source that has one, or run `pip install open_clip_torch`"
    )


def _read_merges(file: Path) -> list[str]:
    data = file.read_bytes()
    text = (gzip.decompress(data) if file.suffix == ".gz" else data).decode()
    merges = text.split("\n")[1 : MERGES + 1]  # the first line is a version
    return [line for line in merges if line.strip()]
