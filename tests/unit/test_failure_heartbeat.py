"""Heartbeat verdicts: hung, halted, and everything that only looks like it."""

import asyncio
import os
import threading
import time
from collections.abc import Callable

import pytest
from fakes import FakeClock, run
from hypothesis import given, settings
from hypothesis import strategies as st

from nooks.failure.heartbeat import ANSWER_SECONDS, PROBE_SECONDS, HeartbeatDetector, HeartbeatLimits, watch
from nooks.failure.report import FailureReport, Reason
from nooks.failure.schedstat import VcpuClock, VcpuTimes

MS = 0.001


class Host:
    """A simulated host: time in milliseconds, one virtual CPU, a supervisor that checks when it gets a core.

    ``spend(now)`` says how the vCPU's next millisecond goes: 'run', 'wait' or 'sleep'; ``main_waits(now)`` whether
    QEMU's main thread is starved, in which case beats stay inside.
    """

    def __init__(self, spend: Callable[[float], str], beats: bool = True) -> None:
        self.spend = spend
        self.beats = beats
        self.main_waits: Callable[[float], bool] = lambda _now: False
        self.supervisor_runs: Callable[[float], bool] = lambda _now: True
        self.known = True
        self.now = 0.0
        self.ran = self.waited = self.main_waited = 0.0
        self.detector = HeartbeatDetector()
        self.unread: list[int] = []
        self.sent: list[int] = []
        self.count = 0
        self.next_beat = 0.0
        self.verdict: FailureReport | None = None

    def vcpu(self) -> VcpuTimes | None:
        return VcpuTimes(self.ran, self.waited, self.main_waited) if self.known else None

    def play(self, seconds: float) -> FailureReport | None:
        end = self.now + seconds
        while self.now < end and self.verdict is None:
            self._millisecond()
        return self.verdict

    def _millisecond(self) -> None:
        self.now += MS
        how = self.spend(self.now)
        self.ran += MS * (how == "run")
        self.waited += MS * (how == "wait")
        starved = self.main_waits(self.now)
        self.main_waited += MS * starved
        # a healthy guest beats when its timer is due and it gets a core; a halted one wakes for that
        if self.beats and self.now >= self.next_beat and how != "wait":
            self.count += 1
            self.sent.append(self.count)
            self.next_beat = self.now + 0.075
        if not starved:
            self.unread += self.sent
            self.sent = []
        if self.supervisor_runs(self.now):
            for count in self.unread:
                self.detector.beat(1, count, self.now, self.vcpu())
            self.unread = []
            if self.now >= self.detector.deadline(self.now):
                self.verdict = self.detector.check(self.now, self.vcpu())


def always(spend: str) -> Callable[[float], str]:
    """A CPU that does the same at any time."""
    return lambda _now: spend


def begun(spend: Callable[[float], str], beats: bool = True, healthy_seconds: float = 1.0) -> Host:
    """A host whose domain was healthy for a while and then goes on as said."""
    host = Host(lambda _now: "sleep")
    host.detector.begin(1, 0.0)
    assert host.play(healthy_seconds) is None
    host.spend, host.beats = spend, beats
    return host


def test_a_spinning_cpu_is_noticed_in_a_quarter_second() -> None:
    host = begun(lambda _now: "run", beats=False)
    verdict = host.play(5)
    assert verdict is not None
    assert verdict.reason is Reason.HEARTBEAT
    assert verdict.incarnation == 1
    assert verdict.noticed_at - 1.0 <= 0.25


def test_a_halted_cpu_is_noticed_within_two_seconds() -> None:
    verdict = begun(lambda _now: "sleep", beats=False).play(5)
    assert verdict is not None
    assert verdict.reason is Reason.HALTED
    assert 0.9 < verdict.noticed_at - 1.0 <= 1.2


def test_a_halted_cpu_without_scheduler_statistics() -> None:
    host = begun(lambda _now: "sleep", beats=False)
    host.known = False
    verdict = host.play(5)
    assert verdict is not None
    assert verdict.reason is Reason.HEARTBEAT
    assert 1.9 < verdict.noticed_at - 1.0 <= 2.2


def test_a_hang_on_a_loaded_host_counts_what_the_cpu_ran() -> None:
    host = begun(lambda now: "run" if int(now * 100) % 5 == 0 else "wait", beats=False)
    verdict = host.play(5)
    assert verdict is not None
    assert verdict.reason is Reason.HEARTBEAT
    assert 0.7 < verdict.noticed_at - 1.0 < 1.1
    assert verdict.detail["run_seconds"] < 0.25


def test_one_verdict_per_incarnation() -> None:
    host = begun(lambda _now: "run", beats=False)
    assert host.play(5) is not None
    host.verdict = None
    assert host.play(5) is None
    host.detector.begin(2, host.now)
    host.detector.beat(2, 1, host.now)
    verdict = host.play(5)
    assert verdict is not None
    assert verdict.incarnation == 2


@pytest.mark.parametrize("gap", [0.28, 1.5, 4.0])
def test_a_starved_virtual_cpu_is_no_failure(gap: float) -> None:
    host = begun(lambda now: "wait" if now % (gap + 0.06) < gap else "run")
    assert host.play(30) is None


@pytest.mark.parametrize("stall", [0.2, 3.0, 60.0])
def test_a_starved_supervisor_reads_first_and_judges_after(stall: float) -> None:
    host = begun(lambda now: "run" if now % 0.1 < 0.05 else "sleep")
    host.supervisor_runs = lambda now: now % (stall + 1) > stall
    assert host.play(4 * (stall + 1)) is None


@pytest.mark.parametrize("counted_as", ["run", "wait", "sleep"])
@pytest.mark.parametrize("stall", [0.5, 3.0, 600.0])
def test_a_stalled_host_is_no_failure(stall: float, counted_as: str) -> None:
    """The whole host stood still; whatever the scheduler counted meanwhile, the domain had no chance to beat."""
    host = begun(lambda _now: "sleep")
    host.now += stall
    host.next_beat = host.now + 0.049  # it goes on where it was
    host.ran += stall * (counted_as == "run")
    host.waited += stall * (counted_as == "wait")
    host.main_waited += stall * (counted_as == "wait")
    assert host.play(3) is None


def test_a_stalled_host_does_not_hide_a_hang() -> None:
    host = begun(lambda _now: "run", beats=False)
    host.now += 3
    host.ran += 3
    verdict = host.play(5)
    assert verdict is not None
    assert verdict.noticed_at - 4.0 < 0.3


@pytest.mark.parametrize(("how", "reason", "limit"), [("run", Reason.HEARTBEAT, 1.5), ("sleep", Reason.HALTED, 4.0)])
def test_a_supervisor_that_is_always_late_judges_in_the_end(how: str, reason: Reason, limit: float) -> None:
    host = begun(lambda _now: how, beats=False)
    host.supervisor_runs = lambda now: int(now * 1000) % 70 == 0
    verdict = host.play(30)
    assert verdict is not None
    assert verdict.reason is reason
    assert verdict.noticed_at - 1.0 < limit


@pytest.mark.parametrize("starved", [0.3, 1.4])
def test_beats_stuck_behind_a_starved_main_thread(starved: float) -> None:
    host = begun(lambda now: "run" if int(now * 1000) % 10 < 8 else "sleep")
    host.main_waits = lambda now: now % (starved + 0.5) < starved
    assert host.play(10) is None


def test_a_virtual_cpu_that_waits_for_the_big_lock() -> None:
    """Its thread sleeps while the starved main thread holds the lock; no beat can be made or carried."""
    host = begun(lambda now: "sleep")
    host.beats = False
    host.main_waits = lambda now: now < 2.6
    host.play(1.6)
    host.beats = True
    host.main_waits = lambda _now: False
    assert host.play(3) is None


def test_debug_stops_are_subtracted() -> None:
    host = begun(lambda _now: "sleep", beats=False)
    host.detector.pause()
    assert host.play(20) is None
    host.detector.unpause(host.now)
    assert host.play(0.9) is None
    verdict = host.play(1)
    assert verdict is not None
    assert verdict.reason is Reason.HALTED


def test_the_first_beat_may_take_longer_and_must_come() -> None:
    host = Host(lambda _now: "run", beats=False)
    host.detector.begin(3, 0.0)
    assert host.play(1.9) is None
    verdict = host.play(1)
    assert verdict is not None
    assert verdict.incarnation == 3


@pytest.mark.parametrize(
    ("spend", "reason", "seconds"),
    [("run", Reason.HEARTBEAT, PROBE_SECONDS), ("sleep", Reason.HALTED, ANSWER_SECONDS)],
)
def test_a_driver_that_probes_may_take_long_but_not_for_ever(spend: str, reason: Reason, seconds: float) -> None:
    host = Host(lambda _now: "sleep")
    host.detector.begin(1, 0.0, probing=True)
    assert host.play(1.0) is None
    host.beats = False
    host.spend = always(spend)
    assert host.play(seconds - 0.2) is None
    verdict = host.play(1)
    assert verdict is not None
    assert verdict.reason is reason
    host.verdict = None
    host.detector.begin(1, host.now)
    verdict = host.play(2.1)
    assert verdict is not None, "whoever serves has less time"


def test_other_incarnations_and_old_counts_are_no_sign_of_life() -> None:
    host = begun(lambda _now: "run", beats=False)
    for _ in range(300):
        host.play(MS)
        host.detector.beat(2, 10_000, host.now, host.vcpu())
        host.detector.beat(1, host.count, host.now, host.vcpu())
    assert host.verdict is not None


def test_nothing_is_said_before_begin_and_after_end() -> None:
    host = Host(lambda _now: "run", beats=False)
    assert host.play(3) is None
    host.detector.begin(1, host.now)
    host.detector.end()
    assert host.play(3) is None


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(["run", "wait", "sleep"]), st.integers(1, 90)), min_size=1, max_size=20),
    st.lists(st.integers(1, 400), min_size=1, max_size=6),
)
def test_no_false_alarm_whatever_the_host_does(slices: list[tuple[str, int]], naps: list[int]) -> None:
    pattern = [how for how, length in slices for _ in range(length)]
    awake = [index % 2 == 0 for index, nap in enumerate(naps) for _ in range(5 if index % 2 == 0 else nap)]
    host = begun(lambda now: pattern[int(now * 1000) % len(pattern)])
    host.supervisor_runs = lambda now: awake[int(now * 1000) % len(awake)]
    if all(how == "wait" for how in pattern):
        return
    assert host.play(6) is None


def test_watch_checks_seldom_while_all_is_well_and_reports_a_hang() -> None:
    async def main() -> None:
        clock, detector = FakeClock(), HeartbeatDetector()
        reports: list[FailureReport] = []
        reads = [0]
        hung_at: list[float] = []

        def vcpu() -> VcpuTimes:
            reads[0] += 1
            return VcpuTimes(clock.monotonic() - hung_at[0] if hung_at else 0.0, 0.0)

        task = asyncio.create_task(watch(detector, clock, vcpu, reports.append))
        detector.begin(1, clock.monotonic())
        for count in range(100):
            detector.beat(1, count, clock.monotonic(), VcpuTimes(0, 0))
            await clock.advance(0.05)
        assert reads[0] < 60
        assert not reports
        hung_at.append(clock.monotonic())
        await clock.advance(1)
        assert [report.reason for report in reports] == [Reason.HEARTBEAT]
        assert reports[0].noticed_at - hung_at[0] < 0.2
        task.cancel()
        await asyncio.wait({task})

    run(main)


def test_vcpu_clock_reads_a_real_thread() -> None:
    stop = threading.Event()
    ready: list[int] = []

    def spin() -> None:
        ready.append(threading.get_native_id())
        while not stop.is_set():
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    while not ready:
        time.sleep(0.001)
    try:
        with VcpuClock(os.getpid(), ready[0]) as clock:
            first = clock.read()
            time.sleep(0.2)
            second = clock.read()
    finally:
        stop.set()
        thread.join()
    if first is None or second is None:
        pytest.skip("this kernel keeps no scheduler statistics")
    spent = second.run_seconds - first.run_seconds + second.wait_seconds - first.wait_seconds
    assert spent > 0.01
    assert second.main_wait_seconds >= first.main_wait_seconds
    with pytest.raises(OSError, match="schedstat"):
        VcpuClock(os.getpid(), 2**22 - 1)


def test_a_beat_that_was_still_unread_at_the_first_look_saves_the_domain() -> None:
    detector = HeartbeatDetector()
    detector.begin(1, 0.0)
    detector.beat(1, 1, 0.0, VcpuTimes(0, 0))
    assert detector.check(0.1, VcpuTimes(0.1, 0)) is None
    assert detector.check(0.18, VcpuTimes(0.18, 0)) is None
    assert detector.deadline(0.18) == pytest.approx(0.185)
    detector.beat(1, 2, 0.181, VcpuTimes(0.181, 0))
    assert detector.check(0.186, VcpuTimes(0.186, 0)) is None
    assert detector.check(0.357, VcpuTimes(0.357, 0)) is None
    verdict = detector.check(0.363, VcpuTimes(0.363, 0))
    assert verdict is not None
    assert verdict.detail["last_beat"] == 2


def test_a_slow_machines_domain_may_run_longer_without_a_beat() -> None:
    assert HeartbeatLimits().on(1.0) == HeartbeatLimits()
    detector = HeartbeatDetector(HeartbeatLimits().on(10.0))
    detector.begin(1, 0.0)
    detector.beat(1, 1, 0.0, VcpuTimes(0, 0))
    verdicts = [detector.check(now / 100, VcpuTimes(now / 100, 0)) for now in range(1, 115)]
    assert verdicts[:107] == [None] * 107
    assert any(verdicts)
