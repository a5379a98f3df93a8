"""Has the domain's process ended, or has somebody stopped it?

The end makes its pidfd readable. A stop is told to the parent by SIGCHLD, so for a child nothing is polled. A domain
that was adopted is somebody else's child: its state in /proc is read every 20 ms (a wake-up costs about 0.1 ms, the
reading 3 µs; so 0.5% of a core until the next incarnation, which is a child again).
"""

import asyncio
import os
import select
import signal
from collections.abc import Callable
from typing import Any

from nooks.failure.report import FailureReport, Reason, ReportSink
from nooks.host.clock import Clock

POLL_SECONDS = 0.02
_DETECTOR = "process"


class ProcessDetector:
    """Watches the process of one incarnation, and reports once.

    Args:
        incarnation: its number.
        pid, pidfd: the process; the descriptor stays the caller's.
        clock: for the time of the report.
        report: where the verdict goes.

    Between ``open`` and ``close`` call ``look`` on every SIGCHLD (``SigchldHub``).
    """

    def __init__(self, incarnation: int, pid: int, pidfd: int, clock: Clock, report: ReportSink) -> None:
        self._incarnation = incarnation
        self._pid = pid
        self._pidfd = os.dup(pidfd)  # of our own: an event loop has one reader per descriptor
        self._clock = clock
        self._report: ReportSink | None = report
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stat = -1
        self._traced_since: float | None = None

    def open(self) -> None:
        """Begin to watch, in the running event loop; what happened before is noticed as well."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._pidfd, self.look)
        if not self._is_child():
            try:
                self._stat = os.open(f"/proc/{self._pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                self._loop.call_soon(self.look)
                return
            self._poll()
        else:
            self.look()

    def close(self) -> None:
        """Stop watching; once more does no harm."""
        self._report = None
        if self._loop is not None:
            self._loop.remove_reader(self._pidfd)
            self._loop = None
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._stat >= 0:
            os.close(self._stat)
            self._stat = -1

    def look(self) -> None:
        """See how the process is, in some microseconds, and report if it is not well."""
        if self._report is None:
            return
        if self._ended():
            self._say(Reason.EXIT, self._exit_status())
        elif self._stat < 0:
            if self._child_is_stopped():
                self._say(Reason.FROZEN, {"state": "T"})
        else:
            self._judge_state(self._state())

    def _poll(self) -> None:
        self.look()
        if self._loop is not None and self._report is not None:
            self._timer = self._loop.call_later(POLL_SECONDS, self._poll)

    def _judge_state(self, state: str) -> None:
        """A debugger stops its tracee (t) for moments that are no failure; a signal's stop (T) is meant."""
        now = self._clock.monotonic()
        if state == "T":
            self._say(Reason.FROZEN, {"state": state})
        elif state != "t":
            self._traced_since = None
        elif self._traced_since is None:
            self._traced_since = now
        elif now - self._traced_since >= 2 * POLL_SECONDS:
            self._say(Reason.FROZEN, {"state": state})

    def _say(self, reason: Reason, detail: dict[str, Any]) -> None:
        report = self._report
        self.close()
        if report is not None:
            detail = {"pid": self._pid, **detail}
            report(FailureReport(self._incarnation, reason, self._clock.monotonic(), _DETECTOR, detail))

    def _ended(self) -> bool:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def _is_child(self) -> bool:
        try:
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True

    def _child_is_stopped(self) -> bool:
        """Asks without consuming what the owner of the process will want to know (WNOWAIT)."""
        try:
            status = os.waitid(os.P_PIDFD, self._pidfd, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return status is not None and status.si_code in (os.CLD_STOPPED, os.CLD_TRAPPED)

    def _exit_status(self) -> dict[str, Any]:
        try:
            status = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return {}
        if status is None:
            return {}
        if status.si_code == os.CLD_EXITED:
            return {"status": status.si_status}
        return {"signal": _signal_name(status.si_status)}

    def _state(self) -> str:
        try:
            text = os.pread(self._stat, 512, 0)
        except OSError:
            return "X"
        return text.rpartition(b") ")[2][:1].decode("ascii", "replace")


class SigchldHub:
    """The event loop has one handler per signal, and several watches want SIGCHLD: this hands it round."""

    def __init__(self) -> None:
        self._looks: set[Callable[[], None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Take SIGCHLD over in the running event loop, which must be the main thread's."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGCHLD, self._arrived)

    def close(self) -> None:
        """Give it back; once more does no harm."""
        if self._loop is not None:
            self._loop.remove_signal_handler(signal.SIGCHLD)
            self._loop = None
        self._looks.clear()

    def add(self, look: Callable[[], None]) -> None:
        """Call ``look`` at every SIGCHLD from now on."""
        self._looks.add(look)

    def discard(self, look: Callable[[], None]) -> None:
        """No more; fine if it never was added."""
        self._looks.discard(look)

    def _arrived(self) -> None:
        for look in tuple(self._looks):
            look()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
