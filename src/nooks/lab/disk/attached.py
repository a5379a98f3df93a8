"""``nooks bench block --attach``: a compiler and fio on a real disk, which the host's driver and a nook have by turns.

The compiler works on a new ext4, its sources not cached; it is the workload of the papers. What either side uses of
the processors is the whole machine's.
"""

import asyncio
import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from nooks.host.errors import InputError, MachineError
from nooks.host.process import require
from nooks.host.process import run as run_program
from nooks.lab import real_card
from nooks.lab.bench_network import compare
from nooks.lab.disk.compiled import build, write_project
from nooks.lab.disk.jobs import AREA_BYTES, JOBS, Side, fio_on
from nooks.lab.disk.raw import size_of
from nooks.lab.disk.stage import mount_new, unmount
from nooks.lab.figures import machine
from nooks.lab.processor import Window, of_machine
from nooks.lab.workloads import Figure

BASELINE = "host"
SPARE_SECONDS = 120.0
SOURCES = 12
COMPILE = "compile on ext4"


@dataclass(frozen=True)
class RealDisk:
    """``device`` is its address, ``path`` the host's block device, ``driver`` the host's."""

    device: str
    path: Path
    driver: str


def find(text: str) -> RealDisk:
    """The disk that ``nooks attach`` would take, which the host's driver has now. Raises InputError."""
    device, blocks, driver = real_card.made_of(text, lambda found: found.blocks, lambda part: part.blocks)
    if len(blocks) != 1 or driver is None:
        raise InputError(f"{text} makes no disk just now, or several", "give a device that the host's driver has")
    return RealDisk(device, Path("/dev", blocks[0]), driver)


def check(disk: RealDisk, *, erase: bool) -> None:
    """Nobody uses the disk, and there is nothing on it unless it may be erased. Raises InputError, MachineError."""
    try:
        os.close(os.open(disk.path, os.O_RDWR | os.O_EXCL))  # open(2): EBUSY if it is mounted, or belongs to others
    except OSError as error:
        raise InputError(f"{disk.path} can't be written over: {error.strerror}", "unmount what is on it") from None
    found = run_program(["wipefs", "--no-act", "--noheadings", "--output", "TYPE", str(disk.path)]).stdout.split()
    if found and not erase:
        raise InputError(
            f"there is something on {disk.path} ({', '.join(found)}), which would be lost",
            "give --erase if that may be",
        )


async def run(text: str, rounds: int, console: Console, *flags: str, erase: bool) -> dict[str, Any]:
    """Measure both sides in turn, and return CONTRACT's document with medians. Raises NooksError.

    ``flags`` are the nook's, as of ``nooks attach``.
    """
    if os.geteuid() != 0:
        raise MachineError("a real disk needs root", "run the command with sudo")
    for program, package in (("gcc", "gcc libc6-dev"), ("fio", "fio"), ("mkfs.ext4", "e2fsprogs")):
        require(program, package)
    disk = find(text)
    check(disk, erase=erase)
    nook: list[Mapping[str, Figure]] = []
    native: list[Mapping[str, Figure]] = []
    for number in range(rounds):
        where = f"round {number + 1} of {rounds}"
        native.append(await _measure(find(disk.device).path, f"{where}, {BASELINE}", console))
        async with real_card.in_a_nook(f"lab-{secrets.token_hex(2)}", disk.device, *flags) as (product, started):
            await product.wait_for_spare(SPARE_SECONDS)
            nook.append(await _measure(Path(started["block_device"]), f"{where}, nook", console))
    return {
        "driver": disk.driver,
        "rounds": rounds,
        "flags": flags,
        "benchmarks": compare(nook, native, BASELINE),
        "machine": machine(),
    }


async def _measure(device: Path, where: str, console: Console) -> dict[str, Figure]:
    side = Side(where, fio_on(device), of_machine(), min(AREA_BYTES, size_of(device)))
    figures: dict[str, Figure] = {}
    for name in (*JOBS, COMPILE):
        figures[name] = figure = await (_compile(device) if name == COMPILE else side.measure(name))
        console.print(f"{where}, {name}: {figure.value:.1f} {figure.unit}", markup=False)
    return figures


async def _compile(device: Path) -> Figure:
    """How many files a minute a compiler gets through. Raises ProcessError, OSError, CalledProcessError."""
    with tempfile.TemporaryDirectory(prefix="nooks-bench-") as name:
        place = Path(name) / "mounted"
        place.mkdir()
        await mount_new(device, place)
        try:
            warm = await asyncio.to_thread(write_project, place / "warm", 0, 1)
            await asyncio.to_thread(build, warm)  # the compiler itself is in memory then
            sources = await asyncio.to_thread(write_project, place / "project", 1, SOURCES)
            window = Window(of_machine())
            window.begin()
            await asyncio.to_thread(build, sources)
            window.end()
            return Figure(60 * SOURCES / window.seconds, "files/min", window.cores)
        finally:
            await asyncio.shield(unmount(place))
