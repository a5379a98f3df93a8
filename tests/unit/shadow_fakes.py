"""A driver, an interface and a journal that the network shadow is tested with."""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from nooks.host.errors import NooksError
from nooks.shadow.network import DriverState
from nooks.shadow.readback import LinkState, Outcome
from nooks.xpc.settings import Settings

DEFAULTS: Settings = {
    "mtu": 1500,
    "promisc": False,
    "ring.rx": 256,
    "feature.tx-checksum-ip-generic": True,
    "feature.tx-tcp-segmentation": True,
}


class FakeDriver:
    """Forgets everything when it fails. Refuses an MTU above 1500, rounds rings to eights, couples two features.

    With ``held`` set, its answers wait until ``answer`` is called, as a slow or dying driver's do.
    """

    def __init__(self) -> None:
        self.state = dict(DEFAULTS)
        self.link = LinkState(carrier=True, speed=1000, duplex="full")
        self.held = False
        self.waiting: deque[asyncio.Future[None]] = deque()
        self.error: NooksError | None = None
        self.broken: set[str] = set()
        self.unreadable: set[str] = set()
        self.asked: list[Settings] = []
        self.incarnation = 0

    def fail(self) -> None:
        """What a restart leaves: nothing. Nobody gets an answer any more."""
        self.state = dict(DEFAULTS)
        self.waiting.clear()

    def answer(self) -> None:
        """Let the oldest question be answered."""
        while self.waiting:
            waiter = self.waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def apply(self, settings: Settings) -> Outcome:
        self.asked.append(dict(settings))
        await self._pause()
        return self._take(settings)

    async def resume(self, incarnation: int, settings: Settings) -> Outcome:
        self.incarnation = incarnation
        return await self.apply(settings)

    async def read(self) -> DriverState:
        await self._pause()
        return DriverState(self._readback(), self.link, {"rx_packets": 7})

    async def _pause(self) -> None:
        if self.held:
            waiter = asyncio.get_running_loop().create_future()
            self.waiting.append(waiter)
            await waiter
        if self.error is not None:
            raise self.error

    def _take(self, settings: Settings) -> Outcome:
        refused: dict[str, str] = {}
        for key, value in settings.items():
            if key == "mtu" and isinstance(value, int) and value > 1500:
                refused[key] = "too long"
            elif key in self.broken:
                continue
            elif key == "ring.rx" and isinstance(value, int):
                self.state[key] = (value + 7) // 8 * 8
            else:
                self.state[key] = value
        if not self.state["feature.tx-checksum-ip-generic"]:
            self.state["feature.tx-tcp-segmentation"] = False
        return Outcome(self._readback(), refused)

    def _readback(self) -> Settings:
        return {key: value for key, value in self.state.items() if key not in self.unreadable}


@dataclass
class FakeEndpoint:
    """An interface that remembers what was done to it."""

    carrier: bool = True
    shown: dict[str, Any] = field(default_factory=dict[str, Any])
    links: list[tuple[int, str, bool | None]] = field(default_factory=list[tuple[int, str, bool | None]])
    dropped: int = 0
    moved: int = 0

    def set_carrier(self, on: bool) -> None:
        self.carrier = on

    def mirror_link(self, speed: int, duplex: str, autoneg: bool | None = None) -> None:
        self.links.append((speed, duplex, autoneg))

    def restore(self, settings: Settings) -> None:
        self.shown.update(settings)


class FakeEvents:
    """An EventSink that keeps everything."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, Any]]] = []

    def __call__(self, event: str, *, incarnation: int, reason: str = "", detail: dict[str, Any] | None = None) -> None:
        self.seen.append((event, reason, detail or {}))
