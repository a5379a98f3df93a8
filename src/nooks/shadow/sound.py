"""The shadow driver of sound cards.

Passive, it records the mixer values that the driver accepted, and every frame that is on its way (``playback``).
Active, it goes by REQUESTS. Then it brings the next driver to the recorded state, compares, and gives it what was not
heard. Knows neither servers nor domains: it speaks to the ports below and those of ``flow``.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from nooks.failure.report import FailureReport, Reason
from nooks.host.errors import InputError
from nooks.recovery.protocols import EventSink
from nooks.shadow import mixing
from nooks.shadow.errors import BusyError, SettingRefused, raise_mismatches
from nooks.shadow.flow import Flow
from nooks.shadow.life import DriverAway, Life, Mode
from nooks.shadow.log import Log
from nooks.shadow.playback import Policy
from nooks.shadow.readback import Outcome, judge
from nooks.shadow.strategies import Counters, Row, Strategy, StrategyTable
from nooks.shadow.whereabouts import Sizes, Still
from nooks.xpc.settings import Settings, to_json
from nooks.xpc.states import ElementState, SoundState

READ = "read-mixer"
SET = "change-setting"
PLAY = "play-frames"
PLAY_BEYOND = "play-frames-beyond-buffer"
PLAY_ON = "play-frames-by-the-clock"
RECORD = "record-frames"

REQUESTS = StrategyTable(
    "sound",
    (
        Row(READ, Strategy.ANSWER, "mixer values as last known"),
        Row(SET, Strategy.BUSY, "`nooks set` fails at once and says to try again"),
        Row(PLAY, Strategy.QUEUE, "policy content: what was not heard is kept, and played by the next driver"),
        Row(PLAY_BEYOND, Strategy.BLOCK, "policy content: the application's clock stands still meanwhile"),
        Row(PLAY_ON, Strategy.DROP, "policy clock: the application's clock goes on, what the outage covers is lost"),
        Row(RECORD, Strategy.ANSWER, "silence, exactly as long as the outage"),
    ),
)

POLICY, LATENCY = "policy", "latency"
OURS = (POLICY, LATENCY)
"""Settings that the driver is not asked for."""

PERIOD = "playback.period"

STOOD_STILL = dict.fromkeys((Reason.EXIT, Reason.FROZEN, Reason.PANIC, Reason.OOPS), Still.MACHINE) | {
    Reason.NO_PROGRESS: Still.CARD
}
"""What stops with a failure, however late that is noticed (a domain that panicked is paused)."""


@dataclass(frozen=True)
class Latency:
    """In frames: what is played between two of the card's interrupts, and how much of that is under way."""

    period: int
    periods: int


LATENCIES = {"default": Latency(1024, 6), "low": Latency(256, 6)}
"""By the specification's ``sound.latency``."""


@dataclass(frozen=True)
class CardState:
    """Everything that the driver says of itself now."""

    readback: Settings
    state: SoundState
    statistics: dict[str, int] = field(default_factory=dict[str, int])


class DriverPort(Protocol):
    """The driver in its domain. Every method raises NooksError if it does not answer, and may be cancelled."""

    async def apply(self, settings: Settings) -> Outcome:
        """Ask for some settings; the others stay."""
        ...

    async def resume(self, incarnation: int, settings: Settings) -> Outcome:
        """Tell a driver that starts who it is, and all its settings."""
        ...

    async def read(self) -> CardState:
        """Ask for the present state."""
        ...


class SoundShadow:
    """Implements nooks.recovery.protocols.Shadow. Starts active: there is no driver yet.

    ``flow`` is given as soon as it is known what streams the card has; before, nobody plays.
    """

    def __init__(self, driver: DriverPort, log: Log, events: EventSink) -> None:
        self.flow: Flow | None = None
        self.elements: Mapping[str, ElementState] = {}
        self.counters = Counters(REQUESTS)
        self._driver = driver
        self._log = log
        self._events = events
        self._life = Life()
        self._asking = asyncio.Lock()
        self._incarnation = 0
        self._last: CardState | None = None
        self._counted = {PLAY: 0, PLAY_ON: 0, RECORD: 0}

    @property
    def mode(self) -> Mode:
        """Passive, active or degraded."""
        return self._life.mode

    @property
    def policy(self) -> Policy:
        """What is kept while the driver is away."""
        return Policy(self._log.settings[POLICY])

    def seed(self, settings: Settings) -> None:
        """Record what every driver is to have from now on; the next replay sees to it."""
        self._log.accept(settings, self._log.next_generation())

    def attach(self, flow: Flow) -> None:
        """From now on applications can play and record."""
        self.flow = flow
        if self._life.serving:
            flow.begin(self._incarnation)

    def wanted(self) -> Settings:
        """What every driver is asked for."""
        return {key: value for key, value in self._log.target().items() if key not in OURS}

    def sizes(self, rate: int) -> Sizes:
        """Those of a playback stream at the present latency, which the card may have rounded."""
        settings = self._log.settings
        latency = LATENCIES[str(settings[LATENCY])]
        period = int(str(settings.get(PERIOD, latency.period)))
        return Sizes(rate, period, period * latency.periods)

    # -- the life of the driver: nooks.recovery.protocols.Shadow -----------------------------------------------

    def activate(self, failure: FailureReport | None = None) -> None:
        """The driver is gone. Whoever waits for its answer is told at once."""
        self._life.to(Mode.ACTIVE)
        if self.flow is not None:
            still = STOOD_STILL.get(failure.reason, Still.NOTHING) if failure is not None else Still.NOTHING
            self.flow.fail(still=still, stopped_at=failure.stopped_at if failure is not None else None)

    async def replay(self, incarnation: int) -> dict[str, Any]:
        """Bring the driver to the log's state and compare; facts for the journal. Raises ReplayMismatch, NooksError."""
        async with self._asking:
            self._incarnation = incarnation
            recorded = self.wanted()
            outcome = await self._driver.resume(incarnation, recorded)
            verdict = judge(recorded, outcome)
            raise_mismatches(recorded, outcome, verdict)
        return {"settings": len(recorded), "unverified": sorted(verdict.unverified), "policy": self.policy}

    def deactivate(self) -> None:
        """The driver serves again, and plays on."""
        self._life.to(Mode.PASSIVE)
        if self.flow is not None:
            self.flow.begin(self._incarnation)
            self._count_frames(self.flow)

    def degrade(self) -> None:
        """Sink and source stay; applications go on, unheard, and record silence."""
        self._life.to(Mode.DEGRADED)
        if self.flow is not None:
            self.flow.give_up()

    # -- requests ----------------------------------------------------------------------------------------------

    async def set(self, settings: Mapping[str, object]) -> Settings:
        """Change settings for somebody who waits (``nooks set``); returns them as the driver has them.

        Raises InputError for an unknown key or a wrong value, BusyError while the driver is away, SettingRefused;
        what the driver took is recorded even if it refused something else.
        """
        ours, wanted = self._parsed(settings)
        self._raise_if_away()
        async with self._asking:
            self._raise_if_away()
            generation = self._log.next_generation()
            outcome = Outcome({})
            if wanted:
                try:
                    outcome = await self._life.ask(self._driver.apply(wanted))
                except DriverAway:
                    self.counters.count(SET)
                    raise BusyError from None
            verdict = judge(wanted, outcome)
            accepted = {**verdict.accepted, **({} if verdict.refused else ours)}
            if accepted:
                self._log.accept(accepted, generation)
                self._events("setting", incarnation=self._incarnation, detail=to_json(accepted))
            self._adapt(accepted)
        if verdict.refused:
            raise SettingRefused(verdict.refused)
        return accepted

    async def read(self) -> CardState:
        """The driver's state; as last known, with the log's settings, while it is away. Raises BusyError if unknown."""
        if self._life.serving:
            with contextlib.suppress(DriverAway):
                self._last = await self._life.ask(self._driver.read())
                self.elements = self._last.state.elements or self.elements
                return self._last
        if self._last is None:
            raise BusyError
        self.counters.count(READ)
        return CardState(self._last.readback | self.wanted(), self._last.state, self._last.statistics)

    # -- inside ------------------------------------------------------------------------------------------------

    def _parsed(self, settings: Mapping[str, object]) -> tuple[Settings, Settings]:
        """What is ours, and what the driver is to be asked for. Raises InputError."""
        ours: Settings = {}
        wanted: Settings = {}
        choices = {POLICY: tuple(Policy), LATENCY: tuple(LATENCIES)}
        for key, value in settings.items():
            if key in choices:
                if value not in choices[key]:
                    raise InputError(f"{key} can't be {value}", f"it is {' or '.join(choices[key])}")
                ours[key] = str(value)
            elif key.startswith("mixer."):
                wanted[key] = mixing.parse(key, value, self.elements)
            else:
                raise InputError(f"there is no setting {key}", "policy, latency and the mixer's elements can be set")
        if LATENCY in ours:
            wanted[PERIOD] = LATENCIES[str(ours[LATENCY])].period
        return ours, wanted

    def _adapt(self, accepted: Settings) -> None:
        playback = self.flow.playback if self.flow is not None else None
        if playback is None or self.flow is None:
            return
        playback.policy = self.policy
        if PERIOD in accepted:  # the driver's stream was configured anew, and forgot what it had
            self.flow.fail()
            present = self.sizes(playback.sizes.rate)
            playback.resize(replace(playback.sizes, period=present.period, window=present.window))
            self.flow.begin(self._incarnation)

    def _raise_if_away(self) -> None:
        if not self._life.serving:
            self.counters.count(SET)
            raise BusyError

    def _count_frames(self, flow: Flow) -> None:
        """Add what happened to frames since the last time."""
        totals = {RECORD: flow.capture.filled if flow.capture is not None else 0}
        if flow.playback is not None:
            totals |= {PLAY: flow.playback.replayed, PLAY_ON: flow.playback.dropped}
        for request, total in totals.items():
            self.counters.count(request, total - self._counted[request])
            self._counted[request] = total
