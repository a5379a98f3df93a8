"""The ways in which the lab makes a nook fail, and what it then finds out: noticed by what, when, back when.

*Detection* is from the moment the lab asked for the fault to the report, so it includes the asking; of changed code
it says how long the change went unnoticed. *Recovery* is from report to resumed service (the journal's times).
"""

import asyncio
import re
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from nooks.host.errors import NooksError
from nooks.lab.gauge import Gauge
from nooks.lab.product import Event, Product

CRASHES = {
    "panic": "kernel panic",
    "oops": "bad pointer in kernel code",
    "hang": "CPU spins, interrupts off",
    "halt": "CPU halted, interrupts off",
    "freeze": "domain frozen",
    "kill": "domain killed",
    "agent": "our agent dies",
    "leak": "memory exhausted",
    "silent": "card stops, driver doesn't notice",
}
TEXT, SUPERVISOR, LEAK = "text", "supervisor", "leak"
DESCRIPTIONS = {**CRASHES, TEXT: "driver's live code changed", SUPERVISOR: "supervisor killed"}

NOTICE_SECONDS = 60.0
LEAK_NOTICE_SECONDS = 600.0  # each page that is touched for the first time: in a nested domain that is an exit
RESUME_SECONDS = 120.0
INJECTIONS = 40
FAULTS_PER_INJECTION = 5
INJECTION_NOTICE_SECONDS = 1.5
PROGRESS_SECONDS = 20.0
SETTLE_SECONDS = 0.5  # what was lost is sent again by then, if it didn't have to be waited for
_POLL_SECONDS = 0.02

_DECORATION = re.compile(r":? [0-9a-f]{4} \[#\d+\].*")  # error code, count and configuration, as in "0000 [#1] SMP"
_TAKES_THE_MACHINE = frozenset({"panic", "hang", "halt"})
_HANGS = frozenset({"heartbeat", "halted"})
_FATAL = "Fatal exception in interrupt"  # an oops there is a panic whatever the settings are (kernel/panic.c)


@dataclass
class Failure:
    """One failure and its recovery; times in seconds since the epoch, durations in seconds, None where unknown."""

    way: str
    started: float
    incarnation: int = 0
    reason: str = ""
    noticed: float | None = None
    resumed: float | None = None
    means: str = ""
    detection_seconds: float | None = None
    recovery_seconds: float | None = None
    outage_seconds: float | None = None
    steps: dict[str, float] = field(default_factory=dict[str, float])
    happened: str = ""
    takes_the_machine: bool = False
    faults: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @property
    def recovered(self) -> bool:
        """Whether the nook serves again."""
        return self.resumed is not None

    def record(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


async def fail(product: Product, way: str, seed: int = 0) -> Failure:
    """Make ``product`` fail in this way and wait until it serves again, or clearly doesn't.

    One that is recovering just now, from a failure that nobody asked for, is waited for. Raises NooksError if the
    fault itself could not be brought about.
    """
    if way == SUPERVISOR:
        return await _kill_supervisor(product)
    status = await _serving(product)
    failure = Failure(way, time.time(), int(status["incarnation"]))
    if way == TEXT:
        report = await _inject_until_noticed(product, failure, seed)
    else:
        failure.started = time.time()
        await product.crash(way)
        report = await _failed(product, failure, LEAK_NOTICE_SECONDS if way == LEAK else NOTICE_SECONDS)
    if report is None:
        return failure
    failure.reason, failure.noticed = report.reason, report.time
    failure.detection_seconds = max(0.0, report.time - failure.started)
    back = await product.journal.wait(
        lambda event: event.event in ("resumed", "gave-up") and event.time >= report.time, RESUME_SECONDS
    )
    if back is not None and back.event == "resumed":
        failure.resumed = back.time
        failure.means = str(back.detail.get("means") or "")
        failure.recovery_seconds = float(back.detail.get("recovery_seconds", back.time - report.time))
        failure.steps = _steps(product, failure, back)
    return failure


async def _serving(product: Product) -> dict[str, Any]:
    """The status as soon as it isn't ``recovering``, or RESUME_SECONDS later."""
    deadline = time.monotonic() + RESUME_SECONDS
    while (status := await product.status())["state"] == "recovering" and time.monotonic() < deadline:
        await asyncio.sleep(_POLL_SECONDS)
    return status


def unasked(product: Product) -> list[dict[str, Any]]:
    """The failures in the journal that nobody had brought about by a command."""
    return [
        {"incarnation": event.incarnation, "reason": event.reason, **event.detail}
        for event in product.journal.events
        if event.event == "failed" and "commanded" not in event.detail
    ]


def _steps(product: Product, failure: Failure, resumed: Event) -> dict[str, float]:
    """Where the time went: the steps of the recovery path, and those of plugging a device in instead of the restart."""
    steps = {"detection": failure.detection_seconds or 0.0, **resumed.detail.get("steps", {})}
    restarted = [one for one in product.journal.events if one.event == "restarted"]
    if restarted and "seconds" in restarted[-1].detail:
        inside = {str(step): float(spent) for step, spent in restarted[-1].detail["seconds"].items()}
        steps |= inside | {"restart": max(0.0, steps.get("restart", 0.0) - sum(inside.values()))}
    return steps


async def explain(product: Product, failure: Failure) -> None:
    """Add what happened inside, from the post-mortem."""
    if failure.way == SUPERVISOR:
        failure.happened = "the keeper held everything; the driver ran on"
        return
    found = await product.postmortem(failure.incarnation)
    failure.happened = _DECORATION.sub("", str(found.get("headline") or ""))
    if failure.happened and found.get("function"):
        module = f" [{found['module']}]" if found.get("module") else ""
        failure.happened += f" in {found['function']}{module}"
    failure.happened = failure.happened or _without_oops(failure)
    failure.takes_the_machine = (
        failure.way in _TAKES_THE_MACHINE
        or (failure.way == TEXT and failure.reason in _HANGS)
        or _FATAL in str(found.get("console"))
    )


def _without_oops(failure: Failure) -> str:
    if failure.way == TEXT and failure.faults:
        where = ", ".join(dict.fromkeys(str(fault["function"]) for fault in failure.faults))
        return f"no word from the kernel; code was changed in {where}"
    return "no word from the kernel" if failure.noticed is not None else "it goes on as if nothing had been"


async def _failed(product: Product, failure: Failure, within_seconds: float) -> Event | None:
    return await product.journal.wait(
        lambda event: event.event == "failed" and event.incarnation == failure.incarnation, within_seconds
    )


async def _inject_until_noticed(product: Product, failure: Failure, seed: int) -> Event | None:
    """Many faults do no harm (the Nooks paper's too); so change more and more, until the driver fails."""
    for attempt in range(INJECTIONS):
        failure.started = time.time()
        try:
            failure.faults = await product.inject(TEXT, FAULTS_PER_INJECTION, seed * INJECTIONS + attempt)
        except NooksError:
            report = await _failed(product, failure, INJECTION_NOTICE_SECONDS)
            if report is None:  # else it failed just now, of what was injected before
                raise
            return report
        report = await _failed(product, failure, INJECTION_NOTICE_SECONDS)
        if report is not None:
            return report
    return None


async def _kill_supervisor(product: Product) -> Failure:
    """A supervisor that dies is adopted by hand here; a service manager would do it."""
    status = await product.status()
    failure = Failure(SUPERVISOR, time.time(), int(status["incarnation"]), reason="orphaned")
    await product.kill_supervisor()
    failure.noticed = failure.started
    await product.adopt()
    adopted = await product.journal.wait(
        lambda event: event.event == "adopted" and event.time >= failure.started, RESUME_SECONDS
    )
    if adopted is not None:
        failure.resumed = max(adopted.time, failure.started)
        failure.recovery_seconds = failure.resumed - failure.started
        failure.means = "adopted"
    return failure


async def settle(failure: Failure, *gauges: Gauge) -> None:
    """Wait until the applications go on after a recovery, and a while longer; at most PROGRESS_SECONDS.

    Then take the first one's longest pause around the failure as the outage.
    """
    if failure.resumed is None:
        return
    deadline = failure.resumed + PROGRESS_SECONDS
    while time.time() < deadline and not all(gauge.progressed_since(failure.resumed) for gauge in gauges):
        await asyncio.sleep(_POLL_SECONDS)
    await asyncio.sleep(max(SETTLE_SECONDS, failure.resumed + SETTLE_SECONDS - time.time()))
    failure.outage_seconds = gauges[0].longest_pause(failure.started, time.time())
