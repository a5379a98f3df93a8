"""A vfio-user client for tests: what QEMU would be, in a few lines.

The server runs in the same thread, turn by turn.
"""

import contextlib
import fcntl
import mmap
import os
import socket
import struct
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from nooks.device.model_process import MESSAGES
from nooks.hardware import messages, protocol, server
from nooks.hardware.loop import Loop
from nooks.hardware.pci import PciFunction
from nooks.hardware.protocol import HEADER, Command
from nooks.hardware.server import Server
from nooks.host import native

MEMORY_BYTES = 1 << 20


def guest_memory(size: int = MEMORY_BYTES, *, sealed: bool = True) -> int:
    """A domain's memory; the caller closes the descriptor."""
    descriptor = os.memfd_create("memory", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    if sealed:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return descriptor


class RefusedError(Exception):
    """The server answered with this errno."""


class Client:
    """One connection; ``turn`` lets the server work."""

    def __init__(self, path: Path, turn: Callable[[], None]) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(str(path))
        self.socket.settimeout(2)
        self._turn = turn
        self._next = 0

    def send(self, command: int, payload: bytes = b"", fds: Sequence[int] = (), flags: int = 0) -> int:
        """Send a request; returns its id."""
        self._next += 1
        head = HEADER.pack(self._next, command, HEADER.size + len(payload), flags, 0)
        socket.send_fds(self.socket, [head + payload], list(fds))
        return self._next

    def call(self, command: int, payload: bytes = b"", fds: Sequence[int] = ()) -> bytes:
        """The answer's payload. Raises RefusedError, ConnectionError."""
        number = self.send(command, payload, fds)
        self._turn()
        head = self._exactly(HEADER.size)
        message_id, answered, size, flags, error = HEADER.unpack(head)
        body = self._exactly(size - HEADER.size)
        assert (message_id, answered) == (number, command)
        if flags & protocol.ERROR:
            raise RefusedError(error)
        return body

    def greet(self) -> bytes:
        """The first message."""
        return self.call(Command.VERSION, protocol.VERSION.pack(0, 0) + b'{"capabilities":{}}\0')

    def read(self, region: int, offset: int, count: int) -> int:
        """A register."""
        answer = self.call(Command.REGION_READ, protocol.ACCESS.pack(offset, region, count))
        return int.from_bytes(answer[protocol.ACCESS.size :], "little")

    def write(self, region: int, offset: int, count: int, value: int) -> None:
        """Write a register."""
        data = value.to_bytes(count, "little")
        self.call(Command.REGION_WRITE, protocol.ACCESS.pack(offset, region, count) + data)

    def map(
        self, descriptor: int, address: int = 0, size: int = MEMORY_BYTES, offset: int = 0, access: int = 3
    ) -> None:
        """Grant memory."""
        self.call(Command.DMA_MAP, protocol.DMA_MAP.pack(32, access, offset, address, size), [descriptor])

    def take_intx(self) -> int:
        """An eventfd for INTx."""
        event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.call(Command.DEVICE_SET_IRQS, protocol.IRQ_SET.pack(20, 0x24, 0, 0, 1), [event])
        return event

    def unmask(self) -> None:
        """The interrupt was dealt with."""
        self.call(Command.DEVICE_SET_IRQS, protocol.IRQ_SET.pack(20, 0x11, 0, 0, 1))

    def close(self) -> None:
        """Leave."""
        self.socket.close()
        self._turn()

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                raise ConnectionError("the server hung up")
            data += piece
        return data


@cache
def library() -> messages.Next:
    """By which a card takes messages."""
    path = native.library(MESSAGES, pytest.fail)
    assert path is not None, "install " + native.PACKAGES
    return messages.by_library(path)


@dataclass
class Bus:
    """A function on its server, with a client that has greeted, may master the bus and sees one memory."""

    loop: Loop
    function: PciFunction
    server: Server
    path: Path
    memory: mmap.mmap
    descriptor: int
    refused: list[tuple[int, int, str]]
    clients: list[Client] = field(default_factory=list[Client])

    def turn(self) -> None:
        """Let the card do all that there is to do."""
        for _ in range(8):
            self.loop.turn(0.0)

    def connect(self, *, master: bool = True) -> Client:
        """A client, ready."""
        client = Client(self.path, self.turn)
        self.clients.append(client)
        self.turn()
        client.greet()
        client.map(self.descriptor)
        if master:
            client.write(protocol.CONFIG_REGION, 4, 2, 0x7)
        return client

    def words(self, address: int, count: int) -> tuple[int, ...]:
        """What is in the memory."""
        return struct.unpack_from(f"<{count}I", self.memory, address)

    def put(self, address: int, *words: int) -> None:
        """Put words into it."""
        struct.pack_into(f"<{len(words)}I", self.memory, address, *words)


@contextlib.contextmanager
def bus(path: Path, make: Callable[[Loop, Any], PciFunction], *, in_python: bool = False) -> Generator[Bus]:
    """A card on a bus of its own, its socket at ``path``; ``in_python``: it goes without the library in C."""
    loop = Loop()
    refused: list[tuple[int, int, str]] = []

    def note(address: int, size: int, access: str) -> None:
        refused.append((address, size, access))

    function = make(loop, note)
    descriptor = guest_memory()
    memory = mmap.mmap(descriptor, MEMORY_BYTES)
    serving = Server(loop, server.listen(str(path)), function, library=None if in_python else library())
    made = Bus(loop, function, serving, path, memory, descriptor, refused)
    try:
        yield made
    finally:
        for client in made.clients:
            client.socket.close()
        serving.close()
        function.close()
        loop.close()
        memory.close()
        os.close(descriptor)
