"""A real disk is taken from the host's driver, fails in a nook in every way, and is given back with all that was
written to it. In a lab machine:

nooks lab run --device nvme --device ich9-ahci --device usb-storage -- .venv/bin/pytest tests/lab/test_attach_disks.py
"""

import hashlib
import json
import mmap
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from nooks.device import pci, usb
from tests.lab.conftest import DEVICES, NOTICED_AS, Nook, driver_of, end_nooks, nooks, ok, run

COMPARED_BYTES = 32 << 20
WAYS = [how for how in NOTICED_AS if how not in ("silent", "dma")]


def disk_devices() -> list[dict[str, Any]]:
    """The disks of this lab machine; none outside of one."""
    if not DEVICES.exists():
        return []
    return [device for device in json.loads(DEVICES.read_text()) if device["disk"]]


pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(not disk_devices(), reason="not inside a lab machine with disks ('nooks lab run')"),
]


@dataclass
class Disk:
    """A real disk of the lab machine; ``where`` is how to name its device."""

    where: str

    @property
    def names(self) -> tuple[str, ...]:
        """What the host's driver has made of it."""
        if self.where.startswith("usb:"):
            return usb.find(self.where.removeprefix("usb:")).blocks
        return pci.find(self.where).blocks

    @property
    def driver(self) -> str | None:
        """The driver that has it now."""
        return driver_of(self.where)

    def until_there(self) -> str:
        """Its name with the host, once there is one."""
        deadline = time.monotonic() + 60
        while not (names := self.names):
            assert time.monotonic() < deadline, self
            time.sleep(0.1)
        return names[0]


class Load:
    """``lab.disk.raw`` on a block device: writes, flushes, reads, and compares all that it wrote at its end."""

    def __init__(self, path: Path) -> None:
        argv = [sys.executable, "-m", "nooks.lab.disk.raw", "--path", str(path), "--seed", "7"]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        self.last: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        said, _ = self._process.communicate(timeout=300)
        self.last = json.loads(said.splitlines()[-1])


def digest(path: Path) -> str:
    """Of the beginning of a disk, read past the page cache."""
    found, page = hashlib.sha256(), mmap.mmap(-1, 1 << 20)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        for offset in range(0, COMPARED_BYTES, len(page)):
            assert os.preadv(descriptor, [page], offset) == len(page)
            found.update(page)
    finally:
        os.close(descriptor)
    return found.hexdigest()


def identity(path: Path) -> str:
    """The UUID of the file system on a disk."""
    done = subprocess.run(["blkid", "-p", "-s", "UUID", "-o", "value", str(path)], capture_output=True, check=False)
    return done.stdout.decode().strip()


@pytest.fixture(params=disk_devices(), ids=lambda device: str(device["model"]))
def disk(request: pytest.FixtureRequest) -> Iterator[Disk]:
    device: dict[str, Any] = request.param
    adapter = usb.at_port(device["usb"]) if device["usb"] else None
    made = Disk(device["address"] if adapter is None else f"usb:{adapter.ids}")
    made.until_there()
    yield made
    end_nooks()


def attached(disk: Disk, *flags: str) -> tuple[Nook, Path]:
    name = disk.until_there()
    started = ok("attach", name, "--intensity", "1000", *flags)
    assert started["name"] == name
    assert disk.names == ()
    return Nook(started["name"]), Path(started["block_device"])


def detached(disk: Disk, nook: Nook, native: str | None) -> Path:
    ok("detach", nook.name)
    assert disk.driver == native
    (name,) = disk.names
    return Path("/dev", name)


def fails(disk: Disk, ways: list[str]) -> None:
    """Have it fail under load, and see that the host's driver finds all that was written."""
    native = disk.driver
    nook, path = attached(disk)
    with Load(path) as load:
        for how in ways:
            time.sleep(1)
            reason, resumed = nook.crash(how)
            assert reason in NOTICED_AS[how], how
            assert resumed["means"] == "hotplug"
    assert load.last.get("judged"), load.last
    assert (load.last["errors"], load.last.get("broken")) == (0, None)
    assert load.last["bytes"] > 0
    number = str(uuid.uuid4())
    run("mkfs.ext4", "-q", "-U", number, str(path))
    written = digest(path)
    after = detached(disk, nook, native)
    assert (digest(after), identity(after)) == (written, number)


@pytest.mark.lab_short
def test_a_disk_lives_in_a_nook_and_comes_back(disk: Disk) -> None:
    fails(disk, ["kill"])


def test_a_disk_fails_in_every_way(disk: Disk) -> None:
    fails(disk, WAYS)


def test_a_disk_in_use_is_refused(disk: Disk, tmp_path: Path) -> None:
    name, native = disk.until_there(), disk.driver
    run("mkfs.ext4", "-q", "-F", f"/dev/{name}")
    place = tmp_path / "mounted"
    place.mkdir()
    run("mount", f"/dev/{name}", str(place))
    try:
        refused = nooks("attach", name)
        assert (refused.returncode, f"{name} is mounted on {place}" in refused.stderr) == (1, True), refused.stderr
        assert disk.driver == native
    finally:
        run("umount", str(place))
    with open(f"/dev/{name}", "rb"):
        refused = nooks("attach", name)
        assert (refused.returncode, f"has {name} open" in refused.stderr) == (1, True), refused.stderr
    plan = ok("attach", name, "--dry-run")
    assert plan["possible"]
    assert f"make the block device {name}" in plan["steps"]
    nook, path = attached(disk)
    run("mount", str(path), str(place))
    try:
        (place / "kept").write_text("kept")
        refused = nooks("detach", name)
        assert (refused.returncode, f"is mounted on {place}" in refused.stderr) == (1, True), refused.stderr
    finally:
        run("umount", str(place))
    after = detached(disk, nook, native)
    run("mount", str(after), str(place))
    try:
        assert (place / "kept").read_text() == "kept"
    finally:
        run("umount", str(place))


@pytest.mark.parametrize("disk", disk_devices()[:1], ids=lambda device: str(device["model"]), indirect=True)
def test_a_disk_is_measured_with_either_driver(disk: Disk) -> None:
    """By the host's own and in a nook; unasked only if nothing on it would be lost."""
    name, native = disk.until_there(), disk.driver
    run("mkfs.ext4", "-q", "-F", f"/dev/{name}")
    refused = nooks("bench", "block", "--attach", name)
    assert (refused.returncode, "ext4" in refused.stderr) == (2, True), refused.stderr
    rows = ok("bench", "block", "--attach", name, "--erase", "--rounds", "1")["benchmarks"]
    assert all(row["baseline"] == "host" and row["native"] > 0 and row["nook"] > 0 for row in rows)
    assert "compile on ext4" in [row["name"] for row in rows]
    assert disk.driver == native
