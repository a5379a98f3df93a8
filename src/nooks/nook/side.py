"""What a class of drivers has to bring, beside its agent module, so that a nook can be made of it.

One implementation a class, in CLASSES; each joins the class's endpoint, shadow and detectors around whatever
incarnation serves. Nothing else in this room knows which classes there are.
"""

import importlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, cast

from nooks.domain.domain import Domain
from nooks.endpoint.configuration import Configuration
from nooks.failure.report import ReportSink
from nooks.nook.incarnation import Incarnation
from nooks.nook.ledger import Ledger
from nooks.recovery.protocols import EventSink, Shadow
from nooks.spec import Spec
from nooks.xpc.messages import Message
from nooks.xpc.settings import Settings

CLASSES: Mapping[str, str] = {
    "network": "nooks.nook.network:NetworkSide",
    "block": "nooks.nook.block:BlockSide",
    "sound": "nooks.nook.sound:SoundSide",
}
"""Where each class's ClassSide is."""


class ClassSide(Protocol):
    """A nook's part that only its class knows. Implements recovery's Restarter's Bays and the watcher's ClassWatch.

    ``shadow`` is the class's shadow driver. ``changed`` is to be called whenever the recorded state changed, so that
    the spare learns of it; the nook sets it.
    """

    changed: Callable[[], None]

    @property
    def shadow(self) -> Shadow:
        """The class's shadow driver."""
        ...

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
    ) -> "ClassSide":
        """Make the endpoint, or take over that of a dead supervisor. Raises NooksError; nothing is left then.

        ``configuration`` is that of the host's own endpoint in whose place the nook's comes, for a device that was
        taken from the host. ``events`` records; ``live`` is the incarnation that serves; ``removed`` is told if
        somebody takes the endpoint away; ``report`` gets the verdicts of the class's detectors.
        """
        ...

    def hardware(self) -> tuple[str, ...]:
        """QEMU's arguments for what leads out of the domain, in which ``{name}`` stands for a descriptor."""
        ...

    def region_bytes(self) -> int:
        """How much memory a domain shares with the host, beside its own; its descriptor is ``region``."""
        ...

    def emulated_device(self) -> dict[str, str]:
        """The properties of an emulated device of this class."""
        ...

    def model_ends(self) -> Mapping[str, int]:
        """The descriptors that a device model of ours is connected to, by the names that its process knows."""
        ...

    def launching(self, bay: int, *, serving: bool) -> AbstractContextManager[Mapping[str, int]]:
        """Around everything that starts a domain in ``bay``; see Bays."""
        ...

    async def admit(self, bay: int, domain: Domain) -> None:
        """Give a domain that is about to serve what only one at a time may have; see Bays."""
        ...

    def switch(self, bay: int) -> dict[str, Any]:
        """Make ``bay`` the one that applications are connected to; see Bays."""
        ...

    def recorded(self) -> Settings:
        """The settings that every driver is brought to; a device that is plugged in late gets them with its start."""
        ...

    async def rehearse(self, spare: Incarnation) -> None:
        """Bring a spare to the recorded state. Cancelled, it leaves the agent's answer to arrive."""
        ...

    async def serving(self) -> None:
        """The first incarnation serves, or a supervisor took over: what needs the driver can be done now."""
        ...

    def begin(self, incarnation: int) -> None:
        """A new incarnation serves."""
        ...

    def end(self) -> None:
        """Nothing serves."""
        ...

    def counters(self, counters: dict[str, int]) -> None:
        """The agent's counters arrived with a heartbeat."""
        ...

    def heard(self, message: Message) -> None:
        """The live agent says something. Raises ProtocolError if that is not what its class says."""
        ...

    async def leave(self, *, serving: bool, force: bool) -> None:
        """The nook is to be stopped; ``serving``: its driver is there still. Raises StateError if it is in use.

        With ``force`` what that costs applications is theirs to bear.
        """
        ...

    async def media(self, path: str | None) -> None:
        """``nooks media``: put the medium at ``path`` in, or none. Raises InputError, StateError, BusyError."""
        ...

    async def set(self, settings: dict[str, Any]) -> dict[str, Any]:
        """``nooks set``: returns what the driver took. Raises InputError, BusyError, SettingRefused."""
        ...

    def result(self) -> dict[str, Any]:
        """What ``start`` tells of the endpoint."""
        ...

    def facts(self) -> dict[str, Any]:
        """Figures for ``status`` and ``metrics``."""
        ...

    async def close(self) -> None:
        """Give everything back. Safe to call twice."""
        ...


def side_of(driver_class: str | None) -> type[ClassSide]:
    """The implementation of a class that ``drivers.complete`` allowed."""
    module, _, name = CLASSES[driver_class or ""].partition(":")
    return cast("type[ClassSide]", getattr(importlib.import_module(module), name))


def preload() -> None:
    """Import all classes, for a process that does not know yet which nook will be its own, and has time."""
    for driver_class in CLASSES:
        side_of(driver_class)
