"""The mechanisms that recovery policy needs, as protocols: policy is tested without a virtual machine."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from nooks.failure.report import FailureReport, Reason
from nooks.host.errors import NooksError


class State(StrEnum):
    """The states of a nook (CONTRACT: ``status``)."""

    STARTING = "starting"
    RUNNING = "running"
    RECOVERING = "recovering"
    DEGRADED = "degraded"
    STOPPING = "stopping"
    STOPPED = "stopped"
    ORPHANED = "orphaned"


class Means(StrEnum):
    """How an incarnation came to be, quickest first."""

    SPARE = "spare"
    RESTORE = "restore"
    HOTPLUG = "hotplug"
    COLD = "cold"


class FenceError(NooksError):
    """The domain could not be made harmless: another one beside it would make two writers."""


class ReplayMismatchError(NooksError):
    """The driver read back another state than the one that was replayed."""


class DomainFailedError(NooksError):
    """A step of a recovery failed, for a reason that the journal has a word for."""

    def __init__(self, message: str, fix: str = "", *, reason: Reason) -> None:
        super().__init__(message, fix)
        self.reason = reason


@dataclass(frozen=True)
class Restarted:
    """What the restarter did: by which means, and the process that now is the domain."""

    means: Means
    domain_pid: int


class Restarter(Protocol):
    """The domain side of recovery: makes the old incarnation harmless and brings up the next."""

    async def fence(self) -> None:
        """Return only when the present domain can touch neither device nor data any more.

        Covers a domain that ``restart`` left half made. Harmless when there is no domain, when repeated, and
        when cancelled and called again. A spare or staged domain may live on. Raises FenceError if a process
        cannot be reaped: the nook then becomes degraded.
        """
        ...

    async def restart(self, incarnation: int) -> Restarted:
        """Bring up the next domain by the quickest means there is. Called only after ``fence`` returned.

        Bounds each means by itself and falls through to the next; the manager's timeout is only the last resort.
        May be cancelled at any point; what it leaves is the next ``fence``'s to end.
        Raises NooksError, or DomainFailedError with the reason for the journal.
        """
        ...

    async def stage(self, kernel: str | None) -> None:
        """Make ready what a planned restart will use (another kernel's driver, say); the live domain goes on.

        Raises NooksError if the new one does not come up, or is cancelled; nothing has changed then. What was
        staged is used by the next ``restart`` and becomes lasting with ``served``.
        """
        ...

    def unstage(self) -> None:
        """Forget what ``stage`` settled: it did not serve. The next ``restart`` uses what served before."""
        ...

    def served(self) -> None:
        """The incarnation serves: the next spare may be prepared, in the background. May be called again."""
        ...


class Shadow(Protocol):
    """The class side of recovery: impersonates the driver while it is away, replays the log afterwards."""

    def activate(self, failure: FailureReport | None = None) -> None:
        """The driver is gone, or not there yet: requests now go by the class's strategies.

        Called at every ``failure``, also of a driver that was still being brought up.
        """
        ...

    async def replay(self, incarnation: int) -> dict[str, Any]:
        """Bring the new incarnation to the recorded state, read it back, compare; returns facts for the journal.

        Raises NooksError (or ReplayMismatchError) if the driver did not accept its state.
        """
        ...

    def deactivate(self) -> None:
        """The driver serves again: back to recording."""
        ...

    def degrade(self) -> None:
        """Recovery was given up: tell applications as the class does (a network interface loses its carrier)."""
        ...


class EventSink(Protocol):
    """Where events go; ``event`` and ``reason`` are CONTRACT's words."""

    def __call__(self, event: str, *, incarnation: int, reason: str = "", detail: dict[str, Any] | None = None) -> None:
        """Record one event now."""
        ...
