"""The domain side of recovery: fences the old incarnation, brings up the next by the quickest means there is.

Implements recovery's Restarter over domains. A nook has two bays (the two queues of its TAP, say): the live domain
is attached to one, the spare waits on the other; the endpoint switches over only after the old one was fenced.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import structlog

from nooks.domain.domain import Domain, LaunchError
from nooks.domain.maker import DomainMaker
from nooks.domain.monitor import MonitorError
from nooks.host.errors import NooksError
from nooks.incarnation import Incarnation
from nooks.ledger import Ledger
from nooks.recovery.protocols import Means, Restarted

SETTLE_SECONDS = 0.3
"""A new spare is prepared only when the new incarnation has caught up with what waited for it."""

SPARE_RETRY_SECONDS = 5.0
"""A spare that could not be prepared is tried again after this long."""

SPARE_WAIT_SECONDS = 2.0
"""How long a restart waits for a spare that is being prepared, before it makes a domain of its own."""


class Bays(Protocol):
    """The class's host resources for two domains at a time."""

    def descriptors(self, bay: int) -> Mapping[str, int]:
        """What a domain in ``bay`` is handed, by the names that the plan's hardware uses."""
        ...

    def switch(self, bay: int) -> dict[str, Any]:
        """Make ``bay`` the one that applications are connected to; returns facts for the journal."""
        ...


class DomainRestarter:
    """Holds the live incarnation and the spare. ``connect`` makes an Incarnation of a domain that is about to run.

    ``quickest`` is the best means that may be used; ``replan`` makes the maker for another kernel.
    """

    def __init__(
        self,
        maker: DomainMaker,
        bays: Bays,
        ledger: Ledger,
        *,
        connect: Callable[[Domain, int, int], Incarnation],
        replan: Callable[[str], Awaitable[DomainMaker]],
        quickest: Means = Means.SPARE,
    ) -> None:
        self.maker = maker
        self.live: Incarnation | None = None
        self.switched: dict[str, Any] = {}
        self._bays = bays
        self._ledger = ledger
        self._connect = connect
        self._replan = replan
        self._quickest = quickest
        self._former: DomainMaker | None = None
        self._spare: Domain | None = None
        self._preparing: asyncio.Task[None] | None = None
        self._launching = False
        self._fenced: list[Incarnation] = []
        self._unwanted: list[Domain] = []
        self._log = structlog.get_logger()

    @property
    def spare_ready(self) -> bool:
        """Whether a spare waits."""
        return self._spare is not None and not self._spare.ended

    @property
    def spare_pid(self) -> int | None:
        """The process of the spare, if one waits."""
        return self._spare.pid if self._spare is not None else None

    async def fence(self) -> None:
        """Kill the live domain and wait until it can touch nothing. Raises ReapError."""
        if self.live is None:
            return
        self.live.silence()
        await self.live.domain.fence()
        self._ledger.drop_domain(self.live.bay)
        self._fenced.append(self.live)
        self.live = None

    async def restart(self, incarnation: int) -> Restarted:
        """Make the other bay's domain the live one. Raises LaunchError and others if none can be made."""
        bay = self._free_bay()
        await self._await_preparation()
        if self._unwanted:
            await self._drop_spare()
        domain, means = await self._next(bay)
        try:
            self.switched = self._bays.switch(bay)
            self._ledger.hold_domain(bay, domain)
            self._ledger.record(incarnation=incarnation, bay=bay)
            live = self._connect(domain, incarnation, bay)
            live.open()
            await domain.run()
        except BaseException:
            await domain.destroy()
            raise
        self.live = live
        return Restarted(means, domain.pid)

    def adopt(self, incarnation: Incarnation) -> None:
        """Take an incarnation over that another supervisor started."""
        self.live = incarnation

    async def stage(self, kernel: str | None) -> None:
        """Have a domain wait that a planned restart will use: another kernel's, or a fresh one of the same plan."""
        if kernel is None:
            await self._await_preparation()
            return
        await self._cancel_preparation()
        await self._drop_spare()
        try:
            maker = await self._replan(kernel)
            try:
                spare = await maker.restore(self._bays.descriptors(self._free_bay()), spare=True)
            except BaseException:
                maker.close()
                raise
        except BaseException:
            self.served()
            raise
        self._former, self.maker, self._spare = self.maker, maker, spare

    def unstage(self) -> None:
        """Go back to the plan that served before ``stage``; what waits of the other one is dropped."""
        if self._former is None:
            return
        self.maker.close()
        self.maker, self._former = self._former, None
        if self._spare is not None:
            self._unwanted.append(self._spare)
            self._spare = None

    def served(self) -> None:
        """The live incarnation serves: clear up after the old one and prepare the next spare, in the background."""
        if self._former is not None:
            self._former.close()
            self._former = None
        if self._preparing is None or self._preparing.done():
            self._preparing = asyncio.create_task(self._prepare(), name="prepare-spare")

    async def close(self) -> None:
        """Fence and release all domains. Raises ReapError if one can't be reaped."""
        await self._cancel_preparation()
        await self._drop_spare()
        await self.fence()
        await self._clear_fenced()
        self.maker.close()

    def _free_bay(self) -> int:
        return 1 - int(self._ledger.facts.get("bay", 1))

    async def _next(self, bay: int) -> tuple[Domain, Means]:
        """A domain that stands still, ready to serve. The old bay is free: its domain was fenced."""
        if self._spare is not None:
            spare, self._spare = self._spare, None
            if not spare.ended:
                return spare, Means.SPARE
            await spare.destroy()
        if not self.maker.plan.snapshottable or self._quickest is Means.COLD:
            return await self._boot(bay), Means.COLD
        attachments = self._bays.descriptors(bay)
        try:
            return await self.maker.restore(attachments, spare=False), Means.RESTORE
        except (LaunchError, MonitorError, OSError, ValueError) as error:
            self._log.warning("snapshot unusable, made anew", error=str(error))
            self.maker.discard_snapshot()
        return await self.maker.restore(attachments, spare=False), Means.COLD

    async def _boot(self, bay: int) -> Domain:
        domain = await self.maker.boot(self._bays.descriptors(bay))
        try:
            self.maker.facts = await self.maker.bring_up(domain)
        except BaseException:
            await domain.destroy()
            raise
        return domain

    async def _prepare(self) -> None:
        await asyncio.sleep(SETTLE_SECONDS)
        await self._clear_fenced()
        if self._quickest is not Means.SPARE or not self.maker.plan.snapshottable:
            return
        while not self.spare_ready:
            await self._drop_spare()
            self._launching = True
            try:
                bay = self._free_bay()
                self._spare = await self.maker.restore(self._bays.descriptors(bay), spare=True)
                self._ledger.hold_domain(bay, self._spare)
            except (NooksError, OSError, ValueError) as error:
                self._launching = False
                self._log.warning("no spare", error=str(error))
                await asyncio.sleep(SPARE_RETRY_SECONDS)
            finally:
                self._launching = False

    async def _await_preparation(self) -> None:
        """A spare that is nearly there is quicker than a domain of one's own."""
        if self._preparing is None or self._preparing.done():
            return
        if self._launching:
            await asyncio.wait({self._preparing}, timeout=SPARE_WAIT_SECONDS)
        await self._cancel_preparation()

    async def _cancel_preparation(self) -> None:
        if self._preparing is not None:
            self._preparing.cancel()
            await asyncio.gather(self._preparing, return_exceptions=True)
            self._preparing = None

    async def _drop_spare(self) -> None:
        if self._spare is not None:
            self._unwanted.append(self._spare)
            self._spare = None
        while self._unwanted:
            await self._unwanted[-1].destroy()
            self._unwanted.pop()

    async def _clear_fenced(self) -> None:
        while self._fenced:
            old = self._fenced.pop()
            await old.close()
            await old.domain.release()
