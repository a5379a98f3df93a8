"""Network nooks as their users have them: started, crashed in every way, adopted, restarted, stopped."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from .conftest import Bench

pytestmark = pytest.mark.vm

CARDS = [("e1000", "emulated:e1000"), ("e100", "emulated:i82557b"), ("pcnet32", "emulated:pcnet")]

NOTICED_AS = {
    "kill": {"exit"},
    "freeze": {"frozen"},
    "panic": {"panic"},
    "oops": {"oops"},
    "agent": {"panic", "exit"},
    "leak": {"memory"},
    "hang": {"heartbeat", "halted"},
    "halt": {"halted", "heartbeat"},
    "silent": {"no-progress", "no-answer"},
}


@pytest.mark.parametrize(("driver", "device"), CARDS)
def test_a_driver_fails_in_every_way_and_is_recovered(bench: Bench, driver: str, device: str) -> None:
    started = bench.start(driver, device)
    assert started["interface"] == bench.name
    assert bench.reaches_peer()
    talk = subprocess.Popen(["ping", "-q", "-i", "0.05", bench.peer_address], stdout=subprocess.DEVNULL)
    try:
        for failures, (how, reasons) in enumerate(NOTICED_AS.items(), start=1):
            bench.until(lambda status: status["state"] == "running" and status["spare_ready"])
            time.sleep(0.5)
            bench.ok("crash", bench.name, "--how", how)
            bench.until(lambda status, count=failures: status["recoveries"] >= count)
            failed = [event for event in bench.events() if event["event"] == "failed"]
            assert failed[-1]["reason"] in reasons, failed[-1]
    finally:
        talk.kill()
        talk.wait()
    assert bench.reaches_peer()
    assert bench.status()["failures"] == len(NOTICED_AS)
    bench.ok("stop", bench.name)


@pytest.mark.parametrize("means", ["restore", "hotplug", "cold"])
def test_every_means_of_restart(bench: Bench, means: str) -> None:
    bench.start("e1000", "emulated:e1000", "--means", means)
    for failures, how in enumerate(("kill", "panic"), start=1):
        bench.until(lambda status: status["state"] == "running" and (means != "hotplug" or status["spare_ready"]))
        bench.ok("crash", bench.name, "--how", how)
        bench.until(lambda status, count=failures: status["recoveries"] >= count)
        assert bench.status()["last_means"] == means
        assert bench.reaches_peer()


def test_a_supervisor_that_died_is_replaced_where_devices_are_plugged_late(bench: Bench) -> None:
    started = bench.start("e1000", "emulated:e1000", "--means", "hotplug")
    os.kill(started["pid"], signal.SIGKILL)
    assert bench.ok("start", bench.name)["domain_pid"] == started["domain_pid"]
    assert bench.reaches_peer()
    bench.ok("crash", bench.name, "--how", "kill")
    bench.until(lambda status: status["recoveries"] == 1)
    assert bench.reaches_peer()


def test_a_dead_supervisor_takes_nothing_away(bench: Bench) -> None:
    started = bench.start("e1000", "emulated:e1000")
    os.kill(started["pid"], signal.SIGKILL)
    time.sleep(0.3)
    assert bench.status()["state"] == "orphaned"
    assert bench.reaches_peer()
    adopted = bench.ok("start", bench.name)
    assert adopted["domain_pid"] == started["domain_pid"]
    assert bench.status()["state"] == "running"
    bench.ok("crash", bench.name, "--how", "panic")
    bench.until(lambda status: status["recoveries"] == 1)
    assert bench.reaches_peer()


def test_supervisor_and_domain_die_together(bench: Bench) -> None:
    started = bench.start("e1000", "emulated:e1000")
    os.kill(started["pid"], signal.SIGKILL)
    os.kill(started["domain_pid"], signal.SIGKILL)
    adopted = bench.ok("start", bench.name)
    assert adopted["domain_pid"] != started["domain_pid"]
    assert bench.reaches_peer()


def test_a_dead_keeper_is_replaced(bench: Bench) -> None:
    started = bench.start("e1000", "emulated:e1000")
    bench.until(lambda status: status["spare_ready"])
    keeper = _keeper_of()
    held = _held_by(keeper)
    os.kill(keeper, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while (other := _keeper_of(missing=keeper)) == keeper or _held_by(other) < held:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(started["pid"], signal.SIGKILL)
    time.sleep(0.3)
    assert bench.ok("start", bench.name)["domain_pid"] == started["domain_pid"]
    assert bench.reaches_peer()


def test_settings_hold_through_failures(bench: Bench) -> None:
    bench.start("e1000", "emulated:e1000")
    subprocess.run(["ip", "link", "set", bench.name, "mtu", "1400"], check=True)
    assert bench.ok("set", bench.name, "ring.rx=512")["settings"]["ring.rx"] == 512
    time.sleep(1.5)
    bench.ok("crash", bench.name, "--how", "panic")
    bench.until(lambda status: status["recoveries"] == 1)
    replayed = [event for event in bench.events() if event["event"] == "replayed"][-1]
    assert replayed["detail"]["settings"] >= 3
    assert not replayed["detail"]["refused"]
    assert Path(f"/sys/class/net/{bench.name}/mtu").read_text().strip() == "1400"
    assert bench.reaches_peer()


def test_planned_restart(bench: Bench) -> None:
    started = bench.start("e1000", "emulated:e1000")
    restarted = bench.ok("restart", bench.name)
    assert restarted["domain_pid"] != started["domain_pid"]
    assert bench.status()["failures"] == 0
    assert bench.reaches_peer()


def test_too_many_failures_degrade_and_start_rearms(bench: Bench) -> None:
    bench.start("e1000", "emulated:e1000", "--intensity", "1")
    for failures in (1, 2):
        bench.until(lambda status: status["state"] == "running")
        bench.ok("crash", bench.name, "--how", "kill")
        bench.until(lambda status, count=failures: status["failures"] == count)
    bench.until(lambda status: status["state"] == "degraded")
    assert Path(f"/sys/class/net/{bench.name}/carrier").read_text().strip() == "0"
    bench.ok("start", bench.name)
    assert bench.status()["state"] == "running"
    assert bench.reaches_peer()


def _held_by(process: int) -> int:
    """How many descriptors a process has; 0 if it is gone."""
    try:
        return len(list(Path(f"/proc/{process}/fd").iterdir()))
    except OSError:
        return 0


def _keeper_of(missing: int = -1) -> int:
    """The keeper of the only nook in this test's run directory."""
    ours = os.environ["NOOKS_RUN_DIR"].encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if any(b"/keeper/" in word for word in words) and ours in (process / "environ").read_bytes():
                return int(process.name)
        except OSError:
            continue
    return missing
