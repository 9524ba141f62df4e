"""Scene cuts are found to the frame; motion, flashes, fades and noise are not mistaken for cuts."""

import numpy as np
import pytest
from PIL import Image

from tests.support.video_parts import constant, write
from venhancer.video.probe import probe
from venhancer.video.scene_cuts import find_cuts

WIDTH, HEIGHT = 96, 64


def shot(seed, count, speed=0):
    """Make soft coloured blotches; the camera pans `speed` pixels a frame."""
    rng = np.random.default_rng(seed)
    blotches = Image.fromarray(rng.integers(0, 256, (6, 60, 3), np.uint8))
    wide = np.asarray(blotches.resize((60 * 12, HEIGHT), Image.Resampling.BICUBIC))
    return [wide[:, speed * n : speed * n + WIDTH] for n in range(count)]


def cuts_of(path, frames):
    return write(path, [np.ascontiguousarray(f) for f in frames]).cuts


def test_cuts_are_found_to_the_frame(tmp_path):
    """Three scenes, still or moving, of at least four frames are separated."""
    frames = shot(1, 9) + shot(2, 4, speed=2) + shot(3, 12, speed=3)

    assert cuts_of(tmp_path / "clip.mp4", frames) == (9, 13)


@pytest.mark.parametrize("speed", [0, 3, 8, 20])
def test_a_pan_is_no_cut(tmp_path, speed):
    """A camera at any speed, alone or after standing still, gives no cut."""
    frames = shot(1, 8) + shot(1, 25, speed)

    assert cuts_of(tmp_path / "clip.mp4", frames) == ()


@pytest.mark.parametrize("repeats", [2, 3])
def test_repeated_frames_are_no_cuts(tmp_path, repeats):
    """Animation on twos and threes moves in steps; a cut among them is still found."""
    frames = [f for f in shot(1, 8, 6) + shot(2, 8, 6) for _ in range(repeats)]

    assert cuts_of(tmp_path / "clip.mp4", frames) == (8 * repeats,)


@pytest.mark.parametrize("length", [1, 2])
def test_a_flash_is_no_cut(tmp_path, length):
    """White or another picture for one or two frames is ignored; the cut after it is found."""
    for name, flash in (("white", constant((255,) * 3, WIDTH, HEIGHT)), ("other", shot(5, 1)[0])):
        frames = shot(1, 9, 1) + [flash] * length + shot(1, 9, 1) + shot(2, 9)

        assert cuts_of(tmp_path / f"{name}.mp4", frames) == (18 + length,)


def test_a_dissolve_is_no_cut(tmp_path):
    """Two scenes that blend within half a second count as one."""
    weights = np.clip((np.arange(36) - 12) / 12, 0, 1)
    pairs = zip(shot(1, 36), shot(2, 36), weights, strict=True)

    assert (
        cuts_of(tmp_path / "clip.mp4", [np.uint8(a * (1 - w) + b * w) for a, b, w in pairs]) == ()
    )


def test_flicker_is_no_cut(tmp_path):
    """Light that changes by a third from frame to frame hides no cut and makes none."""
    light = np.random.default_rng(0).uniform(0.6, 1, 24)
    frames = [np.uint8(f * g) for f, g in zip(shot(1, 12) + shot(2, 12), light, strict=True)]

    assert cuts_of(tmp_path / "clip.mp4", frames) == (12,)


@pytest.mark.parametrize("noise", [0, 4])
def test_dark_scenes_are_told_apart(tmp_path, noise):
    """Cuts are found at a tenth of the light, with and without noise."""
    rng = np.random.default_rng(0)
    frames = [
        np.uint8(np.clip(f * 0.1 + noise * rng.standard_normal(f.shape), 0, 255))
        for f in shot(1, 12) + shot(2, 12)
    ]

    assert cuts_of(tmp_path / "clip.mp4", frames) == (12,)


def test_noise_alone_is_no_cut(tmp_path):
    """Strong grain on a flat wall gives no cut."""
    rng = np.random.default_rng(0)
    frames = [np.uint8(np.clip(rng.normal(90, 25, (64, 96, 3)), 0, 255)) for _ in range(20)]

    assert cuts_of(tmp_path / "clip.mp4", frames) == ()


def test_colour_alone_can_be_a_cut(tmp_path):
    """Two plain cards of equal lightness are separated."""
    frames = [constant((220, 60, 60), WIDTH, HEIGHT)] * 6
    frames += [constant((40, 120, 200), WIDTH, HEIGHT)] * 6

    assert cuts_of(tmp_path / "clip.mp4", frames) == (6,)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_clip_of_a_few_frames_has_no_cut(tmp_path, count):
    """With up to three different pictures, scenes cannot be told from single frames."""
    frames = [shot(seed, 1)[0] for seed in range(count)]

    assert cuts_of(tmp_path / "clip.mp4", frames) == ()


def test_a_single_frame_left_at_an_end_is_a_scene(tmp_path):
    """A frame of a neighbouring scene, left by careless trimming, is cut off at both ends."""
    frames = shot(1, 1) + shot(2, 10, 1) + shot(3, 1)

    assert cuts_of(tmp_path / "clip.mp4", frames) == (1, 11)


@pytest.mark.parametrize("size", [(2, 2), (17, 9), (1600, 40)])
def test_any_size_will_do(tmp_path, size):
    """Frames may be smaller than the compared picture, odd, or very wide."""
    first = np.zeros((size[1], size[0], 3), np.uint8)
    first[:, : size[0] // 2] = 255

    assert cuts_of(tmp_path / "clip.mp4", [first] * 5 + [first[:, ::-1]] * 5) == (5,)


def test_a_folder_of_pictures_has_cuts_too(tmp_path):
    """PNG files are compared like the frames of a file."""
    for n, frame in enumerate(shot(1, 5, 1) + shot(2, 5, 1)):
        Image.fromarray(frame).save(tmp_path / f"{n:03}.png")

    assert probe(tmp_path).cuts == (5,)


def test_scores_alone_decide():
    """A frame far from all before it is a cut, unless its neighbours are half as far."""
    still, moving = np.full((12, 5), 0.02, np.float32), np.full((12, 5), 0.3, np.float32)
    for distances in (still, moving):
        for later in range(3):
            distances[6 + later, later : later + 3] = 0.5

    assert find_cuts(still) == (6,)
    assert find_cuts(moving) == ()
    assert find_cuts(np.zeros((0, 5), np.float32)) == ()
