"""What the recovery manager remembers: one episode per outage, and the counts that status shows."""

from dataclasses import dataclass, field
from typing import Any

from nooks.failure.report import FailureReport, Reason
from nooks.host.errors import NooksError
from nooks.recovery.protocols import DomainFailedError, Means, ReplayMismatchError
from nooks.recovery.steps import StepTimeoutError

COMMANDED = frozenset({Reason.PLANNED, Reason.OPERATOR})
"""Reasons that are no failure: somebody asked for it."""


@dataclass
class Counts:
    """What happened to a nook so far; commanded restarts are counted apart."""

    failures: int = 0
    recoveries: int = 0
    planned: int = 0
    last_recovery_seconds: float | None = None
    last_step_seconds: dict[str, float] = field(default_factory=dict[str, float])
    last_means: Means | None = None
    duplicate_reports: int = 0
    stale_reports: int = 0


@dataclass
class Episode:
    """One outage, from the first report to resumption or giving up, over however many incarnations.

    ``step_seconds`` sums each step over all attempts; ``error`` is the last attempt's, if one failed.
    """

    first: FailureReport
    step_seconds: dict[str, float] = field(default_factory=dict[str, float])
    attempts: int = 0
    means: Means | None = None
    staged: bool = False
    error: str = ""

    def spent(self, step: str, seconds: float) -> None:
        """Add to the time of a step."""
        self.step_seconds[step] = self.step_seconds.get(step, 0.0) + seconds

    def summary(self, now: float) -> dict[str, Any]:
        """The detail of the ``resumed`` event: recovery time, where it went, detection time when known."""
        detail: dict[str, Any] = {
            "recovery_seconds": round(now - self.first.noticed_at, 6),
            "steps": {step: round(seconds, 6) for step, seconds in self.step_seconds.items()},
            "attempts": self.attempts,
            "means": self.means,
        }
        if "detection_seconds" in self.first.detail:
            detail["detection_seconds"] = self.first.detail["detection_seconds"]
        return detail


class AttemptError(Exception):
    """Bringing up an incarnation failed at ``step``; ``report`` is that failure."""

    def __init__(self, step: str, report: FailureReport, cause: str) -> None:
        super().__init__(f"{step}: {cause}")
        self.step = step
        self.report = report
        self.cause = cause

    def told(self, what: str) -> NooksError:
        """This error as a user should read it: ``what`` it came to, why, and what to do."""
        cause = self.__cause__
        if isinstance(cause, NooksError):
            return NooksError(f"{what}: {cause.message}", cause.fix or "see 'nooks events'")
        return NooksError(f"{what}: {self}", "see 'nooks events'")


def reason_of(error: Exception) -> Reason:
    """The journal's word for an error of a recovery's step."""
    if isinstance(error, DomainFailedError):
        return error.reason
    if isinstance(error, StepTimeoutError):
        return Reason.NO_ANSWER
    if isinstance(error, ReplayMismatchError):
        return Reason.PROTOCOL
    return Reason.EXIT
