"""What leads to one domain's disk: its data port, the buffer region that both sides map, the bell for its rings.

The region is the domain's own: none but it and we have it, and it goes with the domain. All that comes from the other
side is mistrusted. Knows what crosses the boundary, not what it is for.
"""

import asyncio
import mmap
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress

from nooks.nook.block_rings import Rings
from nooks.xpc.block import (
    BARRIER,
    FLUSH,
    KICK,
    READ,
    REPLY,
    REPLY_MAGIC,
    REPLY_MARK,
    REQUEST,
    REQUEST_BYTES_MAX,
    REQUEST_MAGIC,
    REQUEST_MARK,
    RING,
    RINGS_BYTES,
    WRITE,
)
from nooks.xpc.errors import ProtocolError

SMALL_BYTES = 64 << 10
SMALL, LARGE = 63, 12
REGION_BYTES = RINGS_BYTES + SMALL * SMALL_BYTES + LARGE * REQUEST_BYTES_MAX
"""16 MiB: the rings, and a slot for each request under way, of two sizes."""

_READ_BYTES = 16 << 10
_ERRNO_MAX = 4095
_REHEARSED = 8
_BARRIER_TAG = 2**32 - 1
_KICK = REQUEST.pack(REQUEST_MAGIC, KICK, 0, 0, 0, 0, 0, 0, REQUEST_MARK)


class Link:
    """A domain's data port, bell and region; owns the descriptors. Nothing blocks but what is awaited.

    ``astray``: the domain may have been asked for something whose answer nobody took (by another process, or in a
    rehearsal that was cut short), so that ``resync`` has to come first.
    """

    def __init__(self, port_fd: int, bell_fd: int, region_fd: int, *, astray: bool = False) -> None:
        self.port, self.bell = (socket.socket(fileno=descriptor) for descriptor in (port_fd, bell_fd))
        for end in (self.port, self.bell):
            end.setblocking(False)
        self.astray = astray
        self.region_fd = region_fd
        self._map = mmap.mmap(region_fd, REGION_BYTES)
        self.region = memoryview(self._map)
        self._rings = Rings(self.region)
        self._small = [RINGS_BYTES + SMALL_BYTES * slot for slot in range(SMALL)]
        self._large = [RINGS_BYTES + SMALL * SMALL_BYTES + REQUEST_BYTES_MAX * slot for slot in range(LARGE)]
        self._begin()

    def _begin(self) -> None:
        self._queued: list[bytes] = []
        self._outstanding = self._unheard = 0
        """Requests without a reply; and replies of the ring for which the bell may still be heard."""
        self._received = b""
        self._unsent = b""

    @classmethod
    def create(cls) -> "tuple[Link, socket.socket, socket.socket]":
        """A new region, a new port and a new bell; the sockets are for the domain: its port, and its bell."""
        (port, their_port), (bell, their_bell) = socket.socketpair(), socket.socketpair()
        region = os.memfd_create("nooks-buffers", os.MFD_CLOEXEC)
        os.ftruncate(region, REGION_BYTES)
        return cls(port.detach(), bell.detach(), region), their_port, their_bell

    @property
    def room(self) -> bool:
        """Whether a request of any size can be put."""
        return bool(self._small and self._large) and self._outstanding < RING and not self._unsent

    def take(self, length: int) -> int:
        """A slot for so many bytes, as its offset in the region; there must be ``room``."""
        return self._small.pop() if length <= SMALL_BYTES else self._large.pop()

    def give(self, slot: int, length: int) -> None:
        """A slot that ``take`` gave for so many bytes is free again."""
        (self._small if length <= SMALL_BYTES else self._large).append(slot)

    def put(self, request: bytes) -> None:
        """A packed request is to go with the next ``flush``; there must be ``room``."""
        self._queued.append(request)
        self._outstanding += 1

    def flush(self) -> bool:
        """Send what was put; False if some has to wait (the port is full). A port that nobody has swallows all."""
        queued = self._queued
        if queued:
            self._queued = []
            if not self._rings.awake:
                self._unsent += b"".join(queued)
            elif not self._rings.put(queued):
                self._unsent += _KICK
        if self._unsent:
            try:
                self._unsent = self._unsent[self.port.send(self._unsent) :]
            except BlockingIOError:
                return False
            except OSError:
                self._unsent = b""
        return not self._unsent

    def replies(self) -> Sequence[tuple[int, int]] | None:
        """What the domain has answered at the port since: tag, and bytes or a negative errno; None if it is gone.

        Raises ProtocolError.
        """
        received = _received(self.port)
        if not received:
            return () if received is None else None
        self._received += received
        whole = len(self._received) // REPLY.size * REPLY.size
        replies = [_checked(*fields) for fields in REPLY.iter_unpack(self._received[:whole])]
        self._received = self._received[whole:]
        self._outstanding -= len(replies)
        return replies

    def rung(self) -> Sequence[tuple[int, int]] | None:
        """The same of what it has answered in the ring, when the bell is to be heard. Raises ProtocolError."""
        bells = _received(self.bell)
        if not bells:
            return () if bells is None else None
        replies = [_checked(*fields) for fields in self._rings.take(self._outstanding)]
        self._outstanding -= len(replies)
        self._unheard += len(replies) - len(bells)
        if self._unheard < 0:
            raise ProtocolError("the bell rings more often than there are replies")
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
        while _received(self.bell):
            pass
        self._begin()
        self._rings.begin()
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
        try:
            self.put(REQUEST.pack(REQUEST_MAGIC, operation, 0, tag, 0, length, slot, 0, REQUEST_MARK))
            self.flush()
            while not (replies := await self._answered()):
                if replies is None:
                    raise ProtocolError("the data port was closed")
        finally:
            self.give(slot, length)
        if list(replies) != [(tag, length)]:
            raise ProtocolError(f"a rehearsal of operation {operation} ended in {replies}")

    async def _answered(self) -> Sequence[tuple[int, int]] | None:
        """Wait for port or bell; what came, as ``replies`` says it."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[Callable[[], Sequence[tuple[int, int]] | None]] = loop.create_future()
        ends = {self.port: self.replies, self.bell: self.rung}
        for end, receive in ends.items():
            loop.add_reader(end, lambda receive=receive: ready.done() or ready.set_result(receive))
        try:
            return (await ready)()
        finally:
            for end in ends:
                loop.remove_reader(end)

    def close(self) -> None:
        """Let go of both; again is harmless."""
        if self.region_fd < 0:
            return
        self.port.close()
        self.bell.close()
        self._rings.release()
        self.region.release()
        with suppress(BufferError):  # a request's data are still being looked at: it goes with them
            self._map.close()
        os.close(self.region_fd)
        self.region_fd = -1


def _received(end: socket.socket) -> bytes | None:
    """What has arrived: None if nothing has, b"" if the other end is gone."""
    try:
        return end.recv(_READ_BYTES)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _checked(magic: int, zero: int, tag: int, result: int, mark: int) -> tuple[int, int]:
    if magic != REPLY_MAGIC or mark != REPLY_MARK or zero or result < -_ERRNO_MAX:
        raise ProtocolError(f"no reply on the data port: {magic:#x} {zero} {tag} {result} {mark:#x}")
    return tag, result
