"""Block nooks as their users have them: a disk that is written and read while its driver fails in every way."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Bench
from .disks import SIZE, Disk, Load
from .forgetful import ForgetfulMedium

pytestmark = pytest.mark.vm

DISKS = [("ide-disk", "emulated:ide-hd")]

NOTICED_AS = {
    "kill": {"exit"},
    "freeze": {"frozen"},
    "panic": {"panic"},
    "oops": {"oops"},
    "agent": {"panic", "exit"},
    "leak": {"memory"},
    "hang": {"heartbeat", "halted"},
    "halt": {"halted", "heartbeat"},
}


@pytest.fixture
def disk(bench: Bench, tmp_path: Path) -> Callable[..., Disk]:
    """Starts a nook with a medium of its own."""

    def start(driver: str = "ide-disk", device: str = "emulated:ide-hd", *flags: str) -> Disk:
        return Disk.start(bench, tmp_path / "disk.img", driver, device, *flags)

    return start


@pytest.mark.parametrize(("driver", "device"), DISKS)
def test_a_driver_fails_in_every_way_and_nothing_is_lost(disk: Callable[..., Disk], driver: str, device: str) -> None:
    nook = disk(driver, device)
    with Load(nook.path) as load:
        for failures, (how, reasons) in enumerate(NOTICED_AS.items(), start=1):
            nook.bench.until(lambda status: status["state"] == "running" and status["spare_ready"])
            time.sleep(0.3)
            nook.bench.ok("crash", nook.bench.name, "--how", how)
            nook.bench.until(lambda status, count=failures: status["recoveries"] >= count)
            failed = [event for event in nook.bench.events() if event["event"] == "failed"]
            assert failed[-1]["reason"] in reasons, failed[-1]
    assert load.errors == []
    assert load.written > 0
    assert nook.bench.status()["failures"] == len(NOTICED_AS)
    nook.bench.ok("stop", nook.bench.name)


def test_what_a_medium_forgets_without_a_flush_is_repeated(bench: Bench, tmp_path: Path) -> None:
    """A real disk's own cache goes with its power; an emulated one's would stay in the host's, and prove nothing."""
    room = tmp_path / "room"
    room.mkdir()
    medium = bench.stack.enter_context(ForgetfulMedium(room, SIZE))
    nook = Disk.start(bench, medium.path, "ide-disk", "emulated:ide-hd")
    with Load(nook.path) as load:
        for failures, how in enumerate(("kill", "panic", "kill", "hang", "freeze", "kill"), start=1):
            bench.until(lambda status: status["state"] == "running" and status["spare_ready"])
            time.sleep(0.3)
            bench.ok("crash", bench.name, "--how", how)
            bench.until(lambda status, count=failures: status["recoveries"] >= count)
    assert load.errors == []
    assert load.written > 0
    bench.ok("stop", bench.name)
    assert medium.flushes > 0
    assert medium.forgotten > 0


def test_a_spare_that_is_needed_in_its_rehearsal_writes_to_the_stand_in_only(disk: Callable[..., Disk]) -> None:
    nook = disk()
    content = os.urandom(1 << 20)
    nook.write(0, content)
    for failures in range(1, 7):
        status = nook.bench.until(lambda status: status["state"] == "running" and status["spare_pid"] is not None)
        os.kill(status["domain_pid"], signal.SIGKILL)
        nook.bench.until(lambda status, count=failures: status["recoveries"] >= count)
        assert nook.read(0, len(content)) == content
    assert {event["reason"] for event in nook.bench.events() if event["event"] == "failed"} == {"exit"}
    nook.bench.ok("stop", nook.bench.name)


@pytest.mark.parametrize("means", ["restore", "cold"])
def test_every_means_of_restart(disk: Callable[..., Disk], means: str) -> None:
    nook = disk("ide-disk", "emulated:ide-hd", "--means", means)
    with Load(nook.path) as load:
        for failures, how in enumerate(("kill", "panic"), start=1):
            nook.bench.until(lambda status: status["state"] == "running")
            nook.bench.ok("crash", nook.bench.name, "--how", how)
            nook.bench.until(lambda status, count=failures: status["recoveries"] >= count)
            assert nook.bench.status()["last_means"] == means
    assert load.errors == []


def test_a_dead_supervisor_takes_nothing_away(disk: Callable[..., Disk]) -> None:
    nook = disk()
    with Load(nook.path) as load:
        for _ in range(3):
            status = nook.bench.status()
            os.kill(status["pid"], signal.SIGKILL)
            adopted = nook.bench.ok("start", nook.bench.name)
            assert adopted["domain_pid"] == status["domain_pid"]
            assert adopted["block_device"] == str(nook.path)
            time.sleep(0.5)
        nook.bench.ok("crash", nook.bench.name, "--how", "kill")
        nook.bench.until(lambda status: status["recoveries"] == 1)
    assert load.errors == []


def test_supervisor_and_domain_die_together(disk: Callable[..., Disk]) -> None:
    nook = disk()
    with Load(nook.path) as load:
        status = nook.bench.status()
        os.kill(status["pid"], signal.SIGKILL)
        os.kill(status["domain_pid"], signal.SIGKILL)
        assert nook.bench.ok("start", nook.bench.name)["domain_pid"] != status["domain_pid"]
        time.sleep(0.5)
    assert load.errors == []


def test_a_file_system_outlives_failures_and_a_restart_of_the_nook(disk: Callable[..., Disk], tmp_path: Path) -> None:
    nook = disk()
    subprocess.run(["mkfs.ext4", "-q", str(nook.path)], check=True)
    place = tmp_path / "mounted"
    place.mkdir()
    content = os.urandom(5 << 20)
    subprocess.run(["mount", str(nook.path), str(place)], check=True)
    try:
        nook.bench.ok("crash", nook.bench.name, "--how", "panic")
        (place / "file").write_bytes(content)
        nook.bench.ok("crash", nook.bench.name, "--how", "kill") if nook.is_running() else None
    finally:
        subprocess.run(["umount", str(place)], check=True)
    nook.bench.ok("stop", nook.bench.name)
    again = disk()
    subprocess.run(["e2fsck", "-fn", str(again.path)], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "ro", str(again.path), str(place)], check=True)
    try:
        assert (place / "file").read_bytes() == content
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_degraded_disk_lets_requests_fail_only_if_that_was_asked_for(disk: Callable[..., Disk]) -> None:
    nook = disk("ide-disk", "emulated:ide-hd", "--intensity", "1", "--give-up-seconds", "1")
    for failures in (1, 2):
        nook.bench.until(lambda status: status["state"] == "running")
        nook.bench.ok("crash", nook.bench.name, "--how", "kill")
        nook.bench.until(lambda status, count=failures: status["failures"] == count)
    nook.bench.until(lambda status: status["state"] == "degraded")
    with pytest.raises(OSError, match="Input/output"):
        nook.read(0, 4096)
    nook.bench.ok("start", nook.bench.name)
    assert nook.read(0, 4096) == bytes(4096)


def test_status_and_events_tell_of_it(disk: Callable[..., Disk]) -> None:
    nook = disk()
    nook.write(4096, b"x" * 4096)
    status: dict[str, Any] = nook.bench.status()
    assert (status["class"], status["driver"], status["state"]) == ("block", "ide-disk", "running")
    assert Path(os.environ["NOOKS_RUN_DIR"], nook.bench.name, "device").resolve() == nook.path
    nook.bench.ok("crash", nook.bench.name, "--how", "kill")
    nook.bench.until(lambda status: status["recoveries"] == 1)
    replayed = [event for event in nook.bench.events() if event["event"] == "replayed"][-1]
    assert replayed["detail"]["model"] == "QEMU HARDDISK"
