"""Errors of a device that are not believed at once: what is answered, and what is never heard of."""

from errno import EIO

import pytest
from block_world import World, run

from nooks.xpc.block import FLUSH, READ, WRITE


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


def test_a_drive_without_a_medium_is_not_doubted() -> None:
    async def test(world: World) -> None:
        domain = await world.driver_comes()
        domain.errors[READ] = 5
        world.path.change(None, doubting=False)
        assert await world.answer(world.front.ask(READ, 4096, 4096)) == (EIO, b"")
        assert world.told.doubts == []
        world.path.change(None, doubting=True)
        reading = world.front.ask(READ, 4096, 4096)
        await world.until(lambda: world.told.doubts)
        assert not world.front.is_answered(reading)
        world.path.believe()

    run(test, doubting=True)
