"""The class ``network``, put together: its endpoint, wire, shadow and detectors, around whatever incarnation serves."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import Any, TypeVar

import structlog

from nooks.device.emulated import NETWORK_CABLE, host_side_network, network_card
from nooks.domain.domain import Domain
from nooks.endpoint import handover
from nooks.endpoint.configuration import Configuration
from nooks.endpoint.ledger import Ledger as Changes
from nooks.endpoint.tap import TapEndpoint
from nooks.endpoint.watch import Watch
from nooks.endpoint.wire import Wire, parse_wire
from nooks.failure.network import NetworkDetector
from nooks.failure.probe import NeighbourProber
from nooks.failure.report import ReportSink
from nooks.failure.storm import StormDetector
from nooks.host.clock import SystemClock
from nooks.host.errors import InputError
from nooks.host.pace import load_factor
from nooks.keeper.client import KeeperGone
from nooks.nook import asking
from nooks.nook.asking import patience, resume, surely
from nooks.nook.incarnation import Incarnation
from nooks.nook.ledger import Ledger
from nooks.recovery.protocols import EventSink
from nooks.shadow.log import Log, StateFile
from nooks.shadow.network import DriverState, NetworkShadow
from nooks.shadow.readback import LinkState, Outcome
from nooks.spec import Spec
from nooks.xpc.channel import Channel
from nooks.xpc.errors import ProtocolError
from nooks.xpc.messages import Apply, Changed, Message, Read
from nooks.xpc.settings import Settings
from nooks.xpc.states import DeviceState, NetworkState

T = TypeVar("T")

REHEARSALS = 2
"""How often a spare is told the recorded state: the first time warms its translations up, the second shows it."""

CARRIER_SECONDS = 5.0
"""How long a spare waits for its card's carrier: drivers look at the link every two seconds."""

SHADOW_LOG, CHANGES_LOG, ENDPOINT_QUEUE = "shadow.log", "endpoint.changes", "endpoint.queue"


class NetworkSide:
    """What a network nook has beside its domains. ``events`` records; ``removed`` is told if the interface goes."""

    def __init__(
        self,
        spec: Spec,
        ledger: Ledger,
        endpoint: TapEndpoint,
        wire: Wire | None,
        log: Log,
        *,
        events: EventSink,
        live: Callable[[], Incarnation | None],
        removed: Callable[[], None],
        report: ReportSink,
    ) -> None:
        self._spec = spec
        self._clock = SystemClock()
        prober = NeighbourProber(spec.name, self._clock)
        self._detector = NetworkDetector(prober, self._clock, report, load=load_factor, plugged=self._plugged)
        self._storm = StormDetector(self._clock, report)
        self._ledger = ledger
        self._live = live
        self.endpoint = endpoint
        self.wire = wire
        self.log = log
        self.shadow = NetworkShadow(self, endpoint, log, events)
        self.changed: Callable[[], None] = lambda: None
        self._watch = Watch(endpoint, self._user_changed, removed)
        self._watching = contextlib.AsyncExitStack()

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
    ) -> "NetworkSide":
        """Make endpoint and wire, or take over those of a dead supervisor. Raises NooksError; nothing is left then.

        ``configuration`` is that of the host's interface in whose place the nook's comes, for a card that was taken.
        """
        mac = configuration.mac if configuration is not None else None
        parts = _adopt_parts(spec, ledger) if adopting else await _make_parts(spec, ledger, mac)
        side = cls(spec, ledger, *parts, events=events, live=live, removed=removed, report=report)
        try:
            if not adopting:
                await side._set_up(configuration)
            await side._watching.enter_async_context(side._watch)
        except BaseException:
            await side.close()
            raise
        return side

    async def _set_up(self, configuration: Configuration | None) -> None:
        address = self._spec.network.address
        self.endpoint.configure(() if address == "dhcp" else address, up=True if address else None)
        if configuration is not None:
            for refused in await asyncio.to_thread(handover.apply, configuration, self.endpoint.name):
                structlog.get_logger().warning("not as on the host's interface", refused=refused)
        self.shadow.seed({"mac": self.endpoint.observe()["mac"]})

    async def serving(self) -> None:
        """The first incarnation serves, or a supervisor took over: what needs the network can be done now."""
        if self._spec.network.address == "dhcp":
            from nooks.endpoint.dhcp import leased

            await self._watching.enter_async_context(leased(self.endpoint.name))

    # -- what a domain needs ----------------------------------------------------------------------------------

    def hardware(self) -> tuple[str, ...]:
        """QEMU's arguments for what leads out of the domain: to the interface, and an emulated card's cable."""
        return (*host_side_network(), *(NETWORK_CABLE if self._spec.emulated else ()))

    def region_bytes(self) -> int:
        """None: frames go through the kernels."""
        return 0

    def emulated_device(self) -> dict[str, str]:
        """An emulated card's properties."""
        device = self._spec.parsed_device
        return network_card(device.model, device.options)

    def model_ends(self) -> dict[str, int]:
        """What a device model of ours is handed, by the names that it knows: its end of the cable."""
        return {"cable": self.wire.queue_fds[0]} if self.wire is not None else {}

    def _descriptors(self, bay: int) -> Mapping[str, int]:
        """A bay is a queue of the interface and one of the wire."""
        cable = {"wire": self.wire.queue_fds[bay]} if self.wire is not None and self._spec.emulated else {}
        return {"host": self.endpoint.queue_fds[bay], **cable}

    @contextlib.contextmanager
    def launching(self, bay: int, *, serving: bool) -> Generator[Mapping[str, int]]:
        """A QEMU that starts changes its TAP: where the other bay serves, it does so on another one first."""
        with self.endpoint.launching_apart(bay) if serving else self.endpoint.launching(bay):
            self._ledger.give(f"{ENDPOINT_QUEUE}{bay}", self.endpoint.queue_fds[bay])
            yield self._descriptors(bay)

    async def admit(self, bay: int, domain: Domain) -> None:
        """Nothing: the queues are in place, detached."""

    def switch(self, bay: int) -> dict[str, Any]:
        """Frames that waited go to the new domain; on the wire they are lost, as on any cable, or moved as well."""
        host = self.endpoint.switch(bay)
        facts = {"moved": host.moved, "lost": host.lost}
        if self.wire is not None and self._spec.emulated:
            wire = self.wire.switch(bay)
            facts |= {"wire_moved": wire.moved, "wire_lost": wire.lost}
        return facts

    # -- the shadow's DriverPort: the agent of whichever incarnation is live -----------------------------------

    async def apply(self, settings: Settings) -> Outcome:
        """Have the driver take some settings."""

        async def ask(channel: Channel) -> Outcome:
            reply = await channel.request(Apply(settings), patience())
            return Outcome(reply.readback, reply.refused)

        outcome = await self._request(ask)
        self.changed()
        return outcome

    async def resume(self, incarnation: int, settings: Settings) -> Outcome:
        """Tell a driver that starts who it is and all its settings."""

        async def ask(channel: Channel) -> Outcome:
            reply = await channel.request(resume(incarnation, settings), patience())
            return Outcome(reply.readback, reply.refused, _link(reply.state))

        return await self._request(ask)

    async def read(self) -> DriverState:
        """The driver's present state."""

        async def ask(channel: Channel) -> DriverState:
            reply = await channel.request(Read(), patience())
            return DriverState(reply.readback, _link(reply.state), reply.statistics)

        return await self._request(ask)

    def recorded(self) -> Settings:
        """The log's target."""
        return self.log.target()

    async def rehearse(self, spare: Incarnation) -> None:
        """Bring a spare to the log's state, link included. Cancelled, it leaves the agent's answer to arrive."""
        carrier = False
        for _ in range(REHEARSALS):
            request = resume(spare.number, self.recorded())
            carrier = _link((await surely(spare.channel.request(request, patience()))).state).carrier
        deadline = time.monotonic() + CARRIER_SECONDS
        while not carrier and self.shadow.link.carrier and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
            carrier = _link((await surely(spare.channel.request(Read(), patience()))).state).carrier

    async def _request(self, question: Callable[[Channel], Awaitable[T]]) -> T:
        return await asking.ask(self._live(), question)

    # -- what is heard -----------------------------------------------------------------------------------------

    def begin(self, incarnation: int) -> None:
        """A new incarnation serves."""
        self._detector.begin(incarnation, self._clock.monotonic())
        self._storm.begin(incarnation)

    def end(self) -> None:
        """Nothing serves."""
        self._detector.end()
        self._storm.end()

    def counters(self, counters: dict[str, int]) -> None:
        """The agent's counters arrived."""
        now = self._clock.monotonic()
        self._detector.carrier(self.shadow.link.carrier, now)
        self._detector.counters(counters, now)
        self._storm.counters(counters, now)

    def heard(self, message: Message) -> None:
        """The live agent says something."""
        if isinstance(message, Changed):
            self.shadow.link_changed(_link(message.state))

    def _plugged(self) -> bool:
        """An emulated card's cable is never pulled; the user may have taken the interface down, though."""
        return self._spec.emulated and bool(self.log.target().get("up", True))

    def _user_changed(self, settings: Settings) -> None:
        self.shadow.changed(settings)
        self.changed()

    # -- what people ask ---------------------------------------------------------------------------------------

    async def leave(self, *, serving: bool, force: bool) -> None:
        """An interface may go at any time."""

    async def media(self, path: str | None) -> None:
        """There is none."""
        del path
        raise InputError("a network device has no medium", "'nooks media' is for drives, such as ide-cd")

    async def set(self, settings: dict[str, Any]) -> dict[str, Any]:
        """``nooks set``: returns what the driver took."""
        accepted = await self.shadow.set(settings)
        self.changed()
        return dict(accepted)

    def result(self) -> dict[str, Any]:
        """What ``start`` tells of the endpoint."""
        return {"interface": self.endpoint.name}

    def facts(self) -> dict[str, Any]:
        """Figures for ``status`` and ``metrics``."""
        return {
            "requests": self.shadow.counters.by_request(),
            "frames_moved": self.endpoint.moved,
            "frames_dropped": self.endpoint.dropped,
            "carrier": self.shadow.link.carrier,
            "speed_mbits": self.shadow.link.speed,
        }

    async def close(self) -> None:
        """Give everything back. Safe to call twice."""
        await self._watching.aclose()
        await self._detector.close()
        await self.shadow.close()
        # Interface and user-mode network end with the last holder of their descriptors, which must not be the keeper:
        # a real card that is given back wants the interface's name.
        queues = [f"{ENDPOINT_QUEUE}{bay}" for bay in range(len(self.endpoint.queue_fds))]
        with contextlib.suppress(KeeperGone):
            for key in (*queues, *(self.wire.descriptors if self.wire is not None else ())):
                self._ledger.forget(key)
        if self.wire is not None:
            await self.wire.close()
        self.endpoint.close()


def _link(state: DeviceState) -> LinkState:
    """Raises ProtocolError if the device says that it is something else than a network card."""
    if not isinstance(state, NetworkState):
        raise ProtocolError(f"a network card says that it is of class {state.CLASS}")
    return LinkState(state.carrier, state.speed, state.duplex)


async def _make_parts(spec: Spec, ledger: Ledger, mac: str | None) -> tuple[TapEndpoint, Wire | None, Log]:
    changes = StateFile.create("nooks-changes")
    endpoint = TapEndpoint.create(spec.name, mac=mac or _mac_of(spec.name), ledger=Changes(changes.store))
    try:
        wire = None if spec.real else await Wire.open(parse_wire(spec.network.wire))
    except BaseException:
        endpoint.close()
        changes.close()
        raise
    log = StateFile.create("nooks-log")
    ledger.give(CHANGES_LOG, changes.fileno())
    ledger.give(SHADOW_LOG, log.fileno())
    for bay, queue in enumerate(endpoint.queue_fds):
        ledger.give(f"{ENDPOINT_QUEUE}{bay}", queue)
    for key, descriptor in wire.descriptors.items() if wire is not None else ():
        ledger.give(key, descriptor)
    return endpoint, wire, Log(log)


def _adopt_parts(spec: Spec, ledger: Ledger) -> tuple[TapEndpoint, Wire | None, Log]:
    changes = StateFile.from_fd(ledger.take(CHANGES_LOG))
    queues = [ledger.take(f"{ENDPOINT_QUEUE}{bay}") for bay in range(2)]
    live = int(ledger.facts.get("bay", 0))
    endpoint = TapEndpoint.adopt(queues, Changes(changes.store, changes.load()), live=live)
    held = {key: ledger.take(key) for key in ledger.held() if key.startswith("wire.")}
    wire = None if spec.real else Wire.adopt(parse_wire(spec.network.wire), held)
    return endpoint, wire, Log(StateFile.from_fd(ledger.take(SHADOW_LOG)))


def _mac_of(name: str) -> str:
    """A locally administered address that this machine's nook of this name always gets (IEEE 802, section 8.4)."""
    with open("/etc/machine-id" if _has_machine_id() else "/proc/sys/kernel/random/boot_id") as file:
        seed = file.read().strip()
    digest = hashlib.sha256(f"nooks {seed} {name}".encode()).digest()
    return bytes([digest[0] & 0xFC | 0x02, *digest[1:6]]).hex(":")


def _has_machine_id() -> bool:
    try:
        with open("/etc/machine-id") as file:
            return bool(file.read().strip())
    except OSError:
        return False
