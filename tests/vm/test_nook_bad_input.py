"""Bad input and broken surroundings, on the real product: one clear line, the right exit code, nothing left behind.

That nothing is left, the fixture ``bench`` sees to.
"""

import os
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nooks.domain import qemu

from .conftest import Bench, Command

pytestmark = pytest.mark.vm

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def elsewhere(mounts: str) -> tuple[str, ...]:
    """A command that runs another one where some mounts differ."""
    return ("unshare", "--mount", "sh", "-ec", f'{mounts}; exec "$@"', "sh")


def check_refused(done: Command, status: int, said: str) -> None:
    """One line on standard error, nothing on standard output."""
    assert (done.status, done.stdout) == (status, ""), done
    assert re.fullmatch(r"nooks: error: [^\n]+; [^\n]+\n", done.stderr), done.stderr
    assert said in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"device": "emulated:nosuch"}, "QEMU does not emulate a device 'nosuch'"),
        ({"device": "emulated:ide-hd"}, "'ide-hd' is no network card"),
        ({"device": "emulated:AC97"}, "'AC97' is no network card"),
        ({"device": "emulated:usb-net"}, "No 'usb-bus' bus found"),
        ({"device": "emulated:e1000,colour=red"}, "Property 'e1000.colour' not found"),
        ({"device": "emulated:e1000,addr=zz"}, "doesn't take value 'zz'"),
        ({"device": "emulated:e1000,mac=x"}, "'mac' is set by nooks itself"),
        ({"driver": "nosuchdriver"}, "has no module nosuchdriver"),
        ({"kernel": "nonsense"}, "unknown kernel 'nonsense'"),
        ({"wire": "tap:lo"}, "interface of another kind"),
        ({"name": "lo"}, "an interface lo exists already"),
    ],
)
def test_bad_input(bench: Bench, changed: dict[str, str], said: str) -> None:
    check_refused(bench.nooks(*bench.flags(**changed)), 2, said)


def test_a_device_that_the_driver_does_not_know(bench: Bench) -> None:
    check_refused(bench.nooks(*bench.flags(device="emulated:ne2k_pci")), 1, "it found no device that it knows")


def test_too_little_memory(bench: Bench) -> None:
    check_refused(bench.nooks(*bench.flags(memory="80M")), 1, "give it more memory")


def test_not_root(bench: Bench) -> None:
    check_refused(bench.nooks(*bench.flags(), within=NOBODY), 1, "needs root")


@pytest.mark.parametrize("mounts", ["mount -t tmpfs none /dev/net", "mount --bind /dev/null /dev/net/tun"])
def test_no_tun(bench: Bench, mounts: str) -> None:
    check_refused(bench.nooks(*bench.flags(), within=elsewhere(mounts)), 1, "modprobe tun")


def test_qemu_is_missing(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    check_refused(bench.nooks(*bench.flags()), 1, "apt-get install qemu-system-x86")


def test_qemu_is_too_old(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "qemu-system-x86_64"
    program.write_text("#!/bin/sh\necho QEMU emulator version 5.2.0\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    check_refused(bench.nooks(*bench.flags()), 1, "QEMU 5.2 is too old")


def test_no_firmware(bench: Bench) -> None:
    there = [str(folder) for folder in qemu.FIRMWARE_DIRECTORIES if folder.is_dir()]
    mounts = "; ".join(f"mount -t tmpfs none {folder}" for folder in there)
    check_refused(bench.nooks(*bench.flags(), within=elsewhere(mounts)), 1, "qboot.rom is missing")


@pytest.mark.parametrize(("variable", "size"), [("XDG_CACHE_HOME", "64k"), ("NOOKS_RUN_DIR", "4k")])
def test_no_disk_space(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, size: str) -> None:
    (tmp_path / "full").mkdir()
    monkeypatch.setenv(variable, str(tmp_path / "full/inside"))
    mount = f"mount -t tmpfs -o size={size} none {tmp_path / 'full'}"
    check_refused(bench.nooks(*bench.flags(), within=elsewhere(mount)), 1, "free some")


def test_a_full_log_costs_no_recovery(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = tmp_path / "full"
    full.mkdir()
    monkeypatch.setenv("NOOKS_LOG_DIR", str(full / "inside"))
    mount = f"mount -t tmpfs -o size=4k none {full}; head -c 4096 /dev/zero > {full}/filler"
    started = bench.nooks(*bench.flags(), within=elsewhere(mount))
    assert started.status == 0, started.stderr
    bench.ok("crash", bench.name, "--how", "kill")
    bench.until(lambda status: status["recoveries"] == 1 and status["state"] == "running")
    bench.ok("stop", bench.name)


def test_names_and_wires_in_use(bench: Bench) -> None:
    bench.start("e1000", "emulated:e1000")
    check_refused(bench.nooks(*bench.flags()), 1, "runs already")
    check_refused(bench.nooks(*bench.flags(name=f"m{bench.name[1:]}")), 2, "another process holds it")
    check_refused(bench.nooks("restart", bench.name, "--kernel", "nonsense"), 2, "unknown kernel")
    check_refused(bench.nooks("stop", ".."), 2, "can't name a nook")
    assert bench.status()["state"] == "running"
    assert bench.reaches_peer()


def test_of_many_starts_one_wins(bench: Bench) -> None:
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(bench.nooks, *bench.flags()) for _ in range(4)]
        done = [each.result() for each in running]
    assert sorted(each.status for each in done) == [0, 1, 1, 1]
    with ThreadPoolExecutor(3) as pool:
        stopping = [pool.submit(bench.nooks, "stop", bench.name) for _ in range(3)]
        stopped = [each.result() for each in stopping]
    assert 0 in {each.status for each in stopped}
    assert all(each.stderr.count("\n") <= 1 for each in stopped)


def test_interrupted_twice(bench: Bench) -> None:
    process = subprocess.Popen(bench.argv(*bench.flags()), stderr=subprocess.PIPE, text=True, start_new_session=True)
    folder = Path(os.environ["NOOKS_RUN_DIR"], bench.name)
    while not folder.exists() and process.poll() is None:
        time.sleep(0.01)
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.05)
    assert process.communicate(timeout=30)[1].count("\n") <= 1
    if process.returncode == 0:
        bench.ok("stop", bench.name)
    else:
        assert process.returncode == 130


def test_keeper_and_supervisor_die_together(bench: Bench) -> None:
    started = bench.start("e1000", "emulated:e1000")
    for pid in (keeper_of(bench), started["pid"]):
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.3)
    assert bench.status()["state"] == "stopped"
    bench.ok("stop", bench.name)


def test_a_domain_that_no_keeper_knew(bench: Bench) -> None:
    started = bench.start("e1000", "emulated:e1000")
    bench.until(lambda status: status["spare_ready"])
    bench.ok("crash", bench.name, "--how", "kill")
    time.sleep(0.45)  # the next spare is being loaded now
    os.kill(started["pid"], signal.SIGKILL)
    adopted = bench.ok("start", bench.name)
    assert adopted["pid"] != started["pid"]
    bench.ok("stop", bench.name)


def keeper_of(bench: Bench) -> int:
    """The process of the bench's keeper."""
    ours = os.environ["NOOKS_RUN_DIR"].encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            serves = b"/keeper/server.py" in (process / "cmdline").read_bytes()
            if serves and ours in (process / "environ").read_bytes():
                return int(process.name)
        except OSError:
            continue
    raise AssertionError(f"{bench.name} has no keeper")
