"""What a sound shadow does with frames that a card records: passes them on, and fills what is missing with silence.

A recorder's clock goes on while the driver is away: it gets silence as time goes by, and what the next driver records
first is joined to it where its time is. So a gap is as long as it lasted.

Pure policy: times are the caller's, in seconds; lengths are in frames.
"""

from collections import deque
from collections.abc import Iterator

from nooks.xpc.errors import ProtocolError

CLOCK_PACKETS = 32
"""The earliest of so many packets tells the card's clock: one is never too early, but often late."""

PATIENCE_SECONDS = 0.1
"""So much later than due a packet is missed; what comes of it then is too late, and silence has its place."""

LONGEST_SILENCE_SECONDS = 1.0
"""More than this is never due at once: a supervisor that slept is no reason to send a minute of silence."""


class _Clock:
    """A card's clock in one life of its stream, by packets that arrive late rather than early."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._recent: deque[float] = deque(maxlen=CLOCK_PACKETS)
        self._packets = 0
        self._excess = 0.0

    def heard(self, position: int, now: float) -> None:
        """The frame at ``position`` was recorded just before ``now``."""
        before = min(self._recent, default=None)
        self._recent.append(now - position / self._rate)
        self._packets += 1
        if before is not None and self._packets <= CLOCK_PACKETS:
            self._excess += max(0.0, before - min(self._recent))  # the first was late: what was joined to it stays so

    def time_of(self, position: int) -> float:
        """When the frame at ``position`` was recorded, in the time that its stream has had since its first packet."""
        return min(self._recent) + position / self._rate + self._excess


class Capture:
    """One recording stream, whatever incarnation records it.

    ``rate`` is in frames a second, ``period`` what arrives at once, ``silence`` one frame of it. ``first_tag`` differs
    from what another supervisor may have used.
    """

    def __init__(self, rate: int, period: int, silence: bytes, *, first_tag: int = 0) -> None:
        self.overruns = 0
        self.filled = 0
        self.heard_packets = 0
        self._rate = rate
        self._period_seconds = period / rate
        self._silence = silence
        self._wanted = False
        self._present = False
        self._tag = first_tag
        self._position = 0
        self._clock = _Clock(rate)
        self._joined = False
        self._until = 0.0

    @property
    def wanted(self) -> bool:
        """Whether somebody records."""
        return self._wanted

    @property
    def expecting(self) -> bool:
        """Whether the driver should be recording just now."""
        return self._wanted and self._present

    def want(self, now: float) -> int | None:
        """Somebody begins to record; the tag of the driver's recording, None if there is no driver."""
        self._wanted = True
        self._until = now
        return self._new_life() if self._present else None

    def leave(self) -> int:
        """Nobody records any more; a tag under which the driver records nothing."""
        self._wanted = False
        return self._new_life()

    def begin(self) -> int | None:
        """A driver is there; the tag of its recording, None if nobody wants one."""
        self._present = True
        return self._new_life() if self._wanted else None

    def fail(self) -> None:
        """The driver is gone."""
        self._present = False
        self._new_life()

    def recorded(
        self, tag: int, position: int, samples: bytes, *, since: int, overruns: int, now: float
    ) -> Iterator[bytes]:
        """What to pass on: perhaps silence, then what was recorded. ``since``: frames recorded after these.

        Raises ProtocolError if the packet can't be.
        """
        if tag != self._tag or not self._wanted:
            return
        frames, rest = divmod(len(samples), len(self._silence))
        if rest or position < self._position:
            raise ProtocolError(f"{len(samples)} bytes of samples at frame {position}, after {self._position}")
        if position > self._position or overruns > self.overruns:
            self._joined = False  # some were lost on the way, or in the card
            self._clock = _Clock(self._rate)
        self.overruns = overruns
        self.heard_packets += 1
        self._position = position + frames
        self._clock.heard(self._position + since, now)
        if not self._joined:
            missing = round((self._clock.time_of(position) - self._until) * self._rate)
            if missing > 0:
                yield self._silent(missing)
            samples = samples[max(0, -missing) * len(self._silence) :]
            self._joined = missing >= -frames  # else even the last of them has silence in its place
        if self._joined:
            self._until = self._clock.time_of(self._position)
        if samples:
            yield samples

    def due(self, now: float) -> bytes:
        """The silence that a recorder gets now, in place of what the driver does not record."""
        late = self._period_seconds + (PATIENCE_SECONDS if self._joined else 0.0)
        if not self._wanted or now - self._until <= late:
            return b""
        self._joined = False
        return self._silent(round((now - self._period_seconds - self._until) * self._rate))

    def _silent(self, frames: int) -> bytes:
        """So much silence, which the stream then has."""
        self._until += frames / self._rate
        frames = min(frames, round(LONGEST_SILENCE_SECONDS * self._rate))
        self.filled += frames
        return self._silence * frames

    def _new_life(self) -> int:
        self._tag = self._tag % 0xFFFFFFFF + 1
        self._position = 0
        self._joined = False
        self._clock = _Clock(self._rate)
        return self._tag
