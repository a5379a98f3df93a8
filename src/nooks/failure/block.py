"""Silent failure of a disk's driver: the domain lives and beats, but a request is not answered.

The age of the oldest request makes a suspicion. What settles it is whether anybody works on it: a request that the
device model has handed to the host's disk, or that the disk is slow with, is a slow medium, and no restart would help.
Nobody can say that of a real device, which is therefore given longer.

Errors that the device reports are the device's: a bad sector is no dead driver. A burst of them all over the disk is a
suspicion, unless the host's disk under the device made them; if a restart didn't end it, the next has to wait. Of an
emulated device QEMU knows what the host's disk refused: an error beyond that is the driver's own invention.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from nooks.failure.report import FailureReport, Reason, ReportSink
from nooks.host.clock import Clock

DETECTOR = "block"


class Work(NamedTuple):
    """``busy``: the host is carrying out something for the device; ``done``: operations that it has ended so far."""

    busy: bool
    done: int


class WorkProbe(Protocol):
    """Looks at the device's side of the driver."""

    async def look(self) -> Work | None:
        """None if it can't be seen: the device is a real one, or the domain is going away."""
        ...

    async def refused(self) -> int | None:
        """How many requests of this incarnation the host's own disk refused; None if that can't be seen."""
        ...


class Doubts(Protocol):
    """Requests that were answered with an error of which nobody was told yet."""

    def doubted(self) -> int:
        """How many there are."""
        ...

    def believe(self) -> None:
        """Let all of them be told."""
        ...


@dataclass(frozen=True)
class BlockLimits:
    """Seconds on an idle machine, and counts."""

    look_seconds: float = 0.2
    """How often the oldest request's age is looked at."""
    late_seconds: float = 1.0
    """A request as old as this is a suspicion."""
    looks: int = 4
    confirm_seconds: float = 0.05
    """So many looks, this far apart, must find nobody at work on anything."""
    moving_seconds: float = 6.0
    """How long a request may take while others end: the device is at work, if not on this one."""
    unseen_seconds: float = 12.0
    """How long a request may take where nobody can see who works on it."""
    errors: int = 8
    errors_seconds: float = 2.0
    places: int = 4
    """So many errors within this time, at so many places, are a burst."""
    doubt_seconds: float = 10.0
    """For so long after a conviction for an invented error the next ones are believed: the restart did not help."""
    retry_seconds: float = 60.0
    longest_retry_seconds: float = 3600.0
    """The pause between restarts that ended no burst."""


class BlockDetector:
    """Watches the live incarnation of one block nook; lives across incarnations.

    Args:
        oldest_seconds: for how long the driver has had the request that it has had longest; None if it has none.
        probe: who works on it.
        clock, report: for the times of verdicts, and where they go.
        load: how many times longer everything may take now.
    """

    def __init__(
        self,
        oldest_seconds: Callable[[], float | None],
        probe: WorkProbe,
        clock: Clock,
        report: ReportSink,
        *,
        limits: BlockLimits | None = None,
        load: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self._oldest_seconds = oldest_seconds
        self._probe = probe
        self._clock = clock
        self._report = report
        self._limits = limits or BlockLimits()
        self._load = load
        self._incarnation: int | None = None
        self._looking: asyncio.Task[None] | None = None
        self._judging: asyncio.Task[None] | None = None
        self._doubting: asyncio.Task[None] | None = None
        self._told = 0
        self._errors: deque[tuple[float, int]] = deque()
        self._doubted_at: float | None = None
        self._burst_at: float | None = None
        self._retry = self._limits.retry_seconds
        self.slow = False
        """Whether the medium keeps a request waiting at the moment."""

    def begin(self, incarnation: int) -> None:
        """``incarnation`` serves from now on; needs a running event loop."""
        self.end()
        self._incarnation = incarnation
        self._looking = asyncio.create_task(self._watch(), name="block detector")

    def end(self) -> None:
        """Nothing serves."""
        self._incarnation = None
        self.slow = False
        self._errors.clear()
        self._told = 0
        for task in (self._looking, self._judging, self._doubting):
            if task is not None:
                task.cancel()
        self._looking = self._judging = self._doubting = None

    def error(self, offset: int) -> None:
        """The device reported an error for a request there."""
        now, limits = self._clock.monotonic(), self._limits
        self._told += 1
        self._errors.append((now, offset))
        while now - self._errors[0][0] > limits.errors_seconds:
            self._errors.popleft()
        places = {place for _, place in self._errors}
        if len(self._errors) < limits.errors or len(places) < limits.places:
            return
        if self._burst_at is not None and now - self._burst_at < self._retry:
            return
        if self._judging is None or self._judging.done():
            self._judging = asyncio.create_task(self._judge(len(places)), name="burst of errors")

    def doubt(self, request: dict[str, object], doubts: Doubts) -> None:
        """The driver tells of an error that nobody was told of yet: one of ``doubts``."""
        if self._doubting is None or self._doubting.done():
            self._doubting = asyncio.create_task(self._settle_doubts(request, doubts), name="doubted errors")

    async def _settle_doubts(self, request: dict[str, object], doubts: Doubts) -> None:
        refused = await self._probe.refused()
        held = doubts.doubted()  # not how many were spoken of: those that were believed meanwhile are settled
        if not held:
            return
        now, last = self._clock.monotonic(), self._doubted_at
        lately = last is not None and now - last < self._limits.doubt_seconds
        if self._incarnation is None or refused is None or refused >= self._told + held or lately:
            doubts.believe()
        else:
            self._doubted_at = now
            self._verdict(Reason.IO_ERRORS, {"why": "the disk under the device refused nothing", **request})

    async def _judge(self, places: int) -> None:
        """A burst of errors: it is the driver's unless the host's disk refused as many requests."""
        refused = await self._probe.refused()
        if refused is not None and refused >= self._told:
            return
        now, limits = self._clock.monotonic(), self._limits
        helped = self._burst_at is None or now - self._burst_at > 2 * self._retry
        self._retry = limits.retry_seconds if helped else min(2 * self._retry, limits.longest_retry_seconds)
        self._burst_at = now
        self._verdict(Reason.IO_ERRORS, {"errors": len(self._errors), "places": places})

    async def _watch(self) -> None:
        while True:
            await self._clock.sleep(self._limits.look_seconds)
            age = self._age()
            if age < self._limits.late_seconds:
                self.slow = False
            elif (why := await self._why_late(age)) is not None:
                self._verdict(Reason.NO_PROGRESS, {"why": why, "oldest_seconds": round(age, 3)})
                return

    async def _why_late(self, age: float) -> str | None:
        """What convicts the driver, or None if the request may yet be answered."""
        limits = self._limits
        first = last = await self._probe.look()
        for _ in range(limits.looks - 1):
            if last is None:
                return None if age < limits.unseen_seconds else "no answer for too long"
            if last.busy:
                break
            await self._clock.sleep(limits.confirm_seconds)
            last = await self._probe.look()
        if first is None or last is None or self._age() < limits.late_seconds:
            return None
        self.slow = last.busy
        if last.busy:
            return None
        if last.done != first.done:
            return None if age < limits.moving_seconds else "others are answered, this one is not"
        return "nobody works on it"

    def _age(self) -> float:
        """Of the oldest request, as it would be on an idle machine."""
        oldest = self._oldest_seconds()
        return 0.0 if oldest is None else oldest / max(1.0, self._load())

    def _verdict(self, reason: Reason, detail: dict[str, object]) -> None:
        incarnation, self._incarnation = self._incarnation, None
        if incarnation is not None:
            self._report(FailureReport(incarnation, reason, self._clock.monotonic(), DETECTOR, detail))
