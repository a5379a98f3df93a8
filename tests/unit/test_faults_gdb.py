"""The debug stub's client against a fake stub that speaks the protocol over a socket pair."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator

import pytest

from nooks.faults.gdb import DebugStub, StubError, encode


class FakeStub:
    """A stopped or running machine with some memory, behind the remote serial protocol."""

    def __init__(self, base: int, memory: bytes) -> None:
        self.base = base
        self.memory = bytearray(memory)
        self.running = False
        self.refuse_next = 0
        self.corrupt = False
        self.unacknowledged = False

    async def serve(self, connection: socket.socket) -> None:
        """Read byte by byte as QEMU's gdb_read_byte does."""
        self.reader, self.writer = await asyncio.open_connection(sock=connection)
        try:
            while byte := await self.reader.read(1):
                if self.unacknowledged:
                    self.unacknowledged = byte not in b"+$"
                    if byte != b"$":
                        continue
                if self.running:  # any byte stops the machine and is swallowed
                    self.running = False
                    self.send("T02thread:01;")
                elif byte == b"$":
                    await self._packet()
        finally:
            self.writer.close()

    def send(self, body: str) -> None:
        packet = encode(body)
        self.writer.write(packet[:-2] + b"zz" if self.corrupt else packet)
        self.unacknowledged = True

    async def _packet(self) -> None:
        body = (await self.reader.readuntil(b"#"))[:-1].decode()
        await self.reader.readexactly(2)
        if self.refuse_next:
            self.refuse_next -= 1
            self.writer.write(b"-")
            return
        self.writer.write(b"+")
        answer = self._answer(body)
        if answer is not None:
            self.send(answer)

    def _answer(self, body: str) -> str | None:
        if body == "?":
            return "T05thread:01;"
        if body == "c":
            self.running = True
            return None
        assert not self.running, "memory is only touched while the machine stands still"
        where, _, data = body[1:].partition(":")
        address, length = (int(part, 16) for part in where.split(","))
        start = address - self.base
        if not 0 <= start <= len(self.memory) - length:
            return "E14"
        if body[0] == "m":
            return self.memory[start : start + length].hex()
        self.memory[start : start + length] = bytes.fromhex(data)
        return "OK"


@contextlib.asynccontextmanager
async def session(fake: FakeStub, timeout_seconds: float = 5.0) -> AsyncGenerator[DebugStub, None]:
    ours, theirs = socket.socketpair()
    server = asyncio.create_task(fake.serve(theirs))
    try:
        async with await DebugStub.open(ours, timeout_seconds) as stub:
            yield stub
    finally:
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)


async def _read_and_write() -> None:
    fake = FakeStub(0xFFFFFFFFC0000000, bytes(range(256)) * 20)
    async with session(fake) as stub:
        assert await stub.read(fake.base + 1, 3000) == bytes(fake.memory[1:3001])
        await stub.write(fake.base + 10, b"\xaa" * 2500)
        assert fake.memory[9] == 9
        assert fake.memory[10:2510] == b"\xaa" * 2500
        async with stub.stopped():
            assert not fake.running
        assert await stub.read(fake.base, 0) == b""
        await stub.stop()
        await stub.stop()
        assert not fake.running
    assert fake.running, "a session that ends lets the machine run"


async def _two_sessions() -> None:
    fake = FakeStub(0x1000, b"1234")
    ours, theirs = socket.socketpair()
    server = asyncio.create_task(fake.serve(theirs))
    with ours:
        for written in (b"ab", b"cd"):
            async with await DebugStub.open(ours.dup()) as stub:
                await stub.write(0x1000, written)
            await asyncio.sleep(0.01)
            assert fake.running
            fake.send("T02thread:01;")  # a stop that nobody in the session asked for, as QMP's
            await asyncio.sleep(0.01)
    assert fake.memory == b"cd34"
    await asyncio.gather(server, return_exceptions=True)


def test_a_kept_socket_serves_one_session_after_the_other() -> None:
    asyncio.run(_two_sessions())


def test_memory_is_read_and_written_in_chunks() -> None:
    asyncio.run(_read_and_write())


async def _resume_after_error() -> None:
    fake = FakeStub(0x1000, b"1234")
    async with session(fake) as stub:
        with pytest.raises(StubError, match="could not read"):
            async with stub.stopped():
                await stub.read(0x9000, 4)
        assert fake.running
        await stub.stop()
        with pytest.raises(StubError, match="could not write"):
            await stub.write(0x9000, b"x")


def test_the_machine_runs_on_after_an_error() -> None:
    asyncio.run(_resume_after_error())


async def _resend() -> None:
    fake = FakeStub(0x1000, b"1234")
    async with session(fake) as stub:
        fake.refuse_next = 2
        assert await stub.read(0x1000, 4) == b"1234"
        fake.refuse_next = 9
        with pytest.raises(StubError, match="refused"):
            await stub.read(0x1000, 4)
        fake.refuse_next = 0


def test_a_refused_packet_is_sent_again_a_few_times() -> None:
    asyncio.run(_resend())


async def _corrupt() -> None:
    fake = FakeStub(0x1000, b"1234")
    async with session(fake) as stub:
        fake.corrupt = True
        with pytest.raises(StubError, match="checksum"):
            await stub.read(0x1000, 4)
        fake.corrupt = False


def test_a_wrong_checksum_is_an_error() -> None:
    asyncio.run(_corrupt())


async def _silent() -> None:
    ours, theirs = socket.socketpair()
    with theirs, pytest.raises(StubError, match="did not answer"):
        await DebugStub.open(ours, timeout_seconds=0.05)


def test_a_silent_stub_is_an_error_in_time() -> None:
    asyncio.run(_silent())


async def _flood() -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    asyncio.get_running_loop().call_later(0.05, theirs.send, b"+$" + b"a" * 60000)
    with theirs, pytest.raises(StubError, match="broke off"):
        await DebugStub.open(ours, timeout_seconds=2)


def test_an_endless_answer_is_refused() -> None:
    asyncio.run(_flood())


async def _gone() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with pytest.raises(StubError):
        await DebugStub.open(ours, timeout_seconds=2)


def test_a_stub_that_went_away_is_an_error() -> None:
    asyncio.run(_gone())
