"""What a campaign asks of a class of drivers: surroundings, and an application that knows when it is wrong."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from nooks import drivers
from nooks.host.errors import InputError
from nooks.image.payload import Payload
from nooks.lab.gauge import Gauge
from nooks.spec import Device

_MODULES = {
    "network": "nooks.lab.campaign.network",
    "block": "nooks.lab.campaign.block",
    "sound": "nooks.lab.campaign.sound",
}
"""The module of each class; it has ``surroundings()`` and what else the protocols below name."""


class Application(Protocol):
    """An ordinary program that uses the nook. ``gauge`` follows its progress."""

    gauge: Gauge

    def errors(self) -> list[str]:
        """What it would have to tell its user, so far."""
        ...

    async def finish(self, within_seconds: float) -> list[str]:
        """Come to an end; the errors, of which not to have come to one in time is one."""
        ...


class Surroundings(Protocol):
    """What is around a nook for as long as trials are made with it."""

    name: str
    """The nook's."""
    workload: str
    """What the application does, in a few words."""

    def remains(self) -> dict[str, list[str]]:
        """What would have to be removed if this process were killed, by kind (``sweep.Remains``)."""
        ...

    def flags(self) -> list[str]:
        """What ``nooks start`` is told beside driver, kernel and debug stub."""
        ...

    async def started(self, document: dict[str, Any]) -> None:
        """The nook serves; ``document`` is what ``start`` printed."""
        ...

    async def leaving(self) -> None:
        """The nook is about to be stopped: nothing may hold what it gives."""
        ...

    def application(self, seed: int) -> AbstractAsyncContextManager[Application]:
        """Run the application for the block."""
        ...


class NativeApplication(Application, Protocol):
    """The same program in a guest."""

    ended: bool
    """Whether it has come to an end, by itself or because it was told to."""

    def add(self, line: dict[str, Any]) -> None:
        """A line of its."""
        ...

    def tell_to_finish(self) -> None:
        """It is to come to an end."""
        ...


class NativeSurroundings(Protocol):
    """What is around a guest that has driver and application in one kernel."""

    name: str
    workload: str
    payload: Payload
    """The guest's program."""
    writes_files: bool
    """Whether one of the attachments is a file that the guest writes (``Plan``)."""

    def remains(self) -> dict[str, list[str]]:
        """As those of a nook's surroundings."""
        ...

    def hardware(self, device: Device) -> tuple[str, ...]:
        """QEMU's arguments for the device, in which ``{name}`` stands for an attachment."""
        ...

    def attachments(self) -> Mapping[str, int]:
        """Descriptors for the hardware."""
        ...

    def bring_up(self) -> dict[str, Any]:
        """What the guest is told to make the device ready."""
        ...

    def use(self, seed: int) -> dict[str, Any]:
        """What the guest is told to run the application."""
        ...

    def settle(self) -> None:
        """Nothing of an earlier guest may reach the next one."""
        ...

    def application(self, say: Callable[[bytes], None]) -> NativeApplication:
        """The application in a guest, which ``say`` reaches."""
        ...


class DriverClass(Protocol):
    """A class's module."""

    def native_surroundings(self, driver: str) -> AbstractAsyncContextManager[NativeSurroundings]:
        """Make what is around a guest with this driver, for the block."""
        ...

    def workloads(self, driver: str) -> Sequence[str]:
        """What its application can do beside the ordinary, by name."""
        ...

    def surroundings(self, driver: str, workload: str) -> AbstractAsyncContextManager[Surroundings]:
        """Make what is around a nook of this driver, for the block; ``workload``: one of ``workloads``, or ""."""
        ...


def class_of(driver: str) -> DriverClass:
    """What the class of a driver brings. Raises InputError if campaigns don't know it yet."""
    row = drivers.find(driver)
    name = row.driver_class
    if name not in _MODULES:
        raise InputError(f"there is no workload for {name} drivers yet", "choose a driver of another class")
    module: Any = importlib.import_module(_MODULES[name])
    return module
