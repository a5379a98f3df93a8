"""A cable for network cards in tests: packets on a socket pair in place of a TAP's queue."""

import socket
from typing import Any

from nooks.hardware.loop import Loop
from nooks.hardware.memory import Refused
from nooks.hardware.network import NetworkCard, NetworkCardFactory


class Cables:
    """Makes cards of one kind, and keeps the far end of the last one's cable."""

    def __init__(self, card: NetworkCardFactory) -> None:
        self._card = card
        self.far: socket.socket

    def make(self, loop: Loop, refused: Refused) -> NetworkCard:
        """A card with a new cable."""
        near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.far.settimeout(1)
        return self._card(loop, refused, near.detach(), "test")

    def far_end(self) -> int:
        """The far end's descriptor."""
        return self.far.fileno()

    def frames(self) -> list[bytes]:
        """What has arrived at the far end."""
        found: list[bytes] = []
        self.far.setblocking(False)
        while True:
            try:
                found.append(self.far.recv(1 << 16))
            except BlockingIOError:
                return found


def frame(to: bytes, length: int = 60, kind: bytes = b"\x08\x06", **_: Any) -> bytes:  # noqa: ANN401
    """A frame for ``to``."""
    return (to + b"\x02\0\0\0\0\x01" + kind + bytes(range(256)) * 8)[:length]
