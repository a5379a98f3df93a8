"""QEMU's monitor (QMP) over a socket that we made; the session can be taken over by another supervisor.

Source of the protocol: QEMU's docs/interop/qmp-spec.rst. The connection itself is the qemu.qmp library's.
"""

import asyncio
import json
import secrets
import socket
import time
from collections.abc import Callable
from typing import Any

from qemu.qmp import EventListener, QMPClient, QMPError

from nooks.host.errors import NooksError

Event = dict[str, Any]
OLDEST_EVENT_SECONDS = 5.0
"""An event that seems older was not: the machine's time was set meanwhile."""

COMMAND_SECONDS = 20.0
"""Deadline of one command: QEMU's main loop answers in milliseconds unless the host is starved."""


_FILE_URI_VERSION = (8, 2)
"""The first QEMU whose migration takes files by ``file:``."""


def age_seconds(event: Event) -> float:
    """How long ago an event came about, by QEMU's wall clock; 0 if it does not say, or what can't be."""
    stamp = event.get("timestamp", {})
    try:
        age = time.time() - (stamp["seconds"] + stamp["microseconds"] / 1e6)
    except (KeyError, TypeError):
        return 0.0
    return age if 0 < age < OLDEST_EVENT_SECONDS else 0.0


class MonitorError(NooksError):
    """QEMU did not answer, or refused a command."""


class Monitor:
    """One domain's QMP session."""

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self._client = QMPClient("domain")
        self._on_event = on_event
        self._listener = EventListener()
        self._events: asyncio.Task[None] | None = None

    async def open(self, connected: socket.socket, *, resumed: bool = False) -> None:
        """Speak QMP over ``connected``, of which this object becomes the owner.

        With ``resumed`` a session that somebody else began is continued: there is no second greeting, and what
        its former owner left half-read is skipped. Raises MonitorError.
        """
        if resumed:
            await self._skip_leftovers(connected)
            self._client.await_greeting = False
            self._client.negotiate = False
        self._client.register_listener(self._listener)
        try:
            async with asyncio.timeout(COMMAND_SECONDS):
                await self._client.connect(connected)
        except (QMPError, TimeoutError, OSError) as error:
            raise MonitorError(f"QEMU's monitor does not answer: {error}") from error
        self._events = asyncio.create_task(self._pump_events())

    async def execute(self, command: str, **arguments: Any) -> Any:  # noqa: ANN401 - QMP answers with any JSON
        """Run one command. Raises MonitorError if it is refused, the session ends, or the deadline passes."""
        try:
            async with asyncio.timeout(COMMAND_SECONDS):
                return await self._client.execute(command, arguments or None)
        except (QMPError, TimeoutError, OSError) as error:
            raise MonitorError(f"QEMU command {command} failed: {error or type(error).__name__}") from error

    async def give_descriptor(self, name: str, descriptor: int) -> None:
        """Hand a copy of ``descriptor`` to QEMU under ``name`` (getfd)."""
        self._client.send_fd_scm(descriptor)
        await self.execute("getfd", fdname=name)

    async def add_descriptor(self, descriptor: int) -> tuple[int, int]:
        """Hand a copy of ``descriptor`` to QEMU for good (add-fd); its number there, and that of its file set.

        Raises MonitorError.
        """
        self._client.send_fd_scm(descriptor)
        added = await self.execute("add-fd")
        return int(added["fd"]), int(added["fdset-id"])

    async def give_file(self, name: str, descriptor: int) -> str:
        """Hand a copy of a file's descriptor to QEMU; returns the URI by which migration writes or reads it.

        It must be open for just one of both. Since QEMU 9.1 ``fd:`` takes pipes and sockets alone (its
        docs/about/removed-features.rst).
        """
        if self._files_by_fd():
            await self.give_descriptor(name, descriptor)
            return f"fd:{name}"
        self._client.send_fd_scm(descriptor)
        return f"file:/dev/fdset/{(await self.execute('add-fd'))['fdset-id']}"

    def _files_by_fd(self) -> bool:
        greeting = self._client.greeting
        version: Any = greeting.QMP.version["qemu"] if greeting is not None else {"major": 0, "minor": 0}
        return (version["major"], version["minor"]) < _FILE_URI_VERSION

    async def close(self) -> None:
        """End the session; QEMU itself goes on. Safe to call twice."""
        if self._events is not None:
            self._events.cancel()
            await asyncio.gather(self._events, return_exceptions=True)
            self._events = None
        try:
            await self._client.disconnect()
        except Exception:  # noqa: BLE001 - qemu.qmp raises here whatever once ended the session
            return

    async def _pump_events(self) -> None:
        async for event in self._listener:
            self._on_event(dict(event))

    @staticmethod
    async def _skip_leftovers(connected: socket.socket) -> None:
        """Read up to the answer of a command of our own; the rest belongs to the session's former owner."""
        loop = asyncio.get_running_loop()
        connected.setblocking(False)
        token = secrets.token_hex(8)
        request = json.dumps({"execute": "query-name", "id": token})
        try:
            async with asyncio.timeout(COMMAND_SECONDS):
                # The leading newline ends whatever the former owner may have written in part.
                await loop.sock_sendall(connected, f"\n{request}\n".encode())
                pending = b""
                while f'"id": "{token}"'.encode() not in pending or not pending.endswith(b"\n"):
                    received = await loop.sock_recv(connected, 65536)
                    if not received:
                        raise MonitorError("QEMU closed its monitor")
                    pending = (pending + received)[-262144:]
        except (TimeoutError, OSError) as error:
            raise MonitorError("QEMU's monitor does not answer to its new supervisor") from error
