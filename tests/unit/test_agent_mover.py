"""Both movers, on the host: a file in place of a disk, memory files in place of region and port."""

import asyncio
import os
import signal
from collections.abc import Iterator
from errno import ENOTTY
from pathlib import Path

import pytest

from nooks.agent import mover
from nooks.image import native
from nooks.nook.block_link import REGION_BYTES, Link
from nooks.xpc.block import (
    ALONE,
    BARRIER,
    DISCARD,
    FLUSH,
    FUA,
    READ,
    REQUEST,
    REQUEST_MAGIC,
    REQUEST_MARK,
    WRITE,
    ZERO,
)

SIZE = 4 << 20


class Bench:
    """A link whose other end a mover serves: ``program``, or the one in Python, of four threads."""

    def __init__(self, folder: Path, program: Path | None) -> None:
        self.disk = folder / "disk"
        self.disk.write_bytes(bytes(SIZE))
        self.link, theirs = Link.create()
        region = f"/proc/self/fd/{self.link.region_fd}"
        with theirs:
            self.process = os.fork()
            if self.process == 0 and program is None:
                mover.Work(theirs.fileno(), str(self.disk), region, REGION_BYTES).run()
            elif self.process == 0:
                assert program is not None
                os.set_inheritable(theirs.fileno(), True)
                os.set_inheritable(self.link.region_fd, True)
                os.execv(program, [str(program), str(theirs.fileno()), str(self.disk), region, str(REGION_BYTES)])

    def close(self) -> None:
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        self.link.close()

    def ask(self, *requests: tuple[int, int, int, int, int], flags: int = 0) -> dict[int, int]:
        """Requests as (operation, tag, offset, length, slot); the results by tag."""
        self.link.port.setblocking(True)
        self.link.port.settimeout(10)
        for operation, tag, offset, length, slot in requests:
            frame = REQUEST.pack(REQUEST_MAGIC, operation, flags, tag, offset, length, slot, 0, REQUEST_MARK)
            self.link.port.sendall(frame)
        results: dict[int, int] = {}
        while len(results) < len(requests):
            replies = self.link.replies()
            assert replies is not None
            results.update(replies)
        return results


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mover in C; a warning of the compiler is an error here."""
    target = tmp_path_factory.mktemp("mover") / "mover"
    compiler = native.find_compiler("amd64")
    assert compiler is not None, "install " + native.PACKAGES
    native.compile_mover(compiler, target, ("-Wall", "-Wextra", "-Werror"))
    return target


@pytest.fixture(params=["Python", "C"])
def bench(tmp_path: Path, request: pytest.FixtureRequest, program: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, program if request.param == "C" else None)
    yield made
    made.close()


def test_data_go_between_disk_and_region(bench: Bench) -> None:
    data = os.urandom(8192)
    bench.link.region[65536 : 65536 + 8192] = data
    assert bench.ask((WRITE, 7, 4096, 8192, 65536)) == {7: 8192}
    assert bench.disk.read_bytes()[4096 : 4096 + 8192] == data
    assert bench.ask((FLUSH, 8, 0, 0, 0), (READ, 9, 4096, 4096, 0)) == {8: 0, 9: 4096}
    assert bench.link.region[:4096] == data[:4096]
    assert bench.ask((WRITE, 10, 0, 4096, 0), flags=FUA) == {10: 4096}


def test_many_at_once(bench: Bench) -> None:
    for slot in range(16):
        bench.link.region[slot * 65536 : slot * 65536 + 4096] = bytes([slot]) * 4096
    writes = [(WRITE, 100 + slot, slot * 4096, 4096, slot * 65536) for slot in range(16)]
    assert bench.ask(*writes) == {100 + slot: 4096 for slot in range(16)}
    assert bench.disk.read_bytes()[: 16 * 4096] == b"".join(bytes([slot]) * 4096 for slot in range(16))


def test_who_is_alone_is_served_and_others_after_it(bench: Bench) -> None:
    for tag in range(1, 6):
        assert bench.ask((WRITE, tag, 0, 4096, 0), flags=ALONE) == {tag: 4096}
    assert bench.ask((READ, 6, 17, 100, 0), flags=ALONE)[6] < 0
    assert bench.ask(*[(READ, 10 + slot, 0, 4096, slot * 65536) for slot in range(8)]) == {
        10 + slot: 4096 for slot in range(8)
    }
    assert bench.ask(*[(READ, 20 + slot, 0, 4096, slot * 65536) for slot in range(8)], flags=ALONE) == {
        20 + slot: 4096 for slot in range(8)
    }
    assert bench.ask((BARRIER, 30, 0, 0, 0)) == {30: 0}


def test_what_can_t_be_done_is_an_error_and_not_the_end(bench: Bench) -> None:
    results = bench.ask((READ, 1, 17, 100, 0), (99, 2, 0, 0, 0), (READ, 3, 0, 4096, 0))
    assert results[1] < 0
    assert results[2] == -22
    assert results[3] == 4096


def test_torn_requests_are_skipped_and_a_barrier_ends_what_came_before(bench: Bench) -> None:
    """A supervisor died in the midst of a write: it must not be carried out in part."""
    torn = REQUEST.pack(REQUEST_MAGIC, WRITE, 0, 1, 0, 4096, 0, 0, REQUEST_MARK)[:20]
    bench.link.region[:4096] = b"x" * 4096
    bench.link.port.setblocking(True)
    bench.link.port.sendall(torn)
    bench.link.port.setblocking(False)
    asyncio.run(bench.link.resync(10))
    assert bench.disk.read_bytes() == bytes(SIZE)
    assert bench.ask((READ, 5, 0, 4096, 0), (BARRIER, 6, 0, 0, 0)) == {5: 4096, 6: 0}


def test_replies_to_a_dead_supervisor_are_skipped(bench: Bench) -> None:
    bench.ask((READ, 1, 0, 4096, 0))
    frames = (REQUEST.pack(REQUEST_MAGIC, READ, 0, tag, 0, 4096, 0, 0, REQUEST_MARK) for tag in (2, 3, 4))
    bench.link.port.sendall(b"".join(frames))
    bench.link.port.recv(7)  # the dead one had read half an answer
    bench.link.port.setblocking(False)
    asyncio.run(bench.link.resync(10))
    assert bench.ask((READ, 9, 0, 4096, 0)) == {9: 4096}


def test_a_rehearsal_leaves_all_slots_free(bench: Bench) -> None:
    asyncio.run(bench.link.rehearse(10))
    assert bench.link.room


def test_a_rehearsal_that_was_cut_short_is_ended_before_anything_else(bench: Bench) -> None:
    os.kill(bench.process, signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        asyncio.run(bench.link.rehearse(0.1))
    assert bench.link.astray
    os.kill(bench.process, signal.SIGCONT)
    asyncio.run(bench.link.resync(10))
    assert not bench.link.astray
    assert bench.ask((READ, 7, 0, 4096, 0)) == {7: 4096}
    bench.link.region[:4096] = b"x" * 4096
    assert bench.ask((WRITE, 0, 0, 4096, 0), (BARRIER, 1, 0, 0, 0)) == {0: 4096, 1: 0}
    assert bench.disk.read_bytes()[:4096] == b"x" * 4096
    assert bench.link.room


def test_zeroing_and_discarding_are_answered_beside_others(bench: Bench) -> None:
    """A file has neither: what the kernel says comes back, each under its own tag, and a barrier awaits them."""
    results = bench.ask((ZERO, 1, 0, 4096, 0), (DISCARD, 2, 0, 4096, 0), (READ, 3, 0, 4096, 0), (BARRIER, 4, 0, 0, 0))
    assert (results[1], results[2]) == (-ENOTTY, -ENOTTY)
    assert (results[3], results[4]) == (4096, 0)


def test_data_outside_the_region_are_refused(bench: Bench) -> None:
    outside = (READ, 1, 0, 4096, REGION_BYTES - 2048), (WRITE, 2, 0, 4096, REGION_BYTES + 4096)
    results = bench.ask(*outside, (READ, 3, 0, 4096, 0))
    assert results[1] != 4096
    assert results[2] <= 0
    assert results[3] == 4096
    assert bench.disk.read_bytes() == bytes(SIZE)


def test_without_a_compiler_images_go_without_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.digest("i386") == ""
    assert native.digest("amd64")
    for value in ("", "/nonexistent/cc"):
        monkeypatch.setenv("CC", value)
        assert native.digest("amd64") == ""
