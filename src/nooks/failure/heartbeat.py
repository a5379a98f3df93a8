"""Is the domain alive? Judged by its heartbeat, in virtual-CPU time as well as by the wall clock.

A busy host delays a healthy heartbeat by hundreds of milliseconds of wall time, but by little of the time that the
virtual CPU really ran; a CPU that spins with interrupts off runs and doesn't beat. A CPU that is halted with
interrupts off runs nothing: its thread sleeps, neither running nor waiting for a core, and the wall clock tells.

What isn't the domain's fault is subtracted: waiting for a core (its own, and that of QEMU's main thread, which carries
the beats and may hold the lock that the virtual CPU sleeps for), this detector's own lateness (a stalled or suspended
host, a starved supervisor), and the time during which somebody stopped the domain on purpose. Suspend isn't counted by
the clock that is injected; on a machine where it is, it shows as lateness.

**Read first, judge after**: beats may lie unread in the socket when a check comes late. So a verdict needs two checks
with a turn of the event loop between them; whoever feeds this by hand must read the socket dry before each check.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from nooks.failure.report import FailureReport, Reason, ReportSink
from nooks.failure.schedstat import VcpuTimes
from nooks.host.clock import Clock

_LONGEST_NAP_SECONDS = 0.25

BEAT_SECONDS = 0.075
"""How often a beat is due."""

FIRST_BEAT_SECONDS = 2.0

PROBE_SECONDS = 5.0
"""How long a driver that looks for its device may hold the CPU, on a usual processor: no kernel is preempted by the
heartbeat's process then. (The kernel itself calls it a lockup after 20 s.)"""

ANSWER_SECONDS = 3.0
"""How long it may wait for one answer of its device. Less than QEMU's own patience with a vfio-user card (5 s for each
message, then all ones): a driver that looks in vain again and again would use up the whole time of the restart."""


@dataclass(frozen=True)
class HeartbeatLimits:
    """All in seconds."""

    run: float = 0.175
    """The virtual CPU ran this long without a beat (healthy: under 0.1)."""
    wall: float = 0.100
    """... and at least this much time passed."""
    asleep: float = 1.0
    """The virtual CPU slept this long, wanting no core."""
    silent: float = 2.0
    """Nothing was heard for this long, cores having been there."""
    late: float = 0.050
    """A check this much later than planned says something of the host, nothing of the domain."""
    run_after_late: float = 0.075
    """What a domain may run on after such a check before it is blamed."""
    late_checks: int = 3
    """How many late checks per missing beat are forgiven: a supervisor that is always late must judge in the end."""
    confirm: float = 0.005
    """From suspicion to verdict; unread beats are read in between."""

    def on(self, processor: float) -> "HeartbeatLimits":
        """For a processor that is so many times slower than a usual one: what takes time between two beats takes more.

        A machine that is itself emulated is such a one; it also takes what its host does meanwhile for its own work.
        """
        between_beats = self.run - BEAT_SECONDS
        return dataclasses.replace(
            self,
            run=BEAT_SECONDS + between_beats * processor,
            run_after_late=self.run_after_late * processor,
            asleep=max(self.asleep, BEAT_SECONDS + between_beats * processor),
        )

    def while_probing(self) -> "HeartbeatLimits":
        """For a domain whose driver brings its device up: it may run, or wait for the device's answers, for long."""
        processor = max(1.0, self.run / HeartbeatLimits.run)
        longest = PROBE_SECONDS * processor
        return dataclasses.replace(self, run=longest, asleep=ANSWER_SECONDS * processor, silent=2 * longest)


@dataclass
class _Silence:
    """What is known since the last beat, or since the domain began to run."""

    since: float
    vcpu: VcpuTimes | None
    first_beat_seconds: float | None
    excused: float = 0.0
    late_checks: int = 0
    run_limit: float = 0.0
    suspected_at: float | None = None


@dataclass(frozen=True)
class _Evidence:
    """How the seconds since the last beat were spent."""

    wall: float
    run: float
    asleep: float
    heard_nothing: float


class HeartbeatDetector:
    """Watches one incarnation at a time; pure, all times are the caller's (seconds of the injected clock)."""

    def __init__(self, limits: HeartbeatLimits | None = None) -> None:
        self._usual = self._limits = limits or HeartbeatLimits()
        self._incarnation = 0
        self._count = -1
        self._silence: _Silence | None = None
        self._paused = False
        self._due: float | None = None

    def begin(self, incarnation: int, now: float, *, probing: bool = False) -> None:
        """Watch ``incarnation``, whose CPU runs from now on. ``probing``: its driver brings a device up."""
        self._limits = self._usual.while_probing() if probing else self._usual
        self._incarnation = incarnation
        self._count = -1
        self._paused = False
        self._due = None
        self._silence = _Silence(now, None, self._limits.silent if probing else FIRST_BEAT_SECONDS)

    def end(self) -> None:
        """Watch nothing: the domain is being fenced, or its report was made."""
        self._silence = None

    def pause(self) -> None:
        """Somebody stops the domain's CPU on purpose: the debug stub, a snapshot."""
        self._paused = True

    def unpause(self, now: float) -> None:
        """It runs again; nothing that came before counts."""
        self._paused = False
        self._due = None
        if self._silence is not None:
            self._silence = _Silence(now, None, self._silence.first_beat_seconds)

    def beat(self, incarnation: int, count: int, now: float, vcpu: VcpuTimes | None = None) -> None:
        """A heartbeat was read. ``vcpu`` as of now; without it the next check's reading serves, which is later.

        Beats of other incarnations, and counts that don't grow, are no sign of life.
        """
        if self._silence is None or incarnation != self._incarnation or count <= self._count:
            return
        self._count = count
        self._silence = _Silence(now, vcpu, None)

    def deadline(self, now: float) -> float:
        """When to check next: before that, no verdict is possible."""
        if self._due is not None:
            return self._due
        if self._silence is None or self._paused:
            return now + _LONGEST_NAP_SECONDS
        return self._silence.since + self._limits.wall

    def check(self, now: float, vcpu: VcpuTimes | None) -> FailureReport | None:
        """Judge. ``vcpu``: the virtual CPU's times now, None if unknown. A verdict ends the watch."""
        silence = self._silence
        if silence is None or self._paused:
            self._due = None
            return None
        if silence.vcpu is None:
            silence.vcpu = vcpu
        evidence = self._evidence(silence, now, vcpu)
        self._forgive_lateness(silence, now, evidence)
        evidence = self._evidence(silence, now, vcpu)
        reason = self._judge(silence, evidence, vcpu is not None)
        if reason is None:
            silence.suspected_at = None
            self._due = now + max(self._limits.confirm, self._possible_in(silence, evidence, vcpu is not None))
            return None
        if silence.suspected_at is None or now - silence.suspected_at < self._limits.confirm:
            silence.suspected_at = now if silence.suspected_at is None else silence.suspected_at
            self._due = now + self._limits.confirm
            return None
        self._silence = None
        self._due = None
        detail = {f"{name}_seconds": round(value, 4) for name, value in dataclasses.asdict(evidence).items()}
        return FailureReport(self._incarnation, reason, now, "heartbeat", {"last_beat": self._count, **detail})

    def _forgive_lateness(self, silence: _Silence, now: float, evidence: _Evidence) -> None:
        late = now - max(self.deadline(now), silence.since)
        if late <= self._limits.late:
            return
        silence.excused += late
        if silence.late_checks < self._limits.late_checks:
            silence.late_checks += 1
            silence.run_limit = evidence.run + self._limits.run_after_late
            silence.suspected_at = None

    def _evidence(self, silence: _Silence, now: float, vcpu: VcpuTimes | None) -> _Evidence:
        wall = now - silence.since
        if vcpu is None or silence.vcpu is None:
            return _Evidence(wall, 0.0, 0.0, wall - silence.excused)
        run = vcpu.run_seconds - silence.vcpu.run_seconds
        wait = vcpu.wait_seconds - silence.vcpu.wait_seconds
        main_wait = vcpu.main_wait_seconds - silence.vcpu.main_wait_seconds
        return _Evidence(
            wall=wall,
            run=run - main_wait,
            asleep=wall - run - wait - main_wait - silence.excused,
            heard_nothing=wall - max(wait, main_wait) - silence.excused,
        )

    def _judge(self, silence: _Silence, evidence: _Evidence, vcpu_known: bool) -> Reason | None:
        limits = self._limits
        if silence.first_beat_seconds is not None:
            if evidence.heard_nothing <= silence.first_beat_seconds:
                return None
            return Reason.HALTED if vcpu_known and evidence.asleep > evidence.run else Reason.HEARTBEAT
        if evidence.run > max(limits.run, silence.run_limit) and evidence.wall > limits.wall:
            return Reason.HEARTBEAT
        if vcpu_known and evidence.asleep > limits.asleep:
            return Reason.HALTED
        if evidence.heard_nothing > limits.silent:
            return Reason.HALTED if vcpu_known else Reason.HEARTBEAT
        return None

    def _possible_in(self, silence: _Silence, evidence: _Evidence, vcpu_known: bool) -> float:
        """The least seconds until the evidence can reach a limit; none of it grows faster than the wall clock."""
        limits = self._limits
        if silence.first_beat_seconds is not None:
            return silence.first_beat_seconds - evidence.heard_nothing
        waits = [limits.silent - evidence.heard_nothing]
        if vcpu_known:
            waits += [max(limits.run, silence.run_limit) - evidence.run, limits.asleep - evidence.asleep]
        return min(waits)


async def watch(
    detector: HeartbeatDetector, clock: Clock, read_vcpu: Callable[[], VcpuTimes | None], report: ReportSink
) -> NoReturn:
    """Check for ever at the right moments; costs about eight wake-ups a second while the domain is well.

    Args:
        detector: fed with beats by others, in the same event loop.
        read_vcpu: the virtual CPU's times now (``schedstat.VcpuClock.read``).
        report: where a verdict goes.
    """
    while True:
        now = clock.monotonic()
        await clock.sleep(min(_LONGEST_NAP_SECONDS, max(0.001, detector.deadline(now) - now)))
        now = clock.monotonic()
        if now < detector.deadline(now):
            continue
        verdict = detector.check(now, read_vcpu())
        if verdict is not None:
            report(verdict)
