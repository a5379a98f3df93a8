"""Outside: carries the command's streams between our own descriptors and the lab's ports until the command ended.

One thread and poll(2), which also takes regular files and terminals. Our descriptors are left as they are (blocking).
"""

import os
import select
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nooks.host.errors import NooksError
from nooks.lab.machine.wire import CHUNK_BYTES, Lines, frame, line

STDIN, STDOUT, STDERR = 0, 1, 2
_LATE_SECONDS = 30.0
"""How long output that the lab has counted may take to arrive."""


class LabError(NooksError):
    """The lab machine died, did not boot, or is not fit for the command; not the command's own failure."""


class TooLongError(LabError):
    """The command took longer than it may."""


@dataclass(frozen=True)
class Outcome:
    """The command's exit status, and when it started, in seconds from the beginning of the relay."""

    status: int
    ready_seconds: float


class Relay:
    """``sockets`` are our ends of the ports, ``pidfd`` is QEMU's; ``outputs`` say where the command's streams go."""

    def __init__(self, sockets: Mapping[str, socket.socket], pidfd: int, outputs: Mapping[str, int]) -> None:
        self._sockets = sockets
        self._pidfd = pidfd
        self._outputs = outputs
        self._lines = Lines()
        self._pending = b""
        self._input_open = True
        self._received = dict.fromkeys(outputs, 0)
        self._ready: float | None = None
        self._exit: dict[str, Any] | None = None
        self._ended = False
        self._began = time.monotonic()
        sockets["stdin"].setblocking(False)

    def run(self, boot_seconds: float, timeout_seconds: float | None) -> Outcome:
        """Carry on until the command ended and all that it said has arrived.

        Raises LabError if the machine ends, does not start the command within ``boot_seconds``, or the command takes
        longer than ``timeout_seconds``; BrokenPipeError if nobody reads our output any more.
        """
        deadline = self._began + boot_seconds
        why = f"the lab machine did not start the command within {boot_seconds:.0f} s"
        timed = late = False
        while not self._complete():
            if self._ready is not None and not timed:
                timed = True
                deadline = float("inf") if timeout_seconds is None else self._began + self._ready + timeout_seconds
                why = f"the command did not end within {timeout_seconds or 0:g} s"
            if self._exit is not None and not late:
                late = True
                deadline, why = time.monotonic() + _LATE_SECONDS, "not all that the command wrote arrived"
            if time.monotonic() > deadline:
                raise (TooLongError if timed and self._exit is None else LabError)(why)
            self._step(min(1.0, max(0.0, deadline - time.monotonic())))
        assert self._exit is not None
        return Outcome(int(self._exit["status"]), self._ready or 0.0)

    def resize(self, rows: int, columns: int) -> None:
        """Tell the lab the size of our terminal."""
        self._sockets["control"].sendall(line(event="size", rows=rows, columns=columns))

    def _complete(self) -> bool:
        return self._exit is not None and all(
            self._received[kind] >= int(self._exit.get(kind, 0)) for kind in self._outputs
        )

    def _step(self, wait_seconds: float) -> None:
        poll = select.poll()
        sources = {self._sockets[kind].fileno(): kind for kind in ("control", *self._outputs)}
        for descriptor in sources:
            poll.register(descriptor, select.POLLIN)
        poll.register(self._pidfd, select.POLLIN)
        if self._ready is not None and self._exit is None:
            if self._pending:
                poll.register(self._sockets["stdin"], select.POLLOUT)
            elif self._input_open and _may_read(STDIN):
                poll.register(STDIN, select.POLLIN)
        events = dict(poll.poll(wait_seconds * 1000))
        for descriptor, kind in sources.items():
            if descriptor in events:
                self._take(kind)
        if self._sockets["stdin"].fileno() in events:
            self._send_pending()
        if STDIN in events:
            self._read_input()
        if self._pidfd in events and not self._drain(sources):
            raise LabError("the lab machine died")

    def _take(self, kind: str) -> bool:
        """Take what a port has; False if that is nothing."""
        try:
            data = self._sockets[kind].recv(CHUNK_BYTES)
        except ConnectionResetError:
            data = b""
        if kind == "control":
            for message in self._lines.feed(data):
                self._handle(message)
        elif data:
            _write(self._outputs[kind], data)
            self._received[kind] += len(data)
        return bool(data)

    def _drain(self, sources: Mapping[int, str]) -> bool:
        """After QEMU's end: what still lies in the sockets; True if the command had ended before."""
        for kind in sources.values():
            while self._take(kind):
                pass
        return self._complete()

    def _handle(self, message: dict[str, Any]) -> None:
        if message["event"] == "ready":
            self._ready = time.monotonic() - self._began
        elif message["event"] == "exit":
            self._exit = message
        elif message["event"] == "failed":
            raise LabError(str(message["message"]))

    def _read_input(self) -> None:
        try:
            data = os.read(STDIN, CHUNK_BYTES)
        except OSError:
            data = b""
        self._input_open = bool(data)
        self._pending = frame(data)
        self._send_pending()

    def _send_pending(self) -> None:
        try:
            sent = self._sockets["stdin"].send(self._pending)
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            self._pending, self._input_open = b"", False
            return
        self._pending = self._pending[sent:]


def _may_read(descriptor: int) -> bool:
    """Whether reading would not stop us: in the background of a terminal it would (SIGTTIN)."""
    try:
        return not os.isatty(descriptor) or os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:
        return True


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
