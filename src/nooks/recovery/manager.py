"""The recovery manager: detect -> fence -> restart -> replay -> resume, whatever failed and whenever.

Pure policy over the protocols of this room: it knows no process, no device and no class. A failure at any step of
a recovery is just another failure. Nothing is restarted before ``fence`` returned.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from nooks.failure.report import FailureReport, Reason
from nooks.host.clock import Clock
from nooks.host.errors import NooksError
from nooks.recovery.episode import COMMANDED, AttemptError, Counts, Episode
from nooks.recovery.machine import Machine
from nooks.recovery.path import DETECTOR, Path
from nooks.recovery.policy import Decision, RestartPolicy
from nooks.recovery.protocols import EventSink, FenceError, Restarter, Shadow, State
from nooks.recovery.steps import StepStuckError, StepTimeoutError, Timeouts, bounded, end

_WATCHED = (State.STARTING, State.RUNNING, State.RECOVERING)
_log = structlog.get_logger(__name__)


class RecoveryManager:
    """Keeps one nook serving. All methods belong to one event loop; ``report`` may be called from any callback.

    Args:
        nook: its name, for messages.
        restarter, shadow, events: the mechanisms.
        policy: restart intensity and back-off.
        clock: every wait and every time comes from it.
        timeouts: the longest that each step may take on an idle machine.
        load: how many times longer steps may take now (``host.pace.slowness``).
        initial: STOPPED, or ORPHANED for a supervisor that is about to adopt.
        counts: those of the supervisor before, when adopting.
    """

    def __init__(
        self,
        nook: str,
        restarter: Restarter,
        shadow: Shadow,
        policy: RestartPolicy,
        clock: Clock,
        events: EventSink,
        *,
        timeouts: Timeouts | None = None,
        load: Callable[[], float] = lambda: 1.0,
        initial: State = State.STOPPED,
        counts: Counts | None = None,
    ) -> None:
        self.machine = Machine(nook, initial)
        self.counts = counts or Counts()
        self._nook = nook
        self._restarter = restarter
        self._shadow = shadow
        self._policy = policy
        self._clock = clock
        self._events = events
        self._path = Path(nook, restarter, shadow, clock, events, timeouts or Timeouts(), load)
        self._decision = Decision(give_up=False)
        self._work: asyncio.Task[None] | None = None
        self._staging: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None

    @property
    def state(self) -> State:
        """The nook's state."""
        return self.machine.state

    @property
    def incarnation(self) -> int:
        """The number of the domain that serves, or is being brought up; 0 before the first."""
        return self._path.incarnation

    # -- what detectors say ------------------------------------------------------------------------------------

    def report(self, report: FailureReport) -> None:
        """Take a detector's verdict; never raises. Stale ones are ignored, duplicates merged into the first."""
        if report.incarnation != self.incarnation or self.state not in _WATCHED:
            self.counts.stale_reports += 1
            _log.debug("stale report", nook=self._nook, reason=str(report.reason), of=report.incarnation)
            return
        if self._path.failure is not None:
            self.counts.duplicate_reports += 1
            _log.info("also", nook=self._nook, reason=str(report.reason), detector=report.detector)
            return
        was_running = self.state is State.RUNNING
        self._register(report)
        if was_running:  # else the work under way meets the failure
            self._spawn(self._recover(Episode(report)))

    def _register(self, report: FailureReport) -> None:
        """The present incarnation has failed: count it, record it, let the shadow step in."""
        was = self.state
        self._path.fail(report)
        if report.reason in COMMANDED:
            self.counts.planned += 1
            self._decision = Decision(give_up=False)
        else:
            self.counts.failures += 1
            now = self._clock.monotonic()
            self._decision = self._policy.failed(now, during_recovery=was is not State.RUNNING)
        if was is State.RUNNING:
            self.machine.to(State.RECOVERING)
        self._guarded(lambda: self._shadow.activate(report))
        detail = {"detector": report.detector, **report.detail}
        self._events("failed", incarnation=report.incarnation, reason=report.reason, detail=detail)
        if self._staging is not None:
            self._staging.cancel()

    # -- what people say ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bring up the first incarnation; returns when it serves.

        A failure now is the caller's to see, not to be retried: the nook ends up stopped again. So it does when the
        caller is cancelled. Raises WrongStateError, NooksError; FenceError, and the nook is degraded then.
        """
        self.machine.require(State.STOPPED)
        self.machine.to(State.STARTING)
        self._guarded(self._shadow.activate)
        episode = self._commanded_episode()
        self._path.fail(episode.first)  # whatever is still said of an earlier incarnation is no news
        try:
            await self._outcome(self._spawn(self._begin(episode)))
        except asyncio.CancelledError:
            await self.stop()
            raise
        self._raise_if_degraded("did not start")

    async def adopt(self, incarnation: int, failure: FailureReport | None = None) -> None:
        """Take over an orphan whose domain is ``incarnation``; returns when it serves.

        ``failure``: why that domain is known to be gone, or was being recovered: it is recovered then. The log is
        replayed in any case, for settings may have changed while nobody recorded.
        Raises WrongStateError; NooksError if it had to be recovered and was given up.
        """
        self.machine.require(State.ORPHANED)
        self.machine.to(State.STARTING)
        self._path.begin(incarnation)
        if failure is not None:
            self._register(failure)
        await self._outcome(self._spawn(self._adopt(failure)))
        self._raise_if_degraded("could not be recovered after its supervisor died")

    async def planned(self, kernel: str | None = None) -> None:
        """Fail over on purpose, to ``kernel``'s driver if given; returns when the new incarnation serves.

        The old domain goes on until the new one is ready to take over. If that then does not serve, the former
        kernel's driver is brought back. Raises WrongStateError; NooksError saying what came in between.
        """
        self.machine.require(State.RUNNING)
        if self._staging is not None:
            raise NooksError(f"nook {self._nook} is being restarted already", "wait until it is done")
        staged_for = self.incarnation
        await self._stage(kernel)
        if self.state is not State.RUNNING or self.incarnation != staged_for:
            self._guarded(self._restarter.unstage)
            raise self._preempted()
        now = self._clock.monotonic()
        report = FailureReport(staged_for, Reason.PLANNED, now, DETECTOR, {"kernel": kernel})
        self._register(report)
        episode = Episode(report, staged=True)
        await self._outcome(self._spawn(self._recover(episode)))
        self._raise_if_degraded("did not come back after a planned restart")
        if episode.error:
            raise NooksError(
                f"the new domain of nook {self._nook} did not serve: {episode.error}",
                "the former one's driver serves again; see `nooks postmortem`",
            )

    async def rearm(self) -> None:
        """Try again after giving up, with a clean record; returns when the nook serves.

        Raises WrongStateError unless degraded; NooksError if it was given up again.
        """
        self.machine.require(State.DEGRADED)
        self.machine.to(State.RECOVERING)
        self._policy.reset()
        self._decision = Decision(give_up=False)
        self._guarded(self._shadow.activate)
        episode = self._commanded_episode()
        self._path.fail(episode.first)
        await self._outcome(self._spawn(self._recover(episode)))
        self._raise_if_degraded("failed again")

    async def stop(self) -> None:
        """End the nook at whatever point it is; returns when its domain is gone.

        Goes on to its end even if the caller is cancelled. Raises FenceError if the domain can't be ended: the nook
        is degraded then, and stop may be tried again.
        """
        if self.state is State.STOPPED:
            return
        if self.state is not State.STOPPING or self._stopping is None:
            self.machine.to(State.STOPPING)
            self._stopping = asyncio.create_task(self._stop())
        await asyncio.shield(self._stopping)

    async def orphan(self) -> None:
        """Let go without touching the domain: this supervisor ends and the keeper holds on."""
        self.machine.to(State.ORPHANED)
        for task in (self._staging, self._work):
            if task is not None:
                await end(self._clock, task, 2 * self._path.timeouts.cancel)

    # -- what follows ------------------------------------------------------------------------------------------

    async def _recover(self, episode: Episode) -> None:
        """Fence, and bring up incarnations until one serves or it is time to give up."""
        while True:
            try:
                await self._path.fence(episode)
            except FenceError as error:
                return self._give_up(episode, f"fence failed: {error}")
            if self._decision.give_up:
                return self._give_up(episode, "restart intensity exceeded")
            if self._decision.delay_seconds > 0:
                wait = self._clock.sleep(self._decision.delay_seconds)
                await self._path.timed(episode, "back-off", wait)
            try:
                await self._path.bring_up(episode)
                return self._resume(episode, "resumed")
            except AttemptError as failed:
                self._attempt_failed(episode, failed)
            except StepStuckError:
                return self._give_up(episode, "a restart could not be cancelled, so a domain may yet appear")

    async def _begin(self, episode: Episode) -> None:
        try:
            await self._path.fence(episode, event=False)
            await self._path.bring_up(episode, event=False)
            self._resume(episode, "started")
        except FenceError as error:
            self._give_up(episode, f"fence failed: {error}")
            raise
        except StepStuckError:
            self._give_up(episode, "the start could not be cancelled, so a domain may yet appear")
            raise FenceError(f"the domain of nook {self._nook} hangs", "look at its QEMU process") from None
        except AttemptError as failed:
            self._attempt_failed(episode, failed)
            self.machine.to(State.STOPPING)
            self._stopping = asyncio.create_task(self._settle())
            await asyncio.shield(self._stopping)
            raise failed.told(f"nook {self._nook} did not start") from failed

    async def _adopt(self, failure: FailureReport | None) -> None:
        episode = Episode(failure) if failure is not None else self._commanded_episode()
        if failure is None:
            try:
                await self._path.replay(episode, event=False)
                return self._resume(episode, "adopted")
            except AttemptError as failed:
                self._attempt_failed(episode, failed)
                episode = Episode(failed.report)
            except StepStuckError:
                return self._give_up(episode, "the replay could not be cancelled")
        self.machine.to(State.RECOVERING)
        return await self._recover(episode)

    def _resume(self, episode: Episode, event: str) -> None:
        """Raises AttemptError."""
        self._path.hand_back()
        now = self._clock.monotonic()
        self.machine.to(State.RUNNING)
        self._policy.resumed(now)
        detail = episode.summary(now)
        if event == "resumed":
            self.counts.recoveries += episode.first.reason not in COMMANDED
            self.counts.last_recovery_seconds = detail["recovery_seconds"]
            self.counts.last_step_seconds = detail["steps"]
        else:
            detail["seconds"] = detail.pop("recovery_seconds")
        self.counts.last_means = episode.means or self.counts.last_means
        self._events(event, incarnation=self.incarnation, detail=detail)
        self._guarded(self._restarter.served)

    def _attempt_failed(self, episode: Episode, failed: AttemptError) -> None:
        episode.error = str(failed)
        if self._path.failure is None:
            self._register(failed.report)
        if episode.staged:
            episode.staged = False
            self._guarded(self._restarter.unstage)

    def _give_up(self, episode: Episode, why: str) -> None:
        episode.error = why
        self.machine.to(State.DEGRADED)
        self._guarded(self._shadow.degrade)
        failure = self._path.failure or episode.first
        detail = {"why": why, "attempts": episode.attempts, "steps": episode.step_seconds}
        self._events("gave-up", incarnation=self.incarnation, reason=failure.reason, detail=detail)

    async def _stage(self, kernel: str | None) -> None:
        """Raises what ``stage`` raises; NooksError if a failure or a stop came first."""
        limits = self._path.timeouts
        work = bounded(
            self._clock,
            self._restarter.stage(kernel),
            timeout_seconds=limits.stage,
            cancel_seconds=limits.cancel,
        )
        staging = self._staging = asyncio.create_task(work)
        try:
            await asyncio.wait({staging})
            if staging.cancelled():
                raise self._preempted()
            staging.result()
        except StepTimeoutError as error:
            fix = "the old one goes on; try again when the machine is less busy"
            raise NooksError(f"the next domain of nook {self._nook} did not come up in time", fix) from error
        finally:
            self._staging = None
            await end(self._clock, staging, 2 * limits.cancel)

    async def _stop(self) -> None:
        """Raises FenceError."""
        limit = 2 * self._path.timeouts.cancel
        try:
            for task in (self._staging, self._work):
                if task is not None:
                    await end(self._clock, task, limit)
        except StepStuckError as error:
            self.machine.to(State.DEGRADED)
            raise FenceError(f"a step of nook {self._nook} hangs", "look at its QEMU process") from error
        if self.state is State.DEGRADED:  # the work under way found that out when it was cancelled
            raise FenceError(f"the domain of nook {self._nook} does not end", "look at its QEMU process")
        await self._settle()

    async def _settle(self) -> None:
        """The last fence. Raises FenceError, and the nook is degraded then."""
        episode = self._commanded_episode()
        try:
            await self._path.fence(episode, event=False)
        except FenceError as error:
            self._give_up(episode, f"fence failed: {error}")
            raise
        self.machine.to(State.STOPPED)
        self._events("stopped", incarnation=self.incarnation, detail={"steps": episode.step_seconds})

    # -- small change ------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        self._work = asyncio.create_task(self._defended(work))
        return self._work

    async def _defended(self, work: Coroutine[Any, Any, None]) -> None:
        """A defect of ours must not leave a nook that looks as if it were recovering."""
        try:
            await work
        except NooksError:
            raise
        except Exception:  # noqa: BLE001 - logged with its trace
            _log.exception("defect in recovery", nook=self._nook)
            episode = self._commanded_episode()
            with contextlib.suppress(FenceError):
                await self._path.fence(episode)
            if self.state in (State.STARTING, State.RECOVERING):
                self._give_up(episode, "defect in recovery; see the log")

    async def _outcome(self, task: "asyncio.Task[None]") -> None:
        """Wait for the work and raise what it raised; the caller's cancellation leaves the work alone."""
        await asyncio.wait({task})
        if task.cancelled():
            raise NooksError(f"nook {self._nook} was stopped meanwhile", "start it again")
        task.result()

    def _commanded_episode(self) -> Episode:
        now = self._clock.monotonic()
        return Episode(FailureReport(self.incarnation, Reason.OPERATOR, now, DETECTOR))

    def _raise_if_degraded(self, what: str) -> None:
        if self.state is State.DEGRADED:
            fix = f"mend the cause, then `nooks start {self._nook}`"
            raise NooksError(f"nook {self._nook} {what}; it is degraded", fix)

    def _preempted(self) -> NooksError:
        return NooksError(f"nook {self._nook} failed or was stopped while the next domain was made ready", "try again")

    def _guarded(self, call: Callable[[], None]) -> None:
        """For notifications: their errors are logged, and recovery goes on."""
        try:
            call()
        except Exception:  # noqa: BLE001 - logged with its trace
            _log.exception("a notification failed", nook=self._nook)
