"""The host's end of the heartbeat port, a stream of tiny frames. Judges their form, not their rhythm."""

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol

from nooks.xpc import wire
from nooks.xpc.errors import ProtocolError
from nooks.xpc.incarnations import IncarnationFilter
from nooks.xpc.messages import Heartbeat
from nooks.xpc.wire import Decoder, Frame

MAX_BEATS_PER_SECOND = 1000
_READ_BYTES = 16384


class BeatSink(Protocol):
    """Where heartbeats go."""

    def __call__(self, count: int, counters: dict[str, int] | None, incarnation: int) -> None:
        """One beat: its number, the packet counters if it carried them, and whose it is."""
        ...


class HeartbeatReader:
    """Reads one domain's heartbeats from a connected stream socket, which it owns from then on.

    ``on_violation`` is called at most once and ends the reading. ``adopted``: another process has read from
    this socket before, so the stream may begin in the middle of a frame.
    """

    def __init__(
        self,
        connection: socket.socket,
        *,
        on_beat: BeatSink,
        on_violation: Callable[[ProtocolError], None],
        incarnation: int = 0,
        adopted: bool = False,
    ) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._on_beat = on_beat
        self._on_violation = on_violation
        self._incarnations = IncarnationFilter(incarnation)
        self._hunting = adopted
        self._decoder = Decoder(resync=adopted, max_skipped_bytes=wire.MAX_FRAME_BYTES)
        self._count = -1
        self._window = (0.0, 0)
        self._task: asyncio.Task[None] | None = None

    @property
    def discarded_frames(self) -> int:
        """Beats of older incarnations that were ignored."""
        return self._incarnations.discarded

    def allow(self, incarnation: int) -> None:
        """Call before the domain is told by ``resume`` that it is ``incarnation``."""
        self._incarnations.allow(incarnation)

    def start(self) -> None:
        """Begin to read; needs a running event loop."""
        self._task = asyncio.create_task(self._read(), name="xpc-heartbeats")

    async def close(self) -> None:
        """Stop and close the socket. Repeating it does nothing."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._connection.close()

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await loop.sock_recv(self._connection, _READ_BYTES):
                for frame in self._decoder.feed(data):
                    self._take(frame)
        except OSError:
            return  # the process is gone, and others notice that
        except ProtocolError as error:
            self._on_violation(error)

    def _take(self, frame: Frame) -> None:
        if frame.kind != wire.HEARTBEAT:
            raise ProtocolError(f"frame of kind {frame.kind} on the heartbeat port")
        if self._hunting:
            self._hunting = False
            self._decoder.strict()
        if not self._incarnations.accepts(frame.incarnation):
            return
        if frame.sequence <= self._count:
            raise ProtocolError(f"heartbeat {frame.sequence} after {self._count}")
        self._count = frame.sequence
        self._limit_rate()
        self._on_beat(frame.sequence, Heartbeat.parse(frame.payload).counters, frame.incarnation)

    def _limit_rate(self) -> None:
        now = asyncio.get_running_loop().time()
        since, count = self._window
        if now - since >= 1:
            since, count = now, 0
        if count >= MAX_BEATS_PER_SECOND:
            raise ProtocolError(f"more than {MAX_BEATS_PER_SECOND} heartbeats a second")
        self._window = (since, count + 1)
