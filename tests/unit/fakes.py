"""Fakes of what policy speaks to: a clock that jumps, a domain side and a class side that fail on demand."""

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sized
from dataclasses import dataclass, field
from typing import Any, TypeVar

from nooks.failure.report import FailureReport
from nooks.recovery.protocols import Means, Restarted

T = TypeVar("T")

_ROUNDS = 200  # turns of the event loop after which every chain of wake-ups has come to rest


class FakeClock:
    """Time that moves only when told to; sleepers are woken in order of their deadlines."""

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), future))
        await future

    async def settle(self) -> None:
        """Let everything run that needs no time to pass."""
        ready: Sized = getattr(asyncio.get_running_loop(), "_ready", (None,))
        for _ in range(_ROUNDS):
            await asyncio.sleep(0)
            if not ready:
                return

    async def advance(self, seconds: float) -> None:
        """Move time on, stopping at each sleeper's deadline on the way."""
        end = self._now + seconds
        await self.settle()
        while (deadline := self._next()) is not None and deadline <= end:
            await self._jump(deadline)
        self._now = end
        await self.settle()

    async def run(self, awaitable: Coroutine[Any, Any, T], limit_seconds: float = 3600.0) -> T:
        """Await something, jumping whenever nothing else is left to do. Raises TimeoutError past the limit."""
        task = asyncio.ensure_future(awaitable)
        end = self._now + limit_seconds
        await self.settle()
        while not task.done():
            deadline = self._next()
            if deadline is None or deadline > end:
                task.cancel()
                await asyncio.wait({task}, timeout=1)
                raise TimeoutError("nothing will ever happen" if deadline is None else "not within the limit")
            await self._jump(deadline)
        return task.result()

    def _next(self) -> float | None:
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None

    async def _jump(self, deadline: float) -> None:
        self._now = max(self._now, deadline)
        while self._sleepers and self._sleepers[0][0] <= self._now:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)
        await self.settle()


@dataclass
class Step:
    """How one call goes: it takes ``seconds`` (``inf``: for ever), then raises ``error`` if there is one.

    ``stubborn`` seconds pass before a cancellation takes effect. ``half`` leaves a domain although it failed.
    """

    seconds: float = 0.01
    error: Exception | None = None
    stubborn: float = 0.0
    half: bool = False
    during: Callable[[int], None] | None = None


async def _play(clock: FakeClock, step: Step, argument: int) -> None:
    if step.during is not None:
        step.during(argument)
    try:
        await clock.sleep(1e12 if step.seconds == float("inf") else step.seconds)
    except asyncio.CancelledError:
        if step.stubborn > 0:
            await clock.sleep(step.stubborn)
        raise
    if step.error is not None:
        raise step.error


class FakeRestarter:
    """Keeps book of domains and asserts what no recovery may ever do."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.live: set[int] = set()
        self.calls: list[str] = []
        self.fences: deque[Step] = deque()
        self.restarts: deque[Step] = deque()
        self.stages: deque[Step] = deque()
        self.kernel: str | None = "first"
        self.staged: str | None = None
        self.used: list[str | None] = []
        self.means = Means.SPARE
        self.last_incarnation = 0
        self.violations: list[str] = []
        self._fenced = False
        self._restarting = False

    async def fence(self) -> None:
        self.calls.append("fence")
        if self._restarting:
            self.violations.append("a fence overtook a restart that can still make a domain")
        step = self.fences.popleft() if self.fences else Step(0.005)
        await _play(self.clock, step, self.last_incarnation)
        self.live.clear()
        self._fenced = True

    async def restart(self, incarnation: int) -> Restarted:
        self.calls.append(f"restart {incarnation}")
        self._check(incarnation)
        step = self.restarts.popleft() if self.restarts else Step(0.02)
        if step.half:
            self._add(incarnation)
        self._restarting = True
        try:
            await _play(self.clock, step, incarnation)
        finally:
            self._restarting = False
        self._add(incarnation)
        self.used.append(self.staged or self.kernel)
        return Restarted(self.means, 10_000 + incarnation)

    async def stage(self, kernel: str | None) -> None:
        self.calls.append(f"stage {kernel}")
        step = self.stages.popleft() if self.stages else Step(1.0)
        await _play(self.clock, step, 0)
        self.staged = kernel

    def unstage(self) -> None:
        self.calls.append("unstage")
        self.staged = None

    def served(self) -> None:
        self.calls.append("served")
        if self.staged is not None:
            self.kernel, self.staged = self.staged, None

    def _add(self, incarnation: int) -> None:
        if self.live - {incarnation}:
            self.violations.append(f"two live domains: {self.live} and {incarnation}")
        self.live.add(incarnation)

    def _check(self, incarnation: int) -> None:
        if not self._fenced:
            self.violations.append(f"restart {incarnation} without a fence before")
        if incarnation <= self.last_incarnation:
            self.violations.append(f"incarnation {incarnation} after {self.last_incarnation}")
        self._fenced = False
        self.last_incarnation = incarnation


class FakeShadow:
    """A shadow that remembers its mode and how it came there."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.mode = "passive"
        self.calls: list[str] = []
        self.replays: deque[Step] = deque()
        self.deactivate_error: Exception | None = None

    def activate(self, failure: FailureReport | None = None) -> None:
        del failure
        self.calls.append("activate")
        self.mode = "active"

    async def replay(self, incarnation: int) -> dict[str, Any]:
        self.calls.append(f"replay {incarnation}")
        step = self.replays.popleft() if self.replays else Step(0.01)
        await _play(self.clock, step, incarnation)
        return {"replayed": 3}

    def deactivate(self) -> None:
        self.calls.append("deactivate")
        if self.deactivate_error is not None:
            error, self.deactivate_error = self.deactivate_error, None
            raise error
        self.mode = "passive"

    def degrade(self) -> None:
        self.calls.append("degrade")
        self.mode = "degraded"


@dataclass(frozen=True)
class Recorded:
    """One event as it was emitted."""

    event: str
    incarnation: int
    reason: str
    detail: dict[str, Any] = field(default_factory=dict[str, Any])


class EventRecorder:
    """An EventSink that keeps everything."""

    def __init__(self) -> None:
        self.events: list[Recorded] = []

    def __call__(self, event: str, *, incarnation: int, reason: str = "", detail: dict[str, Any] | None = None) -> None:
        self.events.append(Recorded(event, incarnation, str(reason), detail or {}))

    @property
    def words(self) -> list[str]:
        """The events' names, in order."""
        return [recorded.event for recorded in self.events]

    def last(self, event: str) -> Recorded:
        """The latest event of that name."""
        return next(recorded for recorded in reversed(self.events) if recorded.event == event)


def run(scenario: Callable[[], Awaitable[T]]) -> T:
    """Run one asynchronous test scenario in a loop of its own."""

    async def main() -> T:
        return await scenario()

    return asyncio.run(main())
