"""``ram_disk`` as a process of its own."""

import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import NamedTuple

from nooks.lab.workers import python, worker


class RamDiskSide(NamedTuple):
    """The device, and the process that serves it."""

    path: Path
    pid: int


@contextlib.asynccontextmanager
async def ram_disk(name: str, size_bytes: int, *flags: str) -> AsyncGenerator[RamDiskSide, None]:
    """A block device over memory, for the block; ``flags`` as of the program."""
    command = python("nooks.lab.disk.ram_disk", "--name", name, "--size-bytes", size_bytes, *flags)
    async with worker("disk in memory", command) as running:
        await running.until_ready(30.0)
        yield RamDiskSide(Path(running.last["path"]), running.process.pid)
