"""A link between a host and a peer, for the detectors of silent failures: every part of it may be broken."""

import asyncio
from collections.abc import Awaitable, Callable

from fakes import FakeClock, run

from nooks.failure.network import NetworkDetector
from nooks.failure.report import FailureReport


class Link:
    """A simulated driver, cable and peer. Rates are packets per 50 ms beat; counters are told every tenth beat."""

    def __init__(self, every_beats: int = 10) -> None:
        self.clock = FakeClock()
        self.out = 0
        self.inward = 0
        self.transmits = self.receives = True
        self.takes = True
        self.peer: bool | None = True
        self.counted = {"host_rx": 0, "host_tx": 0, "nic_rx": 0, "nic_tx": 0}
        self.lazy_tx_beats = 1
        self.asked = 0
        self.echoes = False
        self.whole = True
        self.plugged = False
        self.deaf_peer = False
        self.troubled: bool | None = None
        self.reports: list[FailureReport] = []
        self.detector = NetworkDetector(self, self.clock, self.reports.append, plugged=lambda: self.plugged)
        self._every = every_beats
        self._beats = 0
        self._sent = 0
        self.incarnation = 0
        self.restart()

    def restart(self) -> None:
        """A new incarnation serves; the driver works again."""
        self.incarnation += 1
        self.transmits = self.receives = self.takes = True
        self.detector.begin(self.incarnation, self.clock.monotonic())

    async def probe(self, timeout_seconds: float, *, again: bool = False) -> bool | None:
        """The question is a packet like any other; it is answered if everything on the way works."""
        self.asked += 1
        del again
        if self.peer is None:
            return None
        self._move(1, 0)
        if self.peer and not self.deaf_peer and self.takes and self.transmits and self.receives:
            await self.clock.sleep(0.003)
            self._move(0, 1)
            return True
        await self.clock.sleep(timeout_seconds)
        return False

    async def echo(self, timeout_seconds: float) -> bool | None:
        """Three frames, and their echoes if they get through whole."""
        if not self.echoes:
            return None
        self._move(3, 0)
        if self.peer and self.takes and self.transmits and self.receives and self.whole:
            await self.clock.sleep(0.003)
            self._move(0, 3)
            return True
        await self.clock.sleep(timeout_seconds)
        return False

    async def trouble(self, timeout_seconds: float) -> bool | None:
        del timeout_seconds
        return self.troubled

    def forget(self) -> None:
        self.echoes = False

    def _move(self, out: int, inward: int) -> None:
        out = out if self.takes else 0
        self.counted["host_rx"] += out
        self._sent += out if self.transmits else 0
        inward = inward if self.receives else 0
        self.counted["nic_rx"] += inward
        self.counted["host_tx"] += inward

    def move_in(self, packets: int) -> None:
        """The peer says something of its own accord."""
        self._move(0, packets)

    async def play(self, seconds: float) -> None:
        """Let traffic flow; stops at the first report."""
        for _ in range(round(seconds / 0.05)):
            if len(self.reports) >= self.incarnation:
                return
            await self.clock.advance(0.05)
            self._beats += 1
            self._move(self.out, self.inward if self.peer is not False else 0)
            if self._beats % self.lazy_tx_beats == 0:
                self.counted["nic_tx"] = self._sent
            if self._beats % self._every == 0:
                self.detector.counters(self.counted, self.clock.monotonic())
                await self.clock.settle()


def scenario(play: Callable[[Link], Awaitable[None]]) -> None:
    async def main() -> None:
        link = Link()
        await play(link)
        await link.detector.close()
        assert len(asyncio.all_tasks()) == 1

    run(main)


async def loaded(link: Link, out: int = 50, inward: int = 100) -> float:
    """Traffic flows, nothing is reported; returns the time."""
    link.out, link.inward = out, inward
    await link.play(5)
    assert not link.reports
    return link.clock.monotonic()
