"""A block device by FUSE and loop in the real kernel, content in memory; taken over from a server that was killed."""

import errno
import mmap
import os
import secrets
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nooks.endpoint import fuse_mount
from nooks.endpoint.front import FrontGone
from nooks.endpoint.fuse_disk import FuseDisk, file_name
from nooks.endpoint.loop import LoopDevice
from nooks.xpc.block import DISCARD, FLUSH, READ, REQUEST_BYTES_MAX, WRITE, ZERO

SIZE = 32 << 20

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(
        not Path("/dev/fuse").exists() or not Path("/dev/loop-control").exists(), reason="needs FUSE, loop"
    ),
]


class Server:
    """Serves a disk's front out of memory, in a thread."""

    def __init__(self, disk: FuseDisk, memory: mmap.mmap) -> None:
        self.seen: list[tuple[int, int, int]] = []
        self.failing = 0
        self._disk = disk
        self._memory = memoryview(memory)
        self._end = os.eventfd(0)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def end(self) -> None:
        os.eventfd_write(self._end, 1)
        self._thread.join()
        os.close(self._end)
        self._memory.release()

    def _serve(self) -> None:
        serve(self._disk, self._memory, self._end, self.seen, self)


def serve(
    disk: FuseDisk, memory: memoryview, end: int, seen: list[tuple[int, int, int]], faults: "Server | None" = None
) -> None:
    """Answer requests until ``end`` is readable or the front is gone."""
    front, space = disk.front, memoryview(bytearray(REQUEST_BYTES_MAX))
    poll = select.poll()
    for descriptor in (front.fileno(), end):
        poll.register(descriptor, select.POLLIN)
    while end not in dict(poll.poll()):
        try:
            arrival = front.receive(space)
        except FrontGone:
            return
        if arrival is None:
            continue
        operation, offset, length, _, handle = arrival
        seen.append((operation, offset, length))
        if faults is not None and faults.failing:
            front.answer(handle, faults.failing)
            continue
        if operation == WRITE:
            memory[offset : offset + length] = space[:length]
        elif operation in (ZERO, DISCARD):
            memory[offset : offset + length] = bytes(length)
        front.answer(handle, 0, memory[offset : offset + length] if operation == READ else None)


class Bench:
    def __init__(self) -> None:
        self.name = f"t{secrets.token_hex(3)}"
        self.memory = mmap.mmap(-1, SIZE)
        self.disk = FuseDisk.create(SIZE, read_only=False)
        self.disk.front.zeroes = True
        self.server = Server(self.disk, self.memory)

    def close(self) -> None:
        self.disk.withdraw()
        self.server.end()
        self.disk.close()
        assert self.name not in subprocess.run(["losetup", "--list"], capture_output=True, text=True).stdout


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def program(*argv: str | Path) -> str:
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_file_system_lives_on_it(bench: Bench, tmp_path: Path) -> None:
    bench.disk.publish(bench.name, 512)
    device = bench.disk.path
    program("mkfs.ext4", "-q", device)
    program("mount", device, tmp_path)
    try:
        content = os.urandom(3 << 20)
        (tmp_path / "file").write_bytes(content)
    finally:
        program("umount", tmp_path)
    bench.disk.flush(30)
    program("e2fsck", "-fn", device)
    program("mount", device, tmp_path)
    try:
        assert (tmp_path / "file").read_bytes() == content
    finally:
        program("umount", tmp_path)
    assert FLUSH in {operation for operation, _, _ in bench.server.seen}
    assert max(length for operation, _, length in bench.server.seen if operation in (READ, WRITE)) <= REQUEST_BYTES_MAX


def test_zeroing_and_dropping_reach_the_server_as_what_they_are(bench: Bench) -> None:
    bench.disk.front.discards = True
    bench.disk.publish(bench.name, 512)
    bench.memory[: 1 << 20] = b"x" * (1 << 20)
    program("blkdiscard", "--force", "--offset", "4096", "--length", "8192", bench.disk.path)
    assert (DISCARD, 4096, 8192) in bench.server.seen
    program("blkdiscard", "--force", "--zeroout", "--offset", "512", "--length", "1024", bench.disk.path)
    assert (ZERO, 512, 1024) in bench.server.seen
    assert bench.memory[:512] == b"x" * 512
    assert bench.memory[512:1536] == bytes(1024)


def test_where_the_device_can_t_zero_the_kernel_writes_zeros(bench: Bench) -> None:
    bench.disk.front.zeroes = False
    bench.disk.publish(bench.name, 512)
    bench.memory[:8192] = b"x" * 8192
    program("blkdiscard", "--force", "--zeroout", "--offset", "0", "--length", "4096", bench.disk.path)
    assert bench.memory[:8192] == bytes(4096) + b"x" * 4096
    assert not {operation for operation, _, _ in bench.server.seen} & {ZERO, DISCARD}


def test_errors_arrive_as_errors(bench: Bench) -> None:
    bench.disk.publish(bench.name, 512)
    bench.server.failing = 5
    done = subprocess.run(
        ["dd", f"if={bench.disk.path}", "of=/dev/null", "iflag=direct", "count=1"], capture_output=True
    )
    bench.server.failing = 0
    assert b"Input/output error" in done.stderr


@pytest.mark.parametrize("number", [errno.ENODEV, errno.ECONNABORTED])
def test_what_was_unmounted_is_gone(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """As fs/fuse/dev.c says: before a request is read, or while it is copied."""
    disk = FuseDisk.create(SIZE, read_only=False)

    def readv(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "readv", readv)
        with pytest.raises(FrontGone):
            disk.front.receive(memoryview(bytearray(REQUEST_BYTES_MAX)))
    disk.close()


def test_partitions_and_sectors(bench: Bench) -> None:
    bench.disk.publish(bench.name, 4096)
    device = bench.disk.path
    assert program("blockdev", "--getss", device).strip() == "4096"
    program("addpart", device, "1", "2048", "8000")  # not every kernel reads partition tables by itself
    assert program("blockdev", "--getsize64", f"{device}p1").strip() == str(8000 * 512)


def test_what_was_detached_by_somebody_is_gone_and_no_concern_of_ours(bench: Bench) -> None:
    bench.disk.publish(bench.name, 512)
    device = bench.disk.path
    program("losetup", "--detach", device)
    deadline = 200
    while LoopDevice(device, file_name(bench.name)).is_ours and deadline:
        deadline -= 1
        select.select([], [], [], 0.01)
    assert deadline


def test_a_read_only_disk(tmp_path: Path) -> None:
    name = f"t{secrets.token_hex(3)}"
    memory = mmap.mmap(-1, SIZE)
    disk = FuseDisk.create(SIZE, read_only=True)
    server = Server(disk, memory)
    try:
        disk.publish(name, 2048)
        assert program("blockdev", "--getro", disk.path).strip() == "1"
        done = subprocess.run(["dd", "if=/dev/zero", f"of={disk.path}", "count=1"], capture_output=True)
        assert done.returncode
    finally:
        disk.withdraw()
        server.end()
        disk.close()


@pytest.mark.skipif(
    tuple(int(part) for part in os.uname().release.split(".")[:2]) < fuse_mount.RESEND_SINCE, reason="needs Linux 6.9"
)
def test_a_killed_server_s_requests_come_to_the_next(tmp_path: Path) -> None:
    """Writers go on all the time; each server is killed, without mercy, after some hundredths of a second."""
    name = f"t{secrets.token_hex(3)}"
    memory = mmap.mmap(-1, SIZE)
    disk = FuseDisk.create(SIZE, read_only=False)
    first = Server(disk, memory)
    disk.publish(name, 512)
    device = disk.path
    first.end()
    load = subprocess.Popen([sys.executable, "-c", _LOAD, str(device)], stdout=subprocess.PIPE, text=True)
    resent = 0
    try:
        for number in range(12):
            pid = os.fork()
            if pid == 0:
                _child(disk, device, name, memory)
            select.select([], [], [], 0.03 + 0.007 * number)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            resent += 1
        last = FuseDisk.adopt(disk.descriptor, device, name, SIZE, read_only=False)
        server = Server(last, memory)
        output, _ = load.communicate(timeout=60)
        assert output.split() == ["written", "read"]
        last.withdraw()
        server.end()
    finally:
        load.kill()
        load.wait()
        disk.close()
    assert resent == 12


def _child(disk: FuseDisk, device: Path, name: str, memory: mmap.mmap) -> None:
    adopted = FuseDisk.adopt(disk.descriptor, device, name, SIZE, read_only=False)
    serve(adopted, memoryview(memory), os.eventfd(0), [])
    os._exit(1)


_LOAD = """
import mmap, os, random, sys, time
device = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT)
page = mmap.mmap(-1, 65536)
written = {}
source = random.Random(5)
until = time.monotonic() + 2
while time.monotonic() < until or len(written) < 50:
    at = source.randrange(256) * 65536
    data = source.randbytes(65536)
    page[:] = data
    assert os.pwrite(device, page, at) == 65536
    written[at] = data
os.fsync(device)
print("written")
for at, data in written.items():
    assert os.preadv(device, [page], at) == 65536
    assert page[:] == data, at
print("read")
"""
