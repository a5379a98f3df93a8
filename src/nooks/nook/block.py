"""The class ``block``, put together: its endpoint, medium, data path and shadow, around whatever incarnation serves."""

import asyncio
import contextlib
from collections.abc import Callable, Generator, Mapping
from typing import Any

from nooks.device.emulated import data_port, drive
from nooks.domain import medium as in_domain
from nooks.domain.domain import Domain
from nooks.endpoint.configuration import Configuration
from nooks.failure.block import BlockDetector
from nooks.failure.report import FailureReport, Reason, ReportSink
from nooks.host.clock import SystemClock
from nooks.host.errors import InputError, NooksError
from nooks.host.pace import slowness
from nooks.host.paths import nook_dir
from nooks.host.process import ProcessError
from nooks.keeper.client import KeeperGone
from nooks.nook import asking, block_parts
from nooks.nook.asking import NoAnswer, patience, surely
from nooks.nook.block_data import DataPath
from nooks.nook.block_link import REGION_BYTES, Link
from nooks.nook.block_parts import DATA, REGION, Parts
from nooks.nook.block_probe import EmulatedWork, UnseenWork
from nooks.nook.incarnation import Incarnation
from nooks.nook.ledger import Ledger
from nooks.recovery.protocols import EventSink
from nooks.shadow.block import BlockShadow
from nooks.shadow.integrity import IntegrityMap
from nooks.spec import Spec
from nooks.xpc.errors import ProtocolError
from nooks.xpc.messages import Changed, Message
from nooks.xpc.states import BlockState, DeviceState

REHEARSALS = 2
"""How often a spare is told who it is: the first time warms its translations up."""

FLUSH_SECONDS = 30.0
"""How long the host's page cache may take to be written before a nook is stopped."""

DEVICE = "device"
"""The link to the block device, in the nook's run directory."""


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
        self._medium = parts.medium
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
        link = nook_dir(self._spec.name) / DEVICE
        link.unlink(missing_ok=True)
        link.symlink_to(self._endpoint.path)

    def _serve(self, state: BlockState) -> None:
        """Let the endpoint's requests come, now that it is known what the disk can do."""
        front = self._endpoint.front
        front.size_bytes = state.size_bytes
        front.zeroes = state.zero_bytes > 0
        front.discards = state.discard_bytes > 0 and self._medium is not None and self._medium.punches_holes
        self._data.serve(front, IntegrityMap(state.size_bytes) if self._spec.block.integrity else None)

    # -- what a domain needs ----------------------------------------------------------------------------------

    def hardware(self) -> tuple[str, ...]:
        """QEMU's arguments for the data port, and a stand-in for the medium of an emulated device."""
        medium = self._medium
        if medium is None:
            return data_port()
        return (*data_port(), *in_domain.stand_in(medium.size_bytes, read_only=medium.read_only))

    def region_bytes(self) -> int:
        """The data's buffers."""
        return REGION_BYTES

    def emulated_device(self) -> dict[str, str]:
        """An emulated disk's or drive's properties."""
        device = self._spec.parsed_device
        return drive(device.model, device.options, in_domain.NODE)

    def model_ends(self) -> dict[str, int]:
        """None of our models is a disk."""
        return {}

    @contextlib.contextmanager
    def launching(self, bay: int, *, serving: bool) -> Generator[Mapping[str, int]]:
        """Each domain gets a port and a region of its own."""
        del serving
        link, theirs = Link.create()
        with theirs:
            former = self._links.pop(bay, None)
            if former is not None:
                former.close()
            self._links[bay] = link
            self._ledger.give(f"{DATA}{bay}", link.port.fileno())
            self._ledger.give(f"{REGION}{bay}", link.region_fd)
            yield {"data": theirs.fileno(), "region": link.region_fd}

    async def admit(self, domain: Domain) -> None:
        """Give a domain the medium. The one that had it before was fenced."""
        medium = self._medium
        if medium is not None:
            await in_domain.insert(
                domain,
                medium.descriptor,
                read_only=medium.read_only,
                is_device=medium.is_device,
                direct=medium.direct,
            )

    def switch(self, bay: int) -> dict[str, Any]:
        """From now on this bay's domain is the one that ``replay`` speaks of."""
        self._bay = bay
        return {}

    async def rehearse(self, spare: Incarnation) -> None:
        """Have a spare do once, on the stand-in, what it will be asked for."""
        for _ in range(REHEARSALS):
            _disk((await surely(spare.channel.request(asking.resume(spare.number, {}), patience()))).state)
        await surely(self._links[spare.bay].rehearse(patience()))

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
        try:
            if link.adopted:
                await link.resync(patience())
        except (TimeoutError, OSError, ProtocolError) as error:
            raise NoAnswer(f"the driver does not come to an end with what it was asked: {error}") from error
        return await self._data.replay(link, write_through=write_through)

    def lose(self, *, counts: bool) -> None:
        """The driver is gone."""
        self._data.lose(counts=counts)

    def give_up(self) -> None:
        """Let requests fail until there is a driver again."""
        self._data.give_up()

    def facts(self) -> dict[str, Any]:
        """Figures for ``status`` and ``metrics``."""
        return self._data.facts() | {"slow_medium": self._detector.slow}

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
        """Have the driver write what the host's page cache holds of the disk."""
        if serving:
            try:
                await asyncio.to_thread(self._endpoint.flush, FLUSH_SECONDS * slowness())
            except ProcessError:
                if not force:
                    raise

    async def set(self, settings: dict[str, Any]) -> dict[str, Any]:
        """A disk has none."""
        raise InputError(f"a disk has no setting {next(iter(settings))}", "see 'nooks media' for its medium")

    def result(self) -> dict[str, Any]:
        """What ``start`` tells of the endpoint."""
        return {"block_device": str(self._endpoint.path)}

    async def close(self) -> None:
        """Give everything back. Safe to call twice."""
        await self.shadow.close()
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
        if self._medium is not None:
            self._medium.close()


def _disk(state: DeviceState) -> BlockState:
    """Raises ProtocolError if the device says that it is something else than a disk."""
    if not isinstance(state, BlockState):
        raise ProtocolError(f"a disk says that it is of class {state.CLASS}")
    return state
