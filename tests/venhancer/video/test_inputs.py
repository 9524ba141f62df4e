"""Opening a file opens no other file, and no picture of any size."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.support.paths import CONTAINERS
from tests.support.video_parts import picture
from venhancer.errors import VideoError
from venhancer.options import InputLimits
from venhancer.video.clip import Reading
from venhancer.video.png import encode_png
from venhancer.video.probe import probe


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{}'\n",
        "\ufeff\n#EXTM3U\n{}\n",
        '<?xml version="1.0"?><MPD><BaseURL>{}</BaseURL></MPD>',
        "[playlist]\nFile1={}\n",
    ],
)
@pytest.mark.parametrize("name", ["list.mp4", "list.m3u8", "list.txt"])
def test_a_playlist_is_refused_whatever_its_name(tmp_path: Path, text: str, name: str) -> None:
    """The file that it names is not opened."""
    other = CONTAINERS / "restart.ts"
    (tmp_path / name).write_text(text.format(other), encoding="utf-8")

    with pytest.raises(VideoError, match=r"is a playlist, which names other files") as caught:
        probe(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "https://example.org/clip.mp4",
        "concat:a.ts|b.ts",
        "subfile,,start,0,end,9,,:a.ts",
        "data:video/mp4;base64,AAAA",
        "file:clip.mp4",
    ],
)
def test_an_address_is_refused(address: str) -> None:
    """One line says what to do."""
    with pytest.raises(
        VideoError, match=rf"^{re.escape(address)} is an address, not a file: download it"
    ):
        probe(Path(address))


def test_a_script_of_ffmpeg_is_refused(tmp_path: Path) -> None:
    """A format that is no video, such as subtitles, is named."""
    (tmp_path / "a.mp4").write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n", encoding="utf-8")

    with pytest.raises(VideoError, match=r"a\.mp4 cannot be read as video"):
        probe(tmp_path / "a.mp4")


def test_a_picture_above_the_limit_is_refused(tmp_path: Path) -> None:
    """The limit holds for pictures, for videos and inside a folder."""
    (tmp_path / "large.png").write_bytes(encode_png(picture(0, 300, 200)))
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "1.png").write_bytes(encode_png(picture(0, 300, 200)))
    reading = Reading(limits=InputLimits(pixels=6000))

    for path in (tmp_path / "large.png", tmp_path / "frames", CONTAINERS / "hdr10.mp4"):
        with pytest.raises(VideoError, match=r"the limit is 6000|be decoded|not an image"):
            probe(path, reading)
    assert probe(CONTAINERS / "hdr10.mp4", Reading(limits=InputLimits(pixels=20_000))).frames == 12


def test_more_frames_than_the_limit_are_refused() -> None:
    """The probe stops there; as many as the limit are taken."""
    for frames, is_refused in ((11, True), (12, False)):
        reading = Reading(limits=InputLimits(frames=frames))
        if is_refused:
            with pytest.raises(VideoError, match="more than 11 frames"):
                probe(CONTAINERS / "hdr10.mp4", reading)
        else:
            assert probe(CONTAINERS / "hdr10.mp4", reading).frames == 12


def test_the_kind_of_a_picture_is_read_from_its_bytes(tmp_path: Path) -> None:
    """A PNG named .jpg is read, an animated PNG has all its frames, an animated WebP is named."""
    (tmp_path / "a.jpg").write_bytes(encode_png(picture()))

    assert probe(tmp_path / "a.jpg").codec == "png"
    assert (probe(CONTAINERS / "apng.png").frames, probe(CONTAINERS / "apng.png").fps) == (10, 10)
    with pytest.raises(VideoError, match="animated WebP"):
        probe(CONTAINERS / "anim.webp")


def test_a_name_with_a_pattern_is_a_name(tmp_path: Path) -> None:
    """FFmpeg's patterns for image sequences are not used."""
    for name in ("a%03d.png", "a*.png", "[a].png", "a:b.png"):
        (tmp_path / name).write_bytes(encode_png(picture()))
        assert np.array_equal([probe(tmp_path / name).frames], [1])
