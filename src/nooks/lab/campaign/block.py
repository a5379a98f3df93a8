"""The class block in a campaign: on the bare disk, or with an application on a file system."""

import contextlib
import os
import tempfile
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from nooks import drivers
from nooks.lab.campaign.disks import DiskSurroundings, NativeDiskSurroundings
from nooks.lab.campaign.file_systems import PROGRAMS, FileSurroundings
from nooks.nook.block_tray import is_drive
from nooks.spec import parse_device

_MEMORY = Path("/dev/shm")


def workloads(driver: str) -> Sequence[str]:
    """What an application can do beside the ordinary; a drive is only read."""
    return () if _reads_only(driver) else tuple(PROGRAMS)


@contextlib.asynccontextmanager
async def surroundings(driver: str, workload: str) -> AsyncGenerator[DiskSurroundings, None]:
    """The class's entry point."""
    with tempfile.TemporaryDirectory(prefix="nooks-campaign-", dir=_MEMORY, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if workload:
            yield FileSurroundings(folder, PROGRAMS[workload])
        else:
            yield DiskSurroundings(folder, reads_only=_reads_only(driver))


@contextlib.asynccontextmanager
async def native_surroundings(driver: str) -> AsyncGenerator[NativeDiskSurroundings, None]:
    """The class's entry point for native controls."""
    around = NativeDiskSurroundings(reads_only=_reads_only(driver))
    try:
        yield around
    finally:
        os.close(around.medium)


def _reads_only(driver: str) -> bool:
    return any(is_drive(parse_device(device)) for device in drivers.find(driver).devices[:1])
