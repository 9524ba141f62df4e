"""Jumps of a clock are mended with one shift for all streams; the rest stays as it is."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.paths import CONTAINERS
from venhancer.video.probe import probe
from venhancer.video.stamps import Clocks

VIDEO, AUDIO = 0, 1
TICK = Fraction(1, 1000)


@dataclass
class FakePacket:
    """Packet with the attributes that the repair reads."""

    stream_index: int
    dts: int | None
    duration: int
    size: int = 1
    time_base: Fraction = TICK

    def __post_init__(self) -> None:
        self.pts = self.dts
        self.stream = SimpleNamespace(index=self.stream_index)


def repaired(packets: list[FakePacket], name: str = "mpegts") -> list[tuple[int, int]]:
    """Repair packets and list (stream, stamp), in the order in which they come out."""
    container: Any = SimpleNamespace(
        format=SimpleNamespace(name=name),
        streams=[SimpleNamespace(index=index) for index in (VIDEO, AUDIO)],
    )
    clocks = Clocks(container, container.streams[VIDEO])
    made: Iterator[Any] = clocks.repaired(iter(packets))  # type: ignore[arg-type]
    return [(packet.stream_index, packet.pts) for packet in made]


def interleaved(start: int, count: int, audio_start: int | None = None) -> list[FakePacket]:
    """Make `count` frames of 40 ms and twice as many packets of sound of 20 ms."""
    sound = start if audio_start is None else audio_start
    packets = []
    for k in range(count):
        packets.append(FakePacket(VIDEO, start + 40 * k, 40))
        packets += [FakePacket(AUDIO, sound + 40 * k + 20 * n, 20) for n in (0, 1)]
    return packets


def stamps(found: list[tuple[int, int]], stream: int) -> list[int]:
    return [stamp for index, stamp in found if index == stream]


@pytest.mark.parametrize("start", [0, 200, -5000, 3_000_000])
def test_a_second_part_follows_the_first(start: int) -> None:
    """For restarts, overlaps and jumps either way, video and sound go on in step."""
    found = repaired([*interleaved(0, 10), *interleaved(start, 10)])

    assert stamps(found, VIDEO) == list(range(0, 800, 40))
    assert stamps(found, AUDIO) == list(range(0, 800, 20))


def test_sound_keeps_its_distance_from_the_video() -> None:
    """In the second part the sound begins 7 ms late, and still does after the repair."""
    found = repaired([*interleaved(1000, 10), *interleaved(0, 10, audio_start=7)])

    assert stamps(found, AUDIO)[20:] == [1407 + 20 * k for k in range(20)]


def test_sound_that_jumps_before_the_video_waits_for_it() -> None:
    """Its packets take the video's shift, wherever they lie in the file."""
    first, second = interleaved(0, 10), interleaved(0, 10)
    early = [packet for packet in second if packet.stream_index == AUDIO][:6]
    rest = [packet for packet in second if packet not in early]

    found = repaired([*first, *early, *rest])

    assert stamps(found, AUDIO) == list(range(0, 800, 20))


def test_one_early_packet_is_no_jump() -> None:
    """Its stamp is left to whoever writes it, and later packets are not shifted."""
    packets = interleaved(0, 10)
    sound = [packet for packet in packets if packet.stream_index == AUDIO]
    sound[9].dts = sound[9].pts = 120

    found = repaired(packets)

    assert stamps(found, AUDIO) == [*range(0, 180, 20), 120, *range(200, 400, 20)]
    assert stamps(found, VIDEO) == list(range(0, 400, 40))


def test_a_jump_of_the_sound_alone_is_mended_alone() -> None:
    """If the video never jumps, only the sound follows on from where it was."""
    packets = interleaved(0, 10)
    for packet in packets[15:]:
        if packet.stream_index == AUDIO:
            packet.dts = packet.pts = (packet.dts or 0) - 150

    found = repaired(packets)

    assert stamps(found, VIDEO) == list(range(0, 400, 40))
    assert sorted(stamps(found, AUDIO)) == list(range(0, 400, 20))


@pytest.mark.parametrize("name", ["matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "asf"])
def test_a_long_still_is_genuine(name: str) -> None:
    """A gap of a minute stays, where the format has one time line."""
    found = repaired([*interleaved(0, 3), *interleaved(60_000, 3)], name)

    assert stamps(found, VIDEO) == [0, 40, 80, 60_000, 60_040, 60_080]


def test_packets_without_a_duration_are_as_long_as_their_distance() -> None:
    """The second part begins one frame after the last, as if the durations were stored."""
    packets = [*interleaved(0, 10), *interleaved(0, 10)]
    for packet in packets:
        packet.duration = 0

    assert stamps(repaired(packets), VIDEO) == list(range(0, 800, 40))


def test_frames_that_are_reordered_begin_without_a_decoding_time() -> None:
    """Such packets are no jump: their stamps are those of showing."""
    packets = interleaved(0, 10)
    for packet, shown in zip(packets[:6:3], (120, 200), strict=True):
        packet.dts, packet.pts = None, shown

    assert stamps(repaired(packets, "nut"), VIDEO) == [120, 200, *range(80, 400, 40)]


@pytest.mark.parametrize("name", ["restart.ts", "forward.ts"])
def test_recordings_whose_clock_jumps(name: str) -> None:
    """Both parts are there, at a steady rate, and the jump is told."""
    clip = probe(CONTAINERS / name)

    assert (clip.frames, clip.fps, clip.duration) == (48, 24, 2)
    assert "clock of the input jumps once" in clip.notes[0]
