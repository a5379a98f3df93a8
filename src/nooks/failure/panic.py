"""What QEMU says of its machine: the guest panicked, or the machine ended, reset or stopped though nobody asked.

The console is read before a panic is judged, for the kernel says there what it died of. Knows no socket: whoever feeds
this drains the console first, and hands over its text.
"""

import dataclasses
from typing import Any

from nooks.failure.oops import Oops, parse
from nooks.failure.report import FailureReport, Reason

_ENDED = {
    "SHUTDOWN": "the machine shut down",
    "RESET": "the machine reset itself",
    "WATCHDOG": "the machine's watchdog fired",
    "GUEST_CRASHLOADED": "a crash kernel was loaded",
}


class PanicDetector:
    """Judges QMP events of one incarnation at a time."""

    def __init__(self) -> None:
        self._incarnation: int | None = None

    def begin(self, incarnation: int) -> None:
        """Watch ``incarnation`` from now on."""
        self._incarnation = incarnation

    def end(self) -> None:
        """It is being fenced or stopped: its end is no news."""
        self._incarnation = None

    def event(
        self, name: str, data: dict[str, Any], now: float, console: str | bytes, *, age_seconds: float = 0.0
    ) -> FailureReport | None:
        """A QMP event arrived that long after it came about; ``console`` is what the domain said last.

        A verdict ends the watch. A domain that panicked stands still from that event on (QEMU, -action panic=pause).
        """
        incarnation = self._incarnation
        if incarnation is None:
            return None
        stopped_at: float | None = None
        if name == "GUEST_PANICKED":
            oops = parse(console)
            reason, detail = classify(oops), summarise(oops)
            stopped_at = now - age_seconds
        elif name in _ENDED:
            reason = Reason.EXIT
            detail = {"event": name, "what": _ENDED[name], **_scalars(data)}
        else:
            return None
        self._incarnation = None
        return FailureReport(incarnation, reason, now, "machine", detail, stopped_at)


def explained(report: FailureReport, console: str | bytes) -> FailureReport:
    """A verdict of silence, in the light of what the kernel was saying when it fell silent.

    A kernel that writes a long report (an overflown stack is a trace of thousands of lines) has interrupts off
    meanwhile, so its heart stops before its panic is announced.
    """
    oops = parse(console)
    if not (oops.died or oops.panic):
        return report
    return dataclasses.replace(report, reason=classify(oops), detail={**summarise(oops), **report.detail})


def classify(oops: Oops) -> Reason:
    """The journal's word for a panic: it was out of memory, it met an oops, or something else."""
    if oops.died:
        return Reason.OOPS
    if oops.out_of_memory and ("memory" in oops.panic or "oom" in oops.panic or "init" in oops.panic):
        return Reason.MEMORY
    return Reason.PANIC


def summarise(oops: Oops) -> dict[str, Any]:
    """The few words of an oops that go into the journal."""
    words = {
        "oops": oops.headline,
        "panic": oops.panic,
        "function": oops.function,
        "module": oops.module,
    }
    return {key: value for key, value in words.items() if value}


def _scalars(data: dict[str, Any]) -> dict[str, Any]:
    """QMP data comes from QEMU, which is mistrusted as well: small scalars only."""
    return {
        str(key)[:40]: str(value)[:80] if isinstance(value, str) else value
        for key, value in list(data.items())[:8]
        if isinstance(value, (str, bool, int, float))
    }
