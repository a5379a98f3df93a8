"""A server of the kernel's userspace block device (ublk): one queue, served by one thread.

Data go straight between the kernel and memory that the caller gives (UBLK_F_USER_COPY, since Linux 6.5). Numbers and
rules: include/uapi/linux/ublk_cmd.h and Documentation/block/ublk.rst. Each of the queue's tags is a command that the
driver keeps until it has a request with that tag; it is answered with the next such command. All of them have to come
from the thread that gave the first ones: what other threads answer is sent by that one's ``settle``.

Requests that a dead server left unanswered come again to the next one, under other tags.
"""

import mmap
import os
import struct
from errno import EIO
from pathlib import Path
from typing import Any

from nooks.endpoint.front import Arrival, FrontGone, refusal
from nooks.endpoint.uring import Ring
from nooks.xpc.block import DISCARD, FLUSH, READ, WRITE, ZERO

NODES = Path("/dev")

TAGS = 128
"""Requests that the kernel may have under way at a time."""

SECTOR_BYTES = 512
"""The driver's unit, whatever the device's sectors are."""

_FETCH, _COMMIT_AND_FETCH = 0xC0107520, 0xC0107521
"""UBLK_U_IO_FETCH_REQ and UBLK_U_IO_COMMIT_AND_FETCH_REQ: _IOWR('u', 0x20 and 0x21, struct ublksrv_io_cmd)."""

_COMMAND = struct.Struct("=HHiQ")
"""struct ublksrv_io_cmd: queue, tag, result, 0."""
_RESULT_AT = 4

_DESCRIPTION = struct.Struct("=IIQQ")
"""struct ublksrv_io_desc: operation and flags, sectors, first sector, 0."""

DESCRIPTIONS_BYTES = -(-TAGS * _DESCRIPTION.size // mmap.PAGESIZE) * mmap.PAGESIZE

_OPERATIONS = {0: READ, 1: WRITE, 2: FLUSH, 3: DISCARD, 5: ZERO}
_OPERATION_MASK, _FUA = 0xFF, 1 << 13
_BUFFERS_AT, _TAG_SHIFT = 0x80000000, 25


class UblkFront:
    """Serves the device whose character device is open as ``device``; implements Front, and owns all that it is given.

    ``size_bytes`` may become less. ``zeroes`` and ``discards`` as of FuseFile; known before the device is started.
    """

    def __init__(self, device: int, ring: Ring, size_bytes: int, *, read_only: bool = False) -> None:
        self._device = device
        self._descriptions: mmap.mmap | None = None
        self._ring = ring
        self._lengths = [0] * TAGS
        self.size_bytes = size_bytes
        self.read_only = read_only
        self.zeroes = False
        self.discards = False
        for tag in range(TAGS):
            ring.place(tag, device, _FETCH, _COMMAND.pack(0, tag, 0, 0))

    @classmethod
    def open(cls, number: int, size_bytes: int, *, read_only: bool) -> "UblkFront":
        """That of the device with this number, which nobody serves. Raises OSError, MachineError."""
        device = os.open(character_device(number), os.O_RDWR | os.O_CLOEXEC)
        try:
            return cls(device, Ring(TAGS), size_bytes, read_only=read_only)
        except BaseException:
            os.close(device)
            raise

    def fileno(self) -> int:
        """The descriptor of the ring."""
        return self._ring.fileno()

    def receive(self, space: memoryview) -> Arrival | None:
        """The next request for the device. ``space`` must have room for the largest write. Raises FrontGone."""
        descriptions = self._descriptions
        if descriptions is None:
            return None
        while (completed := self._ring.reap()) is not None:
            tag, result = completed
            if result < 0:
                raise FrontGone(f"the block device was taken away: {os.strerror(-result)}")
            word, sectors, first, _ = _DESCRIPTION.unpack_from(descriptions, tag * _DESCRIPTION.size)
            operation = _OPERATIONS.get(word & _OPERATION_MASK)
            offset, length = first * SECTOR_BYTES, sectors * SECTOR_BYTES
            if operation == FLUSH:
                offset = length = 0
            error = refusal(self, operation, offset, length)
            if not error and operation == WRITE:
                error = self._take_data(tag, space[:length])
            self._lengths[tag] = length
            if not error:
                assert operation is not None
                return Arrival(operation, offset, length, bool(word & _FUA) and operation == WRITE, tag)
            self.answer(tag, error)
        return None

    def answer(self, handle: Any, error: int, data: memoryview | None = None) -> None:  # noqa: ANN401
        """See Front."""
        if data is not None and not error:
            error = self._give_data(handle, data)
        self._ring.write(handle, _RESULT_AT, -error if error else self._lengths[handle])
        self._ring.queue(handle)

    def settle(self) -> None:
        """See Front. The first time all tags are offered to the driver. Raises FrontGone."""
        try:
            if self._descriptions is None:
                self._descriptions = self._offer()
            self._ring.submit()
        except OSError as error:
            raise FrontGone(f"the block device can't be served: {error.strerror}") from None

    def _offer(self) -> mmap.mmap:
        """Give the driver all tags; returns its descriptions of the requests, by tag. Raises OSError.

        In this order: of somebody who died with the descriptions mapped and the tags not yet offered, Linux 6.12 lets
        nobody take over.
        """
        for tag in range(TAGS):
            self._ring.queue(tag)
        self._ring.submit()
        for tag in range(TAGS):
            self._ring.renumber(tag, _COMMIT_AND_FETCH)
        return mmap.mmap(self._device, DESCRIPTIONS_BYTES, prot=mmap.PROT_READ)

    def close(self) -> None:
        """Let go of the device. Again is harmless."""
        if self._device >= 0:
            self._ring.close()
            if self._descriptions is not None:
                self._descriptions.close()
            os.close(self._device)
            self._device = -1

    def _take_data(self, tag: int, space: memoryview) -> int:
        """A write's data into ``space``; returns an errno."""
        try:
            return 0 if os.preadv(self._device, (space,), _buffer_at(tag)) == len(space) else EIO
        except OSError as error:
            return error.errno or EIO

    def _give_data(self, tag: int, data: memoryview) -> int:
        """What a read brought to whoever reads; returns an errno."""
        try:
            return 0 if os.pwrite(self._device, data, _buffer_at(tag)) == len(data) else EIO
        except OSError as error:
            return error.errno or EIO


def character_device(number: int) -> Path:
    """Where whoever serves a device finds it."""
    return NODES / f"ublkc{number}"


def _buffer_at(tag: int) -> int:
    """Where in the character device a request's data are."""
    return _BUFFERS_AT + (tag << _TAG_SHIFT)
