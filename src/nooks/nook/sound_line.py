"""The plugs of an emulated sound card, handed to a program that asked for them: a recorder, or a loudspeaker.

For each domain that is started it gets a packet on its socket: a line of JSON (nook, pid) and the descriptor of a
connection to that domain's card, in QEMU's D-Bus audio interface (ui/dbus-display1.xml).
"""

import asyncio
import json
import socket
from pathlib import Path

import structlog

from nooks.domain.domain import Domain
from nooks.domain.monitor import MonitorError
from nooks.host.pace import slowness

CONNECT_SECONDS = 1.0


class Line:
    """Hands over the plugs of a nook's domains to who listens at ``path``."""

    def __init__(self, nook: str, path: Path) -> None:
        self._nook = nook
        self._path = path
        self._plugged: set[int] = set()

    async def plug(self, domain: Domain) -> None:
        """Hand over a domain's plugs, unless that was done. It is no failure of the driver's if nobody takes them."""
        if domain.pid in self._plugged:
            return
        self._plugged.add(domain.pid)
        try:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                await domain.connect_display(ours)
                await asyncio.to_thread(self._hand_over, theirs, domain.pid)
        except (OSError, MonitorError) as error:
            structlog.get_logger().warning("nobody takes the card's line", path=str(self._path), error=str(error))

    def _hand_over(self, plug: socket.socket, pid: int) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.settimeout(CONNECT_SECONDS * slowness())
            listener.connect(str(self._path))
            socket.send_fds(listener, [json.dumps({"nook": self._nook, "pid": pid}).encode()], [plug.fileno()])
