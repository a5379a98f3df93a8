"""The domain side of recovery: fences the old incarnation, brings up the next by the quickest means there is.

Implements recovery's Restarter over domains. A nook has two bays (the two queues of its TAP, say): the live domain
is attached to one, the spare waits on the other; the endpoint switches over only after the old one was fenced.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import structlog

from nooks.domain.domain import PREPARING_NICENESS, Domain, LaunchError
from nooks.domain.maker import DomainMaker
from nooks.domain.monitor import MonitorError
from nooks.host.errors import NooksError
from nooks.nook.incarnation import Incarnation
from nooks.nook.ledger import Ledger
from nooks.recovery.protocols import Means, Restarted
from nooks.xpc.errors import XpcError

SETTLE_SECONDS = 0.3
"""A new spare is prepared only when the new incarnation has caught up with what waited for it."""

REST_SECONDS = 1.1
"""How long a domain runs on after its settings changed. Cards need a while after their filters were set (QEMU's
e1000 holds all reception for a second, hw/net/e1000.c flush_queue_timer); a paused spare's clock stands still."""

SPARE_RETRY_SECONDS = 5.0
"""A spare that could not be prepared is tried again after this long."""

SPARE_WAIT_SECONDS = 2.0
"""How long a restart waits for a spare that is being loaded, before it makes a domain of its own."""

SPARE = 0
"""The number of an incarnation that has none yet."""


class Bays(Protocol):
    """The class's host resources for two domains at a time."""

    def launching(self, bay: int, *, serving: bool) -> AbstractContextManager[Mapping[str, int]]:
        """Around everything that starts a domain in ``bay``; ``serving``: the other bay's domain must not notice.

        Gives what the domain is handed, by the names that the plan's hardware uses.
        """
        ...

    async def admit(self, bay: int, domain: Domain) -> None:
        """Give a domain that is about to serve what only one at a time may have; the old one was fenced.

        Raises MonitorError, NooksError.
        """
        ...

    def switch(self, bay: int) -> dict[str, Any]:
        """Make ``bay`` the one that applications are connected to; returns facts for the journal."""
        ...


class DomainRestarter:
    """Holds the live incarnation and the spare.

    ``connect`` makes an Incarnation (domain, number, bay) of a domain that is about to run. ``rehearse`` brings a
    spare to the recorded state: a domain that has done once what it will be asked for is translated, configured and
    has its link, so that the failover itself does nothing but continue. ``replan`` makes the maker for another
    kernel. ``serving`` is told which incarnation is live, None before it is fenced. ``plug`` gives the device to a
    domain that runs without one and has the driver come up, and returns facts for the journal; None if the device is
    part of every domain. ``probing`` is told before that. ``quickest`` is the best means that may be used.
    """

    def __init__(
        self,
        maker: DomainMaker,
        bays: Bays,
        ledger: Ledger,
        *,
        connect: Callable[[Domain, int, int], Incarnation],
        rehearse: Callable[[Incarnation], Awaitable[None]],
        replan: Callable[[str], Awaitable[DomainMaker]],
        serving: Callable[[Incarnation | None], None],
        plug: Callable[[Incarnation], Awaitable[dict[str, Any]]] | None = None,
        probing: Callable[[Incarnation], None] = lambda incarnation: None,
        quickest: Means = Means.SPARE,
    ) -> None:
        self.maker = maker
        self.live: Incarnation | None = None
        self.switched: dict[str, Any] = {}
        self._bays = bays
        self._ledger = ledger
        self._connect = connect
        self._rehearse = rehearse
        self._replan = replan
        self._serving = serving
        self._plug = plug
        self._probing = probing
        self._quickest = quickest
        self._former: DomainMaker | None = None
        self._spare: Incarnation | None = None
        self._preparing: asyncio.Task[None] | None = None
        self._loading = False
        self._stale = False
        self._closing: set[asyncio.Task[None]] = set()
        self._ended: list[Incarnation] = []
        self._log = structlog.get_logger()

    @property
    def spare_ready(self) -> bool:
        """Whether a spare waits, configured and paused."""
        return self._spare is not None and not self._spare.domain.ended and self._preparing is None

    @property
    def spare_pid(self) -> int | None:
        """The process of the spare, if there is one."""
        return self._spare.domain.pid if self._spare is not None else None

    def fenced(self, number: int) -> Incarnation | None:
        """An incarnation that was fenced and not yet cleared up."""
        return next((old for old in reversed(self._ended) if old.number == number), None)

    async def fence(self) -> None:
        """Kill the live domain and wait until it can touch nothing. Raises ReapError."""
        if self.live is None:
            return
        self._serving(None)
        self.live.silence()
        await self.live.domain.fence()
        self._ledger.drop_domain(self.live.bay)
        self._ended.append(self.live)
        self.live = None

    async def restart(self, incarnation: int) -> Restarted:
        """Make the other bay's domain the live one. Raises LaunchError and others if none can be made."""
        bay = self._free_bay()
        await self._await_spare()
        self.live, means = await self._next(bay, incarnation)
        self._ledger.hold_domain(bay, self.live.domain)
        self.switched = {}
        await self._bays.admit(bay, self.live.domain)
        if self._plug is not None:
            means = Means.COLD if means is Means.COLD else Means.HOTPLUG
            await self.live.domain.run()
            self._probing(self.live)
            self.switched = await self._plug(self.live)
        self.switched |= self._bays.switch(bay)
        self._ledger.record(incarnation=incarnation, bay=bay)
        await self.live.domain.run()
        self._serving(self.live)
        return Restarted(means, self.live.domain.pid)

    def adopt(self, incarnation: Incarnation) -> None:
        """Take an incarnation over that another supervisor started."""
        self.live = incarnation

    async def stage(self, kernel: str | None) -> None:
        """Have a domain wait that a planned restart will use: another kernel's, or a fresh one of the same plan."""
        if kernel is None:
            if self._preparing is not None:
                await asyncio.wait({self._preparing}, timeout=SPARE_WAIT_SECONDS)
            return
        await self._cancel_preparation()
        self._end_spare()
        await self._clear_ended()
        try:
            maker = await self._replan(kernel)
            try:
                await self._load_spare(maker)
            except BaseException:
                await maker.close()
                raise
        except BaseException:
            self.served()
            raise
        self._former, self.maker = self.maker, maker

    def unstage(self) -> None:
        """Go back to the plan that served before ``stage``; what waits of the other one is dropped."""
        if self._former is None:
            return
        self._close_later(self.maker)
        self.maker, self._former = self._former, None
        self._end_spare()

    def served(self) -> None:
        """The live incarnation serves: clear up after the old one and prepare the next spare, in the background."""
        if self._former is not None:
            self._close_later(self._former)
            self._former = None
        if self._preparing is None:
            self._preparing = asyncio.create_task(self._prepare(), name="prepare-spare")
            self._preparing.add_done_callback(self._prepared)

    def refresh_spare(self) -> None:
        """The recorded state changed: the spare has to learn of it, unless it has no driver yet that could."""
        if self._plug is not None:
            return
        self._stale = True
        self.maker.personal = False
        self.served()

    async def close(self) -> None:
        """Fence and release all domains. Raises ReapError if one can't be reaped."""
        await self._cancel_preparation()
        self._end_spare()
        await self.fence()
        await self._clear_ended()
        await self.maker.close()
        await asyncio.gather(*self._closing)

    def _free_bay(self) -> int:
        return 1 - int(self._ledger.facts.get("bay", 1))

    async def _next(self, bay: int, number: int) -> tuple[Incarnation, Means]:
        """A domain that is ready to serve. The old bay is free: its domain was fenced."""
        if self._spare is not None:
            spare, self._spare = self._spare, None
            asyncio.get_running_loop().remove_reader(spare.domain.handles.pidfd)
            if not spare.domain.ended:
                spare.appoint(number)
                return spare, Means.SPARE
            self._ended.append(spare)
        await self._clear_ended()
        with self._bays.launching(bay, serving=False) as attachments:
            if not self.maker.plan.snapshottable or self._quickest is Means.COLD:
                return self._open(await self._boot(attachments), number, bay), Means.COLD
            try:
                domain, means = await self.maker.restore(attachments, spare=False), Means.RESTORE
            except (LaunchError, MonitorError, OSError, ValueError) as error:
                self._log.warning("snapshot unusable, made anew", error=str(error))
                self.maker.discard_snapshot()
                domain, means = await self.maker.restore(attachments, spare=False), Means.COLD
        return self._open(domain, number, bay), means

    def _close_later(self, maker: DomainMaker) -> None:
        task = asyncio.create_task(maker.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _open(self, domain: Domain, number: int, bay: int) -> Incarnation:
        incarnation = self._connect(domain, number, bay)
        incarnation.open()
        return incarnation

    async def _boot(self, attachments: Mapping[str, int]) -> Domain:
        domain = await self.maker.boot(attachments)
        try:
            self.maker.facts = await self.maker.bring_up(domain)
        except BaseException:
            await domain.destroy()
            raise
        return domain

    async def _prepare(self) -> None:
        """Until a spare waits that knows the recorded state."""
        await asyncio.sleep(SETTLE_SECONDS)
        await self._clear_ended()
        if self._quickest not in (Means.SPARE, Means.HOTPLUG) or not self.maker.plan.snapshottable:
            return
        while self._spare is None or self._spare.domain.ended or self._stale:
            self._stale = False
            try:
                if self._spare is None or self._spare.domain.ended:
                    self._end_spare()
                    await self._clear_ended()
                    await self._load_spare(self.maker)
                else:
                    await self._rehearse_spare(self._spare, rest_seconds=REST_SECONDS)
            except (NooksError, XpcError, OSError, ValueError) as error:
                self._log.warning("no spare", error=str(error))
                self._end_spare()
                await asyncio.sleep(SPARE_RETRY_SECONDS)

    async def _load_spare(self, maker: DomainMaker) -> None:
        bay = self._free_bay()
        if not maker.personal and self._plug is None:
            await self._personalise(maker, bay)
        self._loading = True
        try:
            with self._bays.launching(bay, serving=self.live is not None) as attachments:
                domain = await maker.restore(attachments, spare=True)
            self._ledger.hold_domain(bay, domain)
            self._spare = self._open(domain, SPARE, bay)
            asyncio.get_running_loop().add_reader(domain.handles.pidfd, self._spare_ended, domain.handles.pidfd)
        finally:
            self._loading = False
        await self._rehearse_spare(self._spare, rest_seconds=0.0)

    async def _personalise(self, maker: DomainMaker, bay: int) -> None:
        """Make a snapshot that has the recorded state in it, its card at rest: no later domain has to get there."""
        with self._bays.launching(bay, serving=self.live is not None) as attachments:
            domain = await maker.restore_to_keep(attachments)
        model = self._open(domain, SPARE, bay)
        self._ledger.hold_domain(bay, domain)
        try:
            await self._rehearse_spare(model, rest_seconds=REST_SECONDS)
            await model.close()
            await maker.keep(domain)
        finally:
            model.silence()
            self._ended.append(model)
        await self._clear_ended()

    def _spare_ended(self, pidfd: int) -> None:
        """A spare died while it waited: prepare another."""
        asyncio.get_running_loop().remove_reader(pidfd)
        if self.live is not None:
            self.served()

    async def _rehearse_spare(self, spare: Incarnation, *, rest_seconds: float) -> None:
        await spare.domain.run(niceness=PREPARING_NICENESS)
        await self._rehearse(spare)
        await asyncio.sleep(rest_seconds)
        await spare.domain.pause()

    def _prepared(self, task: "asyncio.Task[None]") -> None:
        self._preparing = None
        if not task.cancelled() and task.exception() is not None:
            self._log.error("preparing a spare failed", error=repr(task.exception()))

    async def _await_spare(self) -> None:
        """A spare that is nearly loaded is quicker than a domain of one's own; a rehearsal is not waited for."""
        if self._preparing is None:
            return
        deadline = asyncio.get_running_loop().time() + SPARE_WAIT_SECONDS
        while self._loading and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.001)
        await self._cancel_preparation()

    async def _cancel_preparation(self) -> None:
        if self._preparing is not None:
            task = self._preparing
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._preparing = None

    def _end_spare(self) -> None:
        if self._spare is not None:
            asyncio.get_running_loop().remove_reader(self._spare.domain.handles.pidfd)
            self._spare.silence()
            self._ended.append(self._spare)
            self._spare = None

    async def _clear_ended(self) -> None:
        """Release what was fenced, and fence what was not: a spare that is no longer wanted."""
        while self._ended:
            old = self._ended.pop()
            try:
                await old.close()
                await old.domain.destroy()
            except BaseException:
                self._ended.append(old)
                raise
