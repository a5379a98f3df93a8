"""Disks for campaigns, in memory, and a program that writes past the page cache, reads, compares.

A drive's medium is filled before, and only read.
"""

import contextlib
import os
import signal
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

from nooks.device.emulated import as_argument, drive, drive_buses
from nooks.image.payload import AGENT, Payload
from nooks.lab.campaign.told import ToldApplication
from nooks.lab.disk.raw import fill
from nooks.lab.workers import python, worker
from nooks.spec import Device

WRITING = "four threads that write past the page cache, flush, and compare what they read"
READING = "four threads that read past the page cache, and compare"
SIZE_BYTES = 256 << 20


class DiskApplication(ToldApplication):
    """``lab.disk.raw``."""

    LAST = "judged"

    def __init__(self, tell: Callable[[], object] = lambda: None) -> None:
        super().__init__(tell)
        self._judged: list[str] = []

    def add(self, line: dict[str, Any]) -> None:
        """Take one of its lines; a database's last one says what was lost."""
        judged = line.get(self.LAST)
        if isinstance(judged, dict):
            found: dict[str, Any] = judged
            self._judged = [f"{found['lost']} transactions are lost or wrong"] if found["lost"] else []
            self._judged += [f"integrity: {found['integrity']}"] if found["integrity"] != "ok" else []
        super().add(line)

    def errors(self) -> list[str]:
        """What went wrong so far."""
        found = [f"{self.gauge.errors} times something is not what was written"] if self.gauge.errors else []
        return found + self._judged + ([self.gauge.broken] if self.gauge.broken else [])


class DiskSurroundings:
    """A medium in ``folder``."""

    def __init__(self, folder: Path, *, reads_only: bool) -> None:
        self.name = f"disk-{os.urandom(2).hex()}"
        self.workload = READING if reads_only else WRITING
        self._folder = folder
        self._medium = folder / "disk.img"
        self.device = ""
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
        self.device = str(document["block_device"])

    async def leaving(self) -> None:
        """Nothing holds the device but the program."""

    @contextlib.asynccontextmanager
    async def application(self, seed: int) -> AsyncGenerator[DiskApplication, None]:
        """The program, on the host."""
        words = ("--path", self.device, "--seed", seed & 0xFFFFFFFF, *self._more)
        async with self.running("raw", *words) as application:
            yield application

    @contextlib.asynccontextmanager
    async def running(self, program: str, *words: object) -> AsyncGenerator[DiskApplication, None]:
        """A program of ``lab.disk``."""
        command = python(f"nooks.lab.disk.{program}", *words)
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


def _prepare(medium: int, *, reads_only: bool) -> None:
    os.ftruncate(medium, SIZE_BYTES)
    if reads_only:
        fill(medium, SIZE_BYTES)
