"""The plugs of an emulated card, outside its domain: what comes out is recorded, what goes in is a known signal.

QEMU's audio interface (ui/dbus-display1.xml): a connection for what is played and another for what is recorded, made
over the one that its monitor was handed.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from nooks.lab.sound.dbus_peer import Message, Peer

_PATH, _INTERFACE = "/org/qemu/Display1/Audio", "org.qemu.Display1.Audio"


@dataclass(frozen=True)
class Heard:
    """Samples that came out of a card, and when: seconds of CLOCK_MONOTONIC. A card may be set to other frames."""

    when: float
    samples: bytes
    frame_bytes: int = 4


@dataclass
class Voice:
    """How a card plays or records: bits and channels of a frame, frames a second; volumes by channel, 255 at most."""

    bits: int = 16
    channels: int = 2
    rate: int = 44100
    enabled: bool = False
    volume: tuple[int, ...] = ()

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return self.bits // 8 * self.channels


@dataclass
class Line:
    """One card's plugs. ``source`` gives so many bytes of the signal that the card is to record, at a time."""

    source: Callable[[int, float, Voice], bytes]
    heard: list[Heard] = field(default_factory=list[Heard])
    out: Voice = field(default_factory=Voice)
    into: Voice = field(default_factory=Voice)
    ended: float | None = None
    _peers: list[Peer] = field(default_factory=list[Peer])

    def played(self) -> bytes:
        """All samples that came out so far."""
        return b"".join(piece.samples for piece in self.heard)

    async def open(self, connection: socket.socket) -> None:
        """Take over the connection that the domain's monitor was handed the other end of. Raises DBusError."""
        control = Peer(connection, lambda message: None)
        control.lost = self._ended
        self._peers.append(control)
        await control.open()
        for member, handle in (("RegisterOutListener", self._out), ("RegisterInListener", self._in)):
            ours, theirs = socket.socketpair()
            listener = Peer(ours, handle)
            self._peers.append(listener)
            with theirs:
                opening = asyncio.create_task(listener.open())
                await control.call(_PATH, _INTERFACE, member, "h", [0], fd=theirs.fileno())
            await opening

    async def close(self) -> None:
        """Unplug."""
        for peer in self._peers:
            await peer.close()
        self._peers.clear()

    def _ended(self) -> None:
        self.ended = time.monotonic()

    def _out(self, message: Message) -> None:
        if message.member == "Write":
            self.heard.append(Heard(time.monotonic(), message.body[1], self.out.frame_bytes))
        else:
            _follow(self.out, message)

    def _in(self, message: Message) -> tuple[str, list[bytes]] | None:
        if message.member != "Read":
            _follow(self.into, message)
            return None
        return "ay", [self.source(message.body[1], time.monotonic(), self.into)]


def _follow(voice: Voice, message: Message) -> None:
    if message.member == "Init":
        voice.bits, voice.rate, voice.channels = message.body[1], message.body[4], message.body[5]
    elif message.member == "SetEnabled":
        voice.enabled = bool(message.body[1])
    elif message.member == "SetVolume":
        muted, volumes = message.body[1], message.body[2]
        voice.volume = (0,) * len(volumes) if muted else tuple(volumes)
