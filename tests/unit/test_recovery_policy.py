"""The transition table and the restart policy."""

import asyncio
import itertools

import pytest
from fakes import FakeClock, run
from hypothesis import given
from hypothesis import strategies as st

from nooks.host.errors import StateError
from nooks.recovery.machine import TRANSITIONS, IllegalTransitionError, Machine, WrongStateError
from nooks.recovery.policy import RestartLimits, RestartPolicy
from nooks.recovery.protocols import State


def test_every_state_is_in_the_table_and_can_be_left() -> None:
    assert set(TRANSITIONS) == set(State)
    assert all(TRANSITIONS.values())


@pytest.mark.parametrize(("old", "new"), list(itertools.product(State, State)))
def test_setter_follows_the_table(old: State, new: State) -> None:
    machine = Machine("nic0", old)
    seen: list[tuple[State, State]] = []
    machine.listen(lambda was, now: seen.append((was, now)))
    if new in TRANSITIONS[old]:
        machine.to(new)
        assert machine.state is new
        assert seen == [(old, new)]
    else:
        with pytest.raises(IllegalTransitionError) as caught:
            machine.to(new)
        assert (caught.value.actual, caught.value.wanted) == (old, new)
        assert machine.state is old
        assert not seen


def test_require_names_actual_and_wanted_state() -> None:
    machine = Machine("nic0", State.DEGRADED)
    machine.require(State.DEGRADED, State.RUNNING)
    with pytest.raises(WrongStateError) as caught:
        machine.require(State.RUNNING)
    assert isinstance(caught.value, StateError)
    assert caught.value.actual is State.DEGRADED
    assert caught.value.wanted == (State.RUNNING,)


def test_until_wakes_on_the_state() -> None:
    async def scenario() -> None:
        clock, machine = FakeClock(), Machine("nic0")

        async def change() -> None:
            await clock.sleep(1)
            machine.to(State.STARTING)
            await clock.sleep(1)
            machine.to(State.RUNNING)

        async def both() -> State:
            task = asyncio.create_task(change())
            state = await machine.until(State.RUNNING)
            await task
            return state

        assert await clock.run(both()) is State.RUNNING

    run(scenario)


def test_gives_up_beyond_the_intensity_and_not_before() -> None:
    policy = RestartPolicy(RestartLimits(intensity=3, period_seconds=60))
    assert [policy.failed(t, during_recovery=False).give_up for t in (0, 10, 20, 30)] == [False] * 3 + [True]


def test_old_failures_are_forgotten() -> None:
    policy = RestartPolicy(RestartLimits(intensity=2, period_seconds=60))
    assert not any(policy.failed(t, during_recovery=False).give_up for t in range(0, 1000, 31))


def test_backs_off_during_recovery_and_in_quick_succession_only() -> None:
    policy = RestartPolicy(RestartLimits(intensity=100, first_delay_seconds=0.1, longest_delay_seconds=1.0))
    assert policy.failed(0, during_recovery=False).delay_seconds == 0
    delays = [policy.failed(0, during_recovery=True).delay_seconds for _ in range(6)]
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    policy.resumed(1)
    assert policy.failed(1.5, during_recovery=False).delay_seconds == 1.0
    policy.resumed(3)
    assert policy.failed(5, during_recovery=False).delay_seconds == 0


def test_reset_forgets_all() -> None:
    policy = RestartPolicy(RestartLimits(intensity=1))
    policy.failed(0, during_recovery=True)
    assert policy.failed(0, during_recovery=True).give_up
    policy.reset()
    decision = policy.failed(0, during_recovery=False)
    assert not decision.give_up
    assert decision.delay_seconds == 0


@given(st.lists(st.tuples(st.floats(0, 30), st.booleans()), max_size=80), st.integers(1, 6))
def test_gives_up_exactly_when_a_period_holds_too_many(gaps: list[tuple[float, bool]], intensity: int) -> None:
    policy = RestartPolicy(RestartLimits(intensity=intensity, period_seconds=60))
    now, times = 0.0, list[float]()
    for gap, during in gaps:
        now += gap
        times.append(now)
        decision = policy.failed(now, during_recovery=during)
        assert decision.give_up == (sum(now - t <= 60 for t in times) > intensity)
        assert 0 <= decision.delay_seconds <= 5
