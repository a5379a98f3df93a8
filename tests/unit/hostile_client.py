"""A client that does whatever some bytes say: for Hypothesis, and for hours for atheris (``make fuzz``).

The bytes are read as steps: nonsense on the connection, messages with a right head and any body, register accesses at
random, grants of memory, descriptors of all kinds, frames on the cable, hanging up. After them a client in its right
mind must be served as ever.
"""

import contextlib
import os
import socket
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

from vfio_client import Bus, Client, bus, guest_memory

from nooks.hardware import protocol
from nooks.hardware.loop import Loop
from nooks.hardware.memory import Refused
from nooks.hardware.pci import PciFunction
from nooks.hardware.protocol import CONFIG_REGION, HEADER, Command

Make = Callable[[Loop, Refused], PciFunction]
STEPS_MAX = 60


class Bytes:
    """Bytes to take numbers from; when they are used up, zeros."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        piece = self._data[self._at : self._at + count]
        self._at += count
        return piece.ljust(count, b"\0")

    def number(self, count: int) -> int:
        """The next ``count`` bytes as a number."""
        return int.from_bytes(self.take(count), "little")

    @property
    def left(self) -> bool:
        """Whether there are more."""
        return self._at < len(self._data)


def attack(
    make: Make, identity: int, data: bytes, far_end: Callable[[], int] | None = None, *, in_python: bool
) -> None:
    """Let ``data`` loose on a card. Raises AssertionError if that does not serve afterwards, or what it raises."""
    with tempfile.TemporaryDirectory() as folder, bus(Path(folder, "socket"), make, in_python=in_python) as card:
        _Attack(card, Bytes(data), far_end() if far_end is not None else -1).run()
        for client in card.clients:
            client.socket.close()
        card.turn()
        sane = card.connect()
        assert sane.read(CONFIG_REGION, 0, 4) == identity
        region = max(card.function.bars)
        for offset in range(0, card.function.bars[region].size if region == 0 else 64, 4):
            sane.read(region, offset, 4)


class _Attack:
    def __init__(self, card: Bus, source: Bytes, far_end: int) -> None:
        self._card = card
        self._source = source
        self._far_end = far_end
        self._client: Client | None = None
        self._steps: list[Callable[[], None]] = [
            self._register,
            self._register,
            self._message,
            self._grant,
            self._interrupts,
            self._nonsense,
            self._memory,
            self._frame,
            self._config,
            self._several,
            self._hang_up,
        ]

    def run(self) -> None:
        for _ in range(STEPS_MAX):
            if not self._source.left:
                break
            with contextlib.suppress(OSError):  # a server that hangs up does so rightly
                if self._client is None or not self._card.server.connected:
                    self._connect()
                self._steps[self._source.number(1) % len(self._steps)]()
                self._card.turn()
                self._drain()
        self._card.turn()

    def _connect(self) -> None:
        client = Client(self._card.path, self._card.turn)
        client.socket.setblocking(False)
        self._client = client
        self._card.clients.append(client)
        self._card.turn()
        if self._source.number(1):  # else it does not even greet
            client.send(Command.VERSION, protocol.VERSION.pack(0, 0))
            client.send(Command.DMA_MAP, protocol.DMA_MAP.pack(32, 3, 0, 0, 1 << 20), [self._card.descriptor])
            self._card.turn()
            master = protocol.ACCESS.pack(4, CONFIG_REGION, 2) + b"\7\0"
            client.send(Command.REGION_WRITE, master)

    def _drain(self) -> None:
        if self._client is None:
            return
        with contextlib.suppress(OSError):
            self._client.socket.recv(1 << 16)

    def _send(self, command: int, payload: bytes, fds: list[int] | None = None, flags: int = 0) -> None:
        assert self._client is not None
        self._client.send(command, payload, fds or [], flags)

    def _register(self) -> None:
        """Registers are small; values are often addresses of the memory."""
        size = 1 << self._source.number(1) % 3
        offset = self._source.number(1) & ~(size - 1)
        value = self._source.take(size)
        access = protocol.ACCESS.pack(offset % 128, self._source.number(1) % 2, size)
        if self._source.number(1) % 4:
            self._send(Command.REGION_WRITE, access + value)
        else:
            self._send(Command.REGION_READ, access)

    def _config(self) -> None:
        self._send(
            Command.REGION_WRITE, protocol.ACCESS.pack(self._source.number(1), CONFIG_REGION, 1) + self._source.take(1)
        )

    def _several(self) -> None:
        count = self._source.number(1)
        body = self._source.take(self._source.number(1) * 4)
        self._send(Command.REGION_WRITE_MULTI, protocol.WRITE_COUNT.pack(count) + body, flags=protocol.NO_REPLY)

    def _message(self) -> None:
        command = self._source.number(1) % 18
        self._send(command, self._source.take(self._source.number(1)), flags=self._source.number(1))

    def _grant(self) -> None:
        sealed, kind = self._source.number(1) & 1, self._source.number(1) % 4
        address, size, offset = self._source.number(8), self._source.number(3), self._source.number(3)
        descriptor = guest_memory(1 << 16, sealed=bool(sealed)) if kind else os.open("/dev/null", os.O_RDONLY)
        try:
            command = Command.DMA_MAP if kind != 3 else Command.DMA_UNMAP
            self._send(command, protocol.DMA_MAP.pack(32, kind, offset, address, size), [descriptor] * (kind % 3))
        finally:
            os.close(descriptor)

    def _interrupts(self) -> None:
        flags, index, start, count = self._source.take(4)
        readable, writable = os.pipe()
        event = os.eventfd(0, os.EFD_NONBLOCK)
        try:
            fds = [event, readable, writable, event][: self._source.number(1) % 5]
            self._send(Command.DEVICE_SET_IRQS, protocol.IRQ_SET.pack(20, flags, index % 6, start, count), fds)
        finally:
            for descriptor in (readable, writable, event):
                os.close(descriptor)

    def _nonsense(self) -> None:
        assert self._client is not None
        data = self._source.take(self._source.number(1))
        if self._source.number(1) & 1:
            data = HEADER.pack(1, self._source.number(1), self._source.number(2), 0, 0) + data
        socket.send_fds(self._client.socket, [data], [])

    def _memory(self) -> None:
        """What descriptors would be read from."""
        address = self._source.number(3) & 0xFFFC
        words = self._source.take(4 * (1 + self._source.number(1) % 8))
        struct.pack_into(f"{len(words)}s", self._card.memory, address, words)

    def _frame(self) -> None:
        if self._far_end >= 0:
            os.write(self._far_end, self._source.take(self._source.number(2) % 2000 + 1))

    def _hang_up(self) -> None:
        assert self._client is not None
        self._client.socket.close()
        self._client = None
