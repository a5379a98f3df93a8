"""A kernel that asks for blocks, and a domain that has a disk, for tests without either."""

import contextlib
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from errno import EIO

from nooks.endpoint.front import Arrival, Front, FrontGone
from nooks.nook.block_link import Link
from nooks.xpc.block import (
    DISCARD,
    FLUSH,
    READ,
    REPLIED,
    REPLIES_AT,
    REPLY,
    REPLY_MAGIC,
    REPLY_MARK,
    REQUEST,
    REQUEST_MAGIC,
    REQUEST_MARK,
    RING,
    WRITE,
    ZERO,
)


def receive_one_of_each(front: Front, space: memoryview, data: bytes, handles: Sequence[int]) -> None:
    """A read, a write of ``data`` (8192 bytes), one with FUA, a flush, a discard, zeroing, and no more arrive."""
    read, write, fua, flush, discard, zero = handles
    assert front.receive(space) == (READ, 4096, 512, False, read)
    assert front.receive(space) == (WRITE, 512, 8192, False, write)
    assert space[:8192] == data
    assert front.receive(space) == (WRITE, 0, 512, True, fua)
    assert front.receive(space) == (FLUSH, 0, 0, False, flush)
    assert front.receive(space) == (DISCARD, 4096, 8192, False, discard)
    assert front.receive(space) == (ZERO, 512, 1024, False, zero)
    assert front.receive(space) is None


class FakeFront:
    """Requests are put in by ``ask``; answers come out by ``answer_to``, no earlier than they are settled."""

    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
        self._asked: deque[tuple[Arrival, bytes]] = deque()
        self._answers: dict[int, tuple[int, bytes]] = {}
        self._answered = threading.Condition()
        self._handles = 0
        self._unsent: dict[int, tuple[int, bytes]] = {}
        self.gone = False
        self.twice: list[int] = []

    def ask(self, operation: int, offset: int = 0, length: int = 0, data: bytes = b"", *, fua: bool = False) -> int:
        self._handles += 1
        self._asked.append((Arrival(operation, offset, length or len(data), fua, self._handles), data))
        os.eventfd_write(self._event, 1)
        return self._handles

    def end(self) -> None:
        self.gone = True
        os.eventfd_write(self._event, 1)

    def fileno(self) -> int:
        return self._event

    def receive(self, space: memoryview) -> Arrival | None:
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            return None
        if self.gone:
            raise FrontGone("taken away")
        arrival, data = self._asked.popleft()
        space[: len(data)] = data
        return arrival

    def answer(self, handle: int, error: int, data: memoryview | None = None) -> None:
        if handle in self._answers or handle in self._unsent:
            self.twice.append(handle)
        self._unsent[handle] = (error, bytes(data or b""))

    def settle(self) -> None:
        assert threading.current_thread().name == "block data"
        with self._answered:
            self._answers |= self._unsent
            self._unsent.clear()
            self._answered.notify_all()

    def answer_to(self, handle: int, within_seconds: float = 10.0) -> tuple[int, bytes]:
        with self._answered:
            assert self._answered.wait_for(lambda: handle in self._answers, within_seconds), f"{handle} waits"
            return self._answers[handle]

    def is_answered(self, handle: int) -> bool:
        with self._answered:
            return handle in self._answers

    def close(self) -> None:
        os.close(self._event)


class FakeDomain:
    """The domain's side of a link, in a thread: carries out what it is sent, on ``disk``, which outlives it.

    ``held``: it takes requests and answers nothing. ``lie`` changes what a read brings. ``rings``: it answers in the
    ring, and rings the bell each time.
    """

    def __init__(self, disk: bytearray, *, held: bool = False, rings: bool = False) -> None:
        self.link, self._port, self._bell = Link.create()
        self.disk = disk
        self.held = held
        self._rings = rings
        self._replied = 0
        self.errors: dict[int, int] = {}
        self.seen: list[tuple[int, int, int]] = []
        self.lie: Callable[[bytes], bytes] | None = None
        self._region = memoryview(self.link.region)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def die(self) -> None:
        self._port.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._region.release()
        self._port.close()
        self._bell.close()
        self.link.close()

    def say(self, data: bytes) -> None:
        self._port.sendall(data)

    def reply(self, tag: int, result: int) -> None:
        with contextlib.suppress(BrokenPipeError):  # it dies just now
            if not self._rings:
                self._port.sendall(REPLY.pack(REPLY_MAGIC, 0, tag, result, REPLY_MARK))
                return
            put_reply(self._region, self._replied, tag, result)
            self._replied += 1
            self._bell.sendall(b"!")

    def _serve(self) -> None:
        received = b""
        while data := self._port.recv(65536):
            received += data
            while len(received) >= REQUEST.size:
                fields = REQUEST.unpack_from(received)
                received = received[REQUEST.size :]
                assert (fields[0], fields[-1]) == (REQUEST_MAGIC, REQUEST_MARK)
                self._carry_out(*fields[1:7])

    def _carry_out(self, operation: int, flags: int, tag: int, offset: int, length: int, slot: int) -> None:
        self.seen.append((operation, offset, length))
        if self.held:
            return
        result = 0
        if operation in self.errors:
            result = -(self.errors[operation] or EIO)
        elif operation == READ:
            data = bytes(self.disk[offset : offset + length])
            self._region[slot : slot + length] = self.lie(data) if self.lie else data
            result = length
        elif operation == WRITE:
            self.disk[offset : offset + length] = self._region[slot : slot + length]
            result = length
        elif operation in (ZERO, DISCARD):
            self.disk[offset : offset + length] = bytes(length)
        elif operation != FLUSH:
            result = -EIO
        self.reply(tag, result)


def put_reply(region: memoryview, replied: int, tag: int, result: int) -> None:
    """Put a reply into the ring of a region, behind the ``replied`` before it."""
    at = REPLIES_AT + replied % RING * REPLY.size
    region[at : at + REPLY.size] = REPLY.pack(REPLY_MAGIC, 0, tag, result, REPLY_MARK)
    region[REPLIED : REPLIED + 4] = (replied + 1).to_bytes(4, "little")
