"""Each kind of disk and drive in a nook: a file system that outlives its driver, media that are changed, bad input."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Bench
from .disks import Disk, Load

pytestmark = pytest.mark.vm

DISKS = [
    ("ide-disk", "emulated:ide-hd"),
    ("ahci", "emulated:ich9-ahci"),
    ("nvme", "emulated:nvme"),
    ("usb-storage", "emulated:usb-storage"),
]


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    place = tmp_path / "mounted"
    place.mkdir()
    return place


@pytest.mark.parametrize(("driver", "device"), DISKS)
def test_a_file_system_outlives_its_disk_driver(
    bench: Bench, tmp_path: Path, mounted: Path, driver: str, device: str
) -> None:
    disk = Disk.start(bench, tmp_path / "disk.img", driver, device)
    with Load(disk.path) as load:
        bench.ok("crash", bench.name, "--how", "kill")
        bench.until(lambda status: status["recoveries"] == 1)
    assert load.errors == []
    assert load.written > 0
    subprocess.run(["mkfs.ext4", "-q", str(disk.path)], check=True)
    subprocess.run(["mount", str(disk.path), str(mounted)], check=True)
    content = os.urandom(3 << 20)
    try:
        (mounted / "before").write_bytes(content)
        disk.is_running()
        bench.ok("crash", bench.name, "--how", "panic")
        (mounted / "during").write_bytes(content)
        refused = bench.nooks("stop", bench.name)
        assert refused.status == 1
        assert f"is mounted on {mounted}" in refused.stderr
    finally:
        subprocess.run(["umount", str(mounted)], check=True)
    subprocess.run(["e2fsck", "-fn", str(disk.path)], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "ro", str(disk.path), str(mounted)], check=True)
    try:
        assert (mounted / "before").read_bytes() == (mounted / "during").read_bytes() == content
    finally:
        subprocess.run(["umount", str(mounted)], check=True)
    assert bench.status()["recoveries"] >= 2
    bench.ok("stop", bench.name)


@pytest.fixture
def discs(tmp_path: Path) -> Callable[[str, int], tuple[Path, bytes]]:
    def make(name: str, size: int) -> tuple[Path, bytes]:
        content = os.urandom(size)
        path = tmp_path / name
        path.write_bytes(content)
        return path, content

    return make


def capacity(path: Path) -> int:
    return int(subprocess.run(["blockdev", "--getsize64", path], check=True, capture_output=True).stdout)


def test_a_drive_and_its_media(bench: Bench, discs: Callable[[str, int], tuple[Path, bytes]]) -> None:
    first, content = discs("first.iso", 3 << 20)
    other, content_of_other = discs("other.iso", 5 << 20)
    drive = Disk.start(bench, first, "ide-cd", "emulated:ide-cd")
    assert drive.read(0, len(content)) == content
    with pytest.raises(OSError, match=r"Read-only|Operation not permitted"):
        drive.write(0, bytes(4096))
    bench.ok("crash", bench.name, "--how", "kill")
    assert drive.read(1 << 20, 1 << 20) == content[1 << 20 : 2 << 20]
    bench.until(lambda status: status["recoveries"] == 1)

    bench.ok("media", bench.name, str(other))
    assert capacity(drive.path) == len(content_of_other)
    assert drive.read(0, len(content_of_other)) == content_of_other
    bench.ok("crash", bench.name, "--how", "panic")
    assert drive.read(4 << 20, 1 << 20) == content_of_other[4 << 20 :]
    bench.until(lambda status: status["recoveries"] == 2)

    bench.ok("media", bench.name, "--eject")
    assert capacity(drive.path) == 0
    bench.ok("crash", bench.name, "--how", "kill")
    bench.until(lambda status: status["recoveries"] == 3)
    bench.ok("media", bench.name, str(first))
    assert drive.read(0, len(content)) == content
    told = [event["detail"]["medium"] for event in bench.events() if event["event"] == "media"]
    assert told == [str(other), None, str(first)]


def test_media_that_are_refused(bench: Bench, discs: Callable[[str, int], tuple[Path, bytes]], mounted: Path) -> None:
    first, _ = discs("first.iso", 2 << 20)
    odd, _ = discs("odd.iso", 4096 + 512)
    subprocess.run(["mkfs.ext4", "-q", "-b", "4096", str(first)], check=True)
    drive = Disk.start(bench, first, "ide-cd", "emulated:ide-cd")
    for arguments, status, said in (
        ((), 2, "say which medium"),
        (("/nonexistent.iso",), 2, "there is no medium /nonexistent.iso"),
        ((str(odd),), 2, "no multiple of 2048"),
        ((str(first),), 2, "already"),
    ):
        refused = bench.nooks("media", bench.name, *arguments)
        assert (refused.status, said in refused.stderr) == (status, True), refused.stderr
    subprocess.run(["mount", "-o", "ro,noload", str(drive.path), str(mounted)], check=True)
    try:
        refused = bench.nooks("media", bench.name, "--eject")
        assert (refused.status, f"is mounted on {mounted}" in refused.stderr) == (1, True), refused.stderr
    finally:
        subprocess.run(["umount", str(mounted)], check=True)
    bench.ok("media", bench.name, "--eject")


def test_a_disk_that_somebody_has_is_refused(bench: Bench, tmp_path: Path) -> None:
    Disk.start(bench, tmp_path / "disk.img", "ide-disk", "emulated:ide-hd")
    flags = ("start", "--driver", "ide-disk", "--name", f"{bench.name}-b", "--media")
    refused = bench.nooks(*flags, str(tmp_path / "disk.img"))
    assert (refused.status, "is in use by another nook" in refused.stderr) == (1, True), refused.stderr
    assert bench.nooks("media", bench.name, "--eject").status == 2


def test_what_happens_to_the_image_is_told_and_fails_no_driver(bench: Bench, tmp_path: Path) -> None:
    room = tmp_path / "room"
    room.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "room", str(room)], check=True)
    bench.stack.callback(subprocess.run, ["umount", "-l", str(room)], check=True)
    disk = Disk.start(bench, room / "disk.img", "ide-disk", "emulated:ide-hd", size=32 << 20)
    disk.write(0, b"x" * 4096)
    with pytest.raises(OSError, match="No space"):
        (room / "filler").write_bytes(bytes(16 << 20))
    with pytest.raises(OSError, match=r"Input/output|No space"):
        disk.write(4 << 20, b"y" * 4096)
    (room / "filler").unlink()
    disk.write(4 << 20, b"y" * 4096)
    assert disk.read(0, 4096) == b"x" * 4096

    os.truncate(room / "disk.img", 1 << 20)
    bench.until(lambda _: any("shorter" in str(event["detail"]) for event in bench.events()))
    with pytest.raises(OSError, match="Input/output"):
        disk.read(4 << 20, 4096)
    assert disk.read(0, 4096) == b"x" * 4096
    assert bench.status()["failures"] == 0
    refused = bench.nooks("set", bench.name, "ring.rx=512")
    assert refused.status == 2


@pytest.mark.slow
def test_a_nooks_disk_is_measured_beside_the_same_disk_in_a_guest(bench: Bench) -> None:
    result = bench.ok("bench", "block", "--rounds", "1")
    assert len(result["benchmarks"]) == 7
    for row in result["benchmarks"]:
        assert row["baseline"] == "in-domain"
        assert min(row["nook"], row["native"], row["endpoint_over_ram"]) > 0, row
