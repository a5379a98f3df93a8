"""The CRC32C of blocks of 4 KiB: by the package ``crc32c``, one call for each, or by a library in C, one for all.

Of a request of 1 MiB the package's 256 calls take longer than all else that the host does with its data.
"""

import ctypes
from array import array
from collections.abc import Callable
from pathlib import Path

import crc32c

SOURCE = Path(__file__).with_name("checksums.c")
"""Of the library (``host.native``)."""

BLOCK_BYTES = 4096

FEW_BLOCKS = 6
"""Up to so many the calls cost less than getting into the library."""

Summing = Callable[[memoryview], "array[int]"]
"""The checksums of whole blocks."""


def by_package(data: memoryview) -> "array[int]":
    """A Summing."""
    checksum = crc32c.crc32c
    return array("I", [checksum(data[at : at + BLOCK_BYTES]) for at in range(0, len(data), BLOCK_BYTES)])


def by_library(path: Path) -> Summing:
    """A Summing by ``checksums.c``, compiled. Raises OSError if it can't be loaded, or not on this processor."""
    library = ctypes.CDLL(str(path))
    if not library.nooks_can_sum():
        raise OSError("the processor has no instruction for it (SSE 4.2)")
    sum_all, byte = library.nooks_sum, ctypes.c_char
    sum_all.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    sum_all.restype = None

    def summing(data: memoryview) -> "array[int]":
        blocks = len(data) // BLOCK_BYTES
        if blocks <= FEW_BLOCKS or data.readonly:
            return by_package(data)
        sums = array("I", bytes(blocks * 4))
        sum_all(ctypes.addressof(byte.from_buffer(data)), blocks, sums.buffer_info()[0])
        return sums

    return summing
