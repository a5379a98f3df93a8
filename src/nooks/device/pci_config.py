"""The few registers of PCI configuration space that make a device be quiet.

Source: PCI Local Bus Specification 3.0, sections 6.2.2 (Command), 6.7 (capability list), 6.8.1 (MSI), 6.8.2 (MSI-X).
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

COMMAND, STATUS, CAPABILITIES = 0x04, 0x06, 0x34
BUS_MASTER, INTERRUPT_DISABLE = 1 << 2, 1 << 10
HAS_CAPABILITIES = 1 << 4
MSI, MSI_X = 0x05, 0x11
MSI_ENABLE, MSI_X_ENABLE = 1 << 0, 1 << 15
_ABSENT = 0xFFFF
_CAPABILITIES_MAX = 48
"""More don't fit into 192 bytes: a chain that is longer is a loop."""


class ConfigSpace:
    """An open ``config`` file of sysfs; the first 256 bytes, little-endian."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def word(self, offset: int) -> int:
        """16 bits. Raises OSError, EOFError where the user may not read so far."""
        data = os.pread(self._descriptor, 2, offset)
        if len(data) != 2:
            raise EOFError(f"no configuration space at {offset:#x}")
        return int(struct.unpack("<H", data)[0])

    def set_word(self, offset: int, value: int) -> None:
        """Write 16 bits. Raises OSError."""
        os.pwrite(self._descriptor, struct.pack("<H", value), offset)

    def capabilities(self) -> Iterator[tuple[int, int]]:
        """The identifier and offset of each capability. A damaged list ends early."""
        if not self.word(STATUS) & HAS_CAPABILITIES:
            return
        offset = self.word(CAPABILITIES) & 0xFC
        for _ in range(_CAPABILITIES_MAX):
            if offset < 0x40:
                return
            head = self.word(offset)
            if head == _ABSENT:
                return
            yield head & 0xFF, offset
            offset = head >> 8 & 0xFC


def clear_bus_master(config: Path) -> None:
    """Forbid the device to reach memory: no DMA and no message-signalled interrupt. Raises OSError, EOFError."""
    with _Opened(config) as space:
        _change(space, COMMAND, clear=BUS_MASTER)


def quiesce(config: Path) -> None:
    """Also switch its interrupts off, all kinds of them. Raises OSError, EOFError."""
    with _Opened(config) as space:
        _change(space, COMMAND, clear=BUS_MASTER, put=INTERRUPT_DISABLE)
        for kind, offset in list(space.capabilities()):
            if kind in (MSI, MSI_X):
                _change(space, offset + 2, clear=MSI_ENABLE if kind == MSI else MSI_X_ENABLE)


def _change(space: ConfigSpace, offset: int, *, clear: int, put: int = 0) -> None:
    before = space.word(offset)
    if before == _ABSENT:  # the device does not answer any more: all ones
        return
    after = before & ~clear | put
    if after != before:
        space.set_word(offset, after)


class _Opened:
    """A ``config`` file, opened and closed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def __enter__(self) -> ConfigSpace:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        return ConfigSpace(self._descriptor)

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
