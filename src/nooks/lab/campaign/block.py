"""The class block in a campaign: a disk in memory, and a program that writes past the page cache, reads, compares.

A drive's medium is filled before, and only read.
"""

import contextlib
import os
import signal
import tempfile
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

from nooks import drivers
from nooks.device.emulated import as_argument, drive, drive_buses
from nooks.image.payload import AGENT, Payload
from nooks.lab.campaign.told import ToldApplication
from nooks.lab.disk.raw import fill
from nooks.lab.workers import python, worker
from nooks.nook.block_tray import is_drive
from nooks.spec import Device, parse_device

WRITING = "four threads that write past the page cache, flush, and compare what they read"
READING = "four threads that read past the page cache, and compare"
SIZE_BYTES = 256 << 20
_MEMORY = Path("/dev/shm")


class DiskApplication(ToldApplication):
    """``lab.disk.raw``."""

    LAST = "judged"

    def errors(self) -> list[str]:
        """What went wrong so far."""
        found = [f"{self.gauge.errors} blocks are not what was written"] if self.gauge.errors else []
        return found + ([self.gauge.broken] if self.gauge.broken else [])


class DiskSurroundings:
    """A medium in ``folder``."""

    def __init__(self, folder: Path, *, reads_only: bool) -> None:
        self.name = f"disk-{os.urandom(2).hex()}"
        self.workload = READING if reads_only else WRITING
        self._folder = folder
        self._medium = folder / "disk.img"
        self._device = ""
        self._more = ["--reads-only"] if reads_only else []
        with self._medium.open("wb") as file:
            _prepare(file.fileno(), reads_only=reads_only)

    def remains(self) -> dict[str, list[str]]:
        """The medium."""
        return {"folders": [str(self._folder)]}

    def flags(self) -> list[str]:
        """The medium."""
        return ["--media", str(self._medium)]

    async def started(self, document: dict[str, Any]) -> None:
        """Note the block device."""
        self._device = str(document["block_device"])

    @contextlib.asynccontextmanager
    async def application(self, seed: int) -> AsyncGenerator[DiskApplication, None]:
        """The program, on the host."""
        command = python("nooks.lab.disk.raw", "--path", self._device, "--seed", seed & 0xFFFFFFFF, *self._more)
        application = DiskApplication()
        async with worker("disk user", command, application.add) as running:
            application.tell = lambda: running.process.send_signal(signal.SIGTERM)
            yield application


class NativeDiskSurroundings:
    """A guest's disk, in memory."""

    payload = Payload(
        AGENT.root,
        (
            *AGENT.packages,
            "nooks.lab.disk.guest",
            "nooks.lab.disk.raw",
            "nooks.lab.guest",
            "nooks.lab.content",
            "nooks.lab.meter",
        ),
        "nooks.lab.disk.guest",
    )
    writes_files = True

    def __init__(self, *, reads_only: bool) -> None:
        self.name = f"disk-{os.urandom(2).hex()}"
        self.workload = READING if reads_only else WRITING
        self._reads_only = reads_only
        self.medium = os.memfd_create("nooks-medium", os.MFD_CLOEXEC)
        _prepare(self.medium, reads_only=reads_only)

    def remains(self) -> dict[str, list[str]]:
        """Nothing: the medium ends with who uses it."""
        return {}

    def hardware(self, device: Device) -> tuple[str, ...]:
        """The disk with its medium."""
        return (
            *("-add-fd", "fd={medium},set=9"),
            *("-blockdev", "driver=file,node-name=file,filename=/dev/fdset/9,locking=off,aio=threads"),
            *("-blockdev", "driver=raw,node-name=medium,file=file"),
            *drive_buses(device.model, device.options),
            *as_argument(drive(device.model, device.options, "medium", "unit")),
        )

    def attachments(self) -> dict[str, int]:
        """The medium."""
        return {"medium": self.medium}

    def bring_up(self) -> dict[str, Any]:
        """Nothing to tell."""
        return {}

    def use(self, seed: int) -> dict[str, Any]:
        """What decides the program's way."""
        return {"seed": seed & 0xFFFFFFFF, "reads_only": self._reads_only}

    def settle(self) -> None:
        """Whatever is on the medium, the program compares only what it wrote itself."""

    def application(self, say: Callable[[bytes], None]) -> DiskApplication:
        """The program in a guest."""
        return DiskApplication(lambda: say(b"finish\n"))


@contextlib.asynccontextmanager
async def surroundings(driver: str) -> AsyncGenerator[DiskSurroundings, None]:
    """The class's entry point."""
    with tempfile.TemporaryDirectory(prefix="nooks-campaign-", dir=_MEMORY, ignore_cleanup_errors=True) as folder:
        yield DiskSurroundings(Path(folder), reads_only=_reads_only(driver))


@contextlib.asynccontextmanager
async def native_surroundings(driver: str) -> AsyncGenerator[NativeDiskSurroundings, None]:
    """The class's entry point for native controls."""
    around = NativeDiskSurroundings(reads_only=_reads_only(driver))
    try:
        yield around
    finally:
        os.close(around.medium)


def _prepare(medium: int, *, reads_only: bool) -> None:
    os.ftruncate(medium, SIZE_BYTES)
    if reads_only:
        fill(medium, SIZE_BYTES)


def _reads_only(driver: str) -> bool:
    return any(is_drive(parse_device(device)) for device in drivers.find(driver).devices[:1])
