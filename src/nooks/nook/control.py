"""The control socket: JSON lines between the command line and a nook's supervisor.

A request is ``{"command": ..., "arguments": {...}}``. The answer is ``{"result": ...}`` or ``{"error": {"message",
"fix", "exit_code"}}``; a command that streams sends any number of ``{"item": ...}`` lines before. Only root and the
socket's own user are served. Here are the protocol and the client; ``control_server`` is the other end. Neither knows
what the commands do.
"""

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from nooks.host.errors import NooksError, StateError
from nooks.keeper.address import socket_address

LINE_BYTES_MAX = 4 << 20
CONNECT_SECONDS = 2.0
BACKLOG = 32


class ControlGone(StateError):  # noqa: N818 - the name says what happened
    """Nobody answers at a control socket: the supervisor is dead or hangs."""


class RemoteError(NooksError):
    """An error that the supervisor reported; it keeps the exit code that it was given."""

    def __init__(self, message: str, fix: str, exit_code: int) -> None:
        super().__init__(message, fix)
        self.exit_code = exit_code


def listen(path: Path) -> socket.socket:
    """A listening control socket at ``path``, in place of what is there. Raises OSError."""
    with suppress(FileNotFoundError):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with socket_address(path) as address:
            listener.bind(address)
        path.chmod(0o600)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def error_document(error: NooksError) -> dict[str, Any]:
    """An error as it crosses the socket."""
    return {"error": {"message": error.message, "fix": error.fix, "exit_code": error.exit_code}}


def result_of(document: Mapping[str, Any]) -> Any:  # noqa: ANN401 - any JSON value
    """The result in an answer. Raises RemoteError if it is an error, ControlGone if it is neither."""
    if "result" in document:
        return document["result"]
    error = document.get("error")
    if not isinstance(error, dict):
        raise ControlGone("the supervisor's answer makes no sense", "are two versions of nooks at work?")
    facts = cast("dict[str, Any]", error)
    message, fix = str(facts.get("message", "unknown error")), str(facts.get("fix", ""))
    raise RemoteError(message, fix, 2 if facts.get("exit_code") == 2 else 1)


class ControlClient:
    """A connection to one nook's supervisor, for one command after the other. Calls block."""

    def __init__(self, connection: socket.socket, name: str) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._name = name

    @classmethod
    def connect(cls, path: Path, name: str) -> "ControlClient":
        """Connect to the supervisor of the nook ``name``, whose control socket is ``path``.

        Raises ControlGone if nobody listens there.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(CONNECT_SECONDS)
        try:
            with socket_address(path) as address:
                connection.connect(address)
        except PermissionError:
            connection.close()
            raise ControlGone(f"the nook {name} belongs to another user", "use sudo") from None
        except OSError:
            connection.close()
            raise gone(name) from None
        return cls(connection, name)

    def request(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout_seconds: float | None = 30.0
    ) -> Any:  # noqa: ANN401 - any JSON value
        """Have one command carried out and return its result (items of a stream are skipped).

        Raises RemoteError with the supervisor's error, ControlGone if there is no answer in time.
        """
        for document in self._exchange(command, arguments, timeout_seconds):
            if "item" not in document:
                return result_of(document)
        raise gone(self._name)

    def stream(self, command: str, arguments: Mapping[str, Any] | None = None) -> Iterator[Any]:
        """The items of a command that streams, as they come. Raises as ``request`` does."""
        for document in self._exchange(command, arguments, None):
            if "item" not in document:
                result_of(document)
                return
            yield document["item"]

    def close(self) -> None:
        """End the connection."""
        self._lines.close()
        self._connection.close()

    def __enter__(self) -> "ControlClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _exchange(
        self, command: str, arguments: Mapping[str, Any] | None, timeout_seconds: float | None
    ) -> Iterator[dict[str, Any]]:
        request = {"command": command, "arguments": dict(arguments or {})}
        self._connection.settimeout(timeout_seconds)
        try:
            self._connection.sendall(json.dumps(request).encode() + b"\n")
            while line := self._lines.readline(LINE_BYTES_MAX):
                yield cast("dict[str, Any]", json.loads(line))
        except TimeoutError:
            raise ControlGone(
                f"the supervisor of {self._name} did not answer in {timeout_seconds:.0f} s",
                f"try again, or end it with 'nooks stop {self._name} --force'",
            ) from None
        except (OSError, ValueError):
            raise gone(self._name) from None
        raise gone(self._name)


def gone(name: str) -> ControlGone:
    """The error for a supervisor that is dead while its keeper holds on."""
    return ControlGone(f"the supervisor of {name} is dead", f"'nooks start {name}' adopts it")
