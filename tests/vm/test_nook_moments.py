"""Interrupts and kills at many random moments: whenever it happens, the nook runs again or nothing of it is left."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from .conftest import Bench

pytestmark = [pytest.mark.vm, pytest.mark.slow]

INTERPRETER_SECONDS = 0.1
"""Before that it is Python's own start that is interrupted, which ends in a traceback of its own."""


@pytest.mark.parametrize("cold", [False, True])
def test_interrupted_starts_leave_nothing(bench: Bench, cold: bool) -> None:
    chance = random.Random(7)
    for moment in range(20):
        memory = f"{120 + moment}M" if cold else "128M"
        latest = 5.0 if cold else 0.8
        delay = chance.uniform(INTERPRETER_SECONDS, latest)
        said, status = interrupted(bench.argv(*bench.flags(memory=memory)), delay, twice=chance.random() < 0.4)
        assert (status, said.count("\n")) in {(0, 0), (130, 1)}, f"after {delay:.3f} s: {status} {said}"
        if status == 0:
            bench.ok("stop", bench.name)
        assert bench.nooks("status", bench.name).status == 2, f"after {delay:.3f} s"
        assert not Path("/run/netns", bench.namespace).exists(), f"after {delay:.3f} s"


def test_an_interrupted_restart_leaves_it_running(bench: Bench) -> None:
    chance = random.Random(8)
    bench.start("e1000", "emulated:e1000")
    for _ in range(15):
        delay = chance.uniform(INTERPRETER_SECONDS, 1.5)
        said, status = interrupted(bench.argv("restart", bench.name, "--kernel", "debian"), delay)
        busy = "is being restarted already" in said  # the one before: an interrupt does not cancel it
        assert status in (0, 130) or busy, f"after {delay:.3f} s: {status} {said}"
        bench.until(lambda status: status["state"] == "running")
        assert bench.reaches_peer(), f"after {delay:.3f} s"


def test_a_supervisor_killed_during_recoveries(bench: Bench) -> None:
    chance = random.Random(9)
    pid = int(bench.start("e1000", "emulated:e1000", "--intensity", "1000")["pid"])
    for moment in range(30):
        if moment % 2:
            bench.until(lambda status: bool(status["spare_ready"]))
        how, delay = chance.choice(["kill", "panic", "freeze", "oops"]), chance.uniform(0, 0.06)
        bench.ok("crash", bench.name, "--how", how)
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        pid = int(bench.ok("start", bench.name)["pid"])
        assert bench.status()["state"] == "running", f"{how}, killed after {delay:.3f} s"
        assert bench.reaches_peer(), f"{how}, killed after {delay:.3f} s"
    bench.ok("stop", bench.name)


def interrupted(argv: list[str], delay: float, *, twice: bool = False) -> tuple[str, int]:
    """Run a command and press Ctrl-C after ``delay`` seconds; its standard error and exit status."""
    process = subprocess.Popen(
        argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    for wait in (delay, 0.05) if twice else (delay,):
        time.sleep(wait)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
    return process.communicate(timeout=60)[1], process.returncode
