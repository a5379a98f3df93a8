"""The supervisor's end of the control socket (see ``control`` for the protocol)."""

import asyncio
import json
import os
import socket
import struct
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self, cast

from nooks.host.errors import InputError, NooksError
from nooks.nook.control import BACKLOG, LINE_BYTES_MAX, error_document

Arguments = dict[str, Any]
Handler = Callable[[Arguments], Awaitable[Any] | AsyncIterator[Any]]
"""Carries out one command: an async function that returns the result, or an async generator of items."""

GRACE_SECONDS = 1.0
"""How long commands that are being carried out may still answer when the server ends."""

_CREDENTIALS = struct.Struct("3i")


class ControlServer:
    """Serves control requests on a listening socket, each connection one after the other, while it is entered.

    ``handlers`` maps command names to what carries them out. A handler's NooksError is the client's answer; any
    other exception is told as an internal error and its traceback goes to stderr, which is the nook's log. A client
    that goes away does not cancel its command, so that a failover is never left half done; it does end a stream.
    """

    def __init__(self, listener: socket.socket, handlers: Mapping[str, Handler]) -> None:
        self._listener = listener
        self._handlers = handlers
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._answering: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._listener.setblocking(False)
        self._server = await asyncio.start_unix_server(
            self._connected, sock=self._listener, limit=LINE_BYTES_MAX, backlog=BACKLOG
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        if self._answering:
            await asyncio.wait(self._answering, timeout=GRACE_SECONDS)
        remaining = list(self._connections)
        for task in remaining:
            task.cancel()
        await asyncio.gather(*remaining, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        try:
            peer = cast("socket.socket", writer.get_extra_info("socket"))
            if _is_trusted(peer):
                await self._converse(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client left, or the server ends: either way this conversation is over
        finally:
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                line = await reader.readuntil(b"\n")
            except asyncio.IncompleteReadError:
                return
            except asyncio.LimitOverrunError:
                await _say(writer, error_document(InputError("the request is too long")))
                return
            task = cast("asyncio.Task[None]", asyncio.current_task())
            self._answering.add(task)
            try:
                async for document in self._answer(line):
                    await _say(writer, document)
            finally:
                self._answering.discard(task)

    async def _answer(self, line: bytes) -> AsyncIterator[dict[str, Any]]:
        try:
            handler, arguments = self._parse(line)
            outcome = handler(arguments)
            if isinstance(outcome, AsyncIterator):
                async for item in outcome:
                    yield {"item": item}
                yield {"result": None}
            else:
                yield {"result": await outcome}
        except NooksError as error:
            yield error_document(error)
        except Exception as error:  # noqa: BLE001 - a defect of one command must not end the supervisor
            traceback.print_exc()
            yield error_document(NooksError(f"internal error: {error!r}", "see the nook's log"))

    def _parse(self, line: bytes) -> tuple[Handler, Arguments]:
        try:
            request = json.loads(line)
            command, arguments = request["command"], request.get("arguments") or {}
        except (ValueError, TypeError, KeyError, AttributeError):
            raise InputError("the request is not one JSON object with a command") from None
        if not isinstance(command, str) or not isinstance(arguments, dict):
            raise InputError("the request's command or arguments are of the wrong type")
        handler = self._handlers.get(command)
        if handler is None:
            raise InputError(f"the supervisor knows no command {command}", "restart the nook with this version")
        return handler, cast("Arguments", arguments)


async def _say(writer: asyncio.StreamWriter, document: dict[str, Any]) -> None:
    writer.write(json.dumps(document, default=str).encode() + b"\n")
    await writer.drain()


def _is_trusted(peer: socket.socket) -> bool:
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return _CREDENTIALS.unpack(credentials)[1] in (0, os.geteuid())
