"""A sound card in its domain and applications on their server, as the sound shadow sees them."""

from collections import deque
from dataclasses import dataclass, field

from nooks.xpc import audio

FRAME_BYTES = 4


def frame(number: int) -> bytes:
    """The frame that an application plays as its ``number``-th (from 1): silence is number 0."""
    return number.to_bytes(FRAME_BYTES, "little")


def numbers(samples: bytes) -> list[int]:
    """Which frames these are."""
    return [int.from_bytes(samples[at : at + FRAME_BYTES], "little") for at in range(0, len(samples), FRAME_BYTES)]


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


@dataclass
class Applications:
    """Plays numbered frames when ``ready`` are there; remembers what it recorded while it ``listens``."""

    played: int = 0
    ready: int = 0
    listens: bool = False
    takes: bool = True
    recorded: bytes = b""

    def take(self, space: memoryview, frames: int) -> int:
        count = min(frames, self.ready)
        for number in range(count):
            self.played += 1
            space[number * FRAME_BYTES : (number + 1) * FRAME_BYTES] = frame(self.played)
        self.ready -= count
        return count

    def deliver(self, samples: bytes) -> bool:
        if self.takes:
            self.recorded += samples
        return self.takes

    @property
    def listening(self) -> bool:
        return self.listens


@dataclass
class Card:
    """Plays what it is given, frame by frame as time goes by; tells its position at each period.

    ``heard`` is what came out of it, with the times. Reports wait in ``said`` until somebody reads them.
    """

    rate: int
    period: int
    heard: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    said: deque[audio.Packet] = field(default_factory=deque[audio.Packet])
    frames: list[int] = field(default_factory=list[int])
    played: int = 0
    told: int = 0
    asked: int = 0
    tag: int = 0
    running: bool = False
    recording: int | None = None
    recorded: int = 0
    underruns: int = 0
    dead: bool = True
    deaf: bool = False
    uninterrupted: bool = False
    miscounts: bool = False
    """Its driver counts its interrupts: asked, it knows no more than how far the card is within a period.

    That it goes back is taken for once round the buffer, and stops it (sound/core/pcm_lib.c).
    """
    stops: bool = False
    """The first question stops it."""
    _due: float = 0.0

    def send(self, head: bytes, samples: bytes | memoryview = b"") -> None:
        """The port's other end: every packet is taken at once."""
        if self.dead or self.deaf:
            return
        (packet,) = audio.Decoder().feed(head + bytes(samples))
        if packet.kind == audio.FLUSH:
            self.tag, self.frames, self.played, self.running = packet.tag, [], 0, False
            self.report()
        elif packet.kind == audio.ASK:
            self.answer()
        elif packet.kind == audio.RECORD:
            self.recording = packet.tag if packet.flags & audio.GO else None
            self.recorded = 0
        elif packet.tag == self.tag:
            assert packet.position == len(self.frames), "a hole in the stream"
            self.frames += numbers(bytes(packet.samples))
            if packet.flags & audio.GO and not self.running and self.played < len(self.frames):
                self.running, self._due = True, 0.0
                self.report()

    def answer(self) -> None:
        known, self.asked = self.asked, self.played
        if self.miscounts:
            self.asked = self.told + (self.played - self.told) % self.period
        if self.stops or self.asked < known:
            self.running, self.asked = False, known
            self._say(known, audio.ASKED | audio.STOPPED)
        else:
            self._say(self.asked, audio.ASKED)

    def report(self) -> None:
        if not self.uninterrupted:
            self.told = self.asked = self.played
            self._say(self.played)

    def _say(self, position: int, flags: int = 0) -> None:
        flags |= audio.RUNNING if self.running else 0
        left = len(self.frames) - position
        self.said.append(audio.Packet(audio.PLAYED, self.tag, position, flags, left, self.underruns))

    def pass_time(self, until: float, seconds: float) -> None:
        """Let ``seconds`` pass, up to ``until``."""
        if self.dead:
            return
        self._due += seconds * self.rate
        due, self._due = int(self._due), self._due - int(self._due)
        for number in range(due):
            when = until - (due - number - 1) / self.rate
            if self.recording is not None:
                self.recorded += 1
            if not self.running:
                continue
            if self.played == len(self.frames):
                self.running = False
                self.underruns += 1
                self.report()
                continue
            self.heard.append((when, self.frames[self.played]))
            self.played += 1
            if self.played % self.period == 0:
                self.report()

    def die(self) -> None:
        """Nothing of it is left, not even what it had said and nobody has read."""
        self.dead, self.deaf, self.uninterrupted, self.miscounts, self.stops = True, False, False, False, False
        self.running, self.recording = False, None
        self.said.clear()

    def live(self) -> None:
        """Another one, which knows nothing."""
        self.dead, self.tag, self.frames, self.played = False, 0, [], 0
