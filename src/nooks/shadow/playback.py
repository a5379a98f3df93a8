"""What a sound shadow does with frames that applications play: takes them, gives them to the driver, remembers them.

The driver's position reports are the credits: no more frames are under way than the window holds, and what was reported
as played makes room. While the driver is away, one of two policies holds.

- *content*: nothing is taken, so the applications' clock stands still; what was not heard is given to the next driver.
- *clock*: frames are taken as time goes by, and dropped; the next driver plays silence until its clock is known, and
  then goes on with the frame whose turn it is.

Pure policy: times are the caller's, in seconds; positions and lengths are in frames.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from nooks.shadow.frames import FrameLog
from nooks.shadow.whereabouts import Sizes, Still, Whereabouts
from nooks.xpc import audio
from nooks.xpc.errors import ProtocolError

SAMPLES_BYTES_MAX = 32768
"""The longest piece that the driver is given at once."""

JOIN_REPORTS = 3
"""From so many reports of a card that plays silence its clock is known: one alone may be late."""

PAUSED_SECONDS = 0.3
"""An application that has had nothing for so long does not want to catch up: it paused."""


class Policy(StrEnum):
    """What is kept while the driver is away (specification: ``sound.policy``)."""

    CONTENT = "content"
    CLOCK = "clock"


class Flow(StrEnum):
    """Flowing: the driver plays. Joining: it plays silence, to tell its clock. Away: there is none. Gone: for good."""

    FLOWING = "flowing"
    JOINING = "joining"
    AWAY = "away"
    GONE = "gone"


@dataclass(frozen=True)
class Piece:
    """What the driver is to be given: the number of its first frame, the frames; ``go``: it is to run from now on."""

    index: int
    samples: bytes | memoryview
    go: bool


class Playback:
    """One playback stream, whatever incarnation plays it. Starts away.

    ``starved``: applications had nothing when they were asked last; then a card that runs dry is nobody's fault.
    """

    def __init__(self, log: FrameLog, sizes: Sizes, policy: Policy) -> None:
        self.policy = policy
        self.flow = Flow.AWAY
        self.starved = True
        self.underruns = 0
        self.replayed = 0
        self.dropped = 0
        self._log = log
        self._card = Whereabouts(sizes)
        self._resume_at = log.heard
        self._runs_on: Still | None = None
        self._started = False
        self._go_at = 0
        self._pace_from, self._pace_since = log.taken, 0.0
        self._behind = 0

    @property
    def sizes(self) -> Sizes:
        """The present sizes."""
        return self._card.sizes

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return self._log.frame_bytes

    @property
    def tag(self) -> int:
        """The name of the stream's present life."""
        return self._log.tag

    @property
    def under_way(self) -> int:
        """Frames that the driver has and did not report as played."""
        return self._log.index - self._card.played if self.flow in (Flow.FLOWING, Flow.JOINING) else 0

    @property
    def position(self) -> int:
        """What was played, as far as it was reported."""
        return self._log.base + self._card.played

    @property
    def told(self) -> int:
        """The same, but for what the card told only because it was asked."""
        return self._log.base + self._card.told

    @property
    def busy(self) -> bool:
        """Whether time alone may bring something about: a start that is due, frames to be dropped by the clock."""
        if self.flow is Flow.AWAY:
            return self.policy is Policy.CLOCK
        return self.flow is not Flow.FLOWING or self.under_way > 0

    @property
    def expecting(self) -> bool:
        """Whether the driver should be playing just now."""
        return self._started and self.under_way > 0

    @property
    def pending(self) -> int:
        """Frames that were taken and are still to be given to the driver."""
        return self._log.taken - self._log.sent if self.flow is Flow.FLOWING else 0

    # -- the driver's life -------------------------------------------------------------------------------------

    def begin(self, incarnation: int, now: float) -> int | None:
        """A driver is there. The tag of a new life of its stream, or None if its present life goes on (adoption)."""
        if self._log.incarnation == incarnation:
            self._adopt()
            return None
        joining = self.policy is Policy.CLOCK and self._log.taken > 0
        self._card.begin(timing=joining)
        self._go_at = self._behind = 0
        self._started = False
        if joining:
            self.flow = Flow.JOINING
            return self._log.begin(incarnation, self._log.taken)
        self.flow = Flow.FLOWING
        self.replayed += max(0, self._log.taken - self._resume_at)
        return self._log.begin(incarnation, self._resume_at)

    def _adopt(self) -> None:
        """Another supervisor's driver goes on: where it is now, its next report will tell."""
        self.flow, self._started = Flow.FLOWING, True
        if self._log.index == self._log.silent:
            self._log.go_on_at(self._log.taken)
        self._card.begin(max(0, self._log.heard - self._log.base))

    def fail(self, now: float, *, still: Still = Still.NOTHING, stopped_at: float | None = None) -> None:
        """The driver is gone since about ``now``. ``stopped_at``: when its machine stopped, where that is known."""
        if self.flow in (Flow.FLOWING, Flow.JOINING):
            if self.sizes.apart:
                still, stopped_at = Still.CARD if still is Still.CARD else Still.NOTHING, None
                self._runs_on = still if self.flow is Flow.FLOWING and self._started else None
            self._resume_at = self._unheard(now, still) if stopped_at is None else self._unheard(stopped_at)
            self._pace(self._by_the_clock(now), now)
            self._log.end()
        self.flow = Flow.AWAY

    def ended(self, now: float) -> None:
        """The failed driver's domain has let go of everything: a card apart from it played on until now."""
        if self._runs_on is not None:
            self._resume_at = self._unheard(now, self._runs_on)
            self._runs_on = None

    def give_up(self, now: float) -> None:
        """No driver will come by itself: applications go on, unheard."""
        self.fail(now)
        self._runs_on = None
        self._pace(self._log.taken, now)
        self.flow = Flow.GONE

    def resize(self, sizes: Sizes) -> None:
        """The driver was configured anew; nothing is under way."""
        self._card.sizes = sizes

    # -- from applications -------------------------------------------------------------------------------------

    def room(self, now: float) -> int:
        """How many frames to take now; none: the applications' clock stands still."""
        if self.flow is Flow.FLOWING:
            return max(0, self.sizes.window - self.under_way - self.pending + self._behind)
        if self.flow is Flow.AWAY and self.policy is Policy.CONTENT:
            return 0
        lead = 0 if self.flow is Flow.GONE else self.sizes.window
        return min(max(0, self._pace_at(now) + lead - self._log.taken), self._log.capacity // 2)

    def space(self, frames: int) -> memoryview:
        """Where to put frames that are taken; shorter at the ring's end."""
        return self._log.space(frames)

    def took(self, frames: int) -> None:
        """So many were put there."""
        self.starved = False
        self._log.took(frames)
        if self.flow is Flow.GONE:
            self.dropped += frames
            self._resume_at = self._log.taken
        elif self.flow is Flow.FLOWING and self._behind:
            self._catch_up()

    def _catch_up(self) -> None:
        """Leave out what should have been heard by now."""
        late = min(self._behind, self.pending)
        self._log.go_on_at(self._log.sent + late)
        self._behind -= late
        self.dropped += late

    def dry(self, now: float, seconds: float) -> Piece | None:
        """Applications have had nothing for so long: a driver that waits for more has to play what it has."""
        if seconds >= PAUSED_SECONDS:
            self._behind = 0
            if self.starved:  # else nobody asked them
                self._card.paused()
            if self.flow is not Flow.FLOWING:
                self._pace(min(self._pace_at(now), self._log.taken), now)
        if seconds < self.sizes.period / self.sizes.rate:
            return None
        if self.flow is Flow.FLOWING and self.under_way and not self.pending and not self._started:
            self._start()
            return Piece(self._log.index, b"", go=True)
        return None

    # -- to the driver -----------------------------------------------------------------------------------------

    def pieces(self) -> Iterator[Piece]:
        """What the driver is to be given now; each piece counts as given when it was yielded."""
        if self.flow is Flow.JOINING and not self._started:
            index = self._log.index
            self._log.gave_silence(self.sizes.window)
            self._start()
            yield Piece(index, bytes(self.sizes.window * self._log.frame_bytes), go=True)
        most = SAMPLES_BYTES_MAX // self._log.frame_bytes
        while self.flow is Flow.FLOWING:
            frames = min(self.sizes.window - self.under_way, self.pending, most)
            if frames <= 0:
                return
            samples = self._log.frames(self._log.sent, frames)
            frames = len(samples) // self._log.frame_bytes
            index = self._log.index
            self._log.gave(frames)
            go = self.sizes.window - self.under_way <= 0
            if go:
                self._start()
            yield Piece(index, samples, go)

    def overdue(self, now: float) -> bool:
        """Whether the driver is to be asked where its card is; it counts as asked then."""
        return self.expecting and self._card.overdue(now)

    @property
    def questioned(self) -> bool:
        """Whether the driver is being asked where its card is."""
        return self.expecting and self._card.questioned

    def report(self, tag: int, position: int, waiting: int, now: float, flags: int) -> None:
        """The driver has played ``position`` frames in this life, and has ``waiting`` more; ``flags``: nooks.xpc.audio.

        Raises ProtocolError if that can't be.
        """
        if tag != self._log.tag or self.flow not in (Flow.FLOWING, Flow.JOINING):
            return
        if not self._card.played <= position <= self._log.index:
            raise ProtocolError(f"a card at frame {position} that was at {self._card.played} and has {self._log.index}")
        self._card.report(position, min(position + waiting, self._log.index), now, flags)
        if flags & audio.STOPPED:
            return
        running = bool(flags & audio.RUNNING)
        if not running and position + waiting >= self._go_at:  # else it has not yet heard that it is to play
            self._stopped()
        if self.flow is Flow.JOINING:
            self._join(now, running=running)
        elif position > self._log.silent:
            self._log.heard = max(self._log.heard, self._log.base + position)

    def _start(self) -> None:
        """The driver is told to play."""
        self._started = True
        self._go_at = self._log.index

    def _stopped(self) -> None:
        """The card has played all that it had and stands still."""
        if self.starved:
            self._card.paused()
        elif self._started:
            self.underruns += 1
        self._started = False

    def _join(self, now: float, *, running: bool) -> None:
        """Once the new card's clock is known: what it is given next is the frame whose turn it will be then."""
        if not running or (self._card.reports < JOIN_REPORTS and self.under_way > self.sizes.period):
            return  # a card that ran out of silence gets more
        turn = self._pace_at(now) + self._log.index - self._position(now)
        position = min(max(turn, self._log.kept_from), self._log.taken)
        self._behind = max(0, turn - position)
        self._log.go_on_at(position)
        self._log.heard = max(self._log.heard, position)
        self.dropped += max(0, position - self._resume_at)
        self._card.timing = False
        self.flow = Flow.FLOWING

    # -- clocks ------------------------------------------------------------------------------------------------

    def _position(self, now: float) -> int:
        """Where the card is just now in this life, in its own frames, as far as its reports tell."""
        return min(self._log.index, self._card.at(now))

    def _due(self, now: float) -> int:
        """The position that is being played just now."""
        return self._log.base + self._position(now) if self.flow is Flow.FLOWING else self._pace_at(now)

    def _by_the_clock(self, now: float) -> int:
        """The position that would be played just now, if the card had more since it ran out of what it was given."""
        if self.flow is not Flow.FLOWING or self.starved:
            return self._due(now)
        return self._log.base + self._card.in_time(now)

    def _unheard(self, until: float, still: Still = Still.NOTHING) -> int:
        """The first position that was perhaps not heard, of a card whose machine ran ``until`` then."""
        if self.flow is Flow.JOINING:
            return self._log.taken
        if not self._started:
            return self.position
        surely = max(self._log.base + self._card.heard(until, still), self._log.heard - self.sizes.card)
        return min(max(surely, self._log.kept_from), self._log.sent)

    def _pace(self, position: int, now: float) -> None:
        """From now on frames are taken, or dropped, as if ``position`` were being played now."""
        self._pace_from, self._pace_since = position, now

    def _pace_at(self, now: float) -> int:
        return self._pace_from + round((now - self._pace_since) * self.sizes.rate)
