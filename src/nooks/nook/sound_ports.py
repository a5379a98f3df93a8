"""The host's ends of the sound ports of a nook's domains, one for each bay, and the one that is live."""

import asyncio
import socket
from collections.abc import Callable, Iterator

import structlog

from nooks.nook.ledger import Ledger
from nooks.xpc import audio

KEY = "sound.port"
REHEARSAL_TAG = 0xF0000000
"""A spare's streams have tags that the log's never reach."""

_READ_BYTES = 65536


class Port:
    """One domain's sound port."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.closed = False
        """Nobody has its other end: the domain is gone, and whatever it held."""
        self._decoder = audio.Decoder()

    def send(self, head: bytes, samples: bytes | memoryview = b"") -> None:
        """Send one packet. A domain that is dead, or takes nothing, is somebody else's to notice."""
        try:
            sent = self.connection.sendmsg([head, samples])
        except OSError as error:
            structlog.get_logger().info("a domain does not take samples", error=str(error))
            return
        if sent < len(head) + len(samples):  # it would take the rest for another packet
            self.connection.shutdown(socket.SHUT_RDWR)

    def receive(self) -> Iterator[audio.Packet]:
        """The packets that have arrived. Raises ProtocolError."""
        try:
            data = self.connection.recv(_READ_BYTES)
        except OSError:
            return iter(())
        self.closed = not data
        return self._decoder.feed(data)

    async def hear(self, wanted: Callable[[audio.Packet], bool]) -> None:
        """Wait until a packet arrives that is ``wanted``; the others are nobody's. Raises ProtocolError, OSError."""
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(self.connection, _READ_BYTES):
            if any([wanted(packet) for packet in self._decoder.feed(data)]):  # noqa: C419 - all must be taken
                return

    async def play_silence(self, frames: int, frame_bytes: int) -> None:
        """Have a spare play that much, until it has played half of it, and stop. Raises ProtocolError, OSError."""
        silence = bytes(frames * frame_bytes)
        self.send(audio.header(audio.FLUSH, REHEARSAL_TAG))
        self.send(audio.header(audio.PLAY, REHEARSAL_TAG, flags=audio.GO, length=len(silence)), silence)
        await self.hear(lambda packet: packet.position >= frames // 2)
        self.send(audio.header(audio.FLUSH, REHEARSAL_TAG + 1))
        await self.hear(lambda packet: packet.tag == REHEARSAL_TAG + 1)


class Ports:
    """The ports of both bays. Implements the flow's CardPort: what is sent goes to the live domain."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._ports: dict[int, Port] = {}
        self._live: int | None = None

    @property
    def live(self) -> Port | None:
        """The live domain's port."""
        return self._ports.get(self._live) if self._live is not None else None

    def adopt(self, bay: int) -> None:
        """Take over the port of the domain that another supervisor has started."""
        if f"{KEY}{bay}" in self._ledger.held():
            self._ports[bay] = Port(socket.socket(fileno=self._ledger.take(f"{KEY}{bay}")))
            self._live = bay

    def make(self, bay: int) -> socket.socket:
        """A new port for a domain that is about to start in ``bay``; its end, which the caller closes."""
        self._drop(bay)
        ours, theirs = socket.socketpair()
        self._ports[bay] = Port(ours)
        self._ledger.give(f"{KEY}{bay}", ours.fileno())
        return theirs

    def port(self, bay: int) -> Port:
        """The port of a bay's domain."""
        return self._ports[bay]

    def switch(self, bay: int) -> None:
        """From now on ``bay``'s domain is the live one."""
        self._live = bay

    def send(self, head: bytes, samples: bytes | memoryview = b"") -> None:
        """Send one packet to the live domain."""
        if self.live is not None:
            self.live.send(head, samples)

    def close(self) -> None:
        """Close all."""
        for bay in tuple(self._ports):
            self._drop(bay)

    def _drop(self, bay: int) -> None:
        port = self._ports.pop(bay, None)
        if port is not None:
            self._ledger.forget(f"{KEY}{bay}")
            port.connection.close()
