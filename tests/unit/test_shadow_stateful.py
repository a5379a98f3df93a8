"""Random lives of a nook: whatever is changed, fails or is killed when, no acknowledged change is ever lost."""

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from shadow_fakes import DEFAULTS, FakeDriver, FakeEndpoint, FakeEvents

from nooks.shadow.errors import BusyError
from nooks.shadow.life import Mode
from nooks.shadow.log import Log, StateFile
from nooks.shadow.network import NetworkShadow
from nooks.xpc.settings import Settings

SET_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "ring.rx": st.integers(1, 64).map(lambda eights: 8 * eights),
    "coalesce.rx_usecs": st.integers(0, 100),
}
ENDPOINT_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "mtu": st.sampled_from([1280, 1400, 1500, 9000]),
    "promisc": st.booleans(),
    "multicast": st.lists(st.sampled_from(["01:00:5e:00:00:01", "33:33:00:00:00:01"]), unique=True).map(tuple),
}


def change_of(values: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Settings]:
    return st.fixed_dictionaries({}, optional=values).filter(bool)


class ShadowMachine(RuleBasedStateMachine):
    """The driver answers only when a rule lets it; ``promised`` is what users were told that they have."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.file = StateFile.create("nooks-test")
        self.driver = FakeDriver()
        self.driver.held = True
        self.endpoint = FakeEndpoint()
        self.promised: Settings = {}
        self.incarnation = 0
        self.sets: list[tuple[Settings, asyncio.Task[Settings]]] = []
        self.replaying: asyncio.Task[dict[str, Any]] | None = None
        self.new_supervisor()

    def new_supervisor(self) -> None:
        self.log = Log(self.file)
        self.shadow = NetworkShadow(self.driver, self.endpoint, self.log, FakeEvents())

    @initialize()
    def start(self) -> None:
        self.recover()

    @property
    def passive(self) -> bool:
        return self.shadow.mode is Mode.PASSIVE

    @rule(change=change_of(SET_VALUES))
    def user_sets(self, change: Settings) -> None:
        self.sets.append((change, self.loop.create_task(self.shadow.set(change))))
        self.spin()

    @rule(change=change_of(ENDPOINT_VALUES))
    def user_changes_the_interface(self, change: Settings) -> None:
        async def report() -> None:
            self.shadow.changed(change)

        self.endpoint.shown.update(change)
        self.loop.run_until_complete(report())
        self.promised.update(change)

    @rule()
    def driver_answers(self) -> None:
        self.driver.answer()
        self.spin()

    @rule()
    def driver_fails(self) -> None:
        self.cancel_replay()
        self.loop.run_until_complete(self.in_loop(self.shadow.activate))
        self.driver.fail()
        self.spin()

    @precondition(lambda self: self.shadow.mode is Mode.ACTIVE and self.replaying is None)
    @rule()
    def replay_begins(self) -> None:
        self.incarnation += 1
        self.replaying = self.loop.create_task(self.shadow.replay(self.incarnation))
        self.spin()

    @rule()
    def supervisor_is_killed(self) -> None:
        """Its memory is gone, what it was doing stops anywhere; the driver lives on, and is adopted."""
        self.cancel_replay()
        for _, task in self.sets:
            task.cancel()
        self.loop.run_until_complete(self.shadow.close())
        self.spin()
        self.sets.clear()
        self.driver.waiting.clear()
        self.new_supervisor()

    @rule()
    def all_is_quiet(self) -> None:
        """After a recovery in which nothing comes in between: the driver has what the log has and users were told."""
        self.recover()
        for key, value in self.log.settings.items():
            assert self.driver.state[key] == value
        for key, value in self.promised.items():
            if key == "mtu" and value == 9000:
                assert self.endpoint.shown.get("mtu", DEFAULTS["mtu"]) == self.driver.state["mtu"]
            else:
                assert self.driver.state[key] == value

    @invariant()
    def nothing_promised_is_forgotten(self) -> None:
        target = Log(self.file).target()
        for key, value in self.promised.items():
            if not (key == "mtu" and value == 9000):
                assert target[key] == value

    @invariant()
    def only_what_users_asked_for_is_recorded(self) -> None:
        assert set(self.log.target()) <= set(SET_VALUES) | set(ENDPOINT_VALUES)

    def recover(self) -> None:
        self.cancel_replay()
        self.loop.run_until_complete(self.in_loop(self.shadow.activate))
        self.spin()
        self.driver.fail()
        self.driver.held = False
        self.incarnation += 1
        self.loop.run_until_complete(self.shadow.replay(self.incarnation))
        self.loop.run_until_complete(self.in_loop(self.shadow.deactivate))
        self.loop.run_until_complete(self.shadow.settled())
        self.spin()
        self.driver.held = True

    def cancel_replay(self) -> None:
        if self.replaying is not None:
            self.replaying.cancel()
            self.replaying = None
            self.spin()

    async def in_loop(self, function: Any) -> None:  # noqa: ANN401 - any method without arguments
        function()

    def spin(self) -> None:
        """Let everything run that can; take in what the users were told meanwhile."""

        async def turns() -> None:
            for _ in range(12):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())
        if self.replaying is not None and self.replaying.done():
            self.replaying.result()
            self.replaying = None
            self.loop.run_until_complete(self.in_loop(self.shadow.deactivate))
            self.loop.run_until_complete(turns())
        for change, task in [each for each in self.sets if each[1].done()]:
            self.sets.remove((change, task))
            if task.cancelled():
                continue
            if task.exception() is None:
                self.promised.update(task.result())
            else:
                assert isinstance(task.exception(), BusyError)

    def teardown(self) -> None:
        self.cancel_replay()
        for _, task in self.sets:
            task.cancel()
        self.loop.run_until_complete(self.shadow.close())
        self.spin()
        self.loop.close()
        self.file.close()


TestShadow = ShadowMachine.TestCase
TestShadow.settings = settings(max_examples=80, stateful_step_count=40)
