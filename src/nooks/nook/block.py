"""The class ``block``, put together: its endpoint, medium, data path and shadow, around whatever incarnation serves."""

import asyncio
import contextlib
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from typing import Any

from nooks.device import usage
from nooks.device.emulated import data_port
from nooks.domain.domain import Domain
from nooks.domain.monitor import MonitorError
from nooks.endpoint.configuration import Configuration
from nooks.failure.block import BlockDetector
from nooks.failure.report import FailureReport, Reason, ReportSink
from nooks.host.clock import SystemClock
from nooks.host.errors import InputError, NooksError, StateError
from nooks.host.pace import slowness
from nooks.host.paths import nook_dir
from nooks.host.process import ProcessError
from nooks.keeper.client import KeeperGone
from nooks.nook import asking, block_parts
from nooks.nook.asking import NoAnswer, patience, surely
from nooks.nook.block_data import DataPath
from nooks.nook.block_link import REGION_BYTES, Link
from nooks.nook.block_parts import BELL, DATA, REGION, Parts
from nooks.nook.block_probe import EmulatedWork, UnseenWork
from nooks.nook.claims import BLOCK_DEVICE
from nooks.nook.incarnation import Incarnation
from nooks.nook.ledger import Ledger
from nooks.recovery.protocols import EventSink
from nooks.shadow.block import MEDIA, BlockShadow
from nooks.shadow.errors import BusyError
from nooks.spec import Spec
from nooks.xpc.errors import ProtocolError
from nooks.xpc.messages import Changed, Message, Read
from nooks.xpc.settings import Settings
from nooks.xpc.states import BlockState, DeviceState

REHEARSALS = 2
"""How often a spare is told who it is: the first time warms its translations up."""

FLUSH_SECONDS = 30.0
"""How long the host's page cache may take to be written before a nook is stopped."""

SEE_SECONDS = 0.1
"""How often a drive is asked whether it has seen its new medium."""


class BlockSide:
    """What a block nook has beside its domains. ``events`` records; ``removed`` is told if the endpoint goes."""

    def __init__(
        self,
        spec: Spec,
        ledger: Ledger,
        parts: Parts,
        *,
        events: EventSink,
        live: Callable[[], Incarnation | None],
        removed: Callable[[], None],
        report: ReportSink,
    ) -> None:
        self._spec = spec
        self._ledger = ledger
        self._tray = parts.tray
        self._endpoint = parts.endpoint
        self._store = parts.store
        self._links = parts.links
        self._events = events
        self._live = live
        self._removed = removed
        self._report = report
        self._clock = SystemClock()
        self._incarnation: int | None = None
        self._bay = int(ledger.facts.get("bay", 0))
        self._watching: asyncio.Task[None] | None = None
        self._trouble: str | None = None
        self._data = DataPath(parts.log, parts.store)
        probe = UnseenWork() if spec.real else EmulatedWork(self._live_domain)
        self._detector = BlockDetector(self._data.oldest_seconds, probe, self._clock, report, load=slowness)
        self.changed: Callable[[], None] = lambda: None
        self.shadow = BlockShadow(
            self, self, self._clock, give_up_seconds=spec.block.give_up_seconds, state=parts.state
        )

    @classmethod
    async def open(
        cls,
        spec: Spec,
        ledger: Ledger,
        *,
        adopting: bool,
        configuration: Configuration | None,
        events: EventSink,
        live: Callable[[], Incarnation | None],
        removed: Callable[[], None],
        report: ReportSink,
    ) -> "BlockSide":
        """Open the medium and make the endpoint, or take over those of a dead supervisor.

        Raises NooksError; nothing is left then.
        """
        del configuration  # an interface's
        parts = block_parts.adopt(spec, ledger) if adopting else block_parts.make(spec, ledger)
        side = cls(spec, ledger, parts, events=events, live=live, removed=removed, report=report)
        try:
            side._data.start(side)
            if parts.state is not None:
                side._serve(parts.state)
        except BaseException:
            await side.close()
            raise
        return side

    async def serving(self) -> None:
        """The first incarnation serves, or a supervisor took over: the block device can be used now."""
        state = self.shadow.state
        assert state is not None
        if self._ledger.facts.get("state") is None:
            self._serve(state)
            await asyncio.to_thread(self._endpoint.publish, self._spec.name, state.sector_bytes)
            self._ledger.record(state=state.to_payload(), device=str(self._endpoint.path))
        else:
            await asyncio.to_thread(self._endpoint.resume)
        link = nook_dir(self._spec.name) / BLOCK_DEVICE
        link.unlink(missing_ok=True)
        link.symlink_to(self._endpoint.path)

    def _serve(self, state: BlockState) -> None:
        """Let the endpoint's requests come, now that it is known what the disk can do."""
        front = self._endpoint.front
        front.size_bytes = state.size_bytes
        front.read_only = state.read_only
        self._watching = asyncio.create_task(self._watch_medium(), name="medium")
        front.zeroes = state.zero_bytes > 0
        front.discards = state.discard_bytes > 0 and self._tray.punches_holes
        doubting = not self._spec.real and self._tray.medium is not None
        self._data.serve(front, block_parts.integrity_map(self._spec, state.size_bytes), doubting=doubting)

    # -- what a domain needs ----------------------------------------------------------------------------------

    def hardware(self) -> tuple[str, ...]:
        """QEMU's arguments for the data port, and a stand-in for the medium of an emulated device."""
        return (*data_port(), *(() if self._spec.real else self._tray.hardware()))

    def region_bytes(self) -> int:
        """The data's buffers."""
        return REGION_BYTES

    def emulated_device(self) -> dict[str, str]:
        """An emulated disk's or drive's properties."""
        return self._tray.drive()

    def model_ends(self) -> dict[str, int]:
        """None of our models is a disk."""
        return {}

    @contextlib.contextmanager
    def launching(self, bay: int, *, serving: bool) -> Generator[Mapping[str, int]]:
        """Each domain gets a port, a bell and a region of its own."""
        del serving
        link, port, bell = Link.create()
        with port, bell:
            former = self._links.pop(bay, None)
            if former is not None:
                former.close()
            self._links[bay] = link
            for kind, descriptor in ((DATA, link.port.fileno()), (BELL, link.bell.fileno()), (REGION, link.region_fd)):
                self._ledger.give(f"{kind}{bay}", descriptor)
            yield {"data": port.fileno(), "bell": bell.fileno(), "region": link.region_fd}

    async def admit(self, bay: int, domain: Domain) -> None:
        """Give a domain the medium. The one that had it before was fenced.

        A spare that is needed in the midst of its rehearsal does to the stand-in first what it was asked to do, for it
        would do it to the medium else. Raises NoAnswer if it doesn't come to an end with that.
        """
        await self._in_step(self._links[bay])
        await self._tray.admit(domain)

    async def _in_step(self, link: Link) -> None:
        try:
            if link.astray:
                await link.resync(patience())
        except (TimeoutError, OSError, ProtocolError) as error:
            raise NoAnswer(f"the driver does not come to an end with what it was asked: {error}") from error

    def switch(self, bay: int) -> dict[str, Any]:
        """From now on this bay's domain is the one that ``replay`` speaks of."""
        self._bay = bay
        return {}

    def recorded(self) -> Settings:
        """A disk has no settings."""
        return {}

    async def rehearse(self, spare: Incarnation) -> None:
        """Have a spare do once, on the stand-in, what it will be asked for."""
        for _ in range(REHEARSALS):
            _disk((await surely(spare.channel.request(asking.resume(spare.number, self.recorded()), patience()))).state)
        await self._links[spare.bay].rehearse(patience(), writing=not self._tray.removable)

    # -- the shadow's ports ------------------------------------------------------------------------------------

    async def resume(self, incarnation: int) -> BlockState:
        """Tell a driver that starts who it is."""
        request = asking.resume(incarnation, {})
        reply = await asking.ask(self._live(), lambda channel: channel.request(request, patience()))
        state = _disk(reply.state)
        if state.region_bytes != REGION_BYTES:
            raise NooksError(f"the agent has found {state.region_bytes} bytes of buffers instead of {REGION_BYTES}")
        return state

    async def replay(self, *, write_through: bool) -> Mapping[str, int]:
        """Serve by the driver that is there now; one that another supervisor left first ends what that had begun."""
        link = self._links[self._bay]
        await self._in_step(link)
        return await self._data.replay(link, write_through=write_through)

    def lose(self, *, counts: bool) -> None:
        """The driver is gone."""
        self._data.lose(counts=counts)

    def give_up(self) -> None:
        """Let requests fail until there is a driver again."""
        self._data.give_up()

    def facts(self) -> dict[str, Any]:
        """Figures for ``status`` and ``metrics``."""
        return self._data.facts() | {"slow_medium": self._detector.slow, "medium_trouble": self._trouble is not None}

    # -- what is heard -----------------------------------------------------------------------------------------

    def begin(self, incarnation: int) -> None:
        """A new incarnation serves."""
        self._incarnation = incarnation
        self._detector.begin(incarnation)

    def end(self) -> None:
        """Nothing serves."""
        self._incarnation = None
        self._detector.end()

    def counters(self, counters: dict[str, int]) -> None:
        """There are none."""

    def heard(self, message: Message) -> None:
        """The live agent says something."""
        if isinstance(message, Changed):
            _disk(message.state)

    # -- what the data path tells (its Listener) ------------------------------------------------------------------

    def violated(self, error: ProtocolError) -> None:
        """The domain said what it must not say."""
        self._verdict(Reason.PROTOCOL, {"violation": str(error)})

    def corrupted(self, request: Mapping[str, Any]) -> None:
        """A read brought something else than what is known to be there: a fresh driver has to read it again."""
        self._verdict(Reason.CORRUPTION, dict(request))

    def refused(self, request: Mapping[str, Any], why: str) -> None:
        """A request failed, and not for the device's saying so."""
        self._record("request", {**request, "why": why})

    def doubted(self, request: Mapping[str, Any]) -> None:
        """The driver tells of an error: the disk under the device knows whether there was one."""
        self._detector.doubt(dict(request), self._data)

    def device_error(self, request: Mapping[str, Any]) -> None:
        """The device answered with an error, which was passed on."""
        self._detector.error(int(request["offset"]))
        self._record("request", {**request, "why": "the device says so"})

    def gone(self) -> None:
        """Somebody took the endpoint away."""
        self._removed()

    def _live_domain(self) -> Domain | None:
        live = self._live()
        return live.domain if live is not None else None

    def _verdict(self, reason: Reason, detail: dict[str, Any]) -> None:
        if self._incarnation is not None:
            now = self._clock.monotonic()
            self._report(FailureReport(self._incarnation, reason, now, "block", detail))

    def _record(self, event: str, detail: dict[str, Any]) -> None:
        self._events(event, incarnation=self._incarnation or 0, detail=detail)

    # -- what people ask ---------------------------------------------------------------------------------------

    async def leave(self, *, serving: bool, force: bool) -> None:
        """Have the driver write what the host's page cache holds of the disk. Raises StateError while it is mounted."""
        if not force:
            self._refuse_if_used("with --force whoever uses it gets I/O errors, and what is not written yet is lost")
        if serving:
            try:
                await asyncio.to_thread(self._endpoint.flush, FLUSH_SECONDS * slowness())
            except ProcessError:
                if not force:
                    raise

    async def set(self, settings: dict[str, Any]) -> dict[str, Any]:
        """A disk has none."""
        raise InputError(f"a disk has no setting {next(iter(settings))}", "see 'nooks media' for its medium")

    async def media(self, path: str | None) -> None:
        """``nooks media``: take out the medium, and put the one at ``path`` in. The host sees another size and content.

        Raises InputError, StateError, BusyError; NooksError if the driver does not see it.
        """
        live, known = self._live(), self.shadow.state
        if live is None or known is None:
            self.shadow.counters.count(MEDIA)
            raise BusyError
        self._refuse_if_used()
        self._tray.replace(path)
        size = self._tray.size_bytes
        expected = replace(known, medium=path is not None, size_bytes=size)
        self.shadow.state = expected  # of the next driver too, should this one die now
        self._ledger.record(state=expected.to_payload())
        self._data.change(None, doubting=False)  # who reads meanwhile may get either medium's content, or errors
        try:
            await self._tray.admit(live.domain)
            await self._see(expected)
        except (MonitorError, NoAnswer):
            if not live.domain.ended:
                raise
        self._data.change(block_parts.integrity_map(self._spec, size), doubting=path is not None)
        self._endpoint.front.size_bytes = size
        await asyncio.to_thread(self._endpoint.resized)
        self._record("media", {"medium": path, "size_bytes": size})

    async def _see(self, expected: BlockState) -> None:
        """Wait until the driver has seen the medium. Raises NoAnswer."""
        deadline = self._clock.monotonic() + patience()
        while self._clock.monotonic() < deadline:
            reply = await asking.ask(self._live(), lambda channel: channel.request(Read(), patience()))
            state = _disk(reply.state)
            if (state.medium, state.size_bytes) == (expected.medium, expected.size_bytes):
                return
            await self._clock.sleep(SEE_SECONDS)
        raise NoAnswer("the driver does not see the new medium", f"'nooks restart {self._spec.name}' may help")

    def _refuse_if_used(self, more: str | None = None) -> None:
        """Raises StateError if the host has mounted the disk, swaps to it, or has made something of it."""
        if not self._endpoint.is_published:
            return
        problem = next(usage.of_disk(self._endpoint.path.name), None)
        if problem is not None:
            raise StateError(problem.message, "; ".join(filter(None, (problem.fix, more))))

    async def _watch_medium(self) -> None:
        """Tell of what becomes of the medium's file; nothing is read any more beyond the end of one that shrank."""
        while True:
            await self._clock.sleep(1.0)
            trouble = self._tray.trouble()
            if trouble != self._trouble and trouble is not None:
                self._record("media", {"trouble": trouble})
                self._endpoint.front.size_bytes = self._tray.usable_bytes
            self._trouble = trouble

    def result(self) -> dict[str, Any]:
        """What ``start`` tells of the endpoint."""
        return {"block_device": str(self._endpoint.path)}

    async def close(self) -> None:
        """Give everything back. Safe to call twice."""
        await self.shadow.close()
        if self._watching is not None:
            self._watching.cancel()
        self._data.give_up()  # nobody may wait in the kernel for what will not come any more
        try:
            await asyncio.to_thread(self._endpoint.withdraw)
        finally:
            self._data.close()
            self._release()

    def _release(self) -> None:
        with contextlib.suppress(KeeperGone):
            for key in self._ledger.held():
                if key.startswith(block_parts.KEYS):
                    self._ledger.forget(key)
        self._endpoint.close()
        for link in self._links.values():
            link.close()
        self._links.clear()
        self._store.close()
        self._tray.close()


def _disk(state: DeviceState) -> BlockState:
    """Raises ProtocolError if the device says that it is something else than a disk."""
    if not isinstance(state, BlockState):
        raise ProtocolError(f"a disk says that it is of class {state.CLASS}")
    return state
