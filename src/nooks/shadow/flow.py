"""Frames between applications and a driver: asks the policies what is to happen, and has the ports do it.

Never blocks and knows neither servers nor domains. Whoever has the descriptors calls ``pump`` when applications have
something, ``heard`` when the card said something, and ``tick`` after ``tick_seconds``.
"""

import random
from collections.abc import Callable, Iterator
from typing import Protocol

from nooks.host.clock import Clock
from nooks.shadow.capture import Capture
from nooks.shadow.playback import Piece, Playback
from nooks.shadow.whereabouts import Still
from nooks.xpc import audio
from nooks.xpc.errors import ProtocolError

TICK_SECONDS = 0.02
QUESTIONING_SECONDS = 0.001, 0.01
"""From one question to the next, at random: a driver may know only how far its card is within a period, and never go
back in what it says, so that in step with the periods a card that moves looks as one that stands still."""
UNREAD_SECONDS = 2.0
"""A recorder that takes nothing for so long has gone."""


class CardPort(Protocol):
    """The driver's end of the samples; what is sent while there is no driver goes nowhere."""

    def send(self, head: bytes, samples: bytes | memoryview = b"") -> None:
        """Send one packet (nooks.xpc.audio)."""
        ...


class SoundPort(Protocol):
    """The applications' end."""

    def take(self, space: memoryview, frames: int) -> int:
        """Put up to ``frames`` that applications play into ``space``, as the card wants them; how many there were."""
        ...

    def deliver(self, samples: bytes) -> bool:
        """Hand on what was recorded; False if nobody takes it any more."""
        ...

    @property
    def listening(self) -> bool:
        """Whether somebody takes what is recorded."""
        ...


class Flow:
    """One card's streams; either may be missing. ``changed`` is called when the driver came or went."""

    def __init__(
        self, playback: Playback | None, capture: Capture | None, card: CardPort, sound: SoundPort, clock: Clock
    ) -> None:
        self.playback = playback
        self.capture = capture
        self.changed: Callable[[], None] = lambda: None
        self._card = card
        self._sound = sound
        self._clock = clock
        self._tag = 0
        self._taken_at = 0.0
        self._delivered_at = 0.0

    @property
    def open(self) -> bool:
        """Whether applications may play now, else their clock stands still."""
        return self.playback is not None and self.playback.room(self._clock.monotonic()) > 0

    @property
    def busy(self) -> bool:
        """Whether time alone may bring something about."""
        playing = self.playback is not None and self.playback.busy
        return playing or (self.capture is not None and self.capture.wanted)

    @property
    def tick_seconds(self) -> float:
        """When to look next."""
        asking = self.playback is not None and self.playback.questioned
        return random.uniform(*QUESTIONING_SECONDS) if asking else TICK_SECONDS

    # -- the driver's life -------------------------------------------------------------------------------------

    def begin(self, incarnation: int) -> None:
        """A driver serves, whose settings are as recorded."""
        now = self._clock.monotonic()
        if self.playback is not None:
            tag = self.playback.begin(incarnation, now)
            self._tag = self.playback.tag
            self._card.send(audio.header(audio.ASK if tag is None else audio.FLUSH, self._tag))
        if self.capture is not None:
            tag = self.capture.begin()
            if tag is not None:
                self._card.send(audio.header(audio.RECORD, tag, flags=audio.GO))
        self.pump()
        self.changed()

    def fail(self, *, still: Still = Still.NOTHING, stopped_at: float | None = None) -> None:
        """The driver is gone; ``still``, ``stopped_at``: see Playback."""
        if self.playback is not None:
            self._taken_at = self._clock.monotonic()  # until now nobody may have been asked
            self.playback.fail(self._taken_at, still=still, stopped_at=stopped_at)
        if self.capture is not None:
            self.capture.fail()
        self.changed()

    def ended(self) -> None:
        """The domain of the driver that failed can reach nothing any more."""
        if self.playback is not None:
            self.playback.ended(self._clock.monotonic())

    def give_up(self) -> None:
        """The driver will not come back by itself."""
        self.fail()
        if self.playback is not None:
            self.playback.give_up(self._clock.monotonic())
        self.changed()

    # -- frames ------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Take what may be taken, give the driver what it may have."""
        playback = self.playback
        if playback is None:
            return
        now = self._clock.monotonic()
        while room := playback.room(now):
            space = playback.space(room)
            taken = self._sound.take(space, len(space) // playback.frame_bytes)
            if not taken:
                playback.starved = True
                break
            self._taken_at = now
            playback.took(taken)
            self._play(playback.pieces())
        self._play(playback.pieces())

    def heard(self, packet: audio.Packet) -> None:
        """The card says something. Raises ProtocolError if it can't be."""
        now = self._clock.monotonic()
        if packet.kind == audio.PLAYED and self.playback is not None:
            self.playback.report(packet.tag, packet.position, packet.first, now, packet.flags)
            self.pump()
        elif packet.kind == audio.RECORDED and self.capture is not None:
            recorded = self.capture.recorded(
                packet.tag, packet.position, bytes(packet.samples), since=packet.first, overruns=packet.second, now=now
            )
            for samples in recorded:
                self._deliver(samples, now)
        else:
            raise ProtocolError(f"a card sends a packet of kind {packet.kind}")

    def tick(self) -> None:
        """What time alone brings about."""
        now = self._clock.monotonic()
        if self.playback is not None:
            self.pump()
            if self.playback.overdue(now):
                self._card.send(audio.header(audio.ASK, self._tag))
            piece = self.playback.dry(now, now - self._taken_at)
            if piece is not None:
                self._play(iter([piece]))
        if self.capture is not None:
            self._look_who_records(self.capture, now)
            silence = self.capture.due(now)
            if silence:
                self._deliver(silence, now)

    def _look_who_records(self, capture: Capture, now: float) -> None:
        if not capture.wanted and self._sound.listening:
            self._delivered_at = now
            tag = capture.want(now)
            if tag is not None:
                self._card.send(audio.header(audio.RECORD, tag, flags=audio.GO))
        elif capture.wanted and now - self._delivered_at > UNREAD_SECONDS:
            self._card.send(audio.header(audio.RECORD, capture.leave()))

    def _deliver(self, samples: bytes, now: float) -> None:
        if self._sound.deliver(samples):
            self._delivered_at = now

    def _play(self, pieces: Iterator[Piece]) -> None:
        for piece in pieces:
            flags = audio.GO if piece.go else 0
            head = audio.header(audio.PLAY, self._tag, piece.index, flags=flags, length=len(piece.samples))
            self._card.send(head, piece.samples)
