"""The paper card for tests: built once a session, if there is a compiler and no real card."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.paper_card.card import Card
from tests.paper_card.cuda import build_guard, paper_card


@pytest.fixture(scope="session")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if torch.cuda.is_available():
        pytest.skip("there is a real card here")
    made = build_guard(tmp_path_factory.mktemp("guard"))
    if made is None:
        pytest.skip("NOT TESTED: the card on paper needs a C++ compiler (g++), and there is none")
    return made


@pytest.fixture
def card(guard: Path) -> Iterator[Card]:
    with paper_card(guard) as card:
        yield card
