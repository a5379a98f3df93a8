"""Devices that a domain gets only when it is to serve: real ones, and emulated ones that are to behave so.

No snapshot can hold a real device, so a domain is booted without it, its driver's modules inserted, and the device is
plugged in after the fence of the domain that had it before.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from nooks.domain.domain import Domain
from nooks.nook.incarnation import Incarnation
from nooks.xpc.messages import BringUp, BringUpReply

BRING_UP_SECONDS = 40.0
"""How long enumeration, probe and link may take together (a gigabit link's autonegotiation alone takes 3 s)."""

CLAIM_SECONDS = 15.0
"""How long a driver may take to claim what was just plugged in: a USB device is enumerated first."""


class LateDevice(Protocol):
    """A device which one domain at a time may have."""

    async def make_ready(self) -> dict[str, Any]:
        """Bring the device into a state in which the next domain may have it; returns facts for the journal.

        To be called after the fence of the domain that had it. Raises NooksError.
        """
        ...

    def properties(self) -> Mapping[str, Any]:
        """The device as QEMU's ``device_add`` takes it; to be asked after ``make_ready``."""
        ...

    def plugged(self, domain: Domain) -> None:
        """``domain`` has the device."""
        ...


class EmulatedDevice:
    """A device of QEMU's own: new in every domain."""

    def __init__(self, properties: Mapping[str, str]) -> None:
        self._properties = properties

    async def make_ready(self) -> dict[str, Any]:
        """Nothing is to be done."""
        return {}

    def properties(self) -> Mapping[str, str]:
        """As given."""
        return self._properties

    def plugged(self, domain: Domain) -> None:
        """Nothing is to be done."""


class Plugging:
    """Plugs a device in and has its driver come up. ``came_up`` is told what the driver said of itself."""

    def __init__(
        self, device: LateDevice, request: Callable[[], BringUp], came_up: Callable[[BringUpReply], None]
    ) -> None:
        self._device = device
        self._request = request
        self._came_up = came_up

    async def __call__(self, live: Incarnation) -> dict[str, Any]:
        """Give ``live``, which runs, the device; returns facts with the seconds of each step, for the journal.

        Raises NooksError (of the device), MonitorError, DomainLost, RequestError.
        """
        began = time.monotonic()
        facts = await self._device.make_ready()
        ready = time.monotonic()
        await live.domain.plug(self._device.properties())
        self._device.plugged(live.domain)
        plugged = time.monotonic()
        reply = await live.ask(self._request(), BRING_UP_SECONDS)
        self._came_up(reply)
        seconds = {
            "reset": ready - began,
            "plug": plugged - ready,
            "probe": time.monotonic() - plugged - reply.seconds.link,
            "link": reply.seconds.link,
        }
        return {**facts, "seconds": {step: round(spent, 6) for step, spent in seconds.items()}}
