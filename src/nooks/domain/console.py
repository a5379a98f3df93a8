"""A domain's serial console: drained all the time, of which the last part is kept. Every byte is mistrusted.

A dying kernel says first what it dies of, and then perhaps much more (an overflown stack is a trace of thousands of
lines): the beginning of bad news is kept as well.
"""

import asyncio
import contextlib
import re
import socket

KEPT_BYTES = 64 * 1024
BEGINNING_BYTES = 16 * 1024
"""So much is kept from the first line of bad news on."""
END_BYTES = KEPT_BYTES // 2
_CUT = b"\n[...]\n"
_BAD_NEWS = re.compile(rb"BUG: |kernel BUG at |Kernel panic|: [0-9a-f]{4} \[#1\]")
UNPRINTABLE = re.compile(r"[^\n\t -~]")


class Console:
    """The last of what a domain's kernel said, and how its bad news began; together no more than ``KEPT_BYTES``."""

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
            self._forget()

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

    def _forget(self) -> None:
        if len(self._kept) <= KEPT_BYTES:
            return
        bad_news = _BAD_NEWS.search(self._kept)
        begin = self._kept.rfind(b"\n", 0, bad_news.start()) + 1 if bad_news else len(self._kept)
        if begin < len(self._kept) - KEPT_BYTES:
            self._kept = self._kept[begin : begin + BEGINNING_BYTES] + _CUT + self._kept[-END_BYTES:]
        else:
            del self._kept[:-KEPT_BYTES]

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                asyncio.get_running_loop().remove_reader(self.socket.fileno())
