"""A domain's serial console: drained all the time, of which the last part is kept. Every byte is mistrusted."""

import asyncio
import contextlib
import re
import socket

KEPT_BYTES = 64 * 1024
UNPRINTABLE = re.compile(r"[^\n\t -~]")


class Console:
    """The last ``KEPT_BYTES`` of what a domain's kernel said."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._kept = bytearray()
        connected.setblocking(False)
        self._watching = False

    def watch(self) -> None:
        """Drain the console whenever it speaks, in the running event loop."""
        asyncio.get_running_loop().add_reader(self.socket.fileno(), self.drain)
        self._watching = True

    def drain(self) -> None:
        """Take what is there now, without waiting."""
        while True:
            try:
                received = self.socket.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                received = b""
            if not received:
                self._unwatch()
                return
            self._kept += received
            del self._kept[:-KEPT_BYTES]

    def text(self) -> str:
        """What is kept, drained up to now, as printable text."""
        if self.socket.fileno() >= 0:
            self.drain()
        text = self._kept.decode("ascii", errors="replace").replace("\r", "")
        return UNPRINTABLE.sub("?", text)

    def close(self) -> None:
        """Stop draining and close the socket. Safe to call twice."""
        self._unwatch()
        self.socket.close()

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                asyncio.get_running_loop().remove_reader(self.socket.fileno())
