"""Writing registers of a PCI device behind its driver's back, by the resource files of sysfs.

Source: Documentation/PCI/sysfs-pci.rst. Memory regions are mapped, which needs ``iomem=relaxed`` where the driver
has claimed them; ports are written.
"""

import ctypes
import mmap
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_IO_FLAG = 0x100  # IORESOURCE_IO, include/linux/ioport.h
_WORDS = {1: ctypes.c_uint8, 2: ctypes.c_uint16, 4: ctypes.c_uint32}


ROUNDS = 3
"""The driver writes registers as well, and may come in between; some cards have one that says which the next one is."""


def write_registers(device: str, registers: "list[dict[str, Any]]") -> None:
    """Write registers ({bar, offset, size in bytes, value}) of the device in the folder ``device``, ROUNDS times over.

    Raises OSError.
    """
    for register in registers * ROUNDS:
        path = f"{device}/resource{register['bar']}"
        if _is_port(device, register["bar"]):
            _write_port(path, register["offset"], register["size"], register["value"])
        else:
            _write_memory(path, register["offset"], register["size"], register["value"])


def _is_port(device: str, bar: int) -> bool:
    with open(f"{device}/resource") as file:
        flags = file.read().splitlines()[bar].split()[2]
    return bool(int(flags, 16) & _IO_FLAG)


def _write_port(path: str, offset: int, size: int, value: int) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, value.to_bytes(size, "little"), offset)
    finally:
        os.close(descriptor)


def _write_memory(path: str, offset: int, size: int, value: int) -> None:
    """One access of exactly ``size`` bytes, as registers want it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_SYNC)
    try:
        page = offset & ~(mmap.PAGESIZE - 1)
        with mmap.mmap(descriptor, mmap.PAGESIZE, offset=page) as mapped:
            word = _WORDS[size].from_buffer(mapped, offset - page)
            word.value = value
            del word  # else the mapping can't be closed
    finally:
        os.close(descriptor)
