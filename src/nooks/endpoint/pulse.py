"""A client of PulseAudio's native protocol, as far as sinks and sources by modules need it. PipeWire speaks it too.

Source: PulseAudio's protocol-native (PROTOCOL and src/pulsecore/native-common.h), version 32, without shared memory.
"""

import asyncio
import os
import re
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from nooks.endpoint.tagstruct import Invalid, PulseError, Reader, ServerGone, Value, put

VERSION = 32
ANSWER_SECONDS = 5.0
CONNECT_SECONDS = 3.0

_COOKIE_BYTES = 256
_DESCRIPTOR = struct.Struct(">5I")
_CONTROL_CHANNEL = 0xFFFFFFFF
_FRAME_BYTES_MAX = 1 << 20
_CREDENTIALS = struct.Struct("3i")


class Command(IntEnum):
    """The commands that are used here (native-common.h)."""

    ERROR = 0
    REPLY = 2
    AUTH = 8
    SET_CLIENT_NAME = 9
    LOOKUP_SINK = 10
    LOOKUP_SOURCE = 11
    GET_SERVER_INFO = 20
    GET_MODULE_INFO = 25
    GET_MODULE_INFO_LIST = 26
    GET_SINK_INPUT_INFO_LIST = 30
    SUBSCRIBE = 35
    LOAD_MODULE = 51
    UNLOAD_MODULE = 52
    EXIT = 7
    SUBSCRIBE_EVENT = 66


NO_ENTITY = 5
_ERRORS = {
    1: "access denied",
    3: "invalid argument",
    4: "it exists already",
    NO_ENTITY: "no such thing",
    6: "connection refused",
    21: "module initialisation failed",
}

_SUBSCRIBE_MODULES = 0x10
_EVENT_MODULE, _EVENT_FACILITY_MASK = 4, 0x0F
_EVENT_REMOVE, _EVENT_TYPE_MASK = 0x20, 0x30


class Playing(NamedTuple):
    """A stream that an application plays on a sink."""

    name: str
    sink: int


class PulseClient:
    """A connection to one server. ``lost`` is called once if that goes; ``unloaded`` with each module that went."""

    def __init__(self, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.address = address
        self.lost: Callable[[], None] = lambda: None
        self.unloaded: Callable[[int], None] = lambda module: None
        self._reader = reader
        self._writer = writer
        self._tag = 0
        self._waiting: dict[int, asyncio.Future[Reader]] = {}
        self._gone = False
        self._listening = asyncio.create_task(self._listen(), name="pulse")

    @classmethod
    async def connect(cls, address: str, application: str) -> "PulseClient":
        """Connect to the server at ``unix:PATH`` as ``application``. Raises ServerGone, PulseError."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(connection, address.removeprefix("unix:"))
                reader, writer = await asyncio.open_unix_connection(sock=connection)
        except (OSError, TimeoutError) as error:
            connection.close()
            raise ServerGone(f"no sound server answers at {address}: {error}") from None
        client = cls(address, reader, writer)
        try:
            await client._authenticate(connection)
            await client._ask(Command.SET_CLIENT_NAME, {"application.name": application.encode() + b"\0"})
        except BaseException:
            await client.close()
            raise
        return client

    @property
    def user_id(self) -> int:
        """The user that the server runs as."""
        connection: socket.socket = self._writer.get_extra_info("socket")
        return _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[1]

    async def server_name(self) -> str:
        """What the server calls itself; "PipeWire" is in it if it is that."""
        return (await self._ask(Command.GET_SERVER_INFO)).text()

    async def has_sink(self, name: str) -> bool:
        """Whether there is a sink of that name."""
        return await self._has(Command.LOOKUP_SINK, name)

    async def has_source(self, name: str) -> bool:
        """Whether there is a source of that name."""
        return await self._has(Command.LOOKUP_SOURCE, name)

    async def has_module(self, number: int) -> bool:
        """Whether a module is (still) loaded."""
        return await self._has(Command.GET_MODULE_INFO, number)

    async def modules(self) -> list[tuple[int, str]]:
        """The modules that are loaded: their numbers and arguments."""
        return list(_module_list(await self._ask(Command.GET_MODULE_INFO_LIST)))

    async def load(self, module: str, arguments: str) -> int:
        """Load a module; its number, with which it can be unloaded. It stays when this client goes."""
        return (await self._ask(Command.LOAD_MODULE, module, arguments)).word()

    async def unload(self, number: int) -> None:
        """Unload a module. Nothing happens if it is gone."""
        try:
            await self._ask(Command.UNLOAD_MODULE, number)
        except PulseError as error:
            if error.code != NO_ENTITY:
                raise

    async def playing(self, sink: str) -> list[str]:
        """The names of the applications' streams on a sink."""
        try:
            number = (await self._ask(Command.LOOKUP_SINK, sink)).word()
        except PulseError as error:
            if error.code == NO_ENTITY:
                return []
            raise
        answer = await self._ask(Command.GET_SINK_INPUT_INFO_LIST)
        return [stream.name for stream in _streams(answer) if stream.sink == number]

    async def watch_modules(self) -> None:
        """From now on ``unloaded`` is called."""
        await self._ask(Command.SUBSCRIBE, _SUBSCRIBE_MODULES)

    async def end_server(self) -> None:
        """Have the server end, if it does what we say. Raises PulseError."""
        await self._ask(Command.EXIT)

    async def close(self) -> None:
        """Leave the server; what was loaded stays. Safe to call twice."""
        self._gone = True
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def _has(self, command: Command, what: Value) -> bool:
        try:
            await self._ask(command, what)
        except PulseError as error:
            if error.code == NO_ENTITY:
                return False
            raise
        return True

    async def _authenticate(self, connection: socket.socket) -> None:
        """Say who we are by what the kernel vouches for (unix(7), SCM_CREDENTIALS), which goes with the first bytes."""
        who = _CREDENTIALS.pack(os.getpid(), os.geteuid(), os.getegid())
        ancillary = [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, who)]

        def send(data: bytes) -> None:
            if connection.sendmsg([data], ancillary) < len(data):
                raise OSError("the server does not take what is said")

        await self._exchange(send, Command.AUTH, VERSION, _cookie())

    async def _ask(self, command: Command, *values: Value) -> Reader:
        """The server's answer. Raises PulseError if it refuses, ServerGone if it went or says nothing."""
        return await self._exchange(self._writer.write, command, *values)

    async def _exchange(self, send: Callable[[bytes], None], command: Command, *values: Value) -> Reader:
        self._tag = tag = self._tag + 1
        answer = self._waiting[tag] = asyncio.get_running_loop().create_future()
        body = put(int(command), tag, *values)
        try:
            send(_DESCRIPTOR.pack(len(body), _CONTROL_CHANNEL, 0, 0, 0) + body)
            async with asyncio.timeout(ANSWER_SECONDS):
                return await answer
        except (OSError, TimeoutError):
            raise ServerGone(f"the sound server at {self.address} does not answer") from None
        finally:
            del self._waiting[tag]

    async def _listen(self) -> None:
        error: PulseError = ServerGone(f"the sound server at {self.address} is gone")
        try:
            while True:
                length, channel, *_ = _DESCRIPTOR.unpack(await self._reader.readexactly(_DESCRIPTOR.size))
                if length > _FRAME_BYTES_MAX:
                    raise Invalid(f"the sound server sends {length} bytes at once")
                body = await self._reader.readexactly(length)
                if channel == _CONTROL_CHANNEL:
                    self._take(Reader(body))
        except (OSError, asyncio.IncompleteReadError):
            pass
        except PulseError as wrong:
            error = wrong
        finally:
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(error)
        if not self._gone:
            self._gone = True
            self.lost()

    def _take(self, reader: Reader) -> None:
        command, tag = reader.word(), reader.word()
        waiting = self._waiting.get(tag)
        if command == Command.SUBSCRIBE_EVENT:
            event, number = reader.word(), reader.word()
            if event & _EVENT_FACILITY_MASK == _EVENT_MODULE and event & _EVENT_TYPE_MASK == _EVENT_REMOVE:
                self.unloaded(number)
        elif waiting is None or waiting.done():
            return
        elif command == Command.ERROR:
            code = reader.word()
            reason = _ERRORS.get(code, f"error {code}")
            waiting.set_exception(PulseError(f"the sound server refuses: {reason}", code=code))
        else:
            waiting.set_result(reader)


def _streams(reader: Reader) -> Iterator[Playing]:
    """The sink inputs in an answer (protocol-native.c, sink_input_fill_tagstruct; here version 32's fields)."""
    while reader.more:
        reader.word()
        name = reader.text()
        reader.word()
        reader.word()
        sink = reader.word()
        for _ in range(13):
            reader.value()
        yield Playing(name, sink)


def _module_list(reader: Reader) -> Iterator[tuple[int, str]]:
    """The modules in an answer: number, name, arguments, how often used, properties."""
    while reader.more:
        number = reader.word()
        reader.text()
        arguments = reader.text()
        reader.word()
        reader.value()
        yield number, arguments


def addresses(user_id: int) -> list[str]:
    """Where a user's sound server may listen, as pulse-client.conf(5) and the runtime directory tell."""
    places: list[str] = []
    named = os.environ.get("PULSE_SERVER", "")
    for each in named.split():
        match = re.fullmatch(r"(?:\{[^}]*\})?(?:unix:)?(/.*)", each)
        if match is not None:
            places.append(match[1])
    if not places:
        runtime = os.environ.get("PULSE_RUNTIME_PATH")
        places += [f"{runtime}/native"] if runtime else []
        own = os.environ.get("XDG_RUNTIME_DIR") if user_id == os.geteuid() else None
        places.append(f"{own or f'/run/user/{user_id}'}/pulse/native")
    return [f"unix:{place}" for place in places if Path(place).exists()]


def _cookie() -> bytes:
    """What a server of another user may ask for; the user's own servers don't."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    for place in (os.environ.get("PULSE_COOKIE"), home / "pulse/cookie", Path.home() / ".pulse-cookie"):
        with suppress(OSError):
            cookie = Path(place).read_bytes() if place else b""
            if len(cookie) == _COOKIE_BYTES:
                return cookie
    return bytes(_COOKIE_BYTES)
