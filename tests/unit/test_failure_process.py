"""A process's end and stop, noticed at once, without polling where it is our child."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from fakes import run

from nooks.failure import process as module
from nooks.failure.process import ProcessDetector, SigchldHub
from nooks.failure.report import FailureReport, Reason
from nooks.host.clock import SystemClock


class Watched:
    """A watched sleeping process; ``reports`` grows."""

    def __init__(self, pid: int, hub: SigchldHub) -> None:
        self.pid = pid
        self.reports: list[FailureReport] = []
        self.came = asyncio.Event()
        self.pidfd = os.pidfd_open(pid)
        self.watch = ProcessDetector(7, pid, self.pidfd, SystemClock(), self._take)
        self.watch.open()
        hub.add(self.watch.look)

    def _take(self, report: FailureReport) -> None:
        self.reports.append(report)
        self.came.set()

    async def report(self) -> FailureReport:
        async with asyncio.timeout(10):
            await self.came.wait()
        return self.reports[0]


@contextlib.asynccontextmanager
async def watched(child: bool = True) -> AsyncGenerator[Watched]:
    """A sleeping child of ours, or one of somebody else's (its parent has gone)."""
    hub = SigchldHub()
    hub.open()
    popen = _spawn("sleep", "60") if child else None
    pid = popen.pid if popen is not None else await _grandchild()
    subject = Watched(pid, hub)
    try:
        yield subject
    finally:
        subject.watch.close()
        hub.close()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(subject.pidfd, signal.SIGKILL)
        os.close(subject.pidfd)
        if popen is not None:
            popen.wait()


def _spawn(*command: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command)


async def _grandchild() -> int:
    code = "import subprocess; print(subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL).pid)"
    made = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    output, _ = await made.communicate()
    return int(output)


@pytest.mark.parametrize("child", [True, False])
def test_a_killed_process_is_reported_at_once(child: bool) -> None:
    async def main() -> None:
        async with watched(child) as subject:
            await asyncio.sleep(0.05)
            assert not subject.reports
            began = time.monotonic()
            os.kill(subject.pid, signal.SIGKILL)
            report = await subject.report()
            assert report.reason is Reason.EXIT
            assert report.incarnation == 7
            assert report.noticed_at - began < 0.5  # about a millisecond on an idle machine
            assert report.detail.get("signal") == ("SIGKILL" if child else None)

    run(main)


@pytest.mark.parametrize("child", [True, False])
def test_a_stopped_process_is_reported_at_once(child: bool) -> None:
    async def main() -> None:
        async with watched(child) as subject:
            await asyncio.sleep(0.05)
            assert not subject.reports
            began = time.monotonic()
            os.kill(subject.pid, signal.SIGSTOP)
            report = await subject.report()
            assert report.reason is Reason.FROZEN
            assert report.noticed_at - began < 0.5
            os.kill(subject.pid, signal.SIGKILL)
            await asyncio.sleep(0.05)
            assert len(subject.reports) == 1

    run(main)


def test_a_child_costs_no_wake_ups(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        looks = [0]
        real = ProcessDetector.look

        def counted(self: ProcessDetector) -> None:
            looks[0] += 1
            real(self)

        monkeypatch.setattr(ProcessDetector, "look", counted)
        async with watched():
            await asyncio.sleep(0.3)
            assert looks[0] <= 2

    run(main)


def test_the_owner_can_still_reap() -> None:
    async def main() -> None:
        popen = _spawn("sh", "-c", "exit 3")
        async with asyncio.timeout(10):
            subject = Watched(popen.pid, SigchldHub())
            assert (await subject.report()).detail["status"] == 3
        assert popen.wait() == 3
        os.close(subject.pidfd)

    run(main)


def test_a_process_that_ended_before_the_watch_began() -> None:
    async def main() -> None:
        pid = await _grandchild()
        pidfd = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.2)
        reports: list[FailureReport] = []
        watch = ProcessDetector(1, pid, pidfd, SystemClock(), reports.append)
        watch.open()
        await asyncio.sleep(0.05)
        watch.close()
        os.close(pidfd)
        assert [report.reason for report in reports] == [Reason.EXIT]

    run(main)


def test_a_debuggers_moments_are_no_failure_but_its_stop_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        states = iter("StStStStttttttt")

        def state(_watch: ProcessDetector) -> str:
            return next(states, "S")

        monkeypatch.setattr(ProcessDetector, "_state", state)
        async with watched(child=False) as subject:
            report = await subject.report()
            assert report.detail["state"] == "t"
            assert len(list(states)) <= 5

    run(main)


def test_close_releases_everything() -> None:
    async def main() -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        async with watched(child=False) as subject:
            await asyncio.sleep(3 * module.POLL_SECONDS)
            subject.watch.close()
            subject.watch.close()
            os.kill(subject.pid, signal.SIGSTOP)
            await asyncio.sleep(3 * module.POLL_SECONDS)
            assert not subject.reports
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    run(main)
