"""A nook's disk with an ext4 file system on it, for applications; checked at the end.

Everything that it makes carries a random suffix and goes with it.
"""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nooks.host.errors import MachineError
from nooks.host.process import ProcessError, run
from nooks.lab.bed import own_logs, stop_for_sure
from nooks.lab.product import Product

SIZE_BYTES = 2 << 30
_SECONDS = 300.0


@dataclass
class Stage:
    """``place`` is where the nook's disk ``device`` is mounted. ``checked``: what was wrong with it in the end."""

    product: Product
    device: Path
    place: Path
    started: dict[str, Any]
    checked: list[str] = field(default_factory=list[str])


@contextlib.asynccontextmanager
async def stage(driver: str, *flags: str, size_bytes: int = SIZE_BYTES) -> AsyncGenerator[Stage, None]:
    """The nook and its file system, for the block; afterwards ``checked`` is known, also of the medium by itself.

    Raises MachineError without root or mkfs.ext4, NooksError if the nook doesn't start.
    """
    if os.geteuid() != 0:
        raise MachineError("the lab needs root", "run the command with sudo")
    with own_logs(), tempfile.TemporaryDirectory(prefix="nooks-lab-disk-") as folder:
        Path(folder).chmod(0o711)  # applications may be other users
        medium = Path(folder) / "disk.img"
        with medium.open("wb") as file:
            file.truncate(size_bytes)
        async with disk_of(driver, medium, *flags) as (product, started):
            made = Stage(product, Path(started["block_device"]), Path(folder) / "mounted", started)
            made.place.mkdir()
            await mount_new(made.device, made.place)
            try:
                yield made
            finally:
                await _unmount(made)
        made.checked += await _checked(medium, "the medium")


@contextlib.asynccontextmanager
async def disk_of(
    driver: str, medium: Path, *flags: str, environment: Mapping[str, str] | None = None
) -> AsyncGenerator[tuple[Product, dict[str, Any]], None]:
    """A nook with that medium; yields it and what ``start`` said. ``environment`` is ``Product``'s."""
    product = Product(f"disk-{os.urandom(2).hex()}", environment)
    try:
        yield product, await product.start("--driver", driver, "--media", str(medium), *flags)
    finally:
        await asyncio.shield(stop_for_sure(product))


async def forget_cached(path: Path) -> None:
    """Have the next reader of a file read it from the disk."""

    def forget() -> None:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    await asyncio.to_thread(forget)


async def mount_new(device: Path, place: Path) -> None:
    """Make an ext4 there, and mount it. Raises ProcessError.

    Its blocks are of 4 KiB, as on any disk that people have; mkfs would take smaller ones on a small disk.
    """
    full = ("-E", "lazy_itable_init=0,lazy_journal_init=0")
    await _command("mkfs.ext4", "-q", "-F", "-b", "4096", *full, str(device))
    await _command("mount", str(device), str(place))


async def unmount(place: Path) -> str:
    """Unmount it, if need be without waiting for what is not written; why it had to be so, "" if it had not."""
    try:
        await _command("umount", str(place))
    except ProcessError as error:
        await _command("umount", "--lazy", str(place))
        return error.message
    return ""


async def _unmount(made: Stage) -> None:
    why = await unmount(made.place)
    if why:
        made.checked.append(f"it can't be unmounted: {why}")
    else:
        made.checked += await _checked(made.device, "the nook's disk")


async def _checked(device: Path, what: str) -> list[str]:
    """What ``e2fsck -f`` finds wrong there; nothing if it is clean."""
    try:
        await _command("e2fsck", "-fn", str(device))
    except ProcessError as error:
        said = " ".join(error.message.split())
        return [f"e2fsck complains of {what}: {said[-300:]}"]
    return []


async def _command(*argv: str) -> None:
    await asyncio.to_thread(run, argv, timeout_seconds=_SECONDS)
