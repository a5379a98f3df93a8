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

from nooks.host.errors import MachineError
from nooks.host.process import ProcessError, run
from nooks.lab.campaign.disks import DiskApplication, DiskSurroundings

_SECONDS = 120.0


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
        if program.tool and shutil.which(program.tool) is None:
            raise MachineError(f"{program.tool} is not installed", f"apt-get install {program.packages}")
        super().__init__(folder, reads_only=False)
        self.workload = program.told
        self._program = program
        self._place = folder / "mounted"
        self._place.mkdir()
        self._trials = 0

    def remains(self) -> dict[str, list[str]]:
        """The mount as well."""
        return super().remains() | {"mounts": [str(self._place)]}

    async def started(self, document: dict[str, Any]) -> None:
        """Make the file system, and mount it. Raises NooksError."""
        await super().started(document)
        full = ("-E", "lazy_itable_init=0,lazy_journal_init=0")
        await _command("mkfs.ext4", "-q", "-F", "-b", "4096", *full, self.device)  # blocks as of any larger disk
        await _command("mount", self.device, str(self._place))

    async def leaving(self) -> None:
        """Unmount it, if need be without waiting for what is not written."""
        if self._place.is_mount():
            try:
                await _command("umount", str(self._place))
            except ProcessError:
                await _command("umount", "--lazy", str(self._place))

    @contextlib.asynccontextmanager
    async def application(self, seed: int) -> AsyncGenerator[DiskApplication, None]:
        """The program, in a place of its own for each trial."""
        self._trials += 1
        place = self._place / f"trial-{self._trials}"
        program = self._program
        async with self.running(program.module, program.flag, place, "--seed", seed, *program.more) as application:
            yield application


async def _command(*argv: str) -> None:
    await asyncio.to_thread(run, argv, timeout_seconds=_SECONDS)
