"""A model's connection to its nook: JSON packets, requests in, answers and events out. The card ends when it ends.

A request is ``{"id", "command", ...}`` and its answer ``{"id", "result"}`` or ``{"id", "error"}``; an event is
``{"event", ...}``. Nobody may be listening to events: what does not fit is left out.
"""

import contextlib
import json
import socket
from collections.abc import Callable
from typing import Any

PACKET_BYTES_MAX = 4096

Handler = Callable[[dict[str, Any]], Any]


class Control:
    """The model's end. ``handlers`` carry commands out and raise ValueError; ``gone`` is called when nobody is left."""

    def __init__(self, connection: socket.socket, handlers: dict[str, Handler], gone: Callable[[], None]) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._handlers = handlers
        self._gone = gone

    def fileno(self) -> int:
        """The connection's descriptor."""
        return self._socket.fileno()

    def tell(self, event: str, **facts: Any) -> None:  # noqa: ANN401 - any JSON
        """Say that something happened."""
        self._send({"event": event, **facts})

    def serve(self) -> None:
        """Take what has arrived."""
        try:
            packet = self._socket.recv(PACKET_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._gone()
            return
        request: Any = json.loads(packet)
        handler = self._handlers.get(str(request.get("command")))
        answer: dict[str, Any] = {"id": request.get("id")}
        try:
            if handler is None:
                raise ValueError(f"no command {request.get('command')!r}")
            answer["result"] = handler(request)
        except (ValueError, KeyError, TypeError) as error:
            answer["error"] = str(error)
        self._send(answer)

    def _send(self, document: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self._socket.send(json.dumps(document).encode())
