"""The one recovery path, step by step: fence, restart, replay, resume. When to take it is the manager's to say.

Each step is timed, bounded, interrupted by a failure report, and recorded.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog

from nooks.failure.report import FailureReport
from nooks.host.clock import Clock
from nooks.host.errors import NooksError
from nooks.recovery.episode import AttemptError, Episode, reason_of
from nooks.recovery.protocols import EventSink, FenceError, Restarter, Shadow
from nooks.recovery.steps import StepInterruptedError, StepStuckError, StepTimeoutError, Timeouts, bounded

T = TypeVar("T")

DETECTOR = "recovery-manager"
_log = structlog.get_logger(__name__)


class Path:
    """The steps, and what they are about: the present incarnation and whether it has failed."""

    def __init__(
        self,
        nook: str,
        restarter: Restarter,
        shadow: Shadow,
        clock: Clock,
        events: EventSink,
        timeouts: Timeouts,
        load: Callable[[], float],
    ) -> None:
        self.nook = nook
        self.restarter = restarter
        self.shadow = shadow
        self.clock = clock
        self.incarnation = 0
        self.failure: FailureReport | None = None
        self._events = events
        self._timeouts = timeouts
        self._load = load
        self._interrupt = asyncio.Event()

    @property
    def timeouts(self) -> Timeouts:
        """As long as they may be at the present load."""
        return self._timeouts.scaled(self._load())

    def fail(self, report: FailureReport) -> None:
        """The present incarnation has failed; the step that runs now, if one does, ends with AttemptError."""
        self.failure = report
        self._interrupt.set()

    def begin(self, incarnation: int) -> None:
        """From now on all is about ``incarnation``, of which nothing bad is known."""
        self.incarnation = incarnation
        self.failure = None
        self._interrupt.clear()

    async def fence(self, episode: Episode, *, event: bool = True) -> None:
        """Raises FenceError whatever went wrong: a domain of which nobody knows is as bad as a live one."""
        limits = self.timeouts
        work = bounded(self.clock, self.restarter.fence(), timeout_seconds=limits.fence, cancel_seconds=limits.cancel)
        try:
            await self.timed(episode, "fence", work)
        except FenceError:
            raise
        except Exception as error:
            cause = str(error) or type(error).__name__
            raise FenceError(
                f"the domain of nook {self.nook} could not be ended: {cause}", "look at its QEMU process"
            ) from error
        if event:
            seconds = round(episode.step_seconds["fence"], 6)
            self._events("fenced", incarnation=self.incarnation, detail={"seconds": seconds})

    async def bring_up(self, episode: Episode, *, event: bool = True) -> None:
        """The next incarnation, up to where it could serve. Raises AttemptError; StepStuckError."""
        self.begin(self.incarnation + 1)
        episode.attempts += 1
        work = self.restarter.restart(self.incarnation)
        restarted = await self._attempt(episode, "restart", work, self.timeouts.restart)
        episode.means = restarted.means
        if event:
            detail = {"means": restarted.means, "domain_pid": restarted.domain_pid}
            self._events("restarted", incarnation=self.incarnation, detail=detail)
        await self.replay(episode, event=event)

    async def replay(self, episode: Episode, *, event: bool = True) -> None:
        """The log onto the present incarnation. Raises AttemptError; StepStuckError."""
        work = self.shadow.replay(self.incarnation)
        facts = await self._attempt(episode, "replay", work, self.timeouts.replay)
        if event:
            self._events("replayed", incarnation=self.incarnation, detail=facts)

    def hand_back(self) -> None:
        """The driver serves again. Waits for nothing, so no failure can come in between. Raises AttemptError."""
        if self.failure is not None:
            raise AttemptError("resume", self.failure, str(self.failure.reason))
        try:
            self.shadow.deactivate()
        except Exception as error:
            raise self._failed("resume", error) from error

    async def timed(self, episode: Episode, step: str, work: Coroutine[Any, Any, T]) -> T:
        """Await ``work`` and add the seconds that it took to the episode."""
        began = self.clock.monotonic()
        try:
            return await work
        finally:
            episode.spent(step, self.clock.monotonic() - began)

    async def _attempt(self, episode: Episode, step: str, work: Coroutine[Any, Any, T], timeout_seconds: float) -> T:
        bound = bounded(
            self.clock,
            work,
            timeout_seconds=timeout_seconds,
            cancel_seconds=self.timeouts.cancel,
            interrupt=self._interrupt,
        )
        try:
            return await self.timed(episode, step, bound)
        except StepStuckError:
            raise
        except StepInterruptedError as error:
            if self.failure is None:
                raise self._failed(step, error) from error
            raise AttemptError(step, self.failure, f"failed meanwhile: {self.failure.reason}") from error
        except Exception as error:
            defect = not isinstance(error, (NooksError, StepTimeoutError))
            facts = {"nook": self.nook, "step": step, "incarnation": self.incarnation}
            _log.warning("step failed", **facts, error=repr(error), exc_info=defect)
            raise self._failed(step, error) from error

    def _failed(self, step: str, error: Exception) -> AttemptError:
        """What a detector said of this incarnation explains more than the error that the step ended with."""
        cause = str(error) or type(error).__name__
        if self.failure is not None:
            return AttemptError(step, self.failure, cause)
        detail = {"step": step, "error": cause}
        now = self.clock.monotonic()
        report = FailureReport(self.incarnation, reason_of(error), now, DETECTOR, detail)
        return AttemptError(step, report, cause)
