"""A small client of QEMU's debug stub: stop, continue, read and write a domain's memory.

Speaks the GDB remote serial protocol ("Remote Protocol" appendix of the GDB manual) over a connected socket.
Every answer is bounded in size and time, since the domain's process is not to be trusted. Guest code must be
changed through the stub and nowhere else: QEMU's TCG keeps translations of code that it did not see change.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Awaitable
from typing import Self, TypeVar

from nooks.host.errors import NooksError

T = TypeVar("T")

MAX_PACKET_BYTES = 16384
CHUNK_BYTES = 1024  # QEMU refuses transfers of more than half its 4096-character packet
_RESENDS = 3
_INTERRUPT = b"+\x03"  # the "+" in case the stub still waits for it and would take the interrupt for a bad one
_DRAIN_READS = 64


class StubError(NooksError):
    """The debug stub answered wrongly, late or not at all."""


class DebugStub:
    """One session with the debug stub of one domain; the machine stands still from ``open`` to ``close``.

    The stub takes any byte that comes while the machine runs as a wish to stop it, and an interrupt that comes
    while it stands still as nothing; so a session begins with an interrupt, whatever the machine is doing.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout_seconds: float) -> None:
        self._reader = reader
        self._writer = writer
        self._timeout_seconds = timeout_seconds
        self._stopped = True

    @classmethod
    async def open(cls, connection: socket.socket, timeout_seconds: float = 5.0) -> Self:
        """Begin a session on a connected stream socket, which the session then owns (hand over a duplicate
        to keep one); what an earlier session left unread in it is thrown away.

        Raises StubError if no debug stub answers within ``timeout_seconds``, which bounds each later call too.
        """
        _drain(connection)
        reader, writer = await asyncio.open_connection(sock=connection, limit=MAX_PACKET_BYTES)
        stub = cls(reader, writer, timeout_seconds)
        try:
            await stub._interrupt()
        except BaseException:
            writer.close()
            raise
        return stub

    async def stop(self) -> None:
        """Stop the virtual machine; returns when it stands still."""
        if not self._stopped:
            await self._interrupt()

    async def resume(self) -> None:
        """Let the virtual machine run on."""
        if not self._stopped:
            return
        await self._bounded(self._send("c"))
        self._stopped = False

    @contextlib.asynccontextmanager
    async def stopped(self) -> AsyncGenerator[None, None]:
        """The virtual machine stands still inside the block, and runs again after it, whatever happened."""
        await self.stop()
        try:
            yield
        finally:
            await self.resume()

    async def read(self, address: int, size_bytes: int) -> bytes:
        """Read virtual memory of the stopped machine; raises StubError where nothing is mapped."""
        data = bytearray()
        while len(data) < size_bytes:
            length = min(CHUNK_BYTES, size_bytes - len(data))
            answer = await self._call(f"m{address + len(data):x},{length:x}")
            chunk = _from_hex(answer)
            if len(chunk) != length:
                raise StubError(f"the debug stub could not read {length} bytes at {address + len(data):#x}")
            data += chunk
        return bytes(data)

    async def write(self, address: int, data: bytes) -> None:
        """Write virtual memory of the stopped machine, read-only pages included."""
        for start in range(0, len(data), CHUNK_BYTES):
            chunk = data[start : start + CHUNK_BYTES]
            answer = await self._call(f"M{address + start:x},{len(chunk):x}:{chunk.hex()}")
            if answer != "OK":
                raise StubError(f"the debug stub could not write {len(chunk)} bytes at {address + start:#x}")

    async def close(self) -> None:
        """Let the machine run and close the socket. Safe to repeat.

        Not by a detach packet: after one, a stub whose socket stays connected serves no further session.
        """
        if self._writer.is_closing():
            return
        try:
            with contextlib.suppress(StubError):
                await self.resume()
        finally:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _interrupt(self) -> None:
        self._writer.write(_INTERRUPT)
        await self._call("?")
        self._stopped = True

    async def _call(self, request: str) -> str:
        async def exchange() -> str:
            await self._send(request)
            return await self._receive()

        return await self._bounded(exchange())

    async def _bounded(self, action: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await action
        except TimeoutError:
            raise StubError(f"the debug stub did not answer within {self._timeout_seconds:g} s") from None
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError) as error:
            raise StubError(f"the debug stub broke off: {error}") from error

    async def _send(self, body: str) -> None:
        packet = encode(body)
        for _ in range(_RESENDS):
            self._writer.write(packet)
            await self._writer.drain()
            if await self._acknowledged():
                return
        raise StubError("the debug stub refused a packet several times")

    async def _acknowledged(self) -> bool:
        while True:
            sign = await self._reader.readexactly(1)
            if sign == b"+":
                return True
            if sign == b"-":
                return False
            if sign == b"$":  # a stop reply that crossed our request: read past it
                await self._body()

    async def _receive(self) -> str:
        await self._reader.readuntil(b"$")
        return await self._body()

    async def _body(self) -> str:
        raw = (await self._reader.readuntil(b"#"))[:-1]
        checksum = await self._reader.readexactly(2)
        if f"{sum(raw) & 255:02x}".encode() != checksum.lower():
            raise StubError("the debug stub sent a packet with a wrong checksum")
        self._writer.write(b"+")
        return raw.decode("latin-1")


def encode(body: str) -> bytes:
    """Frame one packet: ``$body#checksum``."""
    raw = body.encode("latin-1")
    return b"$" + raw + b"#%02x" % (sum(raw) & 255)


def _drain(connection: socket.socket) -> None:
    connection.setblocking(False)
    with contextlib.suppress(OSError):
        for _ in range(_DRAIN_READS):
            if not connection.recv(MAX_PACKET_BYTES):
                return


def _from_hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""
