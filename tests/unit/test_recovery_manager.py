"""The recovery manager, step by step, with failures at each of them."""

import asyncio

import pytest
from fakes import Step, run
from recovery_world import World, scenario

from nooks.failure.report import FailureReport, Reason
from nooks.host.errors import NooksError
from nooks.recovery.machine import WrongStateError
from nooks.recovery.manager import RecoveryManager
from nooks.recovery.policy import RestartPolicy
from nooks.recovery.protocols import DomainFailedError, FenceError, ReplayMismatchError, State


def test_start_serves_and_says_so() -> None:
    async def main() -> None:
        world = World()
        await world.clock.run(world.manager.start())
        assert world.states == [State.STARTING, State.RUNNING]
        assert world.events.words == ["started"]
        assert world.restarter.calls == ["fence", "restart 1", "served"]
        assert world.shadow.calls == ["activate", "replay 1", "deactivate"]
        assert world.manager.counts.failures == 0
        with pytest.raises(WrongStateError):
            await world.manager.start()
        world.sound()

    run(main)


def test_one_failure_takes_the_whole_path() -> None:
    async def play(world: World) -> None:
        world.fail(Reason.OOPS)
        assert world.shadow.mode == "active"  # at once, before anything else is awaited
        await world.quiet(1)
        assert world.events.words == ["failed", "fenced", "restarted", "replayed", "resumed"]
        assert world.states == [State.RECOVERING, State.RUNNING]
        assert world.restarter.calls[-3:] == ["fence", "restart 2", "served"]
        assert world.shadow.mode == "passive"
        assert world.events.last("failed").reason == "oops"
        assert [event.incarnation for event in world.events.events] == [1, 1, 2, 2, 2]
        resumed = world.events.last("resumed").detail
        assert resumed["recovery_seconds"] == pytest.approx(0.035)
        assert resumed["steps"] == pytest.approx({"fence": 0.005, "restart": 0.02, "replay": 0.01})
        counts = world.manager.counts
        assert (counts.failures, counts.recoveries) == (1, 1)
        assert counts.last_recovery_seconds == pytest.approx(0.035)

    scenario(play)


def test_detection_time_is_passed_on() -> None:
    async def play(world: World) -> None:
        now = world.clock.monotonic()
        world.manager.report(FailureReport(1, Reason.EXIT, now - 0.5, "test", {"detection_seconds": 0.007}))
        await world.quiet(1)
        resumed = world.events.last("resumed").detail
        assert resumed["detection_seconds"] == 0.007
        assert resumed["recovery_seconds"] == pytest.approx(0.535)

    scenario(play)


def test_stale_reports_are_ignored_and_duplicates_merged() -> None:
    async def play(world: World) -> None:
        world.fail(incarnation=0)
        world.fail(incarnation=7)
        assert world.manager.state is State.RUNNING
        world.fail(Reason.PANIC)
        world.fail(Reason.EXIT)
        await world.quiet(1)
        world.fail(Reason.HEARTBEAT, incarnation=1)
        await world.quiet(1)
        assert world.events.words.count("failed") == 1
        assert world.manager.incarnation == 2
        counts = world.manager.counts
        assert (counts.failures, counts.stale_reports, counts.duplicate_reports) == (1, 3, 1)

    scenario(play)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (Step(error=NooksError("QEMU said no")), "exit"),
        (Step(error=RuntimeError("a defect")), "exit"),
        (Step(error=DomainFailedError("out of memory", reason=Reason.MEMORY)), "memory"),
        (Step(seconds=float("inf")), "no-answer"),
        (Step(error=NooksError("half made"), half=True), "exit"),
    ],
)
def test_a_failed_restart_is_just_another_failure(step: Step, reason: str) -> None:
    async def play(world: World) -> None:
        world.restarter.restarts.append(step)
        world.fail()
        await world.quiet()
        assert world.manager.state is State.RUNNING
        assert world.manager.incarnation == 3
        failed = [event for event in world.events.events if event.event == "failed"]
        assert [event.reason for event in failed] == ["panic", reason]
        assert failed[1].detail["step"] == "restart"
        assert world.events.words.count("fenced") == 2
        assert world.restarter.live == {3}
        assert (world.manager.counts.failures, world.manager.counts.recoveries) == (2, 1)

    scenario(play)


@pytest.mark.parametrize("step", [Step(error=ReplayMismatchError("mtu is 1500, not 9000")), Step(float("inf"))])
def test_a_failed_replay_is_just_another_failure(step: Step) -> None:
    async def play(world: World) -> None:
        world.shadow.replays.append(step)
        world.fail()
        await world.quiet()
        assert world.manager.state is State.RUNNING
        assert world.restarter.live == {3}
        assert world.events.words == [
            *["failed", "fenced", "restarted"],
            *["failed", "fenced", "restarted", "replayed", "resumed"],
        ]

    scenario(play)


@pytest.mark.parametrize("where", ["restart", "replay"])
def test_a_report_about_the_new_incarnation_interrupts_its_step(where: str) -> None:
    async def play(world: World) -> None:
        def strike(incarnation: int) -> None:
            world.fail(Reason.HEARTBEAT, incarnation)

        queue = world.restarter.restarts if where == "restart" else world.shadow.replays
        queue.append(Step(float("inf"), during=strike))
        world.fail()
        await world.quiet(1)  # far less than any timeout
        assert world.manager.state is State.RUNNING
        assert world.restarter.live == {3}
        assert [e.reason for e in world.events.events if e.event == "failed"] == ["panic", "heartbeat"]

    scenario(play)


def test_a_shadow_that_cannot_hand_back_is_just_another_failure() -> None:
    async def play(world: World) -> None:
        world.shadow.deactivate_error = RuntimeError("no")
        world.fail()
        await world.quiet()
        assert world.manager.state is State.RUNNING
        assert world.manager.incarnation == 3

    scenario(play)


@pytest.mark.parametrize("step", [Step(error=FenceError("D state")), Step(float("inf")), Step(error=OSError("x"))])
def test_a_failed_fence_means_degraded_and_never_a_restart(step: Step) -> None:
    async def play(world: World) -> None:
        world.restarter.fences.append(step)
        world.fail()
        await world.quiet()
        assert world.manager.state is State.DEGRADED
        assert world.events.words == ["failed", "gave-up"]
        assert world.shadow.mode == "degraded"
        assert world.restarter.calls[-1] == "fence"
        await world.clock.run(world.manager.rearm())
        assert world.manager.state is State.RUNNING
        assert world.restarter.live == {2}

    scenario(play)


def test_a_restart_that_ignores_its_cancellation_is_never_overtaken() -> None:
    async def play(world: World) -> None:
        world.restarter.restarts.append(Step(float("inf"), stubborn=1000))
        world.fail()
        await world.quiet(500)
        assert world.manager.state is State.DEGRADED
        assert world.restarter.calls[-1] == "restart 2"

    scenario(play)


def test_gives_up_beyond_the_intensity_after_fencing() -> None:
    async def play(world: World) -> None:
        world.restarter.restarts.extend(Step(error=NooksError("no")) for _ in range(9))
        world.fail()
        await world.quiet()
        assert world.manager.state is State.DEGRADED
        assert world.events.words[-2:] == ["fenced", "gave-up"]
        assert world.manager.counts.failures == 4
        assert world.restarter.live == set()

    scenario(play, intensity=3)


def test_failures_in_recovery_back_off() -> None:
    async def play(world: World) -> None:
        world.restarter.restarts.extend(Step(0, NooksError("no")) for _ in range(5))
        world.fail()
        await world.quiet()
        resumed = world.events.last("resumed").detail
        assert resumed["steps"]["back-off"] == pytest.approx(0.05 + 0.1 + 0.2 + 0.4 + 0.8)
        assert resumed["attempts"] == 6

    scenario(play, intensity=10)


def test_rearm_after_giving_up() -> None:
    async def play(world: World) -> None:
        world.restarter.restarts.extend(Step(error=NooksError("no")) for _ in range(3))
        world.fail()
        await world.quiet()
        assert world.manager.state is State.DEGRADED
        world.fail()  # nobody is there to fail
        assert world.manager.state is State.DEGRADED
        world.restarter.restarts.extend(Step(error=NooksError("no")) for _ in range(3))
        with pytest.raises(NooksError, match="degraded"):
            await world.clock.run(world.manager.rearm())
        await world.clock.run(world.manager.rearm())
        assert world.manager.state is State.RUNNING
        assert world.shadow.mode == "passive"
        with pytest.raises(WrongStateError):
            await world.manager.rearm()

    scenario(play, intensity=2)


def test_timeouts_grow_with_the_load() -> None:
    async def main() -> None:
        world = World()
        world.manager = RecoveryManager(
            *("nic0", world.restarter, world.shadow, RestartPolicy(), world.clock, world.events), load=lambda: 4.0
        )
        world.restarter.restarts.append(Step(200))  # idle: 60 s at most
        await world.clock.run(world.manager.start())
        assert world.manager.state is State.RUNNING

    run(main)


def test_a_broken_listener_does_not_stop_recovery() -> None:
    async def play(world: World) -> None:
        def broken() -> None:
            raise RuntimeError("boom")

        world.shadow.activate = broken  # type: ignore[method-assign]
        world.restarter.served = broken  # type: ignore[method-assign]
        world.fail()
        await world.quiet(1)
        assert world.manager.state is State.RUNNING

    scenario(play)


def test_a_failure_said_at_the_very_moment_of_resumption_is_met() -> None:
    async def play(world: World) -> None:
        said = [False]

        def strike(old: State, new: State) -> None:
            if new is State.RUNNING and not said[0]:
                said[0] = True
                asyncio.get_running_loop().call_soon(world.fail, Reason.EXIT)

        world.manager.machine.listen(strike)
        world.fail()
        await world.quiet()
        assert world.manager.state is State.RUNNING
        assert world.manager.incarnation == 3

    scenario(play)
