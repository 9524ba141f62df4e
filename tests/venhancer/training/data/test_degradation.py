"""Flaws of a clip: the size of the change at each level, and reproducibility."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from venhancer.training.data import degradation
from venhancer.training.data.degradation import FLAWS, Flaw, Frames, Generator, degrade, recode

NAMES = [flaw.__name__ for flaw, _ in FLAWS]


def clip(width: int = 96, height: int = 64, count: int = 3) -> Frames:
    """Make soft coloured blotches with some grey grain, which moves."""
    noise = np.random.default_rng(0).standard_normal((height, width + 2 * count, 3))
    soft, fine = (cv2.GaussianBlur(noise, (0, 0), spread) for spread in (4.0, 0.9))
    grain = fine[..., :1] / fine.std()
    wide = np.clip(127 + 45 * soft / soft.std() + 12 * grain, 0, 255)
    return [wide[:, 2 * n : 2 * n + width].astype(np.uint8) for n in range(count)]


def rng(seed: int = 0) -> Generator:
    return np.random.default_rng(seed)


def change(flaw: Flaw, strength: float) -> float:
    """Compute the root mean square change of frames, over a few draws."""
    given = clip()
    made = [flaw(given, strength, rng(seed)) for seed in range(4)]
    return float(np.sqrt(np.mean([(np.array(m, float) - np.array(given)) ** 2 for m in made])))


@pytest.mark.parametrize("flaw", [flaw for flaw, _ in FLAWS], ids=NAMES)
def test_a_higher_level_changes_more(flaw: Flaw) -> None:
    """Every flaw changes some grey levels at 100, fewer at 20, more at 250."""
    low, middle, high = (change(flaw, level / 100) for level in (20, 100, 250))

    assert low < middle < high
    assert low < 8
    assert 1 < middle < 14


def test_noise_is_as_strong_as_its_level() -> None:
    """It is about ten grey levels at 100, in grey or in each colour."""
    assert change(degradation.noisy, 1.0) == pytest.approx(10, rel=0.3)
    assert change(degradation.noisy, 0.5) == pytest.approx(5, rel=0.3)


def test_no_level_is_no_flaw() -> None:
    """The frames are unchanged, and no random number is drawn."""
    given, generator = clip(), rng()

    assert degrade(given, 0, generator) is given
    assert generator.random() == rng().random()


@pytest.mark.parametrize("level", [20, 100, 250])
def test_the_generator_decides_all(level: int) -> None:
    """An equal generator gives equal bytes, another gives others; the clip is unchanged."""
    given = clip()
    before = np.array(given)

    first, again = (degrade(given, level, rng(3)) for _ in range(2))
    others = [degrade(given, level, rng(seed)) for seed in (4, 5, 6)]

    assert np.array_equal(first, again)
    assert any(not np.array_equal(first, other) for other in others)
    assert np.array_equal(before, given)
    assert not np.array_equal(first, before)


def test_every_flaw_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has about its share of the draws; sometimes a second one follows, half as strong."""
    seen: list[tuple[str, float]] = []

    def named(name: str) -> Flaw:
        def flaw(frames: Frames, strength: float, _: Generator) -> Frames:
            seen.append((name, strength))
            return frames

        return flaw

    fakes = [(named(flaw.__name__), share) for flaw, share in FLAWS]
    monkeypatch.setattr(degradation, "FLAWS", fakes)
    generator, draws = rng(), 2000
    for _ in range(draws):
        degrade([], 100, generator)

    firsts = [name for name, strength in seen if strength == 1.0]
    assert len(firsts) == draws
    for flaw, share in FLAWS:
        assert firsts.count(flaw.__name__) / draws == pytest.approx(share, abs=0.03)
    assert {strength for _, strength in seen} == {1.0, 0.5}
    assert (len(seen) - draws) / draws == pytest.approx(degradation.MIXED_SHARE, abs=0.04)


@pytest.mark.parametrize("flaw", [flaw for flaw, _ in FLAWS], ids=NAMES)
@pytest.mark.parametrize("size", [(97, 65), (17, 16)])
def test_odd_sizes_stay(flaw: Flaw, size: tuple[int, int]) -> None:
    """Frames of any size keep number, size, type and layout."""
    given = clip(*size)

    made = flaw(given, 1.0, rng())

    assert [frame.shape for frame in made] == [frame.shape for frame in given]
    assert all(frame.dtype == np.uint8 for frame in made)
    assert all(frame.flags.c_contiguous for frame in made)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_codecs_really_encode(codec: str) -> None:
    """A higher crf loses more, and the frames stay in order and near the truth."""
    given = clip(count=5)

    fine, coarse = (np.array(recode(given, codec, crf), float) for crf in (18, 40))
    errors = [np.abs(made - given).mean() for made in (fine, coarse)]

    assert 0 < errors[0] < 5
    assert errors[1] > 1.3 * errors[0]
    for number, frame in enumerate(fine):
        distances = [np.abs(frame - other).mean() for other in given]
        assert int(np.argmin(distances)) == number


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_codecs_keep_colours(codec: str) -> None:
    """The matrix and the range are the same for encoding and decoding."""
    plain = np.broadcast_to(np.array([200, 90, 30], np.uint8), (32, 48, 3))

    for frame in recode([plain.copy()] * 2, codec, 18):
        assert np.abs(frame.mean((0, 1)) - plain[0, 0]).max() < 4
