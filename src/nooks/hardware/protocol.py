"""vfio-user: the messages between a device's server (us) and its client (QEMU), as bytes.

Source: docs/interop/vfio-user.rst of QEMU, whose names are used here; the numbers inside messages are those of
include/uapi/linux/vfio.h. All fields are little-endian.
"""

import json
import struct
from enum import IntEnum, IntFlag
from typing import Any

HEADER = struct.Struct("<HHIII")
"""Message id, command, size with this header, flags, error."""

MAJOR, MINOR = 0, 0

MESSAGE_BYTES_MAX = 16384
"""Longer messages than we ask for by MAX_TRANSFER_BYTES are a violation."""
MAX_TRANSFER_BYTES = 4096
DESCRIPTORS_MAX = 8
"""In one message."""
DMA_MAPS_MAX = 65535
WRITES_MAX = 200
"""In one VFIO_USER_REGION_WRITE_MULTI, which QEMU added to the protocol: a count, then writes of at most 8 bytes."""

REPLY, NO_REPLY, ERROR = 0x1, 0x10, 0x20
TYPE_MASK = 0xF
"""Of a header's flags: a request has type 0."""


class Command(IntEnum):
    """What a message asks for."""

    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    DEVICE_GET_INFO = 4
    DEVICE_GET_REGION_INFO = 5
    DEVICE_GET_REGION_IO_FDS = 6
    DEVICE_GET_IRQ_INFO = 7
    DEVICE_SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DMA_READ = 11
    DMA_WRITE = 12
    DEVICE_RESET = 13
    DIRTY_PAGES = 14
    REGION_WRITE_MULTI = 15


class DeviceFlags(IntFlag):
    """vfio_device_info.flags."""

    RESET = 1
    PCI = 2


class RegionFlags(IntFlag):
    """vfio_region_info.flags."""

    READ = 1
    WRITE = 2


class DmaFlags(IntFlag):
    """Of DMA_MAP what the device may do; of DMA_UNMAP the last one only: everything."""

    READ = 1
    WRITE = 2
    UNMAP_ALL = 2


class IrqInfoFlags(IntFlag):
    """vfio_irq_info.flags."""

    EVENTFD = 1
    MASKABLE = 2
    AUTOMASKED = 4
    NORESIZE = 8


class IrqSetFlags(IntFlag):
    """vfio_irq_set.flags."""

    DATA_NONE = 1
    DATA_BOOL = 2
    DATA_EVENTFD = 4
    ACTION_MASK = 8
    ACTION_UNMASK = 16
    ACTION_TRIGGER = 32


class Irq(IntEnum):
    """Indexes of interrupts (vfio.h, VFIO_PCI_*_IRQ_INDEX)."""

    INTX = 0
    MSI = 1
    MSIX = 2
    ERR = 3
    REQ = 4


CONFIG_REGION, REGIONS, IRQS = 7, 9, 5
"""Regions 0 to 5 are the BARs, 6 the expansion ROM, 8 VGA (vfio.h, VFIO_PCI_*_REGION_INDEX)."""

VERSION = struct.Struct("<HH")
DMA_MAP = struct.Struct("<IIQQQ")
"""argsz, flags, offset into the file, address, size."""
DMA_UNMAP = struct.Struct("<IIQQ")
DEVICE_INFO = struct.Struct("<IIII")
REGION_INFO = struct.Struct("<IIIIQQ")
IRQ_INFO = struct.Struct("<IIII")
IRQ_SET = struct.Struct("<IIIII")
ACCESS = struct.Struct("<QII")
"""Offset, region, count; the data follow."""
WRITE_COUNT = struct.Struct("<Q")
ONE_WRITE = struct.Struct("<QII8s")

READ_REPLY = struct.Struct("<HHIIIQII")
"""Header and access of an answer to REGION_READ."""


def capabilities() -> bytes:
    """Our part of VERSION, after the version itself."""
    granted: dict[str, Any] = {
        "max_msg_fds": DESCRIPTORS_MAX,
        "max_data_xfer_size": MAX_TRANSFER_BYTES,
        "max_dma_maps": DMA_MAPS_MAX,
        "pgsizes": 4096,
        "write_multiple": True,
    }
    return json.dumps({"capabilities": granted}).encode() + b"\0"


def answer(message_id: int, command: int, payload: bytes) -> bytes:
    """A reply."""
    return HEADER.pack(message_id, command, HEADER.size + len(payload), REPLY, 0) + payload


def refusal(message_id: int, command: int, error: int) -> bytes:
    """A reply that carries an errno."""
    return HEADER.pack(message_id, command, HEADER.size, REPLY | ERROR, error)


def is_natural(offset: int, count: int) -> bool:
    """Whether an access is one of a bus: aligned, of 1, 2 or 4 bytes."""
    return count in (1, 2, 4) and not offset & (count - 1)


def pieces(offset: int, count: int) -> list[tuple[int, int]]:
    """An access as naturally aligned ones: (offset, size)."""
    pieces: list[tuple[int, int]] = []
    end = offset + count
    while offset < end:
        size = next(size for size in (4, 2, 1) if not offset & (size - 1) and offset + size <= end)
        pieces.append((offset, size))
        offset += size
    return pieces
