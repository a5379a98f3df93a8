"""Where a card is in what it was given, as far as its reports tell; and where it surely was when its driver failed.

Positions are in frames since the card's present life began, times are the caller's, in seconds.
"""

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from nooks.xpc import audio

CLOCK_REPORTS = 32
"""The earliest of so many reports tells the card's clock: a report is never too early, but often late."""

RECENT_REPORTS = 8
"""From so many its clock is known well enough to go on by it without the card."""

OVERDUE_SECONDS = 0.06
"""A card that plays and tells nothing for so long is asked."""

ANSWER_SECONDS = 0.2
"""An agent that is asked and said nothing for so long does not answer."""


class Still(StrEnum):
    """What has stopped with a driver, long before that was noticed; else cards play on what they have, as DMA does."""

    NOTHING = "nothing"
    CARD = "card"
    MACHINE = "machine"


@dataclass(frozen=True)
class Sizes:
    """In frames: the card's ``rate`` a second, its ``period``, what may be under way, and what the card holds.

    ``card`` is what a card has taken from memory, and reported, before it can be heard; of that ``rest`` stays in it
    for ever if nothing more is taken. One that is ``apart`` from its domain (a real one, a model) does not stop with
    it, but when it can reach its memory no longer.
    """

    rate: int
    period: int
    window: int
    card: int = 0
    rest: int = 0
    apart: bool = False

    @property
    def margin(self) -> int:
        """So far a card may be behind its clock: QEMU moves it by a timer, and one that ended was noticed later."""
        return self.period // 2


class Whereabouts:
    """Of one card, from one of its lives to the next.

    ``played``: what it has played, by its last report; ``told``: by the last one that nobody had asked for;
    ``written``: what its driver has put into it, as far as that is known.
    """

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self.begin()

    def begin(self, at: int = 0, *, timing: bool = False) -> None:
        """A life of the card begins, or is found under way ``at`` least there. ``timing``: see there."""
        self.timing = timing
        """Its clock is wanted soon and exactly: it is asked without need, and what it answers counts for that too."""
        self.reports = 0
        """So often it told by itself, since it began to play, where it is."""
        self.played = self.written = self.told = at
        self._clock: deque[float] = deque(maxlen=CLOCK_REPORTS)
        self._first: list[float] = []
        self._former_clock: float | None = None
        self._late_seconds = 0.0
        self._positions: deque[tuple[float, int]] = deque(maxlen=CLOCK_REPORTS)
        self._answers: set[int] = set()
        self._told_at = self._spoke_at = self._asked_at = 0.0
        self._was_stopped = False
        self._stopped_at: float | None = None

    def report(self, position: int, written: int, now: float, flags: int) -> None:
        """It says where it is; ``flags``: see nooks.xpc.audio."""
        self.played, self.written, self._spoke_at = position, written, now
        if flags & audio.ASKED:
            self._answers.add(position)
        else:
            self.told, self._told_at = position, now
            self._answers.clear()
            self.reports += bool(flags & audio.RUNNING)
        if flags & audio.STOPPED:
            self._was_stopped, self._stopped_at = True, now
            return
        if flags & audio.RUNNING:
            self._stopped_at = None  # if it was stopped it got more, and was started with that
            if self.timing or not flags & audio.ASKED:
                self._clock.append(now - position / self.sizes.rate)
                if len(self._first) < RECENT_REPORTS:
                    self._first.append(self._clock[-1])
        else:
            self._stood_still()
        self._positions.append((now, position))

    def overdue(self, now: float) -> bool:
        """Whether a card that should be playing is to be asked where it is; it counts as asked then.

        It is asked again as soon as it has answered, unless that stopped it: a driver that counts interrupts, and has
        none, knows only how far its card is within a period, so that it takes many answers to see that it moves.
        """
        patience = max(OVERDUE_SECONDS, 2 * self.sizes.period / self.sizes.rate)
        waits = self._asked_at > self._spoke_at and now - self._asked_at < patience
        if (now - self._told_at < patience and not self.timing) or waits or self._was_stopped:
            return False
        self._asked_at = now
        return True

    @property
    def questioned(self) -> bool:
        """Whether it is being asked: for its clock, or since it has told nothing after it was."""
        return self.timing or self._asked_at > self._told_at

    def at(self, now: float) -> int:
        """Where it is, or would be if it had frames for ever, by the clock that it ever had."""
        if not self._clock:
            return self.played
        return max(self.played, round((now - min(self._clock)) * self.sizes.rate))

    def at_least(self, now: float) -> int:
        """The same, by the clock that it had lately: a host that holds up a card's reports may hold up the card."""
        if not self._clock:
            return self.played
        return self._by(self._recent_clock(), now)

    def in_time(self, now: float) -> int:
        """Where it would be if it had never run dry since its applications ``paused``."""
        clock = self._recent_clock()
        return self._by(None if clock is None else clock - self._lateness(), now)

    def paused(self) -> None:
        """That it stood still was right."""
        self._former_clock = None
        self._late_seconds = 0.0

    def _stood_still(self) -> None:
        """It stands still since a while, who knows how long: its clock begins anew."""
        if self._clock:
            self._late_seconds, self._former_clock = self._lateness(), self._recent_clock()
            self._clock.clear()
            self._first = []
            self.reports = 0

    def _lateness(self) -> float:
        """For how many seconds it stood still."""
        last = min(self._first) - self._former_clock if self._first and self._former_clock is not None else 0.0
        return self._late_seconds + last

    def _recent_clock(self) -> float | None:
        """When it would have begun, had it never stood still."""
        return min(list(self._clock)[-RECENT_REPORTS:]) if self._clock else self._former_clock

    def _by(self, clock: float | None, now: float) -> int:
        return self.played if clock is None else round((now - clock) * self.sizes.rate)

    def heard(self, until: float, still: Still = Still.NOTHING) -> int:
        """What was surely heard, of a card whose machine ran ``until`` then.

        Of what no report covers the margin may not have been, nor what the card may have held when its machine stopped.
        """
        sizes = self.sizes
        surely = self.played - sizes.card
        if still is Still.MACHINE:
            return surely
        left_at = until - sizes.card / sizes.rate
        reported = max((position for when, position in self._positions if when <= left_at), default=0)
        surely = max(surely, min(reported, self.played - sizes.rest))
        if still is Still.NOTHING or self._moves(until):
            left_at = min(until, self._stopped_at or until) - sizes.card / sizes.rate
            surely = max(surely, min(self.at_least(left_at) - sizes.margin, self.written - sizes.rest))
        return surely

    def _moves(self, now: float) -> bool:
        """Whether a card that tells nothing seems to play all the same.

        It moved, or was stopped, from one question to another; or its agent answers none, and then nobody stopped it.
        """
        return self._was_stopped or now - self._spoke_at > ANSWER_SECONDS or len(self._answers) > 1
