"""``nooks bench block``: fio on a nook's block device, beside fio in a guest that has the same disk and driver.

The baseline ``in-domain`` has the same QEMU, kernel, driver, emulated disk and medium, and no boundary to cross
(``disk.in_domain``). Beside both stands the limit of the nook's host endpoint, over memory instead of a driver
(``disk.ram_disk``). The media are in memory as well, so that no disk of the host is measured. All sides are up all
the time; the ones that are not measured are idle.
"""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rich.console import Console

from nooks.host import native
from nooks.host.errors import MachineError
from nooks.lab import processor
from nooks.lab.bed import own_logs
from nooks.lab.bench_network import compare
from nooks.lab.by_hand import arguments_of
from nooks.lab.disk import attached, bare
from nooks.lab.disk.in_domain import guest_with
from nooks.lab.disk.jobs import SIZE_BYTES, Side, fio_on, in_turn
from nooks.lab.disk.ram_disk_side import ram_disk
from nooks.lab.disk.stage import disk_of
from nooks.lab.figures import machine
from nooks.lab.processes import family_of
from nooks.lab.product import Product
from nooks.lab.running import run_lab

DRIVER = "ide-disk"
BASELINE = "in-domain"


class Variant(NamedTuple):
    """Another nook to be measured beside: what it is started with."""

    environment: Mapping[str, str] = {}
    flags: Sequence[str] = ()


PYTHON, UNCHECKED = "python-mover", "without-checksums"
VARIANTS: Mapping[str, Variant] = {PYTHON: Variant({"CC": ""}), UNCHECKED: Variant(flags=("--no-integrity",))}
"""A nook without a C compiler, and one that compares nothing."""

ARCHITECTURE = "amd64"
"""Of the domains of this driver, by Debian's name."""

SPARE_SECONDS = 30.0
SETTLE_SECONDS = 1.0
MEMORY = Path("/dev/shm")


def run(
    driver: str = DRIVER,
    rounds: int = 3,
    integrity: bool = True,
    movers: bool = False,
    checksums: bool = False,
    json: bool = False,
    attach: str | None = None,
    erase: bool = False,
    endpoints: bool = False,
) -> dict[str, Any]:
    """Measure all sides in turn, each job on one after the other, and return CONTRACT's document with medians.

    With ``attach`` a real disk instead, by the host's driver and by a nook in turn; it is written over, which has to
    be allowed by ``erase`` if there is anything on it. With ``endpoints`` the kinds of host endpoint that this machine
    has, over memory, and no nook.

    Without ``integrity`` the nook compares no checksums. With ``movers`` another nook is a side, whose domain moves
    the data in Python as it would without a C compiler; with ``checksums`` one that compares none. Raises MachineError
    if there is no compiler to compare with.
    """
    console = Console(stderr=True, quiet=json, highlight=False)
    flag = "--integrity" if integrity else "--no-integrity"
    if attach is not None:
        return run_lab(attached.run(attach, rounds, console, flag, erase=erase))
    if endpoints:
        return run_lab(bare.run(rounds, console))
    if movers and native.find_compiler(ARCHITECTURE) is None:
        raise MachineError(
            "there is no C compiler, so the mover is Python anyway", f"apt-get install {native.PACKAGES}"
        )
    variants = [name for name, wanted in ((PYTHON, movers), (UNCHECKED, checksums)) if wanted]
    return run_lab(_run(driver, rounds, variants, console, flag))


async def _run(driver: str, rounds: int, variants: Sequence[str], console: Console, *flags: str) -> dict[str, Any]:
    async with _sides(driver, variants, *flags) as sides:
        passes = await in_turn(sides, rounds, console.print)
    rows = compare(passes["nook"], passes[BASELINE], BASELINE)
    for row in rows:
        limits = [one[row["name"]].value for one in passes["endpoint"]]
        row["endpoint_over_ram"] = round(median(limits), 3)
    if PYTHON in variants:
        for row, other in zip(rows, compare(passes[PYTHON], passes[BASELINE]), strict=True):
            row |= {"python_mover": other["nook"], "python_mover_ratio": other["ratio"]}
    if UNCHECKED in variants:
        for row, beside in zip(rows, compare(passes["nook"], passes[UNCHECKED]), strict=True):
            row |= {"without_checksums": beside["native"], "checksums_ratio": beside["ratio"]}
    return {"driver": driver, "rounds": rounds, "flags": flags, "benchmarks": rows, "machine": machine()}


@contextlib.asynccontextmanager
async def _sides(driver: str, variants: Sequence[str], *flags: str) -> AsyncGenerator[list[Side], None]:
    """The nook, its ``variants``, the baseline, and the endpoint alone."""
    if os.geteuid() != 0:
        raise MachineError("the lab needs root", "run the command with sudo")
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(own_logs())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nooks-bench-", dir=MEMORY)))
        wanted = {"nook": Variant()} | {name: VARIANTS[name] for name in variants}
        media = {name: folder / f"{name}.img" for name in (*wanted, BASELINE)}
        await asyncio.to_thread(_fill, list(media.values()))
        nooks = {
            name: await stack.enter_async_context(
                disk_of(driver, media[name], *(one.flags or flags), environment=one.environment)
            )
            for name, one in wanted.items()
        }
        for product, _ in nooks.values():
            await product.wait_for_spare(SPARE_SECONDS)
        product, started = nooks["nook"]
        arguments = arguments_of(int(started["domain_pid"]))
        guest = await stack.enter_async_context(guest_with(driver, media[BASELINE], arguments))
        limit = await stack.enter_async_context(ram_disk(f"limit-{product.name}", SIZE_BYTES))
        await asyncio.sleep(SETTLE_SECONDS)
        yield [
            *(_nook_side(name, product, started) for name, (product, started) in nooks.items()),
            Side(BASELINE, guest.fio, processor.of_processes([guest.pid])),
            Side("endpoint", fio_on(limit.path), processor.of_processes([limit.pid])),
        ]


def _nook_side(name: str, product: Product, started: Mapping[str, Any]) -> Side:
    family = family_of(product.name, [int(started["pid"]), int(started["domain_pid"])])
    return Side(name, fio_on(Path(started["block_device"])), processor.of_processes(family))


def _fill(media: list[Path]) -> None:
    """Whole files: what was never written reads faster."""
    piece = os.urandom(1 << 20)
    for medium in media:
        with medium.open("wb") as file:
            for _ in range(SIZE_BYTES // len(piece)):
                file.write(piece)
