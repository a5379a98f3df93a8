"""How often a nook may fail before it is given up, and how long to wait between attempts.

Restart intensity is OTP's: more than N failures within a period and the supervisor gives up
(https://www.erlang.org/doc/system/sup_princ.html, "Maximum Restart Intensity"). The doubling back-off is that of
MINIX 3's reincarnation server (Herder et al., "Failure Resilience for Device Drivers", DSN 2007).
"""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class RestartLimits:
    """The numbers of the policy; the spec's ``[restart]`` table sets the first two."""

    intensity: int = 10
    period_seconds: float = 60.0
    first_delay_seconds: float = 0.05
    longest_delay_seconds: float = 5.0
    quick_seconds: float = 1.0
    """A failure this soon after a resumption counts as the same trouble going on."""


@dataclass(frozen=True)
class Decision:
    """What follows a failure: give up, or restart after ``delay_seconds``."""

    give_up: bool
    delay_seconds: float = 0.0


class RestartPolicy:
    """Counts failures in a sliding period and doubles the delay while trouble lasts.

    Failures that were commanded (a planned restart) are not to be told to it.
    """

    def __init__(self, limits: RestartLimits | None = None) -> None:
        self._limits = limits or RestartLimits()
        self._times: deque[float] = deque()
        self._troubled = 0
        self._resumed_at: float | None = None

    @property
    def limits(self) -> RestartLimits:
        """The numbers it goes by."""
        return self._limits

    def failed(self, now: float, *, during_recovery: bool) -> Decision:
        """Count a failure at ``now`` (monotonic seconds) and say what follows."""
        self._times.append(now)
        while self._times and now - self._times[0] > self._limits.period_seconds:
            self._times.popleft()
        quick = self._resumed_at is not None and now - self._resumed_at < self._limits.quick_seconds
        self._troubled = self._troubled + 1 if during_recovery or quick else 0
        if len(self._times) > self._limits.intensity:
            return Decision(give_up=True)
        return Decision(give_up=False, delay_seconds=self._delay())

    def resumed(self, now: float) -> None:
        """The nook serves again since ``now``."""
        self._resumed_at = now

    def reset(self) -> None:
        """Forget every failure: the nook was armed again by its user."""
        self._times.clear()
        self._troubled = 0
        self._resumed_at = None

    def _delay(self) -> float:
        if self._troubled == 0:
            return 0.0
        exponent = min(self._troubled - 1, 32)
        return min(self._limits.longest_delay_seconds, self._limits.first_delay_seconds * 2**exponent)
