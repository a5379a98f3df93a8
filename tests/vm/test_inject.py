"""Faults and bugs in the live code of a real driver: chosen by a seed, seen to run, noticed, recovered from."""

import time

import pytest

from .conftest import Bench

pytestmark = pytest.mark.vm

RECORD = {"type", "function", "address", "before", "after", "text_before", "text_after"}
BUGS = {
    "interrupt-storm": {"no-progress", "no-answer", "heartbeat", "halted"},
    "endless-loop-irqs-off": {"heartbeat"},
    "stack-overflow": {"panic", "oops"},
}
"""Those that every network driver has a place for, in a function that runs for certain."""


def until_recovered(bench: Bench, failures: int) -> str:
    """The reason of a failure that has been recovered from."""
    bench.until(lambda status: status["recoveries"] >= failures and status["spare_ready"])
    return [event["reason"] for event in bench.events() if event["event"] == "failed"][-1]


def test_the_same_seed_changes_the_same_code_and_what_ran_is_known(bench: Bench) -> None:
    bench.start("e1000", "emulated:e1000", "--debug")
    first = bench.ok("inject", bench.name, "--type", "mixed", "--count", "5", "--seed", "3")
    assert all(set(fault) >= RECORD for fault in first)
    bench.ok("restart", bench.name)
    again = bench.ok("inject", bench.name, "--type", "mixed", "--count", "5", "--seed", "3")
    assert again == first
    bench.ok("restart", bench.name)
    bench.reaches_peer()
    (fault,) = bench.ok("inject", bench.name, "--type", "interrupt-storm")
    assert fault["function"] == "e1000_intr"
    until_recovered(bench, 1)
    (known,) = bench.ok("inject", bench.name, "--show")
    assert known == {**fault, "executed": True}


@pytest.mark.parametrize(("driver", "device"), [("e100", "emulated:i82557b"), ("pcnet32", "emulated:pcnet")])
def test_bugs_are_noticed_and_recovered_from(bench: Bench, driver: str, device: str) -> None:
    bench.start(driver, device, "--debug")
    for failures, (bug, reasons) in enumerate(BUGS.items(), start=1):
        bench.until(lambda status: status["state"] == "running" and status["spare_ready"])
        assert bench.reaches_peer()
        bench.ok("inject", bench.name, "--type", bug)
        deadline = time.monotonic() + 60
        while bench.status()["recoveries"] < failures and time.monotonic() < deadline:
            bench.reaches_peer()  # a driver has to be used to fail
        assert until_recovered(bench, failures) in reasons
    assert bench.reaches_peer()


def test_injecting_needs_the_debug_stub_and_a_known_type(bench: Bench) -> None:
    bench.start("e1000", "emulated:e1000")
    refused = bench.nooks("inject", bench.name, "--type", "nop")
    assert refused.status == 1
    assert "runs without a debug stub; start it with --debug" in refused.stderr
    unknown = bench.nooks("inject", bench.name, "--type", "rowhammer")
    assert unknown.status == 2
    assert "there is no fault type 'rowhammer'" in unknown.stderr
