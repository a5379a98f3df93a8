"""What leads to one domain's disk: its data port, and the buffer region that both sides map.

The region is the domain's own: none but it and we have it, and it goes with the domain. All that comes from the other
side is mistrusted. Knows what crosses the port, not what it is for.
"""

import asyncio
import mmap
import os
import socket
from collections.abc import Sequence
from contextlib import suppress

from nooks.xpc.block import (
    BARRIER,
    FLUSH,
    READ,
    REPLY,
    REPLY_MAGIC,
    REPLY_MARK,
    REQUEST,
    REQUEST_BYTES_MAX,
    REQUEST_MAGIC,
    REQUEST_MARK,
    WRITE,
)
from nooks.xpc.errors import ProtocolError

SMALL_BYTES = 64 << 10
SMALL, LARGE = 64, 12
REGION_BYTES = SMALL * SMALL_BYTES + LARGE * REQUEST_BYTES_MAX
"""16 MiB: a slot for each request under way, of two sizes."""

_READ_BYTES = 16 << 10
_ERRNO_MAX = 4095
_REHEARSED = 8
_BARRIER_TAG = 2**32 - 1


class Link:
    """A domain's data port and region; owns both descriptors. Nothing blocks but what is awaited.

    ``astray``: the domain may have been asked for something whose answer nobody took (by another process, or in a
    rehearsal that was cut short), so that ``resync`` has to come first.
    """

    def __init__(self, port: socket.socket, region_fd: int, *, astray: bool = False) -> None:
        port.setblocking(False)
        self.port = port
        self.astray = astray
        self.region_fd = region_fd
        self._map = mmap.mmap(region_fd, REGION_BYTES)
        self.region = memoryview(self._map)
        self._small = [SMALL_BYTES * slot for slot in range(SMALL)]
        self._large = [SMALL * SMALL_BYTES + REQUEST_BYTES_MAX * slot for slot in range(LARGE)]
        self._received = b""
        self._unsent = b""

    @classmethod
    def create(cls) -> "tuple[Link, socket.socket]":
        """A new region and a new port; the second socket is for the domain."""
        here, there = socket.socketpair()
        region = os.memfd_create("nooks-buffers", os.MFD_CLOEXEC)
        os.ftruncate(region, REGION_BYTES)
        return cls(here, region), there

    @property
    def room(self) -> bool:
        """Whether a request of any size can be sent."""
        return bool(self._small and self._large) and not self._unsent

    def take(self, length: int) -> int:
        """A slot for so many bytes, as its offset in the region; there must be ``room``."""
        return self._small.pop() if length <= SMALL_BYTES else self._large.pop()

    def give(self, slot: int, length: int) -> None:
        """A slot that ``take`` gave for so many bytes is free again."""
        (self._small if length <= SMALL_BYTES else self._large).append(slot)

    def send(self, requests: bytes) -> bool:
        """Send packed requests; False if some have to wait for ``flush`` (the port is full)."""
        self._unsent += requests
        return self.flush()

    def flush(self) -> bool:
        """Send what had to wait; False if some still does. A port that nobody has any more swallows all."""
        if self._unsent:
            try:
                self._unsent = self._unsent[self.port.send(self._unsent) :]
            except BlockingIOError:
                return False
            except OSError:
                self._unsent = b""
        return not self._unsent

    def replies(self) -> Sequence[tuple[int, int]] | None:
        """What the domain has answered since: tag, and bytes or a negative errno; None if it is gone.

        Raises ProtocolError.
        """
        try:
            received = self.port.recv(_READ_BYTES)
        except BlockingIOError:
            return ()
        except OSError:
            return None
        if not received:
            return None
        self._received += received
        whole = len(self._received) // REPLY.size * REPLY.size
        replies = [_checked(*fields) for fields in REPLY.iter_unpack(self._received[:whole])]
        self._received = self._received[whole:]
        return replies

    async def resync(self, within_seconds: float) -> None:
        """Get into step on a port that is astray; then the domain is through with all that it had been asked.

        Raises TimeoutError, OSError, ProtocolError.
        """
        torn = bytes(REQUEST.size)  # completes what may have been sent in part
        barrier = REQUEST.pack(REQUEST_MAGIC, BARRIER, 0, _BARRIER_TAG, 0, 0, 0, 0, REQUEST_MARK)
        expected = REPLY.pack(REPLY_MAGIC, 0, _BARRIER_TAG, 0, REPLY_MARK)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(within_seconds):
            await loop.sock_sendall(self.port, torn + barrier)
            seen = b""
            while expected not in seen:
                received = await loop.sock_recv(self.port, _READ_BYTES)
                if not received:
                    raise ProtocolError("the data port was closed")
                seen = seen[-REPLY.size :] + received
        self._received = seen.partition(expected)[2]
        self.astray = False

    async def rehearse(self, within_seconds: float, *, writing: bool = True) -> None:
        """Have the domain do some of all that it will be asked for, on whatever medium it has: it overwrites that.

        Cancelled, it leaves the port astray. Raises TimeoutError, OSError, ProtocolError.
        """
        self.astray = True
        async with asyncio.timeout(within_seconds):
            for number in range(_REHEARSED):
                for operation in (WRITE, READ) if writing else (READ,):
                    await self._ask(operation, number, 4096)
                    await self._ask(operation, number, REQUEST_BYTES_MAX // 2)
                await self._ask(FLUSH, number, 0)
        self.astray = False

    async def _ask(self, operation: int, tag: int, length: int) -> None:
        slot = self.take(length)
        request = REQUEST.pack(REQUEST_MAGIC, operation, 0, tag, 0, length, slot, 0, REQUEST_MARK)
        loop = asyncio.get_running_loop()
        answer = b""
        try:
            await loop.sock_sendall(self.port, request)
            while len(answer) < REPLY.size:
                received = await loop.sock_recv(self.port, REPLY.size - len(answer))
                if not received:
                    raise ProtocolError("the data port was closed")
                answer += received
        finally:
            self.give(slot, length)
        got = _checked(*REPLY.unpack(answer))
        if got != (tag, length):
            raise ProtocolError(f"a rehearsal of operation {operation} ended in {got}")

    def close(self) -> None:
        """Let go of both; again is harmless."""
        if self.region_fd < 0:
            return
        self.port.close()
        self.region.release()
        with suppress(BufferError):  # a request's data are still being looked at: it goes with them
            self._map.close()
        os.close(self.region_fd)
        self.region_fd = -1


def _checked(magic: int, zero: int, tag: int, result: int, mark: int) -> tuple[int, int]:
    if magic != REPLY_MAGIC or mark != REPLY_MARK or zero or result < -_ERRNO_MAX:
        raise ProtocolError(f"no reply on the data port: {magic:#x} {zero} {tag} {result} {mark:#x}")
    return tag, result
