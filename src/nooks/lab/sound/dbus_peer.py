"""D-Bus between two processes over one socket, without a bus: as much of it as QEMU's audio interface needs.

Source: D-Bus Specification 0.38 (message format, authentication), QEMU's ui/dbus-display1.xml.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from nooks.host.errors import NooksError

CALL, RETURN, ERROR = 1, 2, 3
_PATH, _INTERFACE, _MEMBER, _REPLY_SERIAL, _SENDER, _SIGNATURE, _UNIX_FDS = 1, 2, 3, 5, 7, 8, 9
_NAME = ":1.1"
"""A bus would add who sends; QEMU 7.2 relies on that where there is no bus as well, and crashes without."""

_NO_REPLY = 1
_HEADER = struct.Struct("<cBBBIII")
_SIZES = {"y": 1, "b": 4, "u": 4, "h": 4, "t": 8, "i": 4, "x": 8, "d": 8}
_CODES = {"y": "B", "b": "I", "u": "I", "h": "I", "t": "Q", "i": "i", "x": "q", "d": "d"}
_READ_BYTES = 1 << 18
_ANSWER_SECONDS = 5.0
_GET_ALL = "GetAll"


class DBusError(NooksError):
    """The other side refuses, is gone, or talks nonsense."""


@dataclass
class Message:
    """A call or an answer; ``body`` has its values, of the types that QEMU's interface knows."""

    kind: int
    serial: int
    member: str = ""
    path: str = ""
    signature: str = ""
    body: list[Any] = field(default_factory=list[Any])
    answers: int = 0
    wants_answer: bool = True


Handler = Callable[[Message], "tuple[str, Sequence[Any]] | None"]
"""Takes a call; returns the signature and the values of the answer, None for an empty one."""


class Peer:
    """One end of a connection. ``handle`` takes the other side's calls; ``lost`` is called once when it goes."""

    def __init__(self, connection: socket.socket, handle: Handler) -> None:
        connection.setblocking(False)
        self.lost: Callable[[], None] = lambda: None
        self._connection = connection
        self._handle = handle
        self._serial = 0
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._buffer = bytearray()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Authenticate by who we are, as the side that connects. Raises DBusError."""
        user = str(os.geteuid()).encode().hex()
        await self._say(b"\0AUTH EXTERNAL " + user.encode() + b"\r\n")
        if not (await self._line()).startswith(b"OK"):
            raise DBusError("the other side does not know us")
        await self._say(b"NEGOTIATE_UNIX_FD\r\n")
        await self._line()
        await self._say(b"BEGIN\r\n")
        self.listen()

    def listen(self) -> None:
        """Take messages from now on."""
        self._task = asyncio.get_running_loop().create_task(self._listen(), name="dbus")

    async def call(
        self, path: str, interface: str, member: str, signature: str = "", values: Sequence[int] = (), *, fd: int = -1
    ) -> None:
        """Call a method, with a descriptor for its ``h`` if it has one. Raises DBusError."""
        self._serial += 1
        answer = self._waiting[self._serial] = asyncio.get_running_loop().create_future()
        fields = [(_PATH, "o", path), (_INTERFACE, "s", interface), (_MEMBER, "s", member), (_SENDER, "s", _NAME)]
        fields += [(_UNIX_FDS, "u", 1)] if fd >= 0 else []
        data = _message(CALL, self._serial, fields, signature, values)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))] if fd >= 0 else []
        try:
            self._connection.sendmsg([data], ancillary)
            async with asyncio.timeout(_ANSWER_SECONDS):
                answered = await answer
        except (OSError, TimeoutError) as error:
            raise DBusError(f"{member} is not answered: {error}") from None
        if answered.kind == ERROR:
            raise DBusError(f"{member} is refused: {answered.body}")

    async def close(self) -> None:
        """End the connection."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._connection.close()

    async def _say(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._connection, data)

    async def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            data = await asyncio.get_running_loop().sock_recv(self._connection, 512)
            if not data:
                raise DBusError("the connection ended")
            self._buffer += data
        line, _, rest = bytes(self._buffer).partition(b"\r\n")
        self._buffer[:] = rest
        return line

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await loop.sock_recv(self._connection, _READ_BYTES):
                self._buffer += data
                while message := self._next():
                    await self._take(message)
        except OSError:
            pass
        for waiting in self._waiting.values():
            waiting.cancel()
        self.lost()

    async def _take(self, message: Message) -> None:
        if message.kind in (RETURN, ERROR):
            waiting = self._waiting.pop(message.answers, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
            return
        if message.kind != CALL:
            return
        answer = ("a{sv}", []) if message.member == _GET_ALL else self._handle(message)
        if message.wants_answer:
            self._serial += 1
            signature, values = answer or ("", ())
            fields = [(_REPLY_SERIAL, "u", message.serial)]
            await self._say(_message(RETURN, self._serial, fields, signature, values))

    def _next(self) -> Message | None:
        """The next whole message in the buffer. Raises DBusError."""
        if len(self._buffer) < 16:
            return None
        order, kind, flags, _, body_bytes, serial, fields_bytes = _HEADER.unpack_from(self._buffer)
        if order != b"l":
            raise DBusError("a message in another byte order")
        start = _aligned(16 + fields_bytes, 8)
        if len(self._buffer) < start + body_bytes:
            return None
        data = bytes(self._buffer[: start + body_bytes])
        del self._buffer[: start + body_bytes]
        message = Message(kind, serial, wants_answer=not flags & _NO_REPLY)
        reader = _Reader(data[: 16 + fields_bytes], 16)
        while reader.at < 16 + fields_bytes:
            reader.align(8)
            code = reader.value("y")
            value = reader.value(reader.value("g"))
            if code == _MEMBER:
                message.member = value
            elif code == _PATH:
                message.path = value
            elif code == _SIGNATURE:
                message.signature = value
            elif code == _REPLY_SERIAL:
                message.answers = value
        body = _Reader(data, start)
        message.body = [body.value(kind) for kind in _split(message.signature)]
        return message


class _Reader:
    """Takes values out of a message; alignment counts from its beginning (bodies begin at multiples of 8)."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self.at = at

    def align(self, size: int) -> None:
        self.at = _aligned(self.at, size)

    def value(self, kind: str) -> Any:  # noqa: ANN401 - any of D-Bus's types
        if kind in _SIZES:
            self.align(_SIZES[kind])
            value = struct.unpack_from("<" + _CODES[kind], self._data, self.at)[0]
            self.at += _SIZES[kind]
            return value
        if kind == "ay":
            length = self.value("u")
            self.at += length
            return self._data[self.at - length : self.at]
        if kind in ("s", "o", "g"):
            length = self.value("y" if kind == "g" else "u")
            text = self._data[self.at : self.at + length].decode()
            self.at += length + 1
            return text
        raise DBusError(f"a value of type {kind}")


def _message(
    kind: int, serial: int, fields: Sequence[tuple[int, str, Any]], signature: str, values: Sequence[Any]
) -> bytes:
    body = bytearray()
    for each, value in zip(_split(signature), values, strict=False):
        _put(body, each, value)
    if signature == "a{sv}":
        body += struct.pack("<II", 0, 0)  # an empty dictionary, and what aligns its first entry
    head = bytearray()
    for code, form, value in [*fields, *([(_SIGNATURE, "g", signature)] if signature else [])]:
        head += bytes(_aligned(len(head), 8) - len(head))
        head += struct.pack("<BB", code, 1) + form.encode() + b"\0"
        _put(head, form, value)
    start = _HEADER.pack(b"l", kind, 0, 1, len(body), serial, len(head)) + head
    return start + bytes(_aligned(len(start), 8) - len(start)) + body


def _put(data: bytearray, kind: str, value: Any) -> None:  # noqa: ANN401 - any of D-Bus's types
    if kind in _SIZES:
        data += bytes(_aligned(len(data), _SIZES[kind]) - len(data)) + struct.pack("<" + _CODES[kind], value)
    elif kind == "ay":
        _put(data, "u", len(value))
        data += value
    elif kind == "g":
        data += struct.pack("<B", len(value)) + value.encode() + b"\0"
    elif kind in ("s", "o"):
        _put(data, "u", len(value.encode()))
        data += value.encode() + b"\0"


def _split(signature: str) -> list[str]:
    """The types of a signature; of containers, arrays of bytes alone."""
    if signature == "a{sv}":
        return []
    return [kind.replace("A", "ay") for kind in signature.replace("ay", "A")]


def _aligned(at: int, size: int) -> int:
    return -(-at // size) * size
