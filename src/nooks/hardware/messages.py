"""A vfio-user client's messages, taken off its socket one after the other.

Nearly all of them are accesses to a register, and of those a card gets thousands for each megabyte. So these are told
by four numbers and answered here; any other message is given as it is. ``next`` is in Python, or by a library in C
(``messages.c``) which does the same in 0.4 of the time, system calls and all.
"""

import array
import ctypes
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from nooks.hardware.protocol import (
    ACCESS,
    DESCRIPTORS_MAX,
    HEADER,
    MESSAGE_BYTES_MAX,
    NO_REPLY,
    READ_REPLY,
    REGIONS,
    REPLY,
    TYPE_MASK,
    Command,
    is_natural,
)

NOTHING, READ, WRITE, MESSAGE, GONE, MALFORMED, TOO_MANY_DESCRIPTORS, UNREAD, _RECEIVED = range(9)
"""What comes next: nothing for the moment, an access, another message, or a reason to drop the client."""

VIOLATIONS = {
    GONE: "the client has gone",
    MALFORMED: "a message of an impossible size",
    TOO_MANY_DESCRIPTORS: "too many descriptors",
    UNREAD: "the client does not read its answers",
}

_LOOKS_PER_TURN = 16
_BUFFER_BYTES = 4 * MESSAGE_BYTES_MAX
_ANCILLARY_BYTES = socket.CMSG_SPACE(4 * DESCRIPTORS_MAX)
_READ, _WRITE = int(Command.REGION_READ), int(Command.REGION_WRITE)
_HEADER_BYTES, _ACCESS_BYTES = HEADER.size, ACCESS.size
_CLOSE_ON_EXEC, _TRUNCATED = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_CTRUNC)
"""Plain integers, as everything that each access to a register meets: an enumeration's operators take a microsecond."""


class Violation(Exception):  # noqa: N818 - what a client did
    """A client does not keep to the protocol so badly that nothing more can be understood."""


class Message(NamedTuple):
    """Any message; ``last``: nothing more has arrived, so that the descriptors that came are this one's."""

    message_id: int
    command: int
    flags: int
    payload: memoryview
    last: bool


class State(ctypes.Structure):
    """What Python and the library both know of a connection (``struct state``)."""

    _fields_ = [
        ("buffer", ctypes.c_void_p),
        ("capacity", ctypes.c_uint32),
        ("at", ctypes.c_uint32),  # the buffer's bytes from here ...
        ("have", ctypes.c_uint32),  # ... to before here were received and not dealt with
        ("socket", ctypes.c_int32),
        ("looks", ctypes.c_uint32),  # so often the socket may be asked in this turn
        ("yields", ctypes.c_uint32),  # so often others are let run when nothing has come, ...
        ("left", ctypes.c_uint32),  # ... and still are
        ("region", ctypes.c_uint32),  # the access that was told last: of one of the card's regions, ...
        ("offset", ctypes.c_uint32),  # ... in bytes, ...
        ("size", ctypes.c_uint32),  # ... 1, 2 or 4 bytes, aligned, ...
        ("value", ctypes.c_uint32),  # ... and what is written
        ("owed", ctypes.c_uint32),  # the command that an answer is owed to, or 0
        ("id", ctypes.c_uint32),
        ("region_bytes", ctypes.c_uint32 * REGIONS),
        ("descriptor_count", ctypes.c_uint32),
        ("descriptors", ctypes.c_int32 * DESCRIPTORS_MAX),
    ]


Next = Callable[[State, int], int]


def by_library(path: Path) -> Next:
    """``messages.c``, compiled, for Messages. Raises OSError if it can't be loaded, or is another version's."""
    library = ctypes.PyDLL(str(path))
    if library.nooks_state_bytes() != ctypes.sizeof(State):
        raise OSError("not this version's library")
    following = library.nooks_next
    following.argtypes = (ctypes.POINTER(State), ctypes.c_uint32)
    following.restype = ctypes.c_int
    return following


class Messages:
    """Of one connection, which stays the caller's. ``state`` has the access that ``next`` told of."""

    def __init__(self, connection: socket.socket, library: Next | None = None) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._exported = (ctypes.c_char * _BUFFER_BYTES).from_buffer(self._buffer)
        self.state = State(buffer=ctypes.addressof(self._exported), capacity=_BUFFER_BYTES, socket=connection.fileno())
        self.next: Callable[[int], int] = self._next if library is None else partial(library, self.state)
        """Answer the last access, with a value if it was a read; returns what comes next. Accesses are answered when
        this is called again, other messages by ``send``."""

    def open(self, region_bytes: Mapping[int, int]) -> None:
        """From now on accesses to these regions, by their sizes, are told one by one."""
        for region, size in region_bytes.items():
            self.state.region_bytes[region] = size

    def begin(self, yields: int) -> None:
        """Another turn: the socket has something. ``yields``: so often others are let run, and it is looked again,
        when nothing more has come."""
        state = self.state
        state.looks = _LOOKS_PER_TURN if yields else 1
        state.yields = state.left = yields

    def take(self) -> Message:
        """The message that ``next`` told of. Its payload is to be used before ``next`` is called again."""
        state = self.state
        message_id, command, size, flags, _ = HEADER.unpack_from(self._buffer, state.at)
        start, end = state.at + _HEADER_BYTES, state.at + size
        state.at = end
        # Descriptors come with the last bytes of one reading (unix(7)), so with this message or a later one.
        return Message(message_id, command, flags, self._view[start:end], end == state.have)

    def take_descriptors(self) -> list[int]:
        """Those that came, for the caller to close."""
        state = self.state
        count, state.descriptor_count = state.descriptor_count, 0
        return list(state.descriptors[:count])

    def send(self, answer: bytes) -> None:
        """Raises Violation: a client that does not read what it asked for is dropped."""
        if not self._send(answer):
            raise Violation(VIOLATIONS[UNREAD])

    def close(self) -> None:
        """Nothing is asked of the socket any more, which is about to be closed."""
        self.state.socket = -1
        for descriptor in self.take_descriptors():
            os.close(descriptor)

    # -- what the library does too ------------------------------------------------------------------------------

    def _next(self, value: int) -> int:
        if self.state.owed and not self._answer(value):
            return UNREAD
        while True:
            kind = self._parse()
            if kind == NOTHING:
                kind = self._receive()
            if kind != _RECEIVED:
                return kind

    def _parse(self) -> int:
        state = self.state
        at, there = state.at, state.have - state.at
        if there < _HEADER_BYTES:
            return NOTHING
        message_id, command, size, flags, _ = HEADER.unpack_from(self._buffer, at)
        if not _HEADER_BYTES <= size <= MESSAGE_BYTES_MAX:
            return MALFORMED
        if there < size:
            return NOTHING
        body, end = at + _HEADER_BYTES, at + size
        if flags & TYPE_MASK or (command != _READ and command != _WRITE) or end - body < _ACCESS_BYTES:
            return MESSAGE
        offset, region, count = ACCESS.unpack_from(self._buffer, body)
        if not is_natural(offset, count) or region >= REGIONS or offset + count > state.region_bytes[region]:
            return MESSAGE
        data = body + _ACCESS_BYTES
        if command == _WRITE:
            if end - data != count:
                return MESSAGE
            state.value = int.from_bytes(self._view[data:end], "little")
        state.at, state.region, state.offset, state.size = end, region, offset, count
        state.owed, state.id = 0 if flags & NO_REPLY else command, message_id
        return READ if command == _READ else WRITE

    def _receive(self) -> int:
        state = self.state
        at, have = state.at, state.have
        if at:
            self._buffer[: have - at] = self._buffer[at:have]
            state.at, state.have = 0, have - at
        while state.looks:
            state.looks -= 1
            try:
                count, ancillary, flags, _ = self._socket.recvmsg_into(
                    [self._view[state.have :]], _ANCILLARY_BYTES, _CLOSE_ON_EXEC
                )
            except BlockingIOError:
                if not state.left:
                    break
                state.left -= 1
                os.sched_yield()
                continue
            except OSError:
                return GONE
            fits = not ancillary or self._take_in(ancillary)
            if not count:
                return GONE
            state.have += count
            state.left = state.yields
            return _RECEIVED if fits and not flags & _TRUNCATED else TOO_MANY_DESCRIPTORS
        return NOTHING

    def _take_in(self, ancillary: Sequence[tuple[int, int, bytes]]) -> bool:
        """The descriptors that came; False if there are too many, of which the rest is closed."""
        state = self.state
        fits = True
        for level, kind, data in ancillary:
            if level != socket.SOL_SOCKET or kind != socket.SCM_RIGHTS:
                continue
            numbers = array.array("i")
            numbers.frombytes(data[: len(data) // numbers.itemsize * numbers.itemsize])
            for number in numbers:
                if state.descriptor_count < DESCRIPTORS_MAX:
                    state.descriptors[state.descriptor_count] = number
                    state.descriptor_count += 1
                else:
                    os.close(number)
                    fits = False
        return fits

    def _answer(self, value: int) -> bool:
        state = self.state
        command, size = state.owed, state.size
        state.owed = 0
        data = value.to_bytes(size, "little") if command == _READ else b""
        length = READ_REPLY.size + len(data)
        return self._send(READ_REPLY.pack(state.id, command, length, REPLY, 0, state.offset, state.region, size) + data)

    def _send(self, answer: bytes) -> bool:
        try:
            return self._socket.send(answer) == len(answer)
        except OSError:
            return False
