"""The data path between a kernel that asks and domains that come and go."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from errno import EIO
from typing import Any

import pytest
from block_fakes import FakeDomain, FakeFront

from nooks.nook.block_data import DataPath
from nooks.shadow.integrity import IntegrityMap
from nooks.shadow.requests import RequestLog
from nooks.shadow.write_log import WriteLog
from nooks.xpc.block import DISCARD, FLUSH, READ, REPLY, REQUEST_BYTES_MAX, WRITE
from nooks.xpc.errors import ProtocolError

SIZE = 8 << 20


class Told:
    """A Listener that remembers."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.corruptions: list[Mapping[str, Any]] = []
        self.refusals: list[tuple[Mapping[str, Any], str]] = []
        self.errors: list[Mapping[str, Any]] = []
        self.doubts: list[Mapping[str, Any]] = []
        self.ended = 0

    def violated(self, error: ProtocolError) -> None:
        self.violations.append(str(error))

    def corrupted(self, request: Mapping[str, Any]) -> None:
        self.corruptions.append(request)

    def refused(self, request: Mapping[str, Any], why: str) -> None:
        self.refusals.append((request, why))

    def doubted(self, request: Mapping[str, Any]) -> None:
        self.doubts.append(request)

    def device_error(self, request: Mapping[str, Any]) -> None:
        self.errors.append(request)

    def gone(self) -> None:
        self.ended += 1


class World:
    """A data path with all that is around it."""

    def __init__(self, *, doubting: bool = False) -> None:
        self.disk = bytearray(SIZE)
        self.front = FakeFront()
        self.told = Told()
        self.store = WriteLog.create(ring_bytes=8 << 20)
        self.path = DataPath(RequestLog(self.store), self.store)
        self.path.start(self.told)
        self.path.serve(self.front, IntegrityMap(SIZE), doubting=doubting)
        self.domains: list[FakeDomain] = []

    async def driver_comes(self, *, held: bool = False, errors: Mapping[int, int] | None = None) -> FakeDomain:
        domain = FakeDomain(self.disk, held=held)
        domain.errors.update(errors or {})
        self.domains.append(domain)
        replaying = asyncio.ensure_future(self.path.replay(domain.link, write_through=False))
        if not held:
            await asyncio.wait_for(replaying, 10)
        else:
            replaying.add_done_callback(lambda future: future.cancelled() or future.exception())
        return domain

    def driver_dies(self, *, counts: bool = False) -> None:
        self.path.lose(counts=counts)
        self.domains[-1].die()

    async def answer(self, handle: int) -> tuple[int, bytes]:
        return await asyncio.to_thread(self.front.answer_to, handle)

    async def until(self, holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + 10
        while not holds():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)

    def close(self) -> None:
        self.path.close()
        for domain in self.domains:
            if domain.link.region_fd >= 0:
                domain.die()
        self.store.close()
        self.front.close()


@asynccontextmanager
async def world(*, doubting: bool = False) -> AsyncGenerator[World, None]:
    made = World(doubting=doubting)
    try:
        yield made
        assert made.front.twice == []
    finally:
        made.close()


def run(test: Callable[[World], Awaitable[None]], *, doubting: bool = False) -> None:
    async def within() -> None:
        async with world(doubting=doubting) as made:
            await test(made)

    asyncio.run(within())


def test_what_is_written_is_read_back() -> None:
    async def test(world: World) -> None:
        await world.driver_comes()
        data = random.Random(1).randbytes(REQUEST_BYTES_MAX)
        assert await world.answer(world.front.ask(WRITE, 4096, data=data)) == (0, b"")
        assert await world.answer(world.front.ask(FLUSH)) == (0, b"")
        assert await world.answer(world.front.ask(READ, 4096, len(data))) == (0, data)
        assert await world.answer(world.front.ask(DISCARD, 4096, 8192)) == (0, b"")
        assert (await world.answer(world.front.ask(READ, 4096, 8192)))[1] == bytes(8192)
        facts = world.path.facts()
        assert facts["requests"] == {"read": 2, "write": 1, "flush": 1, "zero": 0, "discard": 1}
        assert facts["outstanding"] == 0

    run(test)


def test_requests_wait_for_a_driver_and_are_answered_by_the_next() -> None:
    async def test(world: World) -> None:
        early = world.front.ask(WRITE, 0, data=b"a" * 4096)
        await asyncio.sleep(0.05)
        assert not world.front.is_answered(early)
        await world.driver_comes(held=True)
        await world.until(lambda: world.domains[-1].seen)
        reading = world.front.ask(READ, 8192, 4096)
        world.driver_dies()
        await world.driver_comes()
        assert await world.answer(early) == (0, b"")
        assert (await world.answer(reading))[0] == 0

    run(test)


def test_the_next_driver_repeats_what_no_flush_has_covered() -> None:
    async def test(world: World) -> None:
        await world.driver_comes()
        flushed = world.front.ask(WRITE, 0, data=b"1" * 4096)
        await world.answer(flushed)
        await world.answer(world.front.ask(FLUSH))
        for block in range(1, 5):
            await world.answer(world.front.ask(WRITE, block * 4096, data=b"%d" % block * 4096))
        world.driver_dies()
        world.disk[:] = bytes(SIZE)  # all that was in its cache is forgotten, and more
        domain = await world.driver_comes()
        assert [seen[:2] for seen in domain.seen] == [*((WRITE, block * 4096) for block in range(1, 5)), (FLUSH, 0)]
        assert world.disk[4096 : 5 * 4096] == b"".join(b"%d" % block * 4096 for block in range(1, 5))
        assert world.path.facts()["unflushed_writes"] == 0

    run(test)


def test_a_dying_driver_can_t_change_what_is_repeated() -> None:
    """It may scribble on all that it can reach: its region."""

    async def test(world: World) -> None:
        domain = await world.driver_comes()
        domain.held = True
        written = world.front.ask(WRITE, 0, data=b"truth" * 1000 + bytes(120))
        await world.until(lambda: domain.seen)
        domain.link.region[:] = b"\xff" * len(domain.link.region)
        world.driver_dies()
        await world.driver_comes()
        await world.answer(written)
        assert world.disk[:5000] == b"truth" * 1000

    run(test)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\0" * REPLY.size,
        REPLY.pack(0x4B52, 0, 77777, 0, 0x70E5A97D),
        REPLY.pack(0x4B52, 1, 1, 4096, 0x70E5A97D),
        REPLY.pack(0x4B52, 0, 1, 4095, 0x70E5A97D),
        REPLY.pack(0x4B52, 0, 1, 8192, 0x70E5A97D),
        REPLY.pack(0x4B52, 0, 1, -100000, 0x70E5A97D),
        REPLY.pack(0x4B52, 0, 1, 4096, 0x70E5A97D) * 2,
    ],
    ids=["magic", "unknown", "reserved", "short", "long", "errno", "twice"],
)
def test_nonsense_from_the_domain_is_told_once_and_ends_the_conversation(nonsense: bytes) -> None:
    async def test(world: World) -> None:
        domain = await world.driver_comes()
        domain.held = True
        reading = world.front.ask(READ, 0, 4096)
        await world.until(lambda: domain.seen)
        domain.say(nonsense)
        await world.until(lambda: world.told.violations)
        answered = world.front.is_answered(reading)
        domain.reply(1, 4096)
        domain.say(nonsense)
        await asyncio.sleep(0.05)
        assert len(world.told.violations) == 1
        assert world.front.is_answered(reading) == answered
        world.driver_dies()
        await world.driver_comes()
        assert await world.answer(reading) == (0, bytes(4096))

    run(test)


def test_errors_of_the_device_are_passed_on_and_told() -> None:
    async def test(world: World) -> None:
        domain = await world.driver_comes()
        domain.errors[READ] = 5
        assert await world.answer(world.front.ask(READ, 512, 512)) == (EIO, b"")
        await world.until(lambda: world.told.errors)
        assert world.told.errors == [{"request": "read", "offset": 512, "length": 512, "error": 5}]
        assert world.told.violations == []

    run(test)


@pytest.mark.parametrize("operation", [READ, WRITE, FLUSH])
def test_an_error_that_is_doubted_is_no_answer_until_it_is_believed(operation: int) -> None:
    async def test(world: World) -> None:
        domain = await world.driver_comes()
        domain.errors[operation] = 5
        length = 0 if operation == FLUSH else 512
        asked = world.front.ask(operation, 512, length, data=b"x" * length if operation == WRITE else b"")
        await world.until(lambda: world.told.doubts)
        assert not world.front.is_answered(asked)
        assert world.told.errors == []
        world.path.believe()
        assert await world.answer(asked) == (EIO, b"")
        await world.until(lambda: world.told.errors)
        world.path.believe()  # nothing is left of it
        assert len(world.told.errors) == 1

    run(test, doubting=True)


def test_an_error_that_a_driver_made_up_is_never_heard_of() -> None:
    async def test(world: World) -> None:
        domain = await world.driver_comes()
        domain.errors[WRITE] = 121
        writing = world.front.ask(WRITE, 4096, data=b"w" * 4096)
        await world.until(lambda: world.told.doubts)
        world.driver_dies(counts=True)
        await world.driver_comes()
        assert await world.answer(writing) == (0, b"")
        assert await world.answer(world.front.ask(READ, 4096, 4096)) == (0, b"w" * 4096)
        assert world.told.errors == []

    run(test, doubting=True)


def test_an_error_that_the_next_driver_tells_of_as_well_is_the_devices() -> None:
    async def test(world: World) -> None:
        await world.driver_comes(errors={READ: 5})
        reading = world.front.ask(READ, 4096, 4096)
        await world.until(lambda: world.told.doubts)
        world.driver_dies(counts=True)
        await world.driver_comes(errors={READ: 5})
        assert await world.answer(reading) == (EIO, b"")
        assert len(world.told.doubts) == 1

    run(test, doubting=True)


def test_a_read_that_differs_is_read_again_by_a_fresh_driver() -> None:
    async def test(world: World) -> None:
        domain = await world.driver_comes()
        await world.answer(world.front.ask(WRITE, 0, data=b"t" * 8192))
        domain.lie = lambda data: b"l" + data[1:]
        reading = world.front.ask(READ, 0, 8192)
        await world.until(lambda: world.told.corruptions)
        assert world.told.corruptions == [{"request": "read", "offset": 0, "length": 8192, "wrong_at": 0}]
        assert not world.front.is_answered(reading)
        world.driver_dies(counts=True)
        await world.driver_comes()
        assert await world.answer(reading) == (0, b"t" * 8192)
        assert world.told.refusals == []

    run(test)


def test_what_is_wrong_on_the_medium_is_an_error_until_it_is_written() -> None:
    async def test(world: World) -> None:
        await world.driver_comes()
        await world.answer(world.front.ask(WRITE, 0, data=b"t" * 8192))
        await world.answer(world.front.ask(FLUSH))
        world.disk[4096] = 1
        reading = world.front.ask(READ, 0, 8192)
        await world.until(lambda: world.told.corruptions)
        world.driver_dies(counts=True)
        await world.driver_comes()
        assert await world.answer(reading) == (EIO, b"")
        await world.until(lambda: world.told.refusals)
        assert world.told.refusals[0][1] == "corruption"
        assert await world.answer(world.front.ask(READ, 4096, 4096)) == (EIO, b"")
        assert (await world.answer(world.front.ask(READ, 0, 4096)))[0] == 0
        await world.answer(world.front.ask(WRITE, 4096, data=b"n" * 4096))
        assert await world.answer(world.front.ask(READ, 4096, 4096)) == (0, b"n" * 4096)
        assert len(world.told.corruptions) == 1

    run(test)


def test_a_write_that_was_kept_mends_what_a_driver_got_wrong() -> None:
    async def test(world: World) -> None:
        await world.driver_comes()
        await world.answer(world.front.ask(WRITE, 0, data=b"t" * 4096))
        world.disk[0] = 1
        reading = world.front.ask(READ, 0, 4096)
        await world.until(lambda: world.told.corruptions)
        world.driver_dies(counts=True)
        await world.driver_comes()
        assert await world.answer(reading) == (0, b"t" * 4096)

    run(test)


def test_a_request_that_kills_three_drivers_fails() -> None:
    async def test(world: World) -> None:
        await world.driver_comes()
        world.domains[-1].held = True
        killer = world.front.ask(READ, 0, 4096)
        for _ in range(3):
            await world.until(lambda: (READ, 0, 4096) in world.domains[-1].seen)
            world.driver_dies(counts=True)
            await world.driver_comes(held=True)
        assert await world.answer(killer) == (EIO, b"")
        await world.until(lambda: world.told.refusals)
        assert world.told.refusals == [({"request": "read", "offset": 0, "length": 4096}, "deterministic")]

    run(test)


def test_given_up_requests_fail_until_there_is_a_driver() -> None:
    async def test(world: World) -> None:
        waiting = world.front.ask(WRITE, 0, data=b"x" * 512)
        await asyncio.sleep(0.05)
        world.path.give_up()
        assert await world.answer(waiting) == (EIO, b"")
        assert await world.answer(world.front.ask(READ, 0, 512)) == (EIO, b"")
        await world.driver_comes()
        assert await world.answer(world.front.ask(READ, 0, 512)) == (0, bytes(512))

    run(test)


def test_a_ring_without_room_lets_writes_wait_for_a_flush() -> None:
    async def test(world: World) -> None:
        domain = await world.driver_comes()
        writes = [
            world.front.ask(WRITE, (number % 8) * REQUEST_BYTES_MAX, data=bytes([number]) * REQUEST_BYTES_MAX)
            for number in range(40)
        ]
        for write in writes:
            assert await world.answer(write) == (0, b"")
        assert any(seen[0] == FLUSH for seen in domain.seen)
        for number in range(32, 40):
            assert world.disk[(number % 8) * REQUEST_BYTES_MAX] == number

    run(test)


def test_writes_fail_where_flushes_do_and_there_is_no_room() -> None:
    async def test(world: World) -> None:
        domain = await world.driver_comes()
        domain.errors[FLUSH] = EIO
        writes = [world.front.ask(WRITE, 0, data=bytes(REQUEST_BYTES_MAX)) for _ in range(12)]
        answers = [await world.answer(write) for write in writes]
        assert answers[0] == (0, b"")
        assert answers[-1] == (EIO, b"")
        assert (await world.answer(world.front.ask(READ, 0, 4096)))[0] == 0
        domain.errors.clear()
        assert (await world.answer(world.front.ask(FLUSH)))[0] == 0
        assert (await world.answer(world.front.ask(WRITE, 0, data=bytes(REQUEST_BYTES_MAX))))[0] == 0

    run(test)


def test_an_endpoint_that_is_taken_away_is_told() -> None:
    async def test(world: World) -> None:
        world.front.end()
        await world.until(lambda: world.told.ended)

    run(test)


def test_random_deaths_lose_nothing() -> None:
    async def test(world: World) -> None:
        source = random.Random(7)
        expected = bytearray(SIZE)
        await world.driver_comes()
        for _ in range(30):
            handles: list[int] = []
            for _ in range(source.randrange(1, 20)):
                offset, length = source.randrange(0, 1000) * 512, source.randrange(1, 64) * 512
                data = source.randbytes(length)
                expected[offset : offset + length] = data
                handles.append(world.front.ask(WRITE, offset, data=data))
            if source.random() < 0.3:
                handles.append(world.front.ask(FLUSH))
            if source.random() < 0.5:
                world.domains[-1].held = True
                await asyncio.sleep(0.002)
            if source.random() < 0.8:
                world.driver_dies(counts=source.random() < 0.5)
                await world.driver_comes()
            world.domains[-1].held = False
            if not all(world.front.is_answered(handle) for handle in handles):
                world.driver_dies()
                await world.driver_comes()
            for handle in handles:
                assert (await world.answer(handle))[0] == 0
        assert world.disk == expected
        assert world.told.corruptions == world.told.refusals == []

    run(test)
