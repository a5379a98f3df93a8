"""Random worlds against the recovery manager: whatever fails and whoever stops it, the invariants hold."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

from fakes import EventRecorder, FakeClock, FakeRestarter, FakeShadow, Step
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nooks.failure.report import FailureReport, Reason
from nooks.host.errors import NooksError
from nooks.recovery.machine import TRANSITIONS
from nooks.recovery.manager import RecoveryManager
from nooks.recovery.policy import RestartLimits, RestartPolicy
from nooks.recovery.protocols import FenceError, State

INTENSITY = 4
seconds = st.sampled_from([0.0, 0.001, 0.01, 0.03, 0.3, 2.0])
reasons = st.sampled_from([Reason.PANIC, Reason.EXIT, Reason.HEARTBEAT, Reason.NO_ANSWER])
bad_steps = st.builds(
    Step,
    seconds=st.sampled_from([0.0, 0.01, 5.0, float("inf")]),
    error=st.sampled_from([NooksError("no"), RuntimeError("defect")]),
    stubborn=st.sampled_from([0.0, 0.5, 15.0, 100.0]),
    half=st.booleans(),
)
bad_fences = st.builds(Step, seconds=st.sampled_from([0.0, 1.0, float("inf")]), error=st.just(FenceError("D")))


class Recovery(RuleBasedStateMachine):
    """One nook; the rules are the world's whims."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.commands: set[asyncio.Task[None]] = set()
        self.illegal: list[tuple[State, State]] = []
        self.do(self._make())

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(work)

    async def _make(self) -> None:
        self.clock = FakeClock()
        self.restarter = FakeRestarter(self.clock)
        self.shadow = FakeShadow(self.clock)
        self.events = EventRecorder()
        self.manager = RecoveryManager(
            *("nic0", self.restarter, self.shadow, RestartPolicy(RestartLimits(intensity=INTENSITY))),
            *(self.clock, self.events),
        )
        self.manager.machine.listen(self._changed)
        await self.clock.run(self.manager.start())

    def _changed(self, old: State, new: State) -> None:
        if new not in TRANSITIONS[old]:
            self.illegal.append((old, new))

    async def _command(self, work: Coroutine[Any, Any, None]) -> None:
        async def tolerant() -> None:
            with contextlib.suppress(NooksError):
                await work

        task = asyncio.create_task(tolerant())
        self.commands.add(task)
        task.add_done_callback(self.commands.discard)
        await self.clock.settle()

    @rule(wait=seconds)
    def time_passes(self, wait: float) -> None:
        self.do(self.clock.advance(wait))

    @rule(reason=reasons, offset=st.sampled_from([0, 0, 0, 0, -1, 1]))
    def a_detector_reports(self, reason: Reason, offset: int) -> None:
        async def report() -> None:
            number = self.manager.incarnation + offset
            self.manager.report(FailureReport(number, reason, self.clock.monotonic(), "test"))
            await self.clock.settle()

        self.do(report())

    @rule(step=bad_steps)
    def next_restart_will_fail(self, step: Step) -> None:
        self.restarter.restarts.append(step)

    @rule(step=bad_steps)
    def next_replay_will_fail(self, step: Step) -> None:
        self.shadow.replays.append(step)

    @rule(step=bad_steps)
    def next_stage_will_fail(self, step: Step) -> None:
        self.restarter.stages.append(step)

    @rule(step=bad_fences)
    def next_fence_will_fail(self, step: Step) -> None:
        self.restarter.fences.append(step)

    @rule()
    def hand_back_will_fail(self) -> None:
        self.shadow.deactivate_error = RuntimeError("no")

    @rule()
    def start(self) -> None:
        self.do(self._command(self.manager.start()))

    @rule()
    def stop(self) -> None:
        self.do(self._command(self.manager.stop()))

    @rule()
    def rearm(self) -> None:
        self.do(self._command(self.manager.rearm()))

    @rule(kernel=st.sampled_from([None, "second", "third"]))
    def planned(self, kernel: str | None) -> None:
        self.do(self._command(self.manager.planned(kernel)))

    @precondition(lambda self: bool(self.commands))
    @rule()
    def a_caller_is_cancelled(self) -> None:
        next(iter(self.commands)).cancel()
        self.do(self.clock.settle())

    @rule()
    def the_world_stops_failing(self) -> None:
        self._heal()
        state = self.manager.state
        assert state in (State.RUNNING, State.DEGRADED, State.STOPPED)
        assert not self.commands
        if state is State.RUNNING:
            assert self.shadow.mode == "passive"
            assert self.restarter.live == {self.manager.incarnation}
        if state is State.STOPPED:
            assert not self.restarter.live
        if state is State.DEGRADED:
            why = self.events.last("gave-up").detail["why"]
            assert any(cause in why for cause in ("intensity", "fence", "cancelled")), why
            self.do(self.clock.run(self.manager.rearm()))
            assert self.manager.state is State.RUNNING

    def _heal(self) -> None:
        for queue in (self.restarter.fences, self.restarter.restarts, self.restarter.stages, self.shadow.replays):
            queue.clear()
        self.shadow.deactivate_error = None
        self.do(self.clock.advance(1000))

    @invariant()
    def never_two_writers(self) -> None:
        assert not self.restarter.violations
        assert len(self.restarter.live) <= 1

    @invariant()
    def every_state_was_legal(self) -> None:
        assert not self.illegal

    @invariant()
    def running_means_served_by_the_present_incarnation(self) -> None:
        if self.manager.state is State.RUNNING:
            assert self.restarter.live == {self.manager.incarnation}
            assert self.shadow.mode == "passive"

    @invariant()
    def incarnations_only_grow_in_the_journal(self) -> None:
        numbers = [event.incarnation for event in self.events.events if event.event in ("restarted", "started")]
        assert numbers == sorted(set(numbers))

    @invariant()
    def counts_agree_with_the_journal(self) -> None:
        failed = [e for e in self.events.events if e.event == "failed" and e.reason != "planned"]
        assert self.manager.counts.failures == len(failed)

    def teardown(self) -> None:
        self._heal()
        with contextlib.suppress(NooksError):
            self.do(self.clock.run(self.manager.stop()))
        assert self.manager.state is State.STOPPED
        assert not self.restarter.live
        self.do(self.clock.advance(1e13))  # cancelled sleepers and stubborn steps end
        left = asyncio.all_tasks(self.loop)
        self.loop.close()
        assert not left


Recovery.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestRecovery = Recovery.TestCase
