"""The shadow driver of disks and drives.

Passive, it logs every request until it is answered, and keeps what was written until it is surely on the medium
(``requests``, ``write_log``). Active, it lets requests wait. Then it sees that the next driver has the same disk, and
has it repeat what must be. Knows neither endpoints nor domains: it speaks to the ports below.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from nooks.failure.report import FailureReport
from nooks.host.clock import Clock
from nooks.host.errors import NooksError
from nooks.recovery.episode import COMMANDED
from nooks.shadow.strategies import Counters, Row, Strategy, StrategyTable
from nooks.xpc.states import BlockState

READ = "read"
WRITE = "write"
FLUSH = "flush"
DISCARD = "discard-or-zero"
GEOMETRY = "read-geometry"
MEDIA = "change-medium"

REQUESTS = StrategyTable(
    "block",
    (
        Row(READ, Strategy.BLOCK, "waits until the next driver has repeated what was written"),
        Row(WRITE, Strategy.QUEUE, "its data are in the log already; the next driver writes them, its caller waits"),
        Row(FLUSH, Strategy.BLOCK, "waits; covers what the next driver repeats as well"),
        Row(DISCARD, Strategy.QUEUE, "carried out by the next driver, its caller waits"),
        Row(GEOMETRY, Strategy.ANSWER, "size, sectors and medium as last known"),
        Row(MEDIA, Strategy.BUSY, "`nooks media` fails at once and says to try again"),
    ),
)

SAME = ("size_bytes", "sector_bytes", "read_only", "medium")
"""What a driver must find as its predecessor left it; the rest is for people."""


class WrongDisk(NooksError):  # noqa: N818 - the name says what happened
    """A driver that starts has another disk than the one that is in use."""


class DriverPort(Protocol):
    """The driver in its domain. Raises NooksError if it does not answer; may be cancelled."""

    async def resume(self, incarnation: int) -> BlockState:
        """Tell a driver that starts who it is; what it says of its disk."""
        ...


class DataPort(Protocol):
    """What moves the data."""

    def lose(self, *, counts: bool) -> None:
        """Hear nothing more of the driver; ``counts`` unless somebody made it fail."""
        ...

    async def replay(self, *, write_through: bool) -> Mapping[str, int]:
        """Serve by the driver that is there now; returns, when it has repeated what must be, how much waited.

        By the names of REQUESTS.
        """
        ...

    def give_up(self) -> None:
        """Let everything fail until there is a driver again."""
        ...

    def facts(self) -> dict[str, Any]:
        """Figures, with ``unflushed_writes`` among them."""
        ...


class BlockShadow:
    """Implements nooks.recovery.protocols.Shadow. ``give_up_seconds``: how long requests wait once it is degraded.

    0 lets them wait for ever. ``state`` is the disk as applications see it, None before the first driver.
    """

    def __init__(
        self, driver: DriverPort, data: DataPort, clock: Clock, *, give_up_seconds: float, state: BlockState | None
    ) -> None:
        self._driver = driver
        self._data = data
        self._clock = clock
        self._give_up_seconds = give_up_seconds
        self._giving_up: asyncio.Task[None] | None = None
        self.state = state
        self.counters = Counters(REQUESTS)

    def activate(self, failure: FailureReport | None = None) -> None:
        """The driver is gone: requests wait from now on."""
        self._cancel_giving_up()
        self._data.lose(counts=failure is not None and _by_itself(failure))

    async def replay(self, incarnation: int) -> dict[str, Any]:
        """Have a driver that starts repeat what must be; facts for the journal. Raises WrongDisk, NooksError."""
        state = await self._driver.resume(incarnation)
        self._compare(state)
        kept = self._data.facts()["unflushed_writes"]
        waited = await self._data.replay(write_through=not state.cached)
        for kind, times in waited.items():
            self.counters.count(kind, times)
        self.state = state
        return {"kept": kept, "waited": sum(waited.values()), "model": state.model}

    def deactivate(self) -> None:
        """Nothing is left to do: requests are carried out since the replay."""

    def degrade(self) -> None:
        """Requests wait, or fail after a while if that is wished."""
        self._data.lose(counts=False)
        if self._give_up_seconds > 0:
            self._giving_up = asyncio.create_task(self._give_up_later(), name="give up")

    async def close(self) -> None:
        """Wait for nothing any more."""
        self._cancel_giving_up()

    async def _give_up_later(self) -> None:
        await self._clock.sleep(self._give_up_seconds)
        self._data.give_up()

    def _cancel_giving_up(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None

    def _compare(self, state: BlockState) -> None:
        known = self.state
        if known is None:
            return
        wrong = {key: (getattr(known, key), getattr(state, key)) for key in SAME}
        told = ", ".join(f"{key} is {now} instead of {was}" for key, (was, now) in wrong.items() if was != now)
        if told:
            raise WrongDisk(f"the driver does not find the disk as it was: {told}")


def _by_itself(failure: FailureReport) -> bool:
    """Whether nobody made the driver fail on purpose."""
    return failure.reason not in COMMANDED and "commanded" not in failure.detail
