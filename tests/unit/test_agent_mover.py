"""Both movers, on the host: a file in place of a disk, memory files in place of region and port."""

import asyncio
import os
import select
import signal
import time
from collections.abc import Iterator
from errno import ENOTTY
from pathlib import Path
from random import Random

import pytest

from nooks.agent import mover
from nooks.host import native
from nooks.image import mover_program
from nooks.nook.block_link import REGION_BYTES, SMALL_BYTES, Link
from nooks.nook.block_rings import Rings
from nooks.xpc.block import (
    ALONE,
    DISCARD,
    FLUSH,
    FUA,
    READ,
    REQUEST,
    REQUEST_MAGIC,
    REQUEST_MARK,
    RINGS_BYTES,
    WRITE,
    ZERO,
)

SIZE = 4 << 20
BUFFER, OTHER = RINGS_BYTES, RINGS_BYTES + SMALL_BYTES
"""Two slots."""


def place(slot: int) -> int:
    return RINGS_BYTES + slot * SMALL_BYTES


class Bench:
    """A link whose other end a mover serves: ``program``, or the one in Python, of four threads.

    ``ring``: there is a bell, so that the program answers in the ring.
    """

    def __init__(self, folder: Path, program: Path | None, *, ring: bool = False) -> None:
        self.disk = folder / "disk"
        self.disk.write_bytes(bytes(SIZE))
        self.link, port, bell = Link.create()
        region = f"/proc/self/fd/{self.link.region_fd}"
        with port, bell:
            self.process = os.fork()
            if self.process == 0 and program is None:
                mover.Work(port.fileno(), str(self.disk), region, REGION_BYTES).run()
            elif self.process == 0:
                assert program is not None
                for descriptor in (port.fileno(), bell.fileno(), self.link.region_fd):
                    os.set_inheritable(descriptor, True)
                ends = str(self.disk), region, str(REGION_BYTES), str(bell.fileno()) if ring else "none"
                os.execv(program, [str(program), str(port.fileno()), *ends])

    def close(self) -> None:
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        self.link.close()

    def ask(self, *requests: tuple[int, int, int, int, int], flags: int = 0) -> dict[int, int]:
        """Requests as (operation, tag, offset, length, slot); the results by tag."""
        for operation, tag, offset, length, slot in requests:
            self.link.put(REQUEST.pack(REQUEST_MAGIC, operation, flags, tag, offset, length, slot, 0, REQUEST_MARK))
        assert self.link.flush()
        results: dict[int, int] = {}
        while len(results) < len(requests):
            ready, _, _ = select.select([self.link.port, self.link.bell], [], [], 10)
            assert ready, f"of {len(requests)} requests {len(results)} were answered"
            for end in ready:
                replies = self.link.replies() if end is self.link.port else self.link.rung()
                assert replies is not None
                results.update(replies)
        return results


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mover in C; a warning of the compiler is an error here."""
    target = tmp_path_factory.mktemp("mover") / "mover"
    compiler = native.find_compiler("amd64")
    assert compiler is not None, "install " + native.PACKAGES
    mover_program.compile_mover(compiler, target, ("-Wall", "-Wextra", "-Werror"))
    return target


@pytest.fixture(params=["Python", "C", "C with rings"])
def bench(tmp_path: Path, request: pytest.FixtureRequest, program: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, None if request.param == "Python" else program, ring=request.param == "C with rings")
    yield made
    made.close()


def test_data_go_between_disk_and_region(bench: Bench) -> None:
    data = os.urandom(8192)
    bench.link.region[OTHER : OTHER + 8192] = data
    assert bench.ask((WRITE, 7, 4096, 8192, OTHER)) == {7: 8192}
    assert bench.disk.read_bytes()[4096 : 4096 + 8192] == data
    assert bench.ask((FLUSH, 8, 0, 0, 0), (READ, 9, 4096, 4096, BUFFER)) == {8: 0, 9: 4096}
    assert bench.link.region[BUFFER : BUFFER + 4096] == data[:4096]
    assert bench.ask((WRITE, 10, 0, 4096, BUFFER), flags=FUA) == {10: 4096}


def test_many_at_once(bench: Bench) -> None:
    for slot in range(16):
        bench.link.region[place(slot) : place(slot) + 4096] = bytes([slot]) * 4096
    writes = [(WRITE, 100 + slot, slot * 4096, 4096, place(slot)) for slot in range(16)]
    assert bench.ask(*writes) == {100 + slot: 4096 for slot in range(16)}
    assert bench.disk.read_bytes()[: 16 * 4096] == b"".join(bytes([slot]) * 4096 for slot in range(16))


def test_who_is_alone_is_served_and_others_after_it(bench: Bench) -> None:
    for tag in range(1, 6):
        assert bench.ask((WRITE, tag, 0, 4096, BUFFER), flags=ALONE) == {tag: 4096}
    assert bench.ask((READ, 6, 17, 100, BUFFER), flags=ALONE)[6] < 0
    assert bench.ask(*[(READ, 10 + slot, 0, 4096, place(slot)) for slot in range(8)]) == {
        10 + slot: 4096 for slot in range(8)
    }
    assert bench.ask(*[(READ, 20 + slot, 0, 4096, place(slot)) for slot in range(8)], flags=ALONE) == {
        20 + slot: 4096 for slot in range(8)
    }
    asyncio.run(bench.link.resync(10))


def test_what_can_t_be_done_is_an_error_and_not_the_end(bench: Bench) -> None:
    results = bench.ask((READ, 1, 17, 100, BUFFER), (99, 2, 0, 0, 0), (READ, 3, 0, 4096, BUFFER))
    assert results[1] < 0
    assert results[2] == -22
    assert results[3] == 4096


def test_torn_requests_are_skipped_and_a_barrier_ends_what_came_before(bench: Bench) -> None:
    """A supervisor died in the midst of a write: it must not be carried out in part."""
    torn = REQUEST.pack(REQUEST_MAGIC, WRITE, 0, 1, 0, 4096, BUFFER, 0, REQUEST_MARK)[:20]
    bench.link.region[BUFFER : BUFFER + 4096] = b"x" * 4096
    bench.link.port.sendall(torn)
    asyncio.run(bench.link.resync(10))
    assert bench.disk.read_bytes() == bytes(SIZE)
    assert bench.ask((READ, 5, 0, 4096, BUFFER)) == {5: 4096}


def test_replies_to_a_dead_supervisor_are_skipped(bench: Bench) -> None:
    bench.ask((READ, 1, 0, 4096, BUFFER))
    frames = (REQUEST.pack(REQUEST_MAGIC, READ, 0, tag, 0, 4096, BUFFER, 0, REQUEST_MARK) for tag in (2, 3, 4))
    bench.link.port.sendall(b"".join(frames))
    (end, *_), _, _ = select.select([bench.link.port, bench.link.bell], [], [], 10)
    end.recv(7 if end is bench.link.port else 1)  # the dead one had read half an answer, or heard the bell
    asyncio.run(bench.link.resync(10))
    assert bench.ask((READ, 9, 0, 4096, BUFFER)) == {9: 4096}


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
    assert bench.ask((READ, 7, 0, 4096, BUFFER)) == {7: 4096}
    bench.link.region[BUFFER : BUFFER + 4096] = b"x" * 4096
    assert bench.ask((WRITE, 0, 0, 4096, BUFFER)) == {0: 4096}
    assert bench.disk.read_bytes()[:4096] == b"x" * 4096
    assert bench.link.room


def test_zeroing_and_discarding_are_answered_beside_others(bench: Bench) -> None:
    """A file has neither: what the kernel says comes back, each under its own tag, and a barrier awaits them."""
    results = bench.ask((ZERO, 1, 0, 4096, 0), (DISCARD, 2, 0, 4096, 0), (READ, 3, 0, 4096, BUFFER))
    assert results == {1: -ENOTTY, 2: -ENOTTY, 3: 4096}
    asyncio.run(bench.link.resync(10))


def test_data_outside_the_region_are_refused(bench: Bench) -> None:
    outside = (READ, 1, 0, 4096, REGION_BYTES - 2048), (WRITE, 2, 0, 4096, REGION_BYTES + 4096)
    results = bench.ask(*outside, (READ, 3, 0, 4096, BUFFER))
    assert results[1] != 4096
    assert results[2] <= 0
    assert results[3] == 4096
    assert bench.disk.read_bytes() == bytes(SIZE)


def test_nothing_is_overslept_however_long_nothing_was_asked_for(tmp_path: Path, program: Path) -> None:
    """A mover that goes to sleep just when something comes; and after each of these it has to be woken or not."""
    bench = Bench(tmp_path, program, ring=True)
    random = Random(1)
    try:
        for tag in range(3000):
            count = random.choice((1, 1, 2, 12))
            requests = [(READ, 100 * tag + one, 0, 4096, place(one)) for one in range(count)]
            assert bench.ask(*requests) == {100 * tag + one: 4096 for one in range(count)}
            time.sleep(random.choice((0, 0, random.uniform(0.0003, 0.0007))))
        asyncio.run(bench.link.resync(10))
        assert bench.ask((READ, 1, 0, 4096, BUFFER)) == {1: 4096}
    finally:
        bench.close()


def test_a_request_at_the_port_is_not_forgotten_over_those_in_the_ring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was sent while the mover slept, which something else has woken since; this one never sleeps again."""
    compiler, sleepless = native.find_compiler("amd64"), tmp_path / "mover"
    assert compiler is not None
    mover_program.compile_mover(compiler, sleepless, ("-DSPIN_NS=1000000000000LL",))
    bench = Bench(tmp_path, sleepless, ring=True)
    try:
        bench.ask((READ, 1, 0, 4096, BUFFER))
        monkeypatch.setattr(Rings, "awake", False)
        assert bench.ask((READ, 2, 0, 4096, BUFFER)) == {2: 4096}
    finally:
        bench.close()


def test_without_a_compiler_images_go_without_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mover_program.digest("i386") == ""
    assert mover_program.digest("amd64")
    for value in ("", "/nonexistent/cc"):
        monkeypatch.setenv("CC", value)
        assert mover_program.digest("amd64") == ""
