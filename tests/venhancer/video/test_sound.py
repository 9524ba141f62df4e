"""Sound that is encoded again keeps its samples, its channels and its place in time."""

from fractions import Fraction

import av
import numpy as np
import pytest

from tests.support.track_parts import CONTAINERS, carry, heard, sound_clip, sounds
from tests.support.video_parts import SIZE, picture


def test_windows_media_sound_is_complete_and_in_sync_in_mp4(tmp_path):
    """Every sample that the decoder gives is there, within an AAC frame of its time."""
    source, target = CONTAINERS / "wma.wmv", tmp_path / "out.mp4"

    carry(source, target)

    with av.open(str(source)) as container:
        frames = list(container.decode(audio=0))
    start = frames[0].pts * frames[0].time_base
    found, samples, rate, layout = heard(target)
    assert (rate, layout) == (44100, "mono")
    assert samples >= sum(frame.samples for frame in frames)
    assert abs(found - start) <= Fraction(1024, 44100) + Fraction(1, 1000)


@pytest.mark.parametrize(
    ("codec", "suffix", "options", "expected"),
    [
        ("adpcm_ms", ".avi", {"rate": 44100}, (44100, "stereo")),
        ("flac", ".mkv", {"layout": "5.1"}, (48000, "5.1")),
        ("pcm_s16le", ".mkv", {"rate": 192000, "blocks": 190}, (96000, "stereo")),
        ("pcm_s16le", ".mkv", {"rate": 37800, "blocks": 36}, (44100, "stereo")),
    ],
)
def test_re_encoded_sound_keeps_length_rate_and_channels(
    tmp_path, codec, suffix, options, expected
):
    """The nearest rate is taken where AAC has not the same one; no sample is lost."""
    source = sound_clip(tmp_path / f"in{suffix}", codec, **options)
    _, samples, rate, _ = heard(source)

    carry(source, tmp_path / "out.mp4", "aac")

    found, encoded, *shape = heard(tmp_path / "out.mp4")
    assert sounds(tmp_path / "out.mp4")[0][0] == "aac"
    assert tuple(shape) == expected
    assert found == 0
    assert 0 <= encoded / expected[0] - samples / rate < 2 * 1024 / expected[0]


@pytest.mark.parametrize("gap", [Fraction(0), Fraction(1, 2)])
def test_re_encoded_sound_is_in_sync_after_a_gap(tmp_path, gap):
    """A click stays at its time, also where sound is missing before it."""
    source = tmp_path / "in.mkv"
    with av.open(str(source), "w") as out:
        video = out.add_stream("libx264", rate=24, **SIZE)
        track = out.add_stream("pcm_s16le", rate=16000, layout="mono")
        out.start_encoding()
        for _ in range(48):
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture(), format="rgb24")))
        out.mux(video.encode())
        for n in range(20):
            data = np.zeros((1, 800), np.int16)
            data[:, :80] = 20000 if n == 15 else 0
            frame = av.AudioFrame.from_ndarray(data, format="s16", layout="mono")
            frame.sample_rate, frame.time_base = 16000, Fraction(1, 16000)
            frame.pts = n * 800 + (int(gap * 16000) if n >= 10 else 0)
            out.mux(track.encode(frame))

    carry(source, tmp_path / "out.mp4", "aac")

    with av.open(str(tmp_path / "out.mp4")) as container:
        loudest = max(container.decode(audio=0), key=lambda f: float(np.abs(f.to_ndarray()).max()))
    place = int(np.abs(loudest.to_ndarray()).argmax())
    found = loudest.pts * loudest.time_base + Fraction(place, 16000)
    assert abs(found - (Fraction(15 * 800, 16000) + gap)) <= Fraction(1024, 16000)
