"""What a sound shadow does with frames that applications play: takes them, gives them to the driver, remembers them.

The driver's position reports are the credits: no more frames are under way than the window holds, and what was reported
as played makes room. While the driver is away, one of two policies holds.

- *content*: nothing is taken, so the applications' clock stands still; what was not heard is given to the next driver.
- *clock*: frames are taken as time goes by, and dropped; the next driver plays silence until its clock is known, and
  then goes on with the frame whose turn it is.

Pure policy: times are the caller's, in seconds; positions and lengths are in frames.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from nooks.shadow.frames import FrameLog
from nooks.xpc import audio
from nooks.xpc.errors import ProtocolError

SAMPLES_BYTES_MAX = 32768
"""The longest piece that the driver is given at once."""

JOIN_REPORTS = 3
"""From so many reports of a card that plays silence its clock is known: one alone may be late."""

CLOCK_REPORTS = 32
"""The earliest of so many reports tells the card's clock: a report is never too early, but often late."""


RECENT_REPORTS = 8
"""From so many its clock is known well enough to go on by it without the card."""

OVERDUE_SECONDS = 0.06
"""A card that plays and tells nothing for so long is asked."""

ANSWER_SECONDS = 0.2
"""An agent that is asked and said nothing for so long does not answer."""


class Policy(StrEnum):
    """What is kept while the driver is away (specification: ``sound.policy``)."""

    CONTENT = "content"
    CLOCK = "clock"


class Still(StrEnum):
    """What has stopped with a driver, long before that was noticed; else cards play on what they have, as DMA does."""

    NOTHING = "nothing"
    CARD = "card"
    MACHINE = "machine"


class Flow(StrEnum):
    """Flowing: the driver plays. Joining: it plays silence, to tell its clock. Away: there is none. Gone: for good."""

    FLOWING = "flowing"
    JOINING = "joining"
    AWAY = "away"
    GONE = "gone"


@dataclass(frozen=True)
class Sizes:
    """In frames: the card's ``rate`` a second, its ``period``, what may be under way, and what the card holds.

    ``card`` is what a card has taken from memory, and reported, before it can be heard; of that ``rest`` stays in it
    for ever if nothing more is taken.
    """

    rate: int
    period: int
    window: int
    card: int = 0
    rest: int = 0


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
        self._sizes = sizes
        self._resume_at = log.heard
        self._played = self._written = 0
        self._started = False
        self._go_at = 0
        self._reports: deque[float] = deque(maxlen=CLOCK_REPORTS)
        self._positions: deque[tuple[float, int]] = deque(maxlen=CLOCK_REPORTS)
        self._told = 0
        self._answers: set[int] = set()
        self._told_at = self._spoke_at = self._asked_at = 0.0
        self._stopped_at: float | None = None
        self._pace_from, self._pace_since = log.taken, 0.0

    @property
    def sizes(self) -> Sizes:
        """The present sizes."""
        return self._sizes

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
        return self._log.index - self._played if self.flow in (Flow.FLOWING, Flow.JOINING) else 0

    @property
    def position(self) -> int:
        """What was played, as far as it was reported."""
        return self._log.base + self._played

    @property
    def told(self) -> int:
        """The same, but for what the card told only because it was asked."""
        return self._log.base + self._told

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
        self._played = self._written = self._told = self._go_at = 0
        self._started = False
        self._stopped_at = None
        self._reports.clear()
        self._positions.clear()
        self._answers.clear()
        if self.policy is Policy.CLOCK and self._log.taken:
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
        self._played = self._written = self._told = max(0, self._log.heard - self._log.base)

    def fail(self, now: float, *, still: Still = Still.NOTHING, stopped_at: float | None = None) -> None:
        """The driver is gone since about ``now``. ``stopped_at``: when its machine stopped, where that is known."""
        if self.flow in (Flow.FLOWING, Flow.JOINING):
            if still is Still.CARD and self._moves(now):
                still = Still.NOTHING
            self._resume_at = self._unheard(now, still) if stopped_at is None else self._unheard(stopped_at)
            self._pace(self._by_the_clock(now), now)
            self._log.end()
        self.flow = Flow.AWAY

    def give_up(self, now: float) -> None:
        """No driver will come by itself: applications go on, unheard."""
        self.fail(now)
        self._pace(self._log.taken, now)
        self.flow = Flow.GONE

    def resize(self, sizes: Sizes) -> None:
        """The driver was configured anew; nothing is under way."""
        self._sizes = sizes

    # -- from applications -------------------------------------------------------------------------------------

    def room(self, now: float) -> int:
        """How many frames to take now; none: the applications' clock stands still."""
        if self.flow is Flow.FLOWING:
            return max(0, self._sizes.window - self.under_way - self.pending)
        if self.flow is Flow.AWAY and self.policy is Policy.CONTENT:
            return 0
        lead = 0 if self.flow is Flow.GONE else self._sizes.window
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

    def dry(self, now: float) -> Piece | None:
        """Applications have had nothing for a while: a driver that waits for more has to play what it has."""
        if self.flow in (Flow.AWAY, Flow.GONE, Flow.JOINING):
            self._pace(min(self._pace_at(now), self._log.taken), now)
        if self.flow is Flow.FLOWING and self.under_way and not self.pending and not self._started:
            self._start()
            return Piece(self._log.index, b"", go=True)
        return None

    # -- to the driver -----------------------------------------------------------------------------------------

    def pieces(self) -> Iterator[Piece]:
        """What the driver is to be given now; each piece counts as given when it was yielded."""
        if self.flow is Flow.JOINING and not self._started:
            index = self._log.index
            self._log.gave_silence(self._sizes.window)
            self._start()
            yield Piece(index, bytes(self._sizes.window * self._log.frame_bytes), go=True)
        most = SAMPLES_BYTES_MAX // self._log.frame_bytes
        while self.flow is Flow.FLOWING:
            frames = min(self._sizes.window - self.under_way, self.pending, most)
            if frames <= 0:
                return
            samples = self._log.frames(self._log.sent, frames)
            frames = len(samples) // self._log.frame_bytes
            index = self._log.index
            self._log.gave(frames)
            go = self._sizes.window - self.under_way <= 0
            if go:
                self._start()
            yield Piece(index, samples, go)

    def overdue(self, now: float) -> bool:
        """Whether a card that should be playing is to be asked where it is; it counts as asked then.

        It is asked again as soon as it has answered: a driver that counts interrupts, and has none, knows only how far
        its card is within a period, so that it takes many answers to see that it moves.
        """
        patience = max(OVERDUE_SECONDS, 2 * self._sizes.period / self._sizes.rate)
        waits = self._asked_at > self._spoke_at and now - self._asked_at < patience
        if not self.expecting or now - self._told_at < patience or waits or self._stopped_at is not None:
            return False
        self._asked_at = now
        return True

    def report(self, tag: int, position: int, waiting: int, now: float, flags: int) -> None:
        """The driver has played ``position`` frames in this life, and has ``waiting`` more; ``flags``: nooks.xpc.audio.

        Raises ProtocolError if that can't be.
        """
        running = bool(flags & audio.RUNNING)
        if tag != self._log.tag or self.flow not in (Flow.FLOWING, Flow.JOINING):
            return
        if not self._played <= position <= self._log.index:
            raise ProtocolError(f"a card at frame {position} that was at {self._played} and has {self._log.index}")
        self._played, self._spoke_at = position, now
        if flags & audio.ASKED:
            self._answers.add(position)
        else:
            self._told, self._told_at = position, now
            self._answers.clear()
        if flags & audio.STOPPED:
            self._stopped_at = now
            return
        self._written = min(position + waiting, self._log.index)
        if running:
            self._reports.append(now - position / self._sizes.rate)
        else:
            self._reports.clear()  # it stood still for a while, who knows since when: its clock begins anew
            if position + waiting >= self._go_at:  # else it has not yet heard that it is to play
                self._stopped()
        if self.flow is Flow.JOINING:
            self._join(now, running=running)
        elif position > self._log.silent:
            self._log.heard = max(self._log.heard, self._log.base + position)
            self._positions.append((now, self._log.heard))

    def _start(self) -> None:
        """The driver is told to play."""
        self._started = True
        self._go_at = self._log.index

    def _stopped(self) -> None:
        """The card has played all that it had and stands still."""
        if self._started and not self.starved:
            self.underruns += 1
        self._started = False

    def _join(self, now: float, *, running: bool) -> None:
        """Once the new card's clock is known: what it is given next is the frame whose turn it will be then."""
        if not running or (len(self._reports) < JOIN_REPORTS and self.under_way > self._sizes.period):
            return  # a card that ran out of silence gets more
        turn = self._pace_at(now) + self._log.index - self._position(now)
        position = min(max(turn, self._log.kept_from), self._log.taken)
        self._log.go_on_at(position)
        self._log.heard = max(self._log.heard, position)
        self.dropped += max(0, position - self._resume_at)
        self.flow = Flow.FLOWING

    # -- clocks ------------------------------------------------------------------------------------------------

    def _position(self, now: float) -> int:
        """Where the card is just now in this life, in its own frames, as far as its reports tell."""
        if not self._reports:
            return self._played
        return min(self._log.index, max(self._played, round((now - min(self._reports)) * self._sizes.rate)))

    def _due(self, now: float) -> int:
        """The position that is being played just now."""
        return self._log.base + self._position(now) if self.flow is Flow.FLOWING else self._pace_at(now)

    def _by_the_clock(self, now: float) -> int:
        """The position that would be played just now, if the card had more since it ran out of what it was given."""
        if self.flow is not Flow.FLOWING or not self._started or self.starved:
            return self._due(now)
        return self._extrapolated(now)

    def _extrapolated(self, now: float) -> int:
        """The position that would be played just now, by the card's clock alone, if it had frames for ever."""
        if not self._reports:
            return self._log.base + self._played
        recent = min(list(self._reports)[-RECENT_REPORTS:])  # of a card that was held up by the host, as it is now
        return self._log.base + round((now - recent) * self._sizes.rate)

    def _moves(self, now: float) -> bool:
        """Whether a card that tells nothing seems to play all the same.

        It moved, or stopped, from one question to another; or its agent answers none, and then nobody stopped it.
        """
        return self._stopped_at is not None or now - self._spoke_at > ANSWER_SECONDS or len(self._answers) > 1

    def _unheard(self, until: float, still: Still = Still.NOTHING) -> int:
        """The first position that was perhaps not heard, of a card whose machine ran ``until`` then.

        Of what no report covers one period is played again; so is what the card may have held when its machine stopped.
        """
        if self.flow is Flow.JOINING:
            return self._log.taken
        if not self._started:
            return self._log.base + self._played
        sizes, heard, written = self._sizes, self._log.heard, self._log.base + self._written
        surely = heard - sizes.card
        if still is not Still.MACHINE:
            left_at = until - sizes.card / sizes.rate
            reported = max((position for when, position in self._positions if when <= left_at), default=0)
            surely = max(surely, min(reported, heard - sizes.rest))
        if still is Still.NOTHING:
            left_at = min(until, self._stopped_at or until) - sizes.card / sizes.rate
            surely = max(surely, min(self._extrapolated(left_at) - sizes.period, written - sizes.rest))
        return min(max(surely, self._log.kept_from), self._log.sent)

    def _pace(self, position: int, now: float) -> None:
        """From now on frames are taken, or dropped, as if ``position`` were being played now."""
        self._pace_from, self._pace_since = position, now

    def _pace_at(self, now: float) -> int:
        return self._pace_from + round((now - self._pace_since) * self._sizes.rate)
