"""A real device between two domains: reset, opened to the domain's user, handed over."""

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from nooks.device import passthrough, pci, taking, usb
from nooks.device.pci import PciTaken
from nooks.device.usb import UsbDevice
from nooks.domain.domain import Domain
from nooks.failure.report import Reason
from nooks.nook.possession import Possession
from nooks.recovery.protocols import DomainFailedError

ABSENT_SECONDS = 40.0
"""How long one attempt of a restart waits for a device that was pulled out; the next attempt goes on waiting."""

BY_PORT = "port"
"""How a USB device is reset: the domain's kernel, which finds it at a port, resets that (USB 2.0, 7.1.7.5)."""

_POLL_SECONDS = 0.1


class RealDevice:
    """The device of a possession, for domains that run as ``user_id``."""

    def __init__(self, possession: Possession, user_id: int) -> None:
        self._taken = possession.taken
        self._device = possession.device
        self._user_id = user_id
        self._usb: UsbDevice | None = None

    @property
    def present(self) -> bool:
        """Whether the very device that was made ready last is in the machine; one put back meanwhile is another."""
        return usb.present(self._usb) if self._usb is not None else self._somewhere()

    def _somewhere(self) -> bool:
        if isinstance(self._taken, PciTaken):
            return pci.is_there(self._taken)
        return usb.current(self._taken) is not None

    async def make_ready(self) -> dict[str, Any]:
        """Wait until the device is there, see that no host driver has it, reset it, open its node to the domain's user.

        The kernel lets a group be opened only when the former domain's QEMU is gone, and the caller has seen to that
        (Documentation/driver-api/vfio.rst). Raises NooksError.
        """
        await self._until_present()
        return await asyncio.to_thread(self._make_ready)

    def properties(self) -> Mapping[str, str]:
        """As QEMU's ``device_add`` takes it."""
        if isinstance(self._taken, PciTaken):
            return passthrough.pci_function(self._taken.address)
        assert self._usb is not None
        return passthrough.usb_device(self._usb.node)

    def plugged(self, domain: Domain) -> None:
        """Nothing is to be done."""

    async def _until_present(self) -> None:
        deadline = asyncio.get_running_loop().time() + ABSENT_SECONDS
        while not self._somewhere():
            if asyncio.get_running_loop().time() >= deadline:
                what = f"the device {self._device} is not in the machine"
                raise DomainFailedError(what, "plug it in again", reason=Reason.UNPLUGGED)
            await asyncio.sleep(_POLL_SECONDS)

    def _make_ready(self) -> dict[str, Any]:
        """Taken again each time: a device that was pulled out and put back is the host's driver's by now."""
        device = taking.take(self._taken)
        if isinstance(self._taken, PciTaken):
            method = pci.reset(self._taken.address)
            node = pci.group_path(self._taken.address)
        else:
            assert device is not None
            self._usb = device
            method, node = BY_PORT, device.node
        os.chown(node, self._user_id, self._user_id)
        return {"reset": method}
