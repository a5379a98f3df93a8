"""The recovery manager, step by step, with failures at each of them."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from fakes import EventRecorder, FakeClock, FakeRestarter, FakeShadow, Step, run

from nooks.failure.report import FailureReport, Reason
from nooks.host.errors import NooksError
from nooks.recovery.machine import WrongStateError
from nooks.recovery.manager import RecoveryManager
from nooks.recovery.policy import RestartLimits, RestartPolicy
from nooks.recovery.protocols import DomainFailedError, FenceError, ReplayMismatchError, State


class World:
    """One nook with everything around it faked."""

    def __init__(self, intensity: int = 3, initial: State = State.STOPPED) -> None:
        self.clock = FakeClock()
        self.restarter = FakeRestarter(self.clock)
        self.shadow = FakeShadow(self.clock)
        self.events = EventRecorder()
        self.states: list[State] = []
        self.manager = RecoveryManager(
            "nic0",
            self.restarter,
            self.shadow,
            RestartPolicy(RestartLimits(intensity=intensity)),
            self.clock,
            self.events,
            initial=initial,
        )
        self.manager.machine.listen(lambda _old, new: self.states.append(new))

    def fail(self, reason: Reason = Reason.PANIC, incarnation: int | None = None) -> None:
        number = self.manager.incarnation if incarnation is None else incarnation
        self.manager.report(FailureReport(number, reason, self.clock.monotonic(), "test"))

    async def started(self) -> "World":
        await self.clock.run(self.manager.start())
        await self.clock.advance(10)  # so that the first failure is not in quick succession
        self.events.events.clear()
        self.states.clear()
        return self

    async def quiet(self, seconds: float = 300) -> None:
        await self.clock.advance(seconds)

    def sound(self) -> None:
        assert not self.restarter.violations


def scenario(play: Callable[[World], Awaitable[None]], intensity: int = 3) -> None:
    async def main() -> None:
        world = World(intensity)
        await world.started()
        await play(world)
        world.sound()

    run(main)


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
