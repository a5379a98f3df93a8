"""The sound agent between port and card: what is reported when, and nothing that is lost but what says so."""

import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from nooks.agent import pcm
from nooks.agent.streams import Playing, Port, Recording
from nooks.xpc import audio

FRAME_BYTES = 4
PERIOD = 40


class FakeStream:
    """A card that plays when it is told to."""

    def __init__(self, descriptor: int = -1) -> None:
        self.descriptor = descriptor
        self.parameters = type("Parameters", (), {"frame_bytes": FRAME_BYTES, "period": PERIOD})()
        self.frames = 0
        self.started = 0
        self.dry = False
        self.dry_when_asked = False
        self.unheard_of: int | None = None
        """What waits in truth, if no interrupt told of it."""
        self.recorded: list[bytes] = []

    def prepare(self) -> None:
        self.frames = 0
        self.dry = False

    def start(self) -> None:
        self.started += 1

    def write(self, samples: bytes) -> int:
        if self.dry:
            raise BrokenPipeError
        self.frames += len(samples) // FRAME_BYTES
        return len(samples)

    def read(self, size_bytes: int) -> bytes:
        if self.dry:
            raise BrokenPipeError
        return self.recorded.pop(0) if self.recorded else b""

    def waiting(self, *, ask: bool = False) -> int:
        if self.dry or (ask and self.dry_when_asked):
            raise BrokenPipeError
        return self.unheard_of if ask and self.unheard_of is not None else self.frames


class Wire:
    """A pair of pipes in place of the virtio port: the agent's end, and the host's view."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.poller = select.epoll()
        self.port = Port(str(path), self.poller)
        self.decoder = audio.Decoder()

    def said(self) -> list[audio.Packet]:
        """What the agent has sent (a FIFO that is open for both ways gives it back)."""
        try:
            data = os.read(self.port.descriptor, 1 << 20)
        except BlockingIOError:
            return []
        return list(self.decoder.feed(data))

    def pump(self) -> None:
        """Tell the port what it can do now."""
        for _, events in self.poller.poll(0):
            list(self.port.ready(events & ~select.EPOLLIN))


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    made = Wire(tmp_path / "port")
    yield made
    os.close(made.port.descriptor)
    made.poller.close()


def playing(wire: Wire, stream: FakeStream, interrupts: Callable[[], object] = object) -> Playing:
    made = Playing(cast("pcm.Stream", stream), wire.port, interrupts)
    made.take(audio.Packet(audio.FLUSH, 5))
    assert [(p.kind, p.tag, p.position) for p in wire.said()] == [(audio.PLAYED, 5, 0)]
    return made


def playing_on(wire: Wire) -> tuple[FakeStream, Playing]:
    """A card that has begun to play 200 frames."""
    stream = FakeStream()
    player = playing(wire, stream)
    player.take(play(200, go=True))
    wire.said()
    return stream, player


def play(frames: int, *, tag: int = 5, go: bool = False) -> audio.Packet:
    return audio.Packet(audio.PLAY, tag, flags=audio.GO if go else 0, samples=bytes(frames * FRAME_BYTES))


def test_a_position_is_reported_at_the_cards_interrupt(wire: Wire) -> None:
    stream = FakeStream()
    player = playing(wire, stream)
    player.take(play(100))
    player.interrupted()
    assert (stream.started, wire.said()) == (0, [])
    player.take(play(100, go=True))
    stream.frames = 150
    player.interrupted()
    player.interrupted()
    told = [(p.position, p.first, p.flags) for p in wire.said()]
    assert (stream.started, told) == (1, [(0, 200, audio.RUNNING), (50, 150, audio.RUNNING)])


def test_who_asks_gets_what_no_interrupt_told_and_the_next_interrupt_tells_all_the_same(wire: Wire) -> None:
    stream, player = playing_on(wire)
    stream.unheard_of = 120
    player.take(audio.Packet(audio.ASK, 5))
    stream.frames = 110
    player.interrupted()
    told = [(p.position, p.first, p.flags) for p in wire.said()]
    assert told == [(80, 120, audio.RUNNING | audio.ASKED), (90, 110, audio.RUNNING)]


def test_what_wakes_without_an_interrupt_does_not_count_as_one(wire: Wire) -> None:
    counted = [7]
    stream = FakeStream()
    player = playing(wire, stream, lambda: counted[0])
    player.take(play(200, go=True))
    for frames in (150, 100, 50):
        stream.frames = frames
        player.interrupted()
        counted[0] += frames == 100
    flags = [p.flags for p in wire.said()]
    assert flags == [audio.RUNNING, audio.RUNNING, audio.RUNNING | audio.ASKED, audio.RUNNING]


def test_a_card_that_ran_dry_without_a_word_says_so_when_it_is_asked_but_not_where(wire: Wire) -> None:
    stream, player = playing_on(wire)
    stream.dry_when_asked = True
    player.take(audio.Packet(audio.ASK, 5))
    stream.dry = True
    player.interrupted()
    assert [(p.position, p.first, p.flags) for p in wire.said()] == [(0, 200, audio.ASKED | audio.STOPPED)]


def test_a_card_that_ran_dry_and_interrupted_tells_where_though_it_was_asked(wire: Wire) -> None:
    stream, player = playing_on(wire)
    stream.dry = True
    player.take(audio.Packet(audio.ASK, 5))
    player.interrupted()
    assert [(p.position, p.first, p.second, p.flags) for p in wire.said()] == [(200, 0, 1, 0)]


def test_writing_to_a_card_that_knows_its_position_to_the_frame_is_no_interrupt(wire: Wire) -> None:
    """Else each report brings a few frames, and each of those another report."""
    stream = FakeStream()
    player = playing(wire, stream)
    player.take(play(200, go=True))
    assert len(wire.said()) == 1
    for _ in range(20):
        stream.frames -= 1
        player.take(play(1))
        player.interrupted()
    assert [(p.position, p.first) for p in wire.said()] == [(PERIOD // 4, 200), (PERIOD // 2, 200)]


def test_a_card_that_ran_dry_has_played_all(wire: Wire) -> None:
    stream = FakeStream()
    player = playing(wire, stream)
    player.take(play(100, go=True))
    stream.dry = True
    player.interrupted()
    assert [(p.position, p.flags, p.second) for p in wire.said()] == [(0, audio.RUNNING, 0), (100, 0, 1)]
    player.take(play(50, go=True))
    assert [(p.position, p.flags) for p in wire.said()] == [(100, audio.RUNNING)]


def test_frames_that_arrive_too_late_are_played_after_a_new_start(wire: Wire) -> None:
    stream = FakeStream()
    player = playing(wire, stream)
    player.take(play(100, go=True))
    stream.dry = True
    player.take(play(60))
    assert stream.frames == 60
    player.take(play(60, go=True))
    assert stream.started == 2
    assert wire.said()[-1].position == 100


def test_samples_of_an_earlier_life_are_not_played(wire: Wire) -> None:
    stream = FakeStream()
    player = playing(wire, stream)
    player.take(play(10, tag=4, go=True))
    assert (stream.frames, stream.started, wire.said()) == (0, 0, [])


def test_the_last_position_waits_for_a_host_that_takes_nothing(wire: Wire) -> None:
    stream = FakeStream()
    player = playing(wire, stream)
    filler = bytes(4096)
    filled = 0
    try:
        while True:
            filled += os.write(wire.port.descriptor, filler)
    except BlockingIOError:
        pass
    player.take(play(100, go=True))
    for left in (90, 80, 70):
        stream.frames = left
        player.interrupted()
    assert len(os.read(wire.port.descriptor, filled)) == filled
    wire.pump()
    assert [(p.position, p.first) for p in wire.said()] == [(30, 70)]


def test_recorded_samples_are_numbered(wire: Wire) -> None:
    stream = FakeStream()
    recorder = Recording(cast("pcm.Stream", stream), wire.port)
    stream.recorded = [bytes(400)]
    recorder.interrupted()
    assert wire.said() == []
    recorder.take(audio.Packet(audio.RECORD, 3, flags=audio.GO))
    recorder.interrupted()
    stream.recorded = [bytes(40)]
    recorder.interrupted()
    stream.recorded = [bytes(4)]
    recorder.interrupted()
    told: list[tuple[Any, ...]] = [(p.kind, p.tag, p.position, len(p.samples)) for p in wire.said()]
    assert told == [(audio.RECORDED, 3, 0, 400), (audio.RECORDED, 3, 100, 40), (audio.RECORDED, 3, 110, 4)]


def test_a_card_that_records_meanwhile_is_asked_again_at_its_next_interrupt(wire: Wire) -> None:
    """One that knows its position to the frame has always a few more."""
    stream = FakeStream()
    recorder = Recording(cast("pcm.Stream", stream), wire.port)
    recorder.take(audio.Packet(audio.RECORD, 3, flags=audio.GO))
    most = audio.MAX_SAMPLES_BYTES // FRAME_BYTES * FRAME_BYTES
    stream.recorded = [bytes(most), *[bytes(8)] * 100]
    recorder.interrupted()
    assert len(stream.recorded) == 99


def test_an_overrun_is_counted_and_recording_goes_on(wire: Wire) -> None:
    stream = FakeStream()
    recorder = Recording(cast("pcm.Stream", stream), wire.port)
    recorder.take(audio.Packet(audio.RECORD, 3, flags=audio.GO))
    stream.dry = True
    recorder.interrupted()
    assert (recorder.xruns, stream.started, stream.dry) == (1, 2, False)
