"""Detector of an interrupt that the driver can't quiet: it comes again and again, and hardly a frame moves.

A card whose line stays asserted, or a driver that clears the wrong bit. The domain lives on, and what it does takes
many times as long; its kernel gives such an interrupt up only after a hundred thousand (kernel/irq/spurious.c), and
looks at the card ten times a second from then on.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from nooks.failure.report import FailureReport, Reason, ReportSink
from nooks.host.clock import Clock

COUNTER = "interrupts"
FRAMES = ("nic_rx", "nic_tx")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class StormLimits:
    """What is too much, and how long to wait with the next verdict if a restart did not help."""

    interrupts_per_second: float = 100.0
    interrupts_per_frame: float = 10.0
    samples: int = 12
    """So many one after the other, with a quarter of a second between."""
    retry_seconds: float = 60.0
    longest_retry_seconds: float = 3600.0


@dataclass(frozen=True)
class _Sample:
    time: float
    interrupts: int
    frames: int


class StormDetector:
    """Watches the live incarnation of one network nook; lives across incarnations, for what it learnt must."""

    def __init__(self, clock: Clock, report: ReportSink, limits: StormLimits | None = None) -> None:
        self._clock = clock
        self._report = report
        self._limits = limits or StormLimits()
        self._incarnation: int | None = None
        self._last: _Sample | None = None
        self._stormy = 0
        self._retry = self._limits.retry_seconds
        self._next_verdict_at = 0.0

    def begin(self, incarnation: int) -> None:
        """``incarnation`` serves from now on."""
        self._incarnation = incarnation
        self._last = None
        self._stormy = 0

    def end(self) -> None:
        """Nothing serves: nothing is judged."""
        self._incarnation = None

    def counters(self, counters: Mapping[str, int], now: float) -> None:
        """The agent's counters arrived; a domain whose device has no interrupt of its own counts none."""
        if self._incarnation is None or COUNTER not in counters:
            return
        sample = _Sample(now, counters[COUNTER], sum(counters.get(name, 0) for name in FRAMES))
        last, self._last = self._last, sample
        if last is None or now <= last.time:
            return
        interrupts, frames = sample.interrupts - last.interrupts, max(0, sample.frames - last.frames)
        rate = interrupts / (now - last.time)
        limits = self._limits
        stormy = rate >= limits.interrupts_per_second and interrupts >= limits.interrupts_per_frame * frames
        self._stormy = self._stormy + 1 if stormy else 0
        if self._stormy >= limits.samples:
            self._verdict(rate, now)

    def _verdict(self, rate: float, now: float) -> None:
        """A restart that did not help is not repeated for a while: a slow driver is better than none."""
        self._stormy = 0
        if now < self._next_verdict_at:
            _log.info("no verdict", why="interrupts without end", cause="the last restart for this didn't help")
            return
        again = now < self._next_verdict_at + self._retry
        self._retry = min(2 * self._retry, self._limits.longest_retry_seconds) if again else self._limits.retry_seconds
        self._next_verdict_at = now + self._retry
        incarnation, self._incarnation = self._incarnation, None
        assert incarnation is not None
        detail = {"why": "interrupts without end", "interrupts_per_second": round(rate)}
        self._report(FailureReport(incarnation, Reason.NO_PROGRESS, self._clock.monotonic(), "interrupts", detail))
