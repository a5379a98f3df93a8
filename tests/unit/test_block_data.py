"""The data path between a kernel that asks and domains that come and go."""

import asyncio
import random
from errno import EIO

import pytest
from block_world import SIZE, World, run

from nooks.xpc.block import DISCARD, FLUSH, READ, REPLY, REQUEST_BYTES_MAX, WRITE


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
