"""Applications on a file system of a nook's disk, for campaigns: sqlite, fio with verification, a compiler.

Each is a process of ``lab.disk`` that knows when it is wrong, on an ext4 that is made when the nook starts.
"""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nooks.host.errors import NooksError
from nooks.host.process import require
from nooks.lab.campaign.disks import DiskApplication, DiskSurroundings
from nooks.lab.disk.stage import mount_new, unmount

_WORK = "work"
"""What the names of all files of a program begin with."""


@dataclass(frozen=True)
class Program:
    """A module of ``lab.disk``; ``flag`` tells it where it works, ``more`` what else. ``tool`` is in ``packages``."""

    module: str
    flag: str
    told: str
    more: tuple[str, ...] = ()
    tool: str = ""
    packages: str = ""


PROGRAMS: Mapping[str, Program] = MappingProxyType(
    {
        "sqlite": Program("database", "--path", "a database (sqlite, synchronous=FULL) on ext4"),
        "fio": Program("verified", "--path", "fio with verification on ext4", ("--size", "4M"), "fio", "fio"),
        "compile": Program("compiled", "--folder", "a compiler (gcc) on ext4", (), "gcc", "gcc libc6-dev"),
    }
)


class FileSurroundings(DiskSurroundings):
    """A disk with a file system on it, mounted in ``folder`` while the nook runs."""

    def __init__(self, folder: Path, program: Program) -> None:
        if program.tool:
            require(program.tool, program.packages)
        super().__init__(folder, reads_only=False)
        self.workload = program.told
        self._program = program
        self._place = folder / "mounted"
        self._place.mkdir()

    def remains(self) -> dict[str, list[str]]:
        """The mount as well."""
        return super().remains() | {"mounts": [str(self._place)]}

    async def started(self, document: dict[str, Any]) -> None:
        """Make the file system, and mount it. Raises NooksError."""
        await super().started(document)
        await mount_new(Path(self.device), self._place)

    async def leaving(self) -> None:
        """Unmount it, if need be without waiting for what is not written."""
        if self._place.is_mount():
            await unmount(self._place)

    @contextlib.asynccontextmanager
    async def application(self, seed: int) -> AsyncGenerator[DiskApplication, None]:
        """The program, which finds nothing of an earlier trial's. Raises NooksError if that can't be removed."""
        await asyncio.to_thread(_clear, self._place)
        program, place = self._program, self._place / _WORK
        async with self.running(program.module, program.flag, place, "--seed", seed, *program.more) as application:
            yield application


def _clear(folder: Path) -> None:
    try:
        for path in folder.glob(f"{_WORK}*"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    except OSError as error:
        raise NooksError(f"what the last trial left can't be removed: {error}") from None
