"""The host's end of the XPC request port: requests with deadlines, events, and one report of a violation.

Everything that comes from the domain is mistrusted. Knows nothing of what the messages are for.
"""

import asyncio
import secrets
import socket
from collections.abc import Callable
from typing import TypeVar

from nooks.xpc import messages, wire
from nooks.xpc.errors import ChannelClosed, ProtocolError, RequestError, XpcError, XpcTimeout
from nooks.xpc.incarnations import IncarnationFilter
from nooks.xpc.messages import Message, Request, Resume, Sync
from nooks.xpc.wire import Decoder, Frame

MAX_PENDING = 32
MAX_QUEUED = 64
MAX_EVENTS_PER_SECOND = 200
_READ_BYTES = 65536
_UINT32 = 2**32 - 1

R = TypeVar("R", bound=Message)


class _Pending:
    """A request that waits for its reply."""

    __slots__ = ("future", "reply", "resume_to")

    def __init__(self, reply: type[Message], resume_to: int | None) -> None:
        self.future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self.reply = reply
        self.resume_to = resume_to


class Channel:
    """One domain's request port over a connected stream socket, which the channel owns from then on.

    ``on_event`` gets each Hello and Link. ``on_violation`` is called at most once, with what the domain did
    wrong; the channel is closed then. End of file only closes it: a dead process has a detector of its own.
    ``incarnation`` is that of the domain at the moment (0 before its first ``resume``).
    """

    def __init__(
        self,
        connection: socket.socket,
        *,
        on_event: Callable[[Message], None],
        on_violation: Callable[[ProtocolError], None],
        incarnation: int = 0,
    ) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._on_event = on_event
        self._on_violation = on_violation
        self._incarnations = IncarnationFilter(incarnation)
        self._decoder = Decoder()
        self._sync_nonce: str | None = None
        self._sequence = 0
        self._pending: dict[int, _Pending] = {}
        self._outgoing: asyncio.Queue[bytes] = asyncio.Queue(MAX_QUEUED)
        self._tasks: list[asyncio.Task[None]] = []
        self._closed_by: XpcError | None = None
        self._event_window = (0.0, 0)

    @property
    def incarnation(self) -> int:
        """What the domain last claimed to be, within what it was told."""
        return self._incarnations.current

    @property
    def discarded_frames(self) -> int:
        """Frames of older incarnations that were ignored."""
        return self._incarnations.discarded

    @property
    def closed(self) -> bool:
        """Nothing can be requested any more."""
        return self._closed_by is not None

    def start(self) -> None:
        """Begin to read and write; needs a running event loop."""
        self._tasks = [
            asyncio.create_task(self._read(), name="xpc-read"),
            asyncio.create_task(self._write(), name="xpc-write"),
        ]

    async def close(self) -> None:
        """End the channel and close the socket; whoever waits gets ChannelClosed. May be repeated."""
        self._end(ChannelClosed("closed"))
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._connection.close()

    async def request(self, message: Request[R], timeout_seconds: float) -> R:
        """Send ``message``, return its reply.

        Raises RequestError (the agent refused), XpcTimeout (no reply within ``timeout_seconds``; one that
        comes later is a violation), ChannelClosed (ended, or too many requests wait), ProtocolError (the
        reply was wrong).
        """
        pending = self._submit(message)
        sequence = self._sequence
        try:
            async with asyncio.timeout(timeout_seconds):
                return await pending.future  # type: ignore[return-value]  # _settle made it of class REPLY
        except TimeoutError:
            raise XpcTimeout(f"no reply to {message.TYPE} within {timeout_seconds} s") from None
        finally:
            self._pending.pop(sequence, None)

    async def resync(self, timeout_seconds: float, nonce: str | None = None) -> None:
        """Get into step on a socket that another process has used (adoption). Call right after ``start``.

        Whatever arrives before the reply to our ``sync`` is discarded. Raises as ``request`` does.
        """
        self._sync_nonce = nonce = nonce or secrets.token_hex(16)
        self._decoder = Decoder(resync=True, max_skipped_bytes=2 * wire.MAX_FRAME_BYTES)
        # Our predecessor may have died in the middle of a frame: complete it with zeros, however long.
        self._enqueue(bytes(wire.MAX_FRAME_BYTES))
        await self.request(Sync(nonce), timeout_seconds)

    def _submit(self, message: Request[R]) -> _Pending:
        if self._closed_by is not None:
            raise ChannelClosed(f"channel is closed: {self._closed_by}")
        if len(self._pending) >= MAX_PENDING:
            raise ChannelClosed(f"{MAX_PENDING} requests are waiting already")
        resume_to = message.incarnation if isinstance(message, Resume) else None
        if resume_to is not None:
            self._incarnations.allow(resume_to)
        sequence = self._sequence % _UINT32 + 1
        payload = messages.request_payload(message)
        self._enqueue(wire.encode(Frame(wire.REQUEST, sequence, self.incarnation, payload)))
        self._sequence = sequence
        pending = self._pending[sequence] = _Pending(message.REPLY, resume_to)
        return pending

    def _enqueue(self, data: bytes) -> None:
        try:
            self._outgoing.put_nowait(data)
        except asyncio.QueueFull:
            raise ChannelClosed("the domain does not take our requests") from None

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                await loop.sock_sendall(self._connection, await self._outgoing.get())
        except OSError as error:
            self._end(ChannelClosed(f"write: {error}"))

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await loop.sock_recv(self._connection, _READ_BYTES):
                for frame in self._decoder.feed(data):
                    self._take(frame)
                    if self.closed:
                        return
            self._end(ChannelClosed("end of file"))
        except OSError as error:
            self._end(ChannelClosed(f"read: {error}"))
        except ProtocolError as error:
            self._violate(error)

    def _take(self, frame: Frame) -> None:
        if self._sync_nonce is not None and not self._is_sync_reply(frame):
            return
        if frame.kind == wire.EVENT:
            if self._incarnations.accepts(frame.incarnation):
                self._count_event()
                self._on_event(messages.parse_event(frame.payload))
        elif frame.kind in (wire.REPLY, wire.ERROR):
            self._settle(frame)
        else:
            raise ProtocolError(f"frame of kind {frame.kind} from a domain")

    def _is_sync_reply(self, frame: Frame) -> bool:
        if frame.kind != wire.REPLY or frame.payload != {"nonce": self._sync_nonce}:
            return False
        self._sync_nonce = None
        self._decoder.strict()
        return True

    def _settle(self, frame: Frame) -> None:
        """Give a reply to whoever waits for it. Raises ProtocolError if nobody does or it is malformed."""
        pending = self._pending.pop(frame.sequence, None)
        if pending is None:
            if self._incarnations.accepts(frame.incarnation):
                raise ProtocolError(f"late or unexpected reply {frame.sequence}")
            return
        try:
            if not self._incarnations.accepts(frame.incarnation):
                raise ProtocolError(f"reply of incarnation {frame.incarnation}")
            if frame.kind == wire.ERROR:
                result: Message | RequestError = RequestError(messages.parse_error(frame.payload))
            else:
                if pending.resume_to is not None and frame.incarnation != pending.resume_to:
                    raise ProtocolError("resumed as another incarnation")
                result = pending.reply.parse(frame.payload)
        except ProtocolError as error:
            _fail(pending, error)
            raise
        if isinstance(result, RequestError):
            _fail(pending, result)
        elif not pending.future.done():
            pending.future.set_result(result)

    def _count_event(self) -> None:
        now = asyncio.get_running_loop().time()
        since, count = self._event_window
        if now - since >= 1:
            since, count = now, 0
        if count >= MAX_EVENTS_PER_SECOND:
            raise ProtocolError(f"more than {MAX_EVENTS_PER_SECOND} events a second")
        self._event_window = (since, count + 1)

    def _violate(self, error: ProtocolError) -> None:
        if not self.closed:
            self._end(error)
            self._on_violation(error)

    def _end(self, error: XpcError) -> None:
        if self._closed_by is not None:
            return
        self._closed_by = error
        for pending in self._pending.values():
            _fail(pending, ChannelClosed(str(error)))
        self._pending.clear()


def _fail(pending: _Pending, error: XpcError) -> None:
    if not pending.future.done():
        pending.future.set_exception(error)
