"""The keeper's client. Calls block, for some ten microseconds, so asyncio code may use them as they are."""

import contextlib
import os
import select
import socket
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from nooks.host.errors import NooksError
from nooks.keeper.address import socket_address
from nooks.keeper.server import DROP, GET, LIST, OK, PUT, QUIT, Refused, receive, send

ANSWER_SECONDS = 2.0


class KeeperError(NooksError):
    """The keeper refused a request."""


class KeeperGone(KeeperError):  # noqa: N818 - the name says what happened
    """There is no keeper (any more), or it does not answer."""


class KeeperClient:
    """A connection to a keeper. ``fileno`` becomes readable when the keeper is gone."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._connection.settimeout(ANSWER_SECONDS)

    @classmethod
    def connect(cls, path: Path) -> Self:
        """Connect to the keeper that listens at ``path``. Raises KeeperGone."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.settimeout(ANSWER_SECONDS)
        try:
            with socket_address(path) as address:
                connection.connect(address)
        except OSError as error:
            connection.close()
            raise KeeperGone(f"no keeper listens at {path}: {error.strerror or error}") from None
        return cls(connection)

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """Take over a connection that somebody else made."""
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        """The connection's descriptor, to wait on."""
        return self._connection.fileno()

    def detach(self) -> int:
        """Give up the connection without closing it; returns its descriptor."""
        return self._connection.detach()

    def put(self, key: str, fd: int) -> None:
        """Have the keeper hold a duplicate of ``fd`` under ``key``, in place of an older one. Raises KeeperError."""
        self._call(PUT, key, fd)

    def get(self, key: str) -> int:
        """A duplicate of the descriptor under ``key``; the caller closes it. Raises KeeperError if there is none."""
        _, fds = self._call(GET, key)
        if len(fds) != 1:
            _close(fds)
            raise KeeperError(f"the keeper sent {len(fds)} descriptors for {key}")
        return fds[0]

    def drop(self, key: str) -> None:
        """Have the keeper close what it holds under ``key``; nothing happens if that is nothing."""
        self._call(DROP, key)

    def list(self) -> tuple[str, ...]:
        """The keys of all that is held."""
        text, _ = self._call(LIST)
        return tuple(text.splitlines())

    def quit(self) -> None:
        """End the keeper, which closes everything it holds. Does nothing if it is gone."""
        with contextlib.suppress(KeeperGone):
            self._call(QUIT)

    def wait_for_end(self, seconds: float) -> bool:
        """Wait until the keeper is gone; False if it is still there after ``seconds``."""
        poll = select.poll()
        poll.register(self._connection, select.POLLRDHUP)
        return bool(poll.poll(seconds * 1000))

    def close(self) -> None:
        """Close the connection; the keeper holds on."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, operation: bytes, key: str = "", fd: int | None = None) -> tuple[str, Sequence[int]]:
        fds: list[int] = []
        try:
            send(self._connection, operation, key, fd)
            packet = receive(self._connection, fds)
        except (Refused, OSError) as error:
            _close(fds)
            raise KeeperGone(f"the keeper does not answer: {error}") from None
        if not packet:
            raise KeeperGone("the keeper is gone")
        text = packet[1:].decode(errors="replace")
        if packet[:1] != OK:
            _close(fds)
            raise KeeperError(f"the keeper refused: {text}")
        return text, fds


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
