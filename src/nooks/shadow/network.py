"""The shadow driver of network interfaces.

Passive, it records the settings that the driver accepted. Active, it answers, acts busy and queues by REQUESTS, while
the interface keeps its carrier and its queue. Then it brings the next driver to the recorded state and compares.
Knows neither TAPs nor domains: it speaks to the ports below.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from nooks.failure.report import FailureReport
from nooks.host.errors import InputError, NooksError
from nooks.recovery.protocols import EventSink
from nooks.shadow.errors import BusyError, SettingRefused, raise_mismatches
from nooks.shadow.life import DriverAway, Life, Mode
from nooks.shadow.log import Log
from nooks.shadow.readback import LinkState, Outcome, judge
from nooks.shadow.strategies import Counters, Row, Strategy, StrategyTable
from nooks.xpc.errors import ProtocolError
from nooks.xpc.settings import Settings, check_settings, to_json

READ = "read-setting"
CARRIER = "read-carrier"
SET = "change-setting"
ENDPOINT_CHANGE = "change-interface"
SEND = "send-frame"
SEND_BEYOND = "send-frame-beyond-queue"

REQUESTS = StrategyTable(
    "network",
    (
        Row(READ, Strategy.ANSWER, "settings, speed and counters as last known"),
        Row(CARRIER, Strategy.ANSWER, "stays as it was; a cable unplugged meanwhile shows after the replay"),
        Row(SET, Strategy.BUSY, "`nooks set` fails at once and says to try again"),
        Row(ENDPOINT_CHANGE, Strategy.QUEUE, "ip and ethtool succeed; the log has it, the next driver gets it"),
        Row(SEND, Strategy.QUEUE, "waits in the interface's queue, and is sent by the next driver"),
        Row(SEND_BEYOND, Strategy.DROP, "counted among the interface's transmit drops, as on a cable out of order"),
    ),
)


@dataclass(frozen=True)
class DriverState:
    """Everything that the driver says of itself now."""

    readback: Settings
    link: LinkState
    statistics: dict[str, int] = field(default_factory=dict[str, int])


class DriverPort(Protocol):
    """The driver in its domain. Every method raises NooksError if it does not answer, and may be cancelled."""

    async def apply(self, settings: Settings) -> Outcome:
        """Ask for some settings; the others stay."""
        ...

    async def resume(self, incarnation: int, settings: Settings) -> Outcome:
        """Tell a driver that starts who it is, and all its settings."""
        ...

    async def read(self) -> DriverState:
        """Ask for the present state."""
        ...


class EndpointPort(Protocol):
    """The host's interface. Every member raises NooksError if it was deleted."""

    def set_carrier(self, on: bool) -> None:
        """Plug or unplug it."""
        ...

    def mirror_link(self, speed: int, duplex: str, autoneg: bool | None = None) -> None:
        """Show the card's speed and duplex."""
        ...

    def restore(self, settings: Settings) -> None:
        """Show these settings, as far as the interface has them."""
        ...

    @property
    def dropped(self) -> int:
        """Frames that no queue had room for, in all."""
        ...

    @property
    def moved(self) -> int:
        """Frames that waited for a dead domain and went to the next, in all."""
        ...


class NetworkShadow:
    """Implements nooks.recovery.protocols.Shadow. Starts active: there is no driver yet."""

    def __init__(self, driver: DriverPort, endpoint: EndpointPort, log: Log, events: EventSink) -> None:
        self._driver = driver
        self._endpoint = endpoint
        self._log = log
        self._events = events
        self._life = Life()
        self._asking = asyncio.Lock()
        self._applier: asyncio.Task[None] | None = None
        self._incarnation = 0
        self._last = DriverState({}, LinkState(carrier=False))
        self._dropped = self._moved = 0
        self.counters = Counters(REQUESTS)

    @property
    def mode(self) -> Mode:
        """Passive, active or degraded."""
        return self._life.mode

    @property
    def link(self) -> LinkState:
        """The card's cable as the interface shows it."""
        return self._last.link

    def seed(self, settings: Settings) -> None:
        """Record what the spec asks for, before the first driver starts; the first replay sees to it."""
        self._log.accept(settings, self._log.next_generation())

    # -- the life of the driver: nooks.recovery.protocols.Shadow -----------------------------------------------

    def activate(self, failure: FailureReport | None = None) -> None:
        """The driver is gone. Whoever waits for its answer is told at once."""
        del failure  # frames are lost and settings replayed whatever it was
        self._to(Mode.ACTIVE)

    async def replay(self, incarnation: int) -> dict[str, Any]:
        """Bring the driver to the log's state, compare, and show its link; facts for the journal.

        A queued change that it refuses is undone at the interface. Raises ReplayMismatch, NooksError.
        """
        async with self._asking:
            self._incarnation = incarnation
            recorded = self._log.settings
            outcome = await self._driver.resume(incarnation, recorded)
            verdict = judge(recorded, outcome)
            raise_mismatches(recorded, outcome, verdict)
            queued, refused = await self._replay_pending()
            if queued or outcome.link is None:
                self._last = await self._driver.read()
            else:
                self._last = DriverState(outcome.readback, outcome.link, self._last.statistics)
            self._mirror()
        return {
            "settings": len(recorded),
            "queued": queued,
            "refused": refused,
            "unverified": sorted(verdict.unverified),
            "carrier": self._last.link.carrier,
        }

    def deactivate(self) -> None:
        """The driver serves again; what was changed during the replay is asked for now."""
        self._to(Mode.PASSIVE)
        self._count_frames()
        self._apply_pending()

    def degrade(self) -> None:
        """The interface stays, with its carrier off."""
        self._to(Mode.DEGRADED)
        self._endpoint.set_carrier(False)

    async def close(self) -> None:
        """Stop asking; the log stays."""
        if self._applier is not None:
            self._applier.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._applier

    # -- requests ----------------------------------------------------------------------------------------------

    async def set(self, settings: dict[str, Any]) -> Settings:
        """Change settings for somebody who waits (``nooks set``); returns them as the driver has them.

        Raises InputError for an unknown key or a wrong value, BusyError while the driver is away, SettingRefused;
        what the driver took is recorded even if it refused something else.
        """
        try:
            wanted = check_settings(settings)
        except ProtocolError as error:
            raise InputError(f"no such setting: {error}", "see docs/design.md for the keys") from None
        self._raise_if_away()
        async with self._asking:
            self._raise_if_away()
            generation = self._log.next_generation()
            try:
                outcome = await self._life.ask(self._driver.apply(wanted))
            except DriverAway:
                self.counters.count(SET)
                raise BusyError from None
            verdict = judge(wanted, outcome)
            self._record(verdict.accepted, {}, generation, outcome)
            self._endpoint.restore(verdict.accepted)
        if verdict.refused:
            raise SettingRefused(verdict.refused)
        return verdict.accepted

    def changed(self, settings: Settings) -> None:
        """The user changed the interface itself. In the log when this returns; then the driver is asked."""
        self._log.queue(settings)
        if self._life.serving:
            self._apply_pending()
        else:
            self.counters.count(ENDPOINT_CHANGE, len(settings))

    async def read(self) -> DriverState:
        """The driver's state; as last known, with the log's settings, while it is away."""
        if self._life.serving:
            with contextlib.suppress(DriverAway):
                self._last = await self._life.ask(self._driver.read())
                return self._last
        self.counters.count(READ)
        return DriverState(self._last.readback | self._log.target(), self._last.link, self._last.statistics)

    def link_changed(self, link: LinkState) -> None:
        """The card says that its cable changed. What a driver says while it is being replaced is not believed."""
        if not self._life.serving:
            self.counters.count(CARRIER)
            return
        self._last = DriverState(self._last.readback, link, self._last.statistics)
        self._mirror()

    async def settled(self) -> None:
        """Return when the driver was asked for all that is pending, or is away."""
        while self._applier is not None:
            await asyncio.wait([self._applier])

    # -- inside ------------------------------------------------------------------------------------------------

    def _to(self, mode: Mode) -> None:
        if self._life.serving:
            self._dropped, self._moved = self._frames()
        self._life.to(mode)

    def _raise_if_away(self) -> None:
        if not self._life.serving:
            self.counters.count(SET)
            raise BusyError

    def _apply_pending(self) -> None:
        if self._log.pending and self._applier is None:
            self._applier = asyncio.create_task(self._apply_all(), name="network shadow")
            self._applier.add_done_callback(self._applied)

    def _applied(self, task: asyncio.Task[None]) -> None:
        self._applier = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._events("setting", incarnation=self._incarnation, reason="unanswered", detail={"error": str(error)})

    async def _apply_all(self) -> None:
        """Ask for what is pending until nothing is. What is not answered stays pending, for the next replay."""
        while self._log.pending:
            async with self._asking:
                if not self._life.serving:
                    return
                generation = self._log.generation
                wanted = {key: entry.value for key, entry in self._log.pending.items()}
                try:
                    outcome = await self._life.ask(self._driver.apply(wanted))
                except DriverAway:
                    return
                verdict = judge(wanted, outcome)
                self._record(verdict.accepted, verdict.refused, generation, outcome)

    async def _replay_pending(self) -> tuple[int, dict[str, str]]:
        """Ask a restarted driver for what was queued; how many settings that were, and what it refused."""
        pending = self._log.pending
        if not pending:
            return 0, {}
        generation = self._log.generation
        wanted = {key: entry.value for key, entry in pending.items()}
        outcome = await self._driver.apply(wanted)
        verdict = judge(wanted, outcome)
        self._record(verdict.accepted, verdict.refused, generation, outcome)
        return len(pending), verdict.refused

    def _record(self, accepted: Settings, refused: dict[str, str], generation: int, outcome: Outcome) -> None:
        """Put the driver's answer into the log; undo at the interface what it refused."""
        if accepted:
            self._log.accept(accepted | self._coupled(accepted, outcome), generation)
            if accepted.get("link.autoneg") is True:
                self._log.forget(key for key in ("link.speed", "link.duplex") if key not in accepted)
            self._events("setting", incarnation=self._incarnation, detail=to_json(accepted))
        if refused:
            newer = {key for key, entry in self._log.pending.items() if entry.generation > generation}
            former = outcome.readback | self._log.settings
            undone = {key: former[key] for key in refused if key in former and key not in newer}
            self._endpoint.restore(undone)
            self._log.refuse(refused, generation)
            self._events("setting", incarnation=self._incarnation, reason="refused", detail=dict(refused))

    def _coupled(self, accepted: Settings, outcome: Outcome) -> Settings:
        """Recorded features that changed with the ones asked for: no segmentation without checksums, say."""
        if not _couples(accepted):
            return {}
        return {
            key: outcome.readback[key]
            for key, value in self._log.settings.items()
            if key.startswith("feature.") and key not in accepted and outcome.readback.get(key, value) != value
        }

    def _mirror(self) -> None:
        link = self._last.link
        autoneg = self._log.settings.get("link.autoneg")
        self._endpoint.set_carrier(link.carrier)
        if link.carrier:
            self._endpoint.mirror_link(link.speed, link.duplex, autoneg if isinstance(autoneg, bool) else None)

    def _frames(self) -> tuple[int, int]:
        try:
            return self._endpoint.dropped, self._endpoint.moved
        except NooksError:  # deleted: the watch reports it
            return self._dropped, self._moved

    def _count_frames(self) -> None:
        dropped, moved = self._frames()
        self.counters.count(SEND, moved - self._moved)
        self.counters.count(SEND_BEYOND, dropped - self._dropped)


def _couples(keys: Iterable[str]) -> bool:
    """Whether a change of these can change features that were not asked for."""
    return any(key == "mtu" or key.startswith("feature.") for key in keys)
