"""Watches the live incarnation: feeds the failure detectors with what happens, hands on what they report.

Joins the failure room (pure judgement) to processes, monitors and channels.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import structlog

from nooks.domain.monitor import Event, age_seconds
from nooks.failure.heartbeat import HeartbeatDetector, HeartbeatLimits, watch
from nooks.failure.panic import PanicDetector, explained
from nooks.failure.process import ProcessDetector, SigchldHub
from nooks.failure.report import FailureReport, Reason, ReportSink
from nooks.failure.schedstat import VcpuClock, VcpuTimes
from nooks.host.clock import Clock
from nooks.host.pace import processor
from nooks.nook.incarnation import Incarnation
from nooks.xpc.errors import ProtocolError
from nooks.xpc.messages import Message


class ClassWatch(Protocol):
    """What only a class can judge: whether the driver makes progress."""

    def begin(self, incarnation: int) -> None:
        """A new incarnation serves."""
        ...

    def end(self) -> None:
        """Nothing serves."""
        ...

    def counters(self, counters: dict[str, int]) -> None:
        """The agent's counters arrived."""
        ...

    def heard(self, message: Message) -> None:
        """The live agent says something."""
        ...


class Detector(Protocol):
    """One that looks by itself while an incarnation serves."""

    def begin(self, incarnation: int) -> None:
        """A new incarnation serves."""
        ...

    def end(self) -> None:
        """Nothing serves."""
        ...


class Watcher:
    """Follows one incarnation at a time; is the Listener of all of a nook's incarnations, spares included.

    ``device`` are the detectors that a real device brings along.
    """

    def __init__(self, clock: Clock, report: ReportSink, side: ClassWatch, device: Sequence[Detector] = ()) -> None:
        self._clock = clock
        self._report = report
        self._side = side
        self._device = device
        self._live: Incarnation | None = None
        self._attended: Incarnation | None = None
        self._heartbeat = HeartbeatDetector(HeartbeatLimits().on(processor()))
        self._vcpu: VcpuClock | None = None
        self._process: ProcessDetector | None = None
        self._panic = PanicDetector()
        self._hub = SigchldHub()
        self._checking: asyncio.Task[Any] | None = None
        self._log = structlog.get_logger()

    def open(self) -> None:
        """Begin; needs the main thread's running event loop."""
        self._hub.open()
        self._checking = asyncio.create_task(
            watch(self._heartbeat, self._clock, self._read_vcpu, self._say_silent), name="heartbeat"
        )

    async def close(self) -> None:
        """Watch nothing any more. Safe to call twice."""
        self.leave()
        self._hub.close()
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.gather(self._checking, return_exceptions=True)
            self._checking = None

    def follow(self, live: Incarnation) -> None:
        """Watch this incarnation, which serves from now on, and its CPU runs."""
        self._attend(live, probing=False)
        self._live = live
        self._side.begin(live.number)
        for detector in self._device:
            detector.begin(live.number)

    def attend(self, incarnation: Incarnation) -> None:
        """Watch whether this one lives, whose driver is bringing its device up: nothing more is to be judged yet."""
        self._attend(incarnation, probing=True)

    def _attend(self, incarnation: Incarnation, *, probing: bool) -> None:
        self.leave()
        self._attended = incarnation
        domain = incarnation.domain
        self._vcpu = VcpuClock(domain.pid, domain.vcpu_thread)
        self._heartbeat.begin(incarnation.number, self._clock.monotonic(), probing=probing)
        self._process = ProcessDetector(
            incarnation.number, domain.pid, domain.handles.pidfd, self._clock, self._say_ended
        )
        self._hub.add(self._process.look)
        self._process.open()
        self._panic.begin(incarnation.number)

    def leave(self) -> None:
        """Stop watching: the domain is about to be fenced."""
        self._live = self._attended = None
        self._heartbeat.end()
        self._panic.end()
        self._side.end()
        for detector in self._device:
            detector.end()
        if self._process is not None:
            self._hub.discard(self._process.look)
            self._process.close()
            self._process = None
        if self._vcpu is not None:
            self._vcpu.close()
            self._vcpu = None

    def pause(self) -> None:
        """The domain's CPU is about to be stopped on purpose."""
        self._heartbeat.pause()

    def unpause(self) -> None:
        """It runs again."""
        self._heartbeat.unpause(self._clock.monotonic())

    # -- incarnation.Listener ----------------------------------------------------------------------------------

    def heard_beat(self, incarnation: Incarnation, count: int, counters: dict[str, int] | None) -> None:
        """A heartbeat arrived."""
        if incarnation is not self._attended:
            return
        self._heartbeat.beat(incarnation.number, count, self._clock.monotonic(), self._read_vcpu())
        if counters and incarnation is self._live:
            self._side.counters(counters)

    def heard_message(self, incarnation: Incarnation, message: Message) -> None:
        """The agent sent an event."""
        if incarnation is self._live:
            self._side.heard(message)

    def heard_violation(self, incarnation: Incarnation, error: ProtocolError) -> None:
        """The domain broke the protocol."""
        if incarnation is not self._live:
            self._log.warning("a domain that does not serve broke the protocol", error=str(error))
            incarnation.domain.kill_process()
            return
        self._say(self._verdict(incarnation, Reason.PROTOCOL, "xpc", {"violation": str(error)}))

    def heard_machine(self, incarnation: Incarnation, event: Event) -> None:
        """QEMU sent an event."""
        if incarnation is not self._attended:
            return
        console = incarnation.domain.console.text()
        now = self._clock.monotonic()
        name, data = str(event["event"]), event.get("data", {})
        report = self._panic.event(name, data, now, console, age_seconds=age_seconds(event))
        if report is not None:
            self._say(report)

    def _verdict(
        self, incarnation: Incarnation, reason: Reason, detector: str, detail: dict[str, Any]
    ) -> FailureReport:
        return FailureReport(incarnation.number, reason, self._clock.monotonic(), detector, detail)

    def _read_vcpu(self) -> VcpuTimes | None:
        return self._vcpu.read() if self._vcpu is not None else None

    def _say_silent(self, report: FailureReport) -> None:
        if self._live is not None:
            report = explained(report, self._live.domain.console.text())
        self._say(report)

    def _say_ended(self, report: FailureReport) -> None:
        said = self._attended.domain.said() if self._attended is not None else ""
        self._say(replace(report, detail={**report.detail, "said": said}) if said else report)

    def _say(self, report: FailureReport) -> None:
        self._report(report)
