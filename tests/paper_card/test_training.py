"""Training on the paper card: set-up, objective and validation; it has no gradients."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.paper_card.card import Card
from tests.paper_card.parts import PLAIN, TEXTUAL
from tests.support.training_parts import SMALL, encode_text, encoders_of, random_clip, some_batches
from venhancer.config import Preset
from venhancer.model.denoiser import make_denoiser
from venhancer.training.data.pool import Crop, Pool, write_part
from venhancer.training.encoders import Encoders
from venhancer.training.objective import DiffusionLoss
from venhancer.training.trainer import Trainer, initialise
from venhancer.training.validation import Cell, HeldOut, Validation

ONE_CARD: Any = SimpleNamespace(
    device=torch.device("cuda", 0), num_processes=1, process_index=0, prepare_model=lambda x: x
)


@pytest.fixture(params=[PLAIN, TEXTUAL], ids=["plain", "textual"])
def preset(request: pytest.FixtureRequest) -> Preset:
    return request.param


@pytest.fixture
def trainer(card: Card, preset: Preset) -> Trainer:
    torch.manual_seed(0)
    model = make_denoiser(preset.model)
    initialise(model, SMALL)
    return Trainer(model, preset, SMALL, ONE_CARD)


def encoders(preset: Preset) -> Encoders:
    """Return the preset's own codec, or a stand-in for the released one; text on the card."""
    if not preset.model.unet.text_width:
        return encoders_of(preset)
    return dataclasses.replace(encoders_of(preset), text=text_on_card)


def text_on_card(captions: list[str]) -> Tensor:
    return encode_text(captions).to("cuda")


def test_a_loss_is_computed_on_the_card(trainer: Trainer, card: Card) -> None:
    """The batch is copied once, noise is drawn on the card, and only the loss comes back."""
    [batch] = some_batches(1)
    own = encoders(trainer.preset)
    loss = DiffusionLoss(trainer.preset.model, SMALL, own, trainer.model.sigmas)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad(), card.watched() as crossings:
        value = loss(trainer.network, batch.to(ONE_CARD.device), generator)

    assert float(value) > 0
    assert all(parameter.is_cuda for parameter in trainer.model.parameters())
    kinds = {crossing.kind for crossing in crossings}
    assert kinds == {"host to card"}, [str(crossing) for crossing in crossings]


def test_weights_are_validated_on_the_card(trainer: Trainer) -> None:
    """Clips are encoded on the card, and scores come back."""
    clips = [HeldOut("clip", random_clip(), "waves")]
    cell = Cell(2, 2, 0)
    measured = Validation(clips, trainer.preset, SMALL, encoders(trainer.preset), [cell])

    assert measured.measure(trainer.network)[cell].loss > 0


def test_a_pool_makes_its_batches_on_the_card(card: Card, tmp_path: Path) -> None:
    """The pool's bytes are copied once, then only sample numbers; the batch equals the CPU's."""
    rng = np.random.default_rng(0)
    shapes = {
        "target": (3, 32, 32),
        "hint": (3, 32, 32),
        "aligned": (4, 3, 16, 16),
        "trust": (4, 8, 8),
    }

    def pixels() -> dict[str, Any]:
        return {name: rng.integers(256, size=size, dtype=np.uint8) for name, size in shapes.items()}

    crops = [Crop(**pixels(), scale=2.0, level=0) for _ in range(3)]
    write_part(tmp_path, 0, crops)
    pool, indices = Pool(tmp_path), np.array([2, 0])
    expected = pool.batch(indices, np.random.default_rng(1))
    there = pool.to(ONE_CARD.device)
    with card.watched() as crossings:
        made = there.batch(indices, np.random.default_rng(1))

    assert [crossing.kind for crossing in crossings] == ["host to card"]
    for name in ("target", "hint", "neighbours", "scale", "noise_level", "is_key"):
        assert torch.equal(getattr(made, name).cpu(), getattr(expected, name)), name
