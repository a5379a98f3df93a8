"""Records of trials and controls for tests."""

from typing import Any

from nooks.lab.campaign.order import Order, Outcome, Record, Verdict

KERNEL = "6.1.0-test"


def order(trial: int = 0, driver: str = "e1000", **changed: object) -> Order:
    values: dict[str, Any] = {"driver": driver, "trial": trial, "seed": 7, "kernel": KERNEL, **changed}
    return Order(**values)


def fault(kind: str = "nop", *, executed: bool | None = True) -> dict[str, Any]:
    return {
        "type": kind,
        "function": "demo_xmit",
        "address": "0xffffffffc0000010",
        "before": "55",
        "after": "90",
        "text_before": "push %rbp",
        "text_after": "nop",
        "executed": executed,
    }


def trial(number: int, verdict: Verdict = Verdict.RECOVERED, driver: str = "e1000", **changed: object) -> Record:
    failed = verdict in (Verdict.RECOVERED, Verdict.RECOVERED_WITH_ERROR, Verdict.NOT_RECOVERED)
    return {
        "trial": number,
        "driver": driver,
        "kernel": KERNEL,
        "seed": 700000 + number,
        "faults": [fault()],
        "workload": "a file each way",
        "domain": "failed" if failed else "healthy",
        "reason": "oops" if failed else "",
        "host": "unharmed",
        "verdict": str(verdict),
        "detection_seconds": 0.1 if failed else None,
        "recovery_seconds": 0.03 if failed else None,
        "outage_seconds": 0.2,
        "dormant": False,
        "errors": [],
        "seconds": 4.0,
        "repeat": f"nooks campaign --driver {driver} --trial {number}",
        **changed,
    }


def control(number: int, outcome: Outcome = Outcome.PANIC, driver: str = "e1000", **changed: object) -> Record:
    return {
        "trial": number,
        "driver": driver,
        "outcome": str(outcome),
        "faults": [fault()],
        "repeat": "nooks campaign --native",
        **changed,
    }
