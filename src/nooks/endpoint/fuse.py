"""A FUSE server for one file, on the bare /dev/fuse: what a loop device is laid on.

Data go straight between the kernel and memory that the caller gives. Protocol and numbers: include/uapi/linux/fuse.h;
little of it is needed, since nobody but the loop device ever sees the file.

A server that took over from a dead one has the kernel send again what was not answered (``resend``, since Linux 6.9);
such requests carry a bit in their number, which goes back as it came. Their number is all that an answer needs.
"""

import os
import struct
import time
from collections.abc import Callable
from errno import EAGAIN, ECONNABORTED, EINTR, EINVAL, ENODEV, ENOENT, ENOSYS, EOPNOTSUPP, EROFS
from typing import Any

from nooks.endpoint.front import Arrival, FrontGone
from nooks.xpc.block import DISCARD, FLUSH, READ, REQUEST_BYTES_MAX, WRITE, ZERO

_LOOKUP, _FORGET, _GETATTR, _SETATTR = 1, 2, 3, 4
_OPEN, _READ, _WRITE, _STATFS, _RELEASE, _FSYNC = 14, 15, 16, 17, 18, 20
_FLUSH, _INIT, _ACCESS, _INTERRUPT, _DESTROY, _BATCH_FORGET, _FALLOCATE = 25, 26, 34, 36, 38, 42, 43
_UNANSWERED = (_FORGET, _BATCH_FORGET, _INTERRUPT)

_ROOT, _FILE = 1, 2
_BLOCK = 4096
_MAJOR, _MINOR = 7, 40
_ASYNC_READ, _BIG_WRITES, _ASYNC_DIO, _MAX_PAGES, _INIT_EXT = 1, 1 << 5, 1 << 15, 1 << 22, 1 << 30
_HAS_RESEND = 1 << (39 - 32)
_BACKGROUND, _CONGESTION = 256, 192
_DIRECT_IO, _NOFLUSH, _PARALLEL_WRITES = 1, 1 << 5, 1 << 6
_NOTIFY_RESEND = 7
_PUNCH_HOLE, _ZERO_RANGE = 2, 16

_HEADER_BYTES = 40
_HEAD_BYTES = 80
"""Of a read or write request, before the data: fuse_in_header and fuse_read_in or fuse_write_in."""

_REQUEST = struct.Struct("<IIQQ24xQI")
_ANSWER = struct.Struct("<IiQ")
_WRITTEN = struct.Struct("<IiQII")
_ATTRIBUTES = struct.Struct("<6Q10I")
_FILE_MODE, _DIRECTORY_MODE = 0o100600, 0o40755


class FuseFile:
    """Serves the file on ``descriptor``, an open /dev/fuse that does not block; implements Front.

    ``size_bytes`` may change. ``zeroes`` says whether the device can zero by itself; ``discards``, whether it may drop
    whole 4 KiB blocks and they read as zeros then. Where it can't, the kernel writes zeros instead.
    """

    def __init__(self, descriptor: int, size_bytes: int, *, read_only: bool = False) -> None:
        self._descriptor = descriptor
        self.size_bytes = size_bytes
        self.read_only = read_only
        self.zeroes = False
        self.discards = False
        self._head = bytearray(_HEAD_BYTES)
        self._out = bytearray(_WRITTEN.size)
        self._out_answer = memoryview(self._out)[: _ANSWER.size]
        self._out_written = memoryview(self._out)
        self._sizes: dict[int, int] = {}
        self._others: dict[int, Callable[[int, bytes], tuple[int, bytes]]] = {
            _INIT: self._init,
            _LOOKUP: self._lookup,
            _GETATTR: self._attributes_of,
            _SETATTR: self._attributes_of,
            _OPEN: self._open,
            _STATFS: self._statistics,
        }

    def fileno(self) -> int:
        """The descriptor of /dev/fuse."""
        return self._descriptor

    def resend(self) -> None:
        """Have the kernel send again what a dead server had read and not answered. Before the first ``receive``."""
        os.write(self._descriptor, _ANSWER.pack(_ANSWER.size, _NOTIFY_RESEND, 0))

    def receive(self, space: memoryview) -> Arrival | None:
        """The next request for the device. ``space`` must have room for the largest write. Raises FrontGone."""
        head = self._head
        while True:
            try:
                length = os.readv(self._descriptor, (head, space))
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno in (EINTR, ENOENT, EAGAIN):  # ENOENT: the request was withdrawn just now
                    continue
                if error.errno in (ENODEV, ECONNABORTED):  # unmounted; or just then, in the middle of this read
                    raise FrontGone("the file behind the block device is gone") from None
                raise
            _, code, unique, node, offset, size = _REQUEST.unpack_from(head)
            if code == _READ:
                if offset + size > self.size_bytes:
                    size = max(0, self.size_bytes - offset)
                if size:
                    return Arrival(READ, offset, size, False, unique)
                self._reply(unique, 0, b"")
            elif code == _WRITE:
                if self.read_only or offset + size > self.size_bytes:
                    self._reply(unique, EROFS if self.read_only else EINVAL, b"")
                else:
                    self._sizes[unique] = size
                    return Arrival(WRITE, offset, size, False, unique)
            elif code == _FSYNC:
                return Arrival(FLUSH, 0, 0, False, unique)
            else:
                body = bytes(head[_HEADER_BYTES:length]) + bytes(space[: max(0, length - _HEAD_BYTES)])
                arrival = self._fallocate(unique, body) if code == _FALLOCATE else None
                if arrival is not None:
                    return arrival
                if code not in (_FALLOCATE, *_UNANSWERED):
                    self._answer_other(code, unique, node, body)

    def answer(self, handle: Any, error: int, data: memoryview | None = None) -> None:  # noqa: ANN401
        """See Front."""
        written = self._sizes.pop(handle, 0)
        if error:
            self._reply(handle, error, b"")
        elif data is not None:
            self._reply(handle, 0, data)
        elif written:
            _WRITTEN.pack_into(self._out, 0, _WRITTEN.size, 0, handle, written, 0)
            self._send((self._out_written,))
        else:
            self._reply(handle, 0, b"")

    def settle(self) -> None:
        """See Front: nothing is held back."""

    def _reply(self, unique: int, error: int, data: bytes | memoryview) -> None:
        _ANSWER.pack_into(self._out, 0, _ANSWER.size + len(data), -error, unique)
        self._send((self._out_answer, data))

    def _send(self, parts: tuple[bytes | memoryview, ...]) -> None:
        try:
            os.writev(self._descriptor, parts)
        except OSError as error:
            if error.errno not in (ENOENT, ENODEV):  # nobody waits for it any more; or no kernel does
                raise

    def _answer_other(self, code: int, unique: int, node: int, body: bytes) -> None:
        if code in (_RELEASE, _ACCESS, _FLUSH, _DESTROY):
            self._reply(unique, 0, b"")
        elif code in self._others:
            self._reply(unique, *self._others[code](node, body))
        else:
            self._reply(unique, ENOSYS, b"")

    def _fallocate(self, unique: int, body: bytes) -> Arrival | None:
        """Zeroing, and dropping what may be zeros afterwards; anything else is refused, and None returned."""
        _, offset, length, mode = struct.unpack_from("<QQQI", body)
        droppable = self.discards and offset % _BLOCK == 0 and length % _BLOCK == 0
        if not mode & (_PUNCH_HOLE | _ZERO_RANGE) or not length:
            self._reply(unique, EOPNOTSUPP, b"")
        elif self.read_only or offset + length > self.size_bytes:
            self._reply(unique, EROFS if self.read_only else EINVAL, b"")
        elif mode & _PUNCH_HOLE and droppable:
            return Arrival(DISCARD, offset, length, False, unique)
        elif self.zeroes:
            return Arrival(ZERO, offset, length, False, unique)
        else:
            self._reply(unique, EOPNOTSUPP, b"")
        return None

    # -- the little of a file system that there must be; each returns an errno and a body ---------------------------

    def _init(self, node: int, body: bytes) -> tuple[int, bytes]:
        del node
        _, minor, read_ahead, flags = struct.unpack_from("<4I", body)
        flags2 = struct.unpack_from("<I", body, 16)[0] if flags & _INIT_EXT and len(body) >= 20 else 0
        wanted = _ASYNC_READ | _BIG_WRITES | _ASYNC_DIO | _MAX_PAGES | _INIT_EXT
        pages = REQUEST_BYTES_MAX // _BLOCK
        return 0, struct.pack(
            "<4IHHIIHHIIH22x",
            *(_MAJOR, min(minor, _MINOR), read_ahead, wanted & flags, _BACKGROUND, _CONGESTION),
            *(REQUEST_BYTES_MAX, 1, pages, 0, _HAS_RESEND & flags2, 0, 0),
        )

    def _lookup(self, node: int, body: bytes) -> tuple[int, bytes]:
        """Whatever it is called: there is but one file."""
        del body
        if node != _ROOT:
            return ENOENT, b""
        return 0, struct.pack("<QQQQII", _FILE, 1, 0, 0, 0, 0) + self._attributes(_FILE)

    def _attributes_of(self, node: int, body: bytes) -> tuple[int, bytes]:
        del body
        return 0, struct.pack("<QII", 0, 0, 0) + self._attributes(node)

    def _attributes(self, node: int) -> bytes:
        of_file = node == _FILE
        size, mode, links = (self.size_bytes, _FILE_MODE, 1) if of_file else (0, _DIRECTORY_MODE, 2)
        now = int(time.time())
        return _ATTRIBUTES.pack(node, size, size // 512, now, now, now, 0, 0, 0, mode, links, 0, 0, 0, _BLOCK, 0)

    def _open(self, node: int, body: bytes) -> tuple[int, bytes]:
        del node, body
        return 0, struct.pack("<QII", 1, _DIRECT_IO | _NOFLUSH | _PARALLEL_WRITES, 0)

    def _statistics(self, node: int, body: bytes) -> tuple[int, bytes]:
        del node, body
        return 0, struct.pack("<5Q4I24x", self.size_bytes // _BLOCK, 0, 0, 2, 0, _BLOCK, 255, _BLOCK, 0)
