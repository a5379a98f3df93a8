"""The state of a nook: one table of legal transitions, one setter that checks, logs and tells.

Knows nothing of domains, drivers or time.
"""

import asyncio
from collections.abc import Callable

import structlog

from nooks.host.errors import StateError
from nooks.recovery.protocols import State

TRANSITIONS: dict[State, frozenset[State]] = {
    State.STOPPED: frozenset({State.STARTING}),
    State.STARTING: frozenset({State.RUNNING, State.RECOVERING, State.DEGRADED, State.STOPPING, State.ORPHANED}),
    State.RUNNING: frozenset({State.RECOVERING, State.STOPPING, State.ORPHANED}),
    State.RECOVERING: frozenset({State.RUNNING, State.DEGRADED, State.STOPPING, State.ORPHANED}),
    State.DEGRADED: frozenset({State.RECOVERING, State.STOPPING, State.ORPHANED}),
    State.STOPPING: frozenset({State.STOPPED, State.DEGRADED}),
    State.ORPHANED: frozenset({State.STARTING, State.STOPPING}),
}

StateListener = Callable[[State, State], None]
"""Called with the old and the new state, after the change; must not raise."""

_log = structlog.get_logger(__name__)


class WrongStateError(StateError):
    """The nook is in state ``actual``; what was asked for needs one of ``wanted``."""

    def __init__(self, nook: str, actual: State, wanted: tuple[State, ...]) -> None:
        states = " or ".join(wanted)
        super().__init__(f"nook {nook} is {actual}, not {states}", "see `nooks status`")
        self.actual = actual
        self.wanted = wanted


class IllegalTransitionError(StateError):
    """There is no way from state ``actual`` to state ``wanted``."""

    def __init__(self, nook: str, actual: State, wanted: State) -> None:
        super().__init__(f"nook {nook} is {actual} and can't become {wanted}", "see `nooks status`")
        self.actual = actual
        self.wanted = wanted


class Machine:
    """The one holder of a nook's state."""

    def __init__(self, nook: str, initial: State = State.STOPPED) -> None:
        self._nook = nook
        self._state = initial
        self._listeners: list[StateListener] = []
        self._changed = asyncio.Event()

    @property
    def state(self) -> State:
        """The present state."""
        return self._state

    def listen(self, listener: StateListener) -> None:
        """Call ``listener`` after every change from now on."""
        self._listeners.append(listener)

    def to(self, wanted: State) -> None:
        """Change to ``wanted``. Raises IllegalTransitionError, and nothing has changed then."""
        actual = self._state
        if wanted not in TRANSITIONS[actual]:
            raise IllegalTransitionError(self._nook, actual, wanted)
        self._state = wanted
        _log.info("state", nook=self._nook, old=str(actual), new=str(wanted))
        self._changed.set()
        self._changed = asyncio.Event()
        for listener in self._listeners:
            listener(actual, wanted)

    def require(self, *wanted: State) -> None:
        """Raises WrongStateError unless the state is one of ``wanted``."""
        if self._state not in wanted:
            raise WrongStateError(self._nook, self._state, wanted)

    async def until(self, *wanted: State) -> State:
        """Wait until the state is one of ``wanted``, and return it; a state that passed meanwhile may be missed."""
        while self._state not in wanted:
            await self._changed.wait()
        return self._state
