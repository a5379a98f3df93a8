"""The host's end of the channel against a domain that behaves, and against many that do not."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nooks.xpc import messages, wire
from nooks.xpc.channel import MAX_EVENTS_PER_SECOND, Channel
from nooks.xpc.errors import ChannelClosed, ProtocolError, RequestError, XpcTimeout
from nooks.xpc.heartbeats import HeartbeatReader
from nooks.xpc.messages import Message
from nooks.xpc.wire import Decoder, Frame

STATE: dict[str, object] = {"class": "network", "carrier": True, "speed": 10, "duplex": "half"}
LINK: dict[str, object] = {"type": "changed", "state": STATE}
Script = Callable[[Frame], list[Frame]]


class Domain:
    """The other end of a channel: answers each request by a script."""

    def __init__(self, incarnation: int = 0) -> None:
        self.host, self.peer = socket.socketpair()
        self.peer.setblocking(False)
        self.events: list[Message] = []
        self.violations: list[ProtocolError] = []
        self.script: Script = lambda frame: []
        self.channel = Channel(
            self.host, on_event=self.events.append, on_violation=self.violations.append, incarnation=incarnation
        )
        self._decoder = Decoder(resync=True)

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(self.peer, 65536):
            for frame in self._decoder.feed(data):
                for answer in self.script(frame):
                    await loop.sock_sendall(self.peer, wire.encode(answer))

    async def send(self, *frames: Frame) -> None:
        await self.send_bytes(b"".join(map(wire.encode, frames)))

    async def send_bytes(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.peer, data)


@asynccontextmanager
async def domain(incarnation: int = 0, script: Script | None = None) -> AsyncGenerator[Domain]:
    side = Domain(incarnation)
    if script is not None:
        side.script = script
    side.channel.start()
    server = asyncio.create_task(side.serve())
    try:
        yield side
    finally:
        await side.channel.close()
        await asyncio.wait([server], timeout=5)
        server.cancel()
        side.peer.close()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0.001)


def reply(frame: Frame, payload: dict[str, object], incarnation: int = 0) -> Frame:
    return Frame(wire.REPLY, frame.sequence, incarnation, payload)


def resumed(frame: Frame) -> list[Frame]:
    number = frame.payload.get("incarnation", frame.incarnation)
    assert isinstance(number, int)
    if frame.payload["type"] == "sync":
        return [reply(frame, {"nonce": frame.payload["nonce"]}, number)]
    payload = {"nonce": frame.payload["nonce"], "state": STATE, "readback": {}, "refused": {}}
    return [reply(frame, payload, number)]


RESUME = messages.Resume(5, "aa", 1, "", {})


def run(coroutine: Callable[[], object]) -> None:
    asyncio.run(coroutine())  # type: ignore[arg-type]


def test_request_and_reply() -> None:
    async def body() -> None:
        async with domain(script=resumed) as side:
            answer = await side.channel.request(messages.Sync("12"), 5)
            assert answer == messages.SyncReply("12")
            answers = await asyncio.gather(*(side.channel.request(messages.Sync(str(n)), 5) for n in range(9)))
            assert [item.nonce for item in answers] == [str(n) for n in range(9)]
            assert not side.violations

    run(body)


def test_error_frame_raises_request_error_and_the_channel_goes_on() -> None:
    async def body() -> None:
        async with domain(script=lambda f: [Frame(wire.ERROR, f.sequence, 0, {"message": "no such"})]) as side:
            with pytest.raises(RequestError, match="no such"):
                await side.channel.request(messages.Read(), 5)
            side.script = resumed
            await side.channel.request(messages.Sync("1"), 5)

    run(body)


def test_deadline_then_late_reply_is_one_violation() -> None:
    async def body() -> None:
        async with domain() as side:
            with pytest.raises(XpcTimeout):
                await side.channel.request(messages.Sync("1"), 0.01)
            await side.send(Frame(wire.REPLY, 1, 0, {"nonce": "1"}), Frame(wire.REPLY, 1, 0, {"nonce": "1"}))
            await settle()
            assert len(side.violations) == 1
            with pytest.raises(ChannelClosed):
                await side.channel.request(messages.Sync("1"), 1)

    run(body)


@pytest.mark.parametrize(
    "frame",
    [
        Frame(wire.EVENT, 1, 0, {"type": "nonsense"}),
        Frame(wire.EVENT, 1, 1, LINK),
        Frame(wire.REPLY, 77, 0, {}),
        Frame(wire.REQUEST, 1, 0, {}),
        Frame(wire.HEARTBEAT, 1, 0, {}),
    ],
)
def test_violations_are_reported_once_and_fail_requests(frame: Frame) -> None:
    async def body() -> None:
        async with domain() as side:
            waiting = asyncio.create_task(side.channel.request(messages.Read(), 5))
            await settle()
            await side.send(frame, frame)
            await settle()
            await side.channel.close()
            with pytest.raises(ChannelClosed):
                await waiting
            assert len(side.violations) == 1

    run(body)


@pytest.mark.parametrize("payload", [{"nonce": 1}, {}, {"nonce": "1", "more": 1}])
def test_malformed_reply_raises_and_is_a_violation(payload: dict[str, object]) -> None:
    async def body() -> None:
        async with domain(script=lambda f: [reply(f, payload)]) as side:
            with pytest.raises(ProtocolError):
                await side.channel.request(messages.Sync("1"), 5)
            assert len(side.violations) == 1
            assert side.channel.closed

    run(body)


def test_resume_changes_the_incarnation_and_older_frames_are_discarded() -> None:
    async def body() -> None:
        async with domain(script=resumed) as side:
            await side.send(Frame(wire.EVENT, 1, 0, LINK))
            await side.channel.request(RESUME, 5)
            assert side.channel.incarnation == 5
            await side.send(Frame(wire.EVENT, 2, 0, {"type": "?"}), Frame(wire.EVENT, 3, 5, LINK))
            await settle()
            assert len(side.events) == 2
            assert side.channel.discarded_frames == 1
            assert not side.violations
            await side.send(Frame(wire.EVENT, 3, 6, LINK))
            await settle()
            assert len(side.violations) == 1

    run(body)


def test_resume_answered_by_the_old_incarnation_is_a_violation() -> None:
    async def body() -> None:
        payload: dict[str, object] = {"nonce": "aa", "state": STATE, "readback": {}, "refused": {}}
        async with domain(script=lambda f: [reply(f, payload, 0)]) as side:
            with pytest.raises(ProtocolError):
                await side.channel.request(RESUME, 5)
            assert len(side.violations) == 1

    run(body)


@pytest.mark.parametrize("stale", [b"", b"\x01\x02\x03NK\x01", wire.encode(Frame(wire.EVENT, 1, 5, LINK))[7:]])
def test_adoption_in_the_middle_of_everything(stale: bytes) -> None:
    async def body() -> None:
        side = Domain(incarnation=5)
        side.script = resumed
        loop = asyncio.get_running_loop()
        # the predecessor died half-way through a request, and left replies unread
        await loop.sock_sendall(side.host, wire.encode(Frame(wire.REQUEST, 1, 5, {}))[:15])
        await side.send_bytes(stale + wire.encode(Frame(wire.REPLY, 1, 5, {"nonce": "old"})))
        side.channel.start()
        server = asyncio.create_task(side.serve())
        await side.channel.resync(5)
        await side.channel.request(messages.Sync("2"), 5)
        assert not side.violations
        await side.send_bytes(b"garbage now counts")
        await settle()
        assert len(side.violations) == 1
        await side.channel.close()
        await server
        side.peer.close()

    run(body)


def test_flood_of_events_is_a_violation() -> None:
    async def body() -> None:
        async with domain() as side:
            await side.send(*[Frame(wire.EVENT, n, 0, LINK) for n in range(MAX_EVENTS_PER_SECOND + 5)])
            await settle()
            assert len(side.violations) == 1
            assert len(side.events) == MAX_EVENTS_PER_SECOND

    run(body)


def test_requests_that_nobody_takes_are_bounded() -> None:
    async def body() -> None:
        side = Domain()
        side.channel.start()
        big = messages.Resume(1, "", 0, "ab" * 512, {})
        with pytest.raises(ChannelClosed):  # noqa: PT012 - some request in the loop
            for _ in range(2000):
                with pytest.raises(XpcTimeout):
                    await side.channel.request(big, 0.001)
        await side.channel.close()
        side.peer.close()

    run(body)


def test_end_of_file_closes_without_a_violation() -> None:
    async def body() -> None:
        async with domain() as side:
            waiting = asyncio.create_task(side.channel.request(messages.Read(), 5))
            await settle()
            side.peer.shutdown(socket.SHUT_WR)
            with pytest.raises(ChannelClosed):
                await waiting
            assert side.channel.closed
            assert not side.violations

    run(body)


def link_frame(numbers: tuple[int, int, int]) -> bytes:
    return wire.encode(Frame(*numbers, dict(LINK)))


FRAME_BYTES = st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 2)).map(link_frame)


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=100) | FRAME_BYTES, max_size=6))
def test_no_bytes_from_a_domain_escape_as_another_exception(chunks: list[bytes]) -> None:
    async def body() -> None:
        async with domain() as side:
            waiting = asyncio.create_task(side.channel.request(messages.Read(), 1))
            await asyncio.sleep(0)
            for chunk in chunks:
                await side.send_bytes(chunk)
            await asyncio.sleep(0.002)
            await side.channel.close()
            with pytest.raises((ChannelClosed, ProtocolError, RequestError)):
                await waiting
            assert len(side.violations) <= 1

    run(body)


async def beats(data: bytes, incarnation: int = 0, adopted: bool = False) -> tuple[list[tuple[object, ...]], int]:
    host, peer = socket.socketpair()
    seen: list[tuple[object, ...]] = []
    violations: list[ProtocolError] = []
    reader = HeartbeatReader(
        host,
        on_beat=lambda count, counters, incarnation: seen.append((count, counters, incarnation)),
        on_violation=violations.append,
        incarnation=incarnation,
        adopted=adopted,
    )
    reader.allow(incarnation + 1)
    reader.start()
    peer.sendall(data)
    await settle()
    await reader.close()
    peer.close()
    return seen, len(violations)


def beat(count: int, incarnation: int, **payload: object) -> bytes:
    return wire.encode(Frame(wire.HEARTBEAT, count, incarnation, payload))


def test_heartbeats() -> None:
    stream = beat(1, 0) + beat(2, 0, counters={"nic_rx": 3}) + beat(3, 1) + beat(4, 0) + beat(5, 1)
    assert asyncio.run(beats(stream)) == ([(1, None, 0), (2, {"nic_rx": 3}, 0), (3, None, 1), (5, None, 1)], 0)


@pytest.mark.parametrize(
    "stream",
    [
        beat(2, 0) + beat(2, 0),
        beat(1, 9),
        beat(1, 0, counters={"nic_rx": -1}),
        wire.encode(Frame(wire.EVENT, 1, 0, LINK)),
        b"xx",
    ],
)
def test_heartbeat_violations(stream: bytes) -> None:
    assert asyncio.run(beats(stream))[1] == 1


def test_heartbeats_adopted_in_the_middle_of_a_frame() -> None:
    stream = beat(1, 0)[9:] + beat(2, 0) + beat(3, 0)
    assert asyncio.run(beats(stream, adopted=True)) == ([(2, None, 0), (3, None, 0)], 0)
