"""Checksums of blocks: wrong ones are found, unknown ones are no accusation, and memory is bounded."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nooks.host import native
from nooks.shadow import integrity
from nooks.shadow.checksums import BLOCK_BYTES, SOURCE, by_library, by_package
from nooks.shadow.integrity import IntegrityMap

BLOCKS = 16
extents = st.tuples(st.integers(0, BLOCKS * 8 - 1), st.integers(1, 40)).map(
    lambda pair: (pair[0] * 512, min(pair[1], BLOCKS * 8 - pair[0]) * 512)
)


def random_bytes(length: int, seed: int) -> memoryview:
    return memoryview(random.Random(seed).randbytes(length))


def test_what_was_written_is_compared_with_what_is_read() -> None:
    sums = IntegrityMap(1 << 20)
    data = random_bytes(4 * BLOCK_BYTES, 1)
    sums.learn(BLOCK_BYTES, data)
    assert sums.check(BLOCK_BYTES, data) is None
    assert sums.check(2 * BLOCK_BYTES, data[BLOCK_BYTES : 2 * BLOCK_BYTES]) is None
    wrong = bytearray(data)
    wrong[2 * BLOCK_BYTES + 7] ^= 1
    assert sums.check(BLOCK_BYTES, memoryview(wrong)) == 3 * BLOCK_BYTES


def test_what_is_read_first_is_known_afterwards() -> None:
    sums = IntegrityMap(1 << 20)
    assert sums.check(0, random_bytes(BLOCK_BYTES, 1)) is None
    assert sums.check(0, random_bytes(BLOCK_BYTES, 2)) == 0


def test_forgotten_and_partly_written_blocks_accuse_nobody() -> None:
    sums = IntegrityMap(1 << 20)
    sums.learn(0, random_bytes(3 * BLOCK_BYTES, 1))
    sums.forget(0, 512)
    sums.learn(2 * BLOCK_BYTES + 512, random_bytes(512, 2))
    assert sums.check(0, random_bytes(BLOCK_BYTES, 3)) is None
    assert sums.check(2 * BLOCK_BYTES, random_bytes(BLOCK_BYTES, 4)) is None
    assert sums.check(BLOCK_BYTES, random_bytes(BLOCK_BYTES, 5)) == BLOCK_BYTES


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["write", "read", "forget"]), extents), max_size=40))
def test_a_truthful_disk_is_never_accused_and_a_changed_block_is_found(
    steps: list[tuple[str, tuple[int, int]]],
) -> None:
    sums = IntegrityMap(BLOCKS * BLOCK_BYTES)
    disk = bytearray(BLOCKS * BLOCK_BYTES)
    known: set[int] = set()
    for number, (what, (offset, length)) in enumerate(steps):
        end = offset + length
        touched = set(range(offset // BLOCK_BYTES, -(-end // BLOCK_BYTES)))
        whole = set(range(-(-offset // BLOCK_BYTES), end // BLOCK_BYTES))
        if what == "write":
            disk[offset:end] = random_bytes(length, number)
            sums.learn(offset, memoryview(disk)[offset:end])
            known = known - touched | whole
        elif what == "read":
            assert sums.check(offset, memoryview(disk)[offset:end]) is None
            known |= whole
        else:
            sums.forget(offset, length)
            known -= touched
    for block in range(BLOCKS):
        at = block * BLOCK_BYTES
        changed = bytearray(disk[at : at + BLOCK_BYTES])
        changed[100] ^= 0x40
        assert sums.check(at, memoryview(changed)) == (at if block in known else None)


def test_blocks_that_share_an_entry_push_each_other_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integrity, "ENTRIES_MAX", 4)
    sums = IntegrityMap(64 * BLOCK_BYTES)
    first, second = random_bytes(2 * BLOCK_BYTES, 1), random_bytes(2 * BLOCK_BYTES, 2)
    sums.learn(0, first)
    sums.learn(4 * BLOCK_BYTES, second)
    assert sums.check(0, random_bytes(BLOCK_BYTES, 3)) is None, "pushed out, so unknown"
    assert sums.check(5 * BLOCK_BYTES, first[:BLOCK_BYTES]) == 5 * BLOCK_BYTES
    sums.learn(2 * BLOCK_BYTES, random_bytes(8 * BLOCK_BYTES, 4))
    assert sums.check(6 * BLOCK_BYTES, random_bytes(8 * BLOCK_BYTES, 4)[4 * BLOCK_BYTES :]) is None
    sums.forget(0, 64 * BLOCK_BYTES)
    assert sums.check(6 * BLOCK_BYTES, random_bytes(4 * BLOCK_BYTES, 5)) is None


def test_a_condemned_block_stays_so_until_it_is_written() -> None:
    sums = IntegrityMap(1 << 20)
    sums.condemn(2 * BLOCK_BYTES)
    assert sums.is_condemned(0, 3 * BLOCK_BYTES)
    assert not sums.is_condemned(0, 2 * BLOCK_BYTES)
    sums.learn(2 * BLOCK_BYTES, random_bytes(BLOCK_BYTES, 1))
    assert not sums.is_condemned(0, 1 << 20)


def test_the_library_sums_up_as_the_package_does() -> None:
    library = native.library(SOURCE, pytest.fail)
    assert library is not None, "install " + native.PACKAGES
    summing = by_library(library)
    data = memoryview(bytearray(random.Random(3).randbytes(256 * BLOCK_BYTES)))
    for blocks in (0, 1, 5, 7, 8, 13, 255, 256):
        part = data[BLOCK_BYTES * (256 - blocks) :]
        assert summing(part) == by_package(part)
    assert summing(data.toreadonly()) == by_package(data)


def library_without() -> tuple[Path | None, list[str]]:
    """The library, which can't be had, and what was told of that."""
    told: list[str] = []
    return native.library(SOURCE, told.append), told


def test_without_a_compiler_or_a_cache_there_is_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "")
    assert library_without() == (None, [])
    monkeypatch.delenv("CC")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    library, told = library_without()
    assert library is None
    assert len(told) == 1


def test_a_compiler_that_makes_nothing_is_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", "false")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library, told = library_without()
    assert library is None
    assert len(told) == 1
