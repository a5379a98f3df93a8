"""A recorder outside all domains: takes the plugs of each card that a nook hands over, and keeps what came out."""

import asyncio
import contextlib
import json
import os
import socket
import tempfile
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path

from nooks.lab.sound.card_line import Line
from nooks.lab.sound.dbus_peer import DBusError
from nooks.lab.sound.world import World

_BACKLOG = 16


@dataclass
class Recorder:
    """All lines so far by the domain's process. ``path`` is what a nook's ``--line unix:PATH`` names."""

    path: Path
    lines: dict[int, Line] = field(default_factory=dict[int, Line])
    world: World = field(default_factory=World)

    async def accept(self, listener: socket.socket) -> None:
        """Take plugs for ever."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            while True:
                connection, _ = await loop.sock_accept(listener)
                group.create_task(self._take(connection))

    async def close(self) -> None:
        """Let go of all plugs."""
        for line in self.lines.values():
            await line.close()

    async def _take(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with connection:
            connection.setblocking(False)
            ready = loop.create_future()
            loop.add_reader(connection.fileno(), ready.set_result, None)
            try:
                await ready
            finally:
                loop.remove_reader(connection.fileno())
            said, fds, _, _ = socket.recv_fds(connection, 4096, 1)
        if not fds:
            return
        plug = socket.socket(fileno=fds[0])
        pid = int(json.loads(said)["pid"])
        if pid in self.lines:
            plug.close()
            return
        line = self.lines[pid] = Line(self.world.source())
        with contextlib.suppress(DBusError, OSError):  # a domain may end while it is plugged in
            await line.open(plug)


@contextlib.asynccontextmanager
async def recorder() -> AsyncGenerator[Recorder, None]:
    """A recorder for the block."""
    with tempfile.TemporaryDirectory(prefix="nooks-line-") as folder:
        Path(folder).chmod(0o755)
        made = Recorder(Path(folder) / "line")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.setblocking(False)
            listener.bind(str(made.path))
            os.chmod(made.path, 0o777)  # noqa: PTH101 - a nook of another user may hand over its plugs
            listener.listen(_BACKLOG)
            accepting = asyncio.create_task(made.accept(listener))
            try:
                yield made
            finally:
                accepting.cancel()
                await asyncio.gather(accepting, return_exceptions=True)
                await made.close()
