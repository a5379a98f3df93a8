"""The class block in a campaign: a disk in memory, and a program that writes past the page cache, reads, compares."""

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from nooks.host.errors import InputError
from nooks.lab.campaign.classes import NativeSurroundings
from nooks.lab.gauge import Gauge
from nooks.lab.workers import Worker, python, worker

WORKLOAD = "four threads that write past the page cache, flush, and compare what they read"
SIZE_BYTES = 256 << 20
_MEMORY = Path("/dev/shm")


class DiskApplication:
    """``lab.disk.raw`` on the nook's disk."""

    def __init__(self) -> None:
        self.gauge = Gauge()
        self.worker: Worker | None = None
        self._judged = False

    def add(self, line: dict[str, Any]) -> None:
        """Take one of its lines."""
        self.gauge.add(line)
        self._judged = bool(line.get("judged"))

    def errors(self) -> list[str]:
        """What went wrong so far."""
        found = [f"{self.gauge.errors} blocks are not what was written"] if self.gauge.errors else []
        return found + ([self.gauge.broken] if self.gauge.broken else [])

    async def finish(self, within_seconds: float) -> list[str]:
        """Have it compare all that it wrote, and end; the errors."""
        assert self.worker is not None
        if not self._judged:
            self.worker.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(within_seconds):
                await self.worker.finished()
        except TimeoutError:
            return [*self.errors(), f"it did not come to an end within {within_seconds:.0f} s"]
        return self.errors()


class DiskSurroundings:
    """A medium in ``folder``."""

    workload = WORKLOAD

    def __init__(self, folder: Path) -> None:
        self.name = f"disk-{os.urandom(2).hex()}"
        self._folder = folder
        self._medium = folder / "disk.img"
        self._device = ""
        with self._medium.open("wb") as file:
            file.truncate(SIZE_BYTES)

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
        application = DiskApplication()
        command = python("nooks.lab.disk.raw", "--path", self._device, "--seed", seed & 0xFFFFFFFF)
        async with worker("disk user", command, application.add) as application.worker:
            yield application


@contextlib.asynccontextmanager
async def surroundings() -> AsyncGenerator[DiskSurroundings, None]:
    """The class's entry point."""
    with tempfile.TemporaryDirectory(prefix="nooks-campaign-", dir=_MEMORY, ignore_cleanup_errors=True) as folder:
        yield DiskSurroundings(Path(folder))


@contextlib.asynccontextmanager
async def native_surroundings() -> AsyncGenerator[NativeSurroundings, None]:
    """The class's entry point for native controls, of which there are none."""
    raise InputError("there are no native controls for block drivers yet", "leave out --controls and --native")
    yield  # makes it a generator
