"""What a nook with a real device has beside the others: the device, its detectors, the way back to the host.

Imported by such nooks alone: the others start quicker without.
"""

import asyncio
from pathlib import Path

import structlog

from nooks.device.pci import PciTaken
from nooks.endpoint.configuration import Configuration
from nooks.failure.dma import DmaDetector
from nooks.failure.presence import PresenceDetector
from nooks.failure.report import ReportSink
from nooks.host.clock import Clock
from nooks.host.errors import NooksError, StateError
from nooks.nook import possession
from nooks.nook.real_device import RealDevice
from nooks.nook.watcher import Detector


class Held:
    """The real device that the nook of ``directory`` has taken, for domains that run as ``user_id``."""

    def __init__(self, directory: Path, user_id: int, clock: Clock, report: ReportSink) -> None:
        possessed = possession.of(directory)
        if possessed is None:
            raise StateError("there is no note of the nook's device", "stop the nook with --force, and start it again")
        self._directory = directory
        self.configuration: Configuration | None = possessed.configuration
        self.device = RealDevice(possessed, user_id)
        self.detectors: list[Detector] = [PresenceDetector(lambda: self.device.present, clock, report)]
        self._dma: DmaDetector | None = None
        if isinstance(possessed.taken, PciTaken):
            self._dma = DmaDetector([possessed.taken.address], clock, report)
            self._dma.open()
            self.detectors.append(self._dma)

    async def renote(self, interface: str) -> None:
        """What is configured on the nook's interface now is what the host's will get back."""
        await asyncio.to_thread(possession.renote, self._directory, interface)

    async def give_back(self) -> None:
        """Let the host's driver have the device again. A failure is told by the command that ends the nook."""
        if self._dma is not None:
            self._dma.close()
        try:
            await asyncio.to_thread(possession.give_back, self._directory)
        except NooksError as error:
            structlog.get_logger().error("the device was not given back", error=str(error))
