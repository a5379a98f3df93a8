"""The recovery manager when somebody asks for something: start, stop, a planned restart, adoption, letting go."""

import asyncio

import pytest
from fakes import Step, run
from recovery_world import World, scenario

from nooks.failure.report import FailureReport, Reason
from nooks.host.errors import NooksError
from nooks.recovery.protocols import FenceError, ReplayMismatchError, State


def test_a_failed_start_is_the_callers_to_see() -> None:
    async def main() -> None:
        world = World()
        world.restarter.restarts.append(Step(error=NooksError("no memory"), half=True))
        with pytest.raises(NooksError, match="no memory"):
            await world.clock.run(world.manager.start())
        assert world.manager.state is State.STOPPED
        assert world.restarter.live == set()
        assert world.events.words == ["failed", "stopped"]
        await world.clock.run(world.manager.start())
        assert world.restarter.live == {2}
        world.sound()

    run(main)


def test_a_cancelled_start_leaves_nothing() -> None:
    async def main() -> None:
        world = World()
        world.restarter.restarts.append(Step(30, half=True))
        task = asyncio.create_task(world.manager.start())
        await world.clock.advance(5)
        assert world.restarter.live == {1}
        task.cancel()
        await world.quiet(60)
        assert task.cancelled()
        assert world.manager.state is State.STOPPED
        assert world.restarter.live == set()
        world.sound()

    run(main)


@pytest.mark.parametrize("moment", [0.0, 0.003, 0.01, 0.03, 0.034, 5.0])
@pytest.mark.parametrize("stubborn", [0.0, 2.0])
def test_stop_at_any_moment_of_a_recovery(moment: float, stubborn: float) -> None:
    async def play(world: World) -> None:
        world.restarter.restarts.append(Step(0.02, stubborn=stubborn, half=True))
        world.fail()
        await world.clock.advance(moment)
        await world.clock.run(world.manager.stop())
        assert world.manager.state is State.STOPPED
        assert world.restarter.live == set()
        assert world.events.words[-1] == "stopped"
        await world.quiet()
        assert world.manager.state is State.STOPPED
        await world.manager.stop()  # once more does no harm

    scenario(play)


@pytest.mark.parametrize("moment", [0.01, 61.0])
def test_stop_waits_for_a_restart_that_is_still_being_cancelled(moment: float) -> None:
    async def play(world: World) -> None:
        world.restarter.restarts.append(Step(float("inf"), stubborn=3.0, half=True))
        world.fail()
        await world.clock.advance(moment)  # at 61 s it timed out and was cancelled already
        await world.clock.run(world.manager.stop())
        assert world.manager.state is State.STOPPED

    scenario(play)


def test_stop_goes_on_when_its_caller_is_cancelled_and_is_shared() -> None:
    async def play(world: World) -> None:
        world.restarter.fences.append(Step(3))
        first = asyncio.create_task(world.manager.stop())
        await world.clock.advance(1)
        second = asyncio.create_task(world.manager.stop())
        await world.clock.settle()
        first.cancel()
        await world.clock.advance(5)
        assert first.cancelled()
        assert second.done()
        assert second.exception() is None
        assert world.manager.state is State.STOPPED
        assert world.events.words == ["stopped"]

    scenario(play)


def test_stop_with_a_failed_fence_degrades_and_may_be_repeated() -> None:
    async def play(world: World) -> None:
        world.restarter.fences.append(Step(error=FenceError("D state")))
        with pytest.raises(FenceError):
            await world.clock.run(world.manager.stop())
        assert world.manager.state is State.DEGRADED
        await world.clock.run(world.manager.stop())
        assert world.manager.state is State.STOPPED

    scenario(play)


def test_planned_restart_to_another_kernel() -> None:
    async def play(world: World) -> None:
        await world.clock.run(world.manager.planned("newer"))
        assert world.events.words == ["failed", "fenced", "restarted", "replayed", "resumed"]
        assert world.events.last("failed").reason == "planned"
        counts = world.manager.counts
        assert (counts.failures, counts.recoveries, counts.planned) == (0, 0, 1)
        assert world.restarter.kernel == "newer"
        assert world.events.last("resumed").detail["recovery_seconds"] == pytest.approx(0.035)
        for _ in range(20):  # never counts towards giving up
            await world.clock.run(world.manager.planned())
        assert world.manager.state is State.RUNNING

    scenario(play, intensity=2)


def test_planned_restart_whose_domain_does_not_come_up_changes_nothing() -> None:
    async def play(world: World) -> None:
        world.restarter.stages.append(Step(error=NooksError("no such kernel")))
        with pytest.raises(NooksError, match="no such kernel"):
            await world.clock.run(world.manager.planned("bad"))
        world.restarter.stages.append(Step(float("inf")))
        with pytest.raises(NooksError, match="in time"):
            await world.clock.run(world.manager.planned("slow"))
        assert world.manager.state is State.RUNNING
        assert world.manager.incarnation == 1
        assert not world.events.words

    scenario(play)


def test_planned_restart_whose_domain_does_not_serve_falls_back() -> None:
    async def play(world: World) -> None:
        world.shadow.replays.append(Step(error=ReplayMismatchError("no VLANs")))
        with pytest.raises(NooksError, match="no VLANs"):
            await world.clock.run(world.manager.planned("bad"))
        assert world.manager.state is State.RUNNING
        assert world.restarter.kernel == "first"
        assert world.restarter.used[-2:] == ["bad", "first"]

    scenario(play)


def test_a_failure_while_staging_comes_first() -> None:
    async def play(world: World) -> None:
        world.restarter.stages.append(Step(30))
        task = asyncio.create_task(world.manager.planned("newer"))
        await world.clock.advance(5)
        with pytest.raises(NooksError, match="already"):
            await world.manager.planned()
        world.fail()
        await world.quiet()
        with pytest.raises(NooksError, match="failed or was stopped"):
            await task
        assert world.manager.state is State.RUNNING
        assert world.restarter.used == ["first", "first"]

    scenario(play)


def test_a_cancelled_planned_restart_while_staging_changes_nothing() -> None:
    async def play(world: World) -> None:
        task = asyncio.create_task(world.manager.planned("newer"))
        await world.clock.advance(0.5)
        task.cancel()
        await world.quiet()
        assert task.cancelled()
        assert world.manager.incarnation == 1
        await world.clock.run(world.manager.planned())
        assert world.manager.incarnation == 2

    scenario(play)


def test_stop_during_staging_and_during_rearm() -> None:
    async def play(world: World) -> None:
        task = asyncio.create_task(world.manager.planned("newer"))
        await world.clock.advance(0.5)
        await world.clock.run(world.manager.stop())
        with pytest.raises(NooksError):
            await task
        assert world.manager.state is State.STOPPED

    scenario(play)


def test_adopt_replays_and_serves() -> None:
    async def main() -> None:
        world = World(initial=State.ORPHANED)
        world.restarter.live.add(5)
        await world.clock.run(world.manager.adopt(5))
        assert world.manager.state is State.RUNNING
        assert world.events.words == ["adopted"]
        assert world.restarter.calls == ["served"]
        assert world.manager.incarnation == 5
        world.fail()
        await world.quiet(1)
        assert world.restarter.live == {6}
        world.sound()

    run(main)


@pytest.mark.parametrize("known", [True, False])
def test_adopt_recovers_a_dead_orphan(known: bool) -> None:
    async def main() -> None:
        world = World(initial=State.ORPHANED)
        world.restarter.live.add(5)
        failure = FailureReport(5, Reason.EXIT, world.clock.monotonic(), "test") if known else None
        if not known:
            world.shadow.replays.append(Step(error=NooksError("no answer")))
        await world.clock.run(world.manager.adopt(5, failure))
        assert world.manager.state is State.RUNNING
        assert world.events.words == ["failed", "fenced", "restarted", "replayed", "resumed"]
        assert world.restarter.live == {6}
        assert "activate" in world.shadow.calls
        world.sound()

    run(main)


def test_a_report_during_adoption_is_not_lost() -> None:
    async def main() -> None:
        world = World(initial=State.ORPHANED)
        world.shadow.replays.append(Step(5, during=lambda _n: world.fail(Reason.EXIT)))
        await world.clock.run(world.manager.adopt(5))
        assert world.manager.incarnation == 6
        assert world.manager.state is State.RUNNING
        world.sound()

    run(main)


def test_orphan_lets_go_without_fencing() -> None:
    async def play(world: World) -> None:
        fences = world.restarter.calls.count("fence")
        await world.manager.orphan()
        assert world.manager.state is State.ORPHANED
        assert world.restarter.live == {1}
        assert world.restarter.calls.count("fence") == fences
        world.fail()
        assert world.manager.state is State.ORPHANED

    scenario(play)
