"""A server of the kernel's network block device, at the other end of a local socket.

Data go straight between the kernel and memory that the caller gives. Numbers: include/uapi/linux/nbd.h; the protocol
is doc/proto.md of https://github.com/NetworkBlockDevice/nbd, of which only the transmission phase is spoken here.

Requests that a dead server left unanswered the kernel sends again over the next connection, under other handles.
"""

import socket
import struct
from typing import Any

from nooks.endpoint.front import Arrival, FrontGone, refusal
from nooks.xpc.block import DISCARD, FLUSH, READ, REQUEST_BYTES_MAX, WRITE, ZERO

HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES = 1, 2, 4, 8, 32, 64
"""What a server can do, for whoever makes the device."""

_OPERATIONS = {0: READ, 1: WRITE, 3: FLUSH, 4: DISCARD, 6: ZERO}
_DISCONNECT = 2
_FUA = 1
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")
_REQUEST_MAGIC, _REPLY_MAGIC = 0x25609513, 0x67446698
_BUFFER_BYTES = 4 << 20


class NbdFront:
    """Serves the device at the other end of ``connection``; implements Front, and owns the socket.

    ``size_bytes`` may change. ``zeroes`` and ``discards`` as of FuseFile; known before the device is made.
    """

    def __init__(self, connection: socket.socket, size_bytes: int, *, read_only: bool = False) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        self._connection = connection
        self.size_bytes = size_bytes
        self.read_only = read_only
        self.zeroes = False
        self.discards = False

    @classmethod
    def create(cls, size_bytes: int, *, read_only: bool) -> "tuple[NbdFront, socket.socket]":
        """A front and the other end of its connection, which is for the kernel."""
        ours, theirs = socket.socketpair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        return cls(ours, size_bytes, read_only=read_only), theirs

    @property
    def flags(self) -> int:
        """What it can do."""
        flags = HAS_FLAGS | SEND_FLUSH | SEND_FUA
        for has, flag in ((self.read_only, READ_ONLY), (self.discards, SEND_TRIM), (self.zeroes, SEND_WRITE_ZEROES)):
            flags |= flag if has else 0
        return flags

    def fileno(self) -> int:
        """The descriptor of the socket."""
        return self._connection.fileno()

    def receive(self, space: memoryview) -> Arrival | None:
        """The next request for the device. ``space`` must have room for the largest write. Raises FrontGone.

        The data of a write are waited for: the kernel sends them with its head.
        """
        while True:
            try:
                head = self._connection.recv(_REQUEST.size, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            except OSError:
                head = b""
            if head and len(head) < _REQUEST.size:
                head += self._rest(_REQUEST.size - len(head))
            if not head:
                raise FrontGone("the kernel has closed the block device")
            magic, flags, kind, handle, offset, length = _REQUEST.unpack(head)
            if magic != _REQUEST_MAGIC or kind == _DISCONNECT:
                raise FrontGone("the block device was disconnected")
            operation = _OPERATIONS.get(kind)
            if operation == WRITE:
                self._take_data(space, length)
            error = refusal(self, operation, offset, length)
            if not error:
                assert operation is not None
                return Arrival(operation, offset, length, bool(flags & _FUA) and operation == WRITE, handle)
            self.answer(handle, error)

    def answer(self, handle: Any, error: int, data: memoryview | None = None) -> None:  # noqa: ANN401
        """See Front."""
        head = _REPLY.pack(_REPLY_MAGIC, error, handle)
        try:
            if data is None or error:
                self._connection.sendall(head)
                return
            sent = self._connection.sendmsg((head, data), (), socket.MSG_NOSIGNAL)
            if sent < len(head):
                self._connection.sendall(head[sent:])
                sent = len(head)
            if sent < len(head) + len(data):
                self._connection.sendall(data[sent - len(head) :])
        except OSError:
            return  # nobody waits for it any more

    def settle(self) -> None:
        """See Front: nothing is held back."""

    def close(self) -> None:
        """Let go of the connection. Again is harmless."""
        self._connection.close()

    def _take_data(self, space: memoryview, length: int) -> None:
        """A write's data into ``space``; of one that is too long nothing is of use, but all must be taken."""
        while length:
            piece = min(length, REQUEST_BYTES_MAX)
            if self._connection.recv_into(space[:piece], piece, socket.MSG_WAITALL) != piece:
                raise FrontGone("the kernel has closed the block device")
            length -= piece

    def _rest(self, length: int) -> bytes:
        got = self._connection.recv(length, socket.MSG_WAITALL)
        if len(got) != length:
            raise FrontGone("the kernel has closed the block device")
        return got
