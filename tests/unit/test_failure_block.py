"""Silent disks: a driver that doesn't answer is told from a medium that is slow, and bad sectors from dead drivers."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from fakes import FakeClock

from nooks.failure.block import BlockDetector, BlockLimits, Work
from nooks.failure.report import FailureReport, Reason

LIMITS = BlockLimits()


class World:
    """A driver with one request since ``asked_at``, and what is seen behind it."""

    def __init__(self, load: float = 1.0) -> None:
        self.clock = FakeClock()
        self.asked_at: float | None = None
        self.work: Work | None = Work(busy=False, done=0)
        self.moving = False
        self.refusals: int | None = 0
        self.reports: list[FailureReport] = []
        self.detector = BlockDetector(self.oldest, self, self.clock, self.reports.append, load=lambda: load)

    def oldest(self) -> float | None:
        return None if self.asked_at is None else self.clock.monotonic() - self.asked_at

    async def look(self) -> Work | None:
        if self.moving and self.work is not None:
            self.work = self.work._replace(done=self.work.done + 1)
        return self.work

    async def refused(self) -> int | None:
        return self.refusals

    async def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.05)):
            await self.clock.advance(0.05)

    @property
    def reasons(self) -> list[Reason]:
        return [report.reason for report in self.reports]


def run(test: Callable[[World], Awaitable[None]], load: float = 1.0) -> None:
    async def within() -> None:
        world = World(load)
        world.detector.begin(3)
        await test(world)
        world.detector.end()
        await world.clock.settle()

    asyncio.run(within())


def test_an_unanswered_request_that_nobody_works_on_convicts() -> None:
    async def test(world: World) -> None:
        world.asked_at = world.clock.monotonic()
        await world.pass_time(0.9)
        assert world.reports == []
        await world.pass_time(1.0)
        assert world.reasons == [Reason.NO_PROGRESS]
        assert world.reports[0].incarnation == 3
        await world.pass_time(5.0)
        assert len(world.reports) == 1

    run(test)


def test_a_busy_machine_is_given_longer() -> None:
    async def test(world: World) -> None:
        world.asked_at = world.clock.monotonic()
        await world.pass_time(3.5)
        assert world.reports == []
        await world.pass_time(1.5)
        assert world.reasons == [Reason.NO_PROGRESS]

    run(test, load=4.0)


def test_a_slow_medium_is_waited_for() -> None:
    async def test(world: World) -> None:
        world.asked_at = world.clock.monotonic()
        world.work = Work(busy=True, done=0)
        await world.pass_time(60.0)
        assert world.reports == []
        assert world.detector.slow
        world.asked_at = None
        await world.pass_time(0.5)
        assert not world.detector.slow

    run(test)


def test_requests_that_are_answered_in_turn_are_no_suspicion() -> None:
    async def test(world: World) -> None:
        for _ in range(40):
            world.asked_at = world.clock.monotonic()
            await world.pass_time(0.5)
        assert world.reports == []

    run(test)


def test_one_request_left_behind_while_others_are_answered_convicts_in_the_end() -> None:
    async def test(world: World) -> None:
        world.asked_at = world.clock.monotonic()
        world.moving = True
        await world.pass_time(LIMITS.moving_seconds - 0.5)
        assert world.reports == []
        await world.pass_time(1.0)
        assert world.reasons == [Reason.NO_PROGRESS]

    run(test)


def test_a_real_device_is_given_long() -> None:
    async def test(world: World) -> None:
        world.asked_at = world.clock.monotonic()
        world.work = None
        await world.pass_time(LIMITS.unseen_seconds - 0.5)
        assert world.reports == []
        await world.pass_time(1.0)
        assert world.reasons == [Reason.NO_PROGRESS]

    run(test)


def test_a_bad_sector_is_no_dead_driver() -> None:
    async def test(world: World) -> None:
        for _ in range(100):
            world.detector.error(4096)
            await world.pass_time(0.1)
        assert world.reports == []

    run(test)


def test_errors_now_and_then_are_no_burst() -> None:
    async def test(world: World) -> None:
        for number in range(50):
            world.detector.error(number * 4096)
            await world.pass_time(0.5)
        assert world.reports == []

    run(test)


class Doubted:
    """Requests that failed, as the data path has them."""

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self.told = 0

    def doubted(self) -> int:
        return self.count

    def believe(self) -> None:
        self.told += self.count
        self.count = 0


@pytest.mark.parametrize(("refusals", "believed"), [(0, 0), (1, 1), (None, 1)])
def test_an_error_of_which_the_hosts_disk_knows_nothing_is_the_drivers(refusals: int | None, believed: int) -> None:
    """Nobody knows of a real device's disk: it is believed."""

    async def test(world: World) -> None:
        world.refusals = refusals
        doubted = Doubted()
        world.detector.doubt({"offset": 4096}, doubted)
        await world.clock.settle()
        assert doubted.told == believed
        assert world.reasons == ([] if believed else [Reason.IO_ERRORS])

    run(test)


def test_errors_that_a_restart_did_not_end_are_believed_for_a_while() -> None:
    async def test(world: World) -> None:
        doubted = Doubted()
        world.refusals = 0
        for incarnation, wait, convicted in ((4, 1.0, 1), (5, LIMITS.doubt_seconds, 1), (6, 1.0, 2)):
            doubted.count = 1
            world.detector.doubt({"offset": 4096}, doubted)
            await world.clock.settle()
            assert len(world.reports) == convicted
            world.detector.begin(incarnation)
            await world.pass_time(wait)
        assert doubted.told == 1

    run(test)


def test_errors_that_were_believed_together_are_not_doubted_again() -> None:
    """The host's disk refused two requests; the word of the second one comes when both are settled."""

    async def test(world: World) -> None:
        world.refusals = 2
        doubted = Doubted(2)
        world.detector.doubt({"offset": 4096}, doubted)
        await world.clock.settle()
        world.detector.error(4096)
        world.detector.error(8192)
        world.detector.doubt({"offset": 8192}, doubted)
        await world.clock.settle()
        assert (doubted.told, world.reports) == (2, [])

    run(test)


def test_a_doubt_that_was_settled_meanwhile_convicts_nobody() -> None:
    async def test(world: World) -> None:
        world.refusals = 0
        world.detector.error(4096)  # one that was believed since a restart had not helped
        world.detector.doubt({"offset": 4096}, Doubted(0))
        await world.clock.settle()
        assert world.reports == []

    run(test)


async def burst(world: World) -> None:
    for number in range(LIMITS.errors):
        world.detector.error(number * 4096)
    await world.clock.settle()


@pytest.mark.parametrize(
    ("refusals", "expected"), [(LIMITS.errors, []), (1, [Reason.IO_ERRORS]), (None, [Reason.IO_ERRORS])]
)
def test_a_burst_that_the_hosts_disk_made_is_the_mediums(refusals: int | None, expected: list[Reason]) -> None:
    async def test(world: World) -> None:
        world.refusals = refusals
        await burst(world)
        assert world.reasons == expected

    run(test)


def test_a_burst_all_over_the_disk_convicts_and_the_next_has_to_wait() -> None:
    async def test(world: World) -> None:
        await burst(world)
        assert world.reasons == [Reason.IO_ERRORS]
        for incarnation, wait, expected in ((4, 30.0, 1), (5, 35.0, 2), (6, 90.0, 2), (7, 40.0, 3)):
            await world.pass_time(wait)
            world.detector.begin(incarnation)
            await burst(world)
            assert len(world.reports) == expected, incarnation

    run(test)


@pytest.mark.parametrize("seconds", [0.0, 5.0])
def test_nothing_is_said_of_what_does_not_serve(seconds: float) -> None:
    async def test(world: World) -> None:
        world.asked_at = world.clock.monotonic()
        await world.pass_time(0.9)
        world.detector.end()
        await burst(world)
        await world.pass_time(seconds)
        assert world.reports == []

    run(test)
