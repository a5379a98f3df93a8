"""One nook whose recovery manager is real and all around it faked, for the manager's tests."""

from collections.abc import Awaitable, Callable

from fakes import EventRecorder, FakeClock, FakeRestarter, FakeShadow, run

from nooks.failure.report import FailureReport, Reason
from nooks.recovery.manager import RecoveryManager
from nooks.recovery.policy import RestartLimits, RestartPolicy
from nooks.recovery.protocols import State


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
