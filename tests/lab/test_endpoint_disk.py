"""A disk's endpoints that only a lab machine's kernels have: Debian 12's network block device, Debian 13's ublk.

In a lab machine: nooks lab run [--kernel trixie] -- .venv/bin/pytest tests/lab/test_endpoint_disk.py
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nooks.endpoint import disk as endpoints
from nooks.endpoint import nbd_control, ublk_control
from nooks.endpoint.fuse_disk import file_name
from nooks.endpoint.loop import LoopDevice
from nooks.host.paths import nook_dir
from nooks.nook.claims import BLOCK_DEVICE
from tests.lab.conftest import DEVICES, Nook, nooks, ok, run
from tests.lab.test_attach_disks import Load

SIZE = 256 << 20

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(not DEVICES.exists(), reason="not inside a lab machine ('nooks lab run')"),
    pytest.mark.skipif(endpoints.kind(load=False) not in ("ublk", "nbd"), reason="this kernel has neither"),
]


def is_ours(device: Path) -> bool:
    """Whether the kernel still has the block device of the nook ``disk``, or one of ``drive``."""
    if endpoints.is_ublk(device):
        return ublk_control.is_named(ublk_control.number_of(device), file_name("disk"))
    if endpoints.is_nbd(device):
        return nbd_control.owner(device) in (file_name("disk"), file_name("drive"))
    return LoopDevice(device, file_name("drive")).is_ours


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """The block device of the nook ``disk``, on a new medium."""
    medium = tmp_path / "medium"
    with medium.open("wb") as file:
        file.truncate(SIZE)
    started = ok("start", "--name", "disk", "--driver", "ide-disk", "--media", str(medium), "--intensity", "1000")
    yield Path(started["block_device"])
    nooks("stop", "disk", "--force")


def the_keeper() -> int:
    """The process of the only keeper of this machine."""
    found = subprocess.run(["pgrep", "-f", "/keeper/server.py"], capture_output=True, text=True, check=True)
    return int(found.stdout)


def test_a_disk_outlives_driver_and_supervisor(device: Path, tmp_path: Path) -> None:
    assert {"nbd": endpoints.is_nbd, "ublk": endpoints.is_ublk}[endpoints.kind()](device)
    assert is_ours(device)
    nook = Nook("disk")
    with Load(device) as load:
        for how in ("kill", "panic"):
            time.sleep(1)
            nook.crash(how)
        time.sleep(1)
        status = ok("status", "disk")
        os.kill(status["pid"], signal.SIGKILL)
        time.sleep(1)
        adopted = ok("start", "disk")
        assert adopted["block_device"] == str(device)
        time.sleep(5)
        nook.crash("kill")
        time.sleep(1)
    assert load.last.get("judged"), load.last
    assert (load.last["errors"], load.last.get("broken")) == (0, None)
    assert load.last["bytes"] > 0
    place = tmp_path / "mounted"
    place.mkdir()
    run("mkfs.ext4", "-q", str(device))
    run("mount", str(device), str(place))
    try:
        (place / "kept").write_text("kept")
        refused = nooks("stop", "disk")
        assert (refused.returncode, f"is mounted on {place}" in refused.stderr) == (1, True), refused.stderr
    finally:
        run("umount", str(place))
    run("e2fsck", "-fn", str(device))
    ok("stop", "disk")
    assert not is_ours(device)


@pytest.mark.parametrize("noted", [True, False], ids=["noted", "not-yet-noted"])
def test_a_supervisor_and_keeper_that_died_leave_nothing(device: Path, noted: bool) -> None:
    if not noted and not endpoints.is_ublk(device):
        pytest.skip("the device is gone with whoever had made it")
    status = ok("status", "disk")
    if not noted:
        (nook_dir("disk") / BLOCK_DEVICE).unlink()
    for pid in (status["pid"], the_keeper()):
        os.kill(pid, signal.SIGKILL)
    reader = subprocess.Popen(
        ["dd", f"if={device}", "of=/dev/null", "bs=4k", "count=1", "iflag=direct"], stderr=subprocess.DEVNULL
    )
    time.sleep(1)
    ok("stop", "disk", "--force")
    assert reader.wait(60) != 0
    assert not is_ours(device)


def test_a_medium_is_changed(tmp_path: Path) -> None:
    first, second = tmp_path / "first.iso", tmp_path / "second.iso"
    first.write_bytes(os.urandom(4 << 20))
    second.write_bytes(os.urandom(6 << 20))
    device = Path(ok("start", "--name", "drive", "--driver", "ide-cd", "--media", str(first))["block_device"])
    try:
        assert device.read_bytes() == first.read_bytes()
        ok("media", "drive", str(second))
        assert device.read_bytes() == second.read_bytes()
        ok("media", "drive", "--eject")
        assert device.read_bytes() == b""
        ok("stop", "drive")
    finally:
        nooks("stop", "drive", "--force")
    assert not is_ours(device)
