"""Silent failure of a sound driver: the domain lives and beats, but samples don't move, or not at their rate.

Judged at the heartbeats that carry counters: a busy host delays those as well, so time is counted in beats, and what is
odd on a busy host is no failure. Nor is a stream that stands still because nobody plays.

- *Stuck*: the card was told to play, has frames, and its position stands still (also if the agent tells it no more), or
  is told only by a driver that is asked for it: the card's interrupts are lost.
- *Slow, fast*: the position moves, but not at the card's rate.
- *Dry again and again*: the card runs out of frames although applications had some.
  Neither this nor *slow* is held against the next driver as well, until one has played well: what a restart does not
  mend is the machine's doing. For the same reason the next one that is *stuck* as well is given twice as long.
- *Deaf*: it recorded, and does so no more. A card that never recorded is not blamed: some can't.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from nooks.failure.report import FailureReport, Reason, ReportSink
from nooks.host.clock import Clock

_DETECTOR = "sound"


@dataclass(frozen=True)
class Glance:
    """How a card's streams are just now. ``rate`` in frames a second; positions and counts only grow.

    ``playing``: it was told to play and has frames. ``told``: its position as far as it told that unasked.
    ``recording``: it was told to record. ``underruns`` are those that happened although applications had something to
    play.
    """

    rate: int
    playing: bool
    position: int
    told: int
    underruns: int
    recording: bool
    packets: int


@dataclass(frozen=True)
class SoundLimits:
    """When to convict. A beat with counters is due every ``beat_seconds``."""

    beat_seconds: float = 0.225
    stuck_beats: int = 2
    """A position may stand still from one beat to the next, on a busy host; not for so many."""
    patient_beats: int = 12
    """The most that it may stand still when restarts did not help."""
    deaf_beats: int = 4
    window_beats: int = 12
    """Over which rates are measured and underruns counted."""
    busy: float = 1.35
    """Beats that take so many times longer than they should say that the host is busy."""
    busy_load: float = 2.0
    """So do so many threads that want each of its processors: beats are little work, and come in time even then."""
    slow: float = 0.6
    well: float = 0.9
    """From here on, and never dry, it plays well."""
    well_beats: int = 4
    """When it did so for so long, the next standstill is a new one."""
    fast: float = 1.5
    underruns: int = 5


class SoundDetector:
    """Watches the live incarnation of one sound nook.

    Args:
        glance: how the streams are now.
        clock: for the times of beats and verdicts.
        report: where verdicts go.
        limits: when to convict.
        load: threads that want to run, for each processor (host.pace.load_factor).
    """

    def __init__(
        self,
        glance: Callable[[], Glance | None],
        clock: Clock,
        report: ReportSink,
        *,
        limits: SoundLimits | None = None,
        load: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self._load = load
        self._glance = glance
        self._clock = clock
        self._report = report
        self._limits = limits or SoundLimits()
        self._incarnation: int | None = None
        self._still = 0
        self._deaf = 0
        self._last: Glance | None = None
        self._lagging = False
        """A driver was convicted of lagging behind, and none has played well since."""
        self._patience = self._limits.stuck_beats
        self._judged = 0.0
        self._first_packets = 0
        self._window: deque[tuple[float, Glance]] = deque(maxlen=self._limits.window_beats + 1)

    def begin(self, incarnation: int) -> None:
        """``incarnation`` serves from now on."""
        self._incarnation = incarnation
        self._still = self._deaf = 0
        self._last = None
        self._window.clear()
        now = self._glance()
        self._first_packets = now.packets if now is not None else 0

    def end(self) -> None:
        """Nothing serves: nothing is judged."""
        self._incarnation = None

    def beat(self) -> None:
        """The domain lives: a heartbeat with counters was read."""
        glance, now = self._glance(), self._clock.monotonic()
        if self._incarnation is None or glance is None or now - self._judged < self._limits.beat_seconds / 2:
            return  # beats that this process had no time for come all at once
        self._judged = now
        last, self._last = self._last, glance
        if last is None:
            return
        why = self._stuck(last, glance) or self._odd(glance) or self._silent(last, glance)
        if why:
            self._convict(why, glance)

    def _stuck(self, last: Glance, now: Glance) -> str:
        still = last.playing and now.playing and now.told == last.told
        self._still = self._still + 1 if still else 0
        if self._still < self._patience:
            return ""
        self._patience = min(2 * self._patience, self._limits.patient_beats)
        moves = now.position > last.position
        return "the card plays and does not interrupt" if moves else "the card does not play what it has"

    def _odd(self, now: Glance) -> str:
        """What a window of beats says in which the card was to play all the time."""
        if not now.playing:
            self._window.clear()
            return ""
        self._window.append((self._clock.monotonic(), now))
        if self._well_lately():
            self._patience = self._limits.stuck_beats
        since, first = self._window[0]
        beats = len(self._window) - 1
        seconds = self._clock.monotonic() - since
        if beats < self._limits.window_beats or seconds <= 0 or self._load() > self._limits.busy_load:
            return ""
        rate = (now.position - first.position) / seconds / now.rate
        if rate > self._limits.fast:
            return f"the card plays {rate:.1f} times as fast as it should"
        if seconds > beats * self._limits.beat_seconds * self._limits.busy:
            return ""
        return self._behind(rate, now.underruns - first.underruns, seconds)

    def _well_lately(self) -> bool:
        """Whether the last beats say that the card plays as it should."""
        lately = list(self._window)[-self._limits.well_beats - 1 :]
        (since, first), (until, last) = lately[0], lately[-1]
        due = (until - since) * last.rate * self._limits.well
        enough = len(lately) > self._limits.well_beats and last.told - first.told >= due
        return enough and last.underruns == first.underruns

    def _behind(self, rate: float, underruns: int, seconds: float) -> str:
        """The same for a card that lags behind: ``rate`` is a part of its own."""
        why = ""
        if rate < self._limits.slow:
            why = f"the card plays at {rate:.0%} of its rate"
        elif underruns >= self._limits.underruns:
            why = f"the card ran dry {underruns} times in {seconds:.1f} s"
        elif rate >= self._limits.well and not underruns:
            self._lagging = False
        if not why or self._lagging:
            return ""
        self._lagging = True
        return why

    def _silent(self, last: Glance, now: Glance) -> str:
        deaf = last.recording and now.recording and now.packets == last.packets > self._first_packets
        self._deaf = self._deaf + 1 if deaf else 0
        return "the card records no more" if self._deaf >= self._limits.deaf_beats else ""

    def _convict(self, why: str, now: Glance) -> None:
        incarnation, self._incarnation = self._incarnation, None
        assert incarnation is not None
        detail = {"why": why, "position": now.position, "underruns": now.underruns, "packets": now.packets}
        self._report(FailureReport(incarnation, Reason.NO_PROGRESS, self._clock.monotonic(), _DETECTOR, detail))
