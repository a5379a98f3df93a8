"""The ledger of expected changes: the user's and ours interleaved at random, supervisors killed in between."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from nooks.endpoint.ledger import Ledger
from nooks.xpc.settings import Settings

KEYS = st.sampled_from(["mtu", "link.speed", "ring.rx"])
OURS = st.integers(0, 4).map(lambda number: 2 * number)
USERS = st.integers(0, 4).map(lambda number: 2 * number + 1)
FEATURE = "feature.rx-gro"


class Killed(BaseException):
    """SIGKILL, as far as a test can."""


class LedgerMachine(RuleBasedStateMachine):
    """Users set odd numbers, we even ones. ``due``: what users did that nobody was told."""

    def __init__(self) -> None:
        super().__init__()
        self.interface: Settings = {"mtu": 0, "link.speed": 0, "ring.rx": 0}
        self.state = b""
        self.ledger = Ledger(self.store)
        self.ledger.learn(self.interface)
        self.due: dict[str, Any] = {}
        self.told: Settings = dict(self.interface)
        self.lost: set[str] = set()

    def store(self, state: bytes) -> None:
        self.state = state

    @rule(key=KEYS, value=USERS)
    def user_changes(self, key: str, value: int) -> None:
        """Back to what was last known, between two looks, is no change."""
        self.interface[key] = value
        self.due[key] = value
        if self.told[key] == value and key not in self.lost:
            del self.due[key]

    @rule(key=KEYS, value=OURS, dies=st.sampled_from(["not", "before", "after"]))
    def we_change(self, key: str, value: int, dies: str) -> None:
        saved = b""
        try:
            with self.ledger.own({key: value}, dict(self.interface)):
                if dies == "before":
                    saved = self.state
                    raise Killed
                self.interface[key] = self.told[key] = value
                if key in self.due:
                    self.lost.add(key)
                saved = self.state
                if dies == "after":
                    raise Killed
        except Killed:
            self.state = saved
            self.adopt()

    @rule()
    def supervisor_is_killed(self) -> None:
        self.adopt()

    def adopt(self) -> None:
        self.ledger = Ledger(self.store, self.state)

    @rule(recorded=st.booleans())
    def the_watch_looks(self, recorded: bool) -> None:
        changes = self.ledger.changes(dict(self.interface))
        for key, value in self.due.items():
            assert changes[key] == value
        if recorded:
            self.ledger.reported(changes)
            self.told.update(self.interface)
            self.due.clear()
            self.lost.clear()
            assert self.ledger.changes(dict(self.interface)) == {}

    @invariant()
    def nothing_of_ours_is_reported(self) -> None:
        for value in self.ledger.changes(dict(self.interface)).values():
            assert isinstance(value, int)
            assert value % 2 == 1


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=150, stateful_step_count=30)


def test_features_are_nobodys_while_held() -> None:
    state = b""

    def store(new: bytes) -> None:
        nonlocal state
        state = new

    ledger = Ledger(store)
    ledger.learn({FEATURE: True})
    ledger.held = True
    assert Ledger(store, state).held
    assert ledger.changes({FEATURE: False}) == {}
    ledger.held = False
    assert ledger.changes({FEATURE: False}) == {FEATURE: False}
