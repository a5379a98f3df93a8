"""The application that judges a disk: it finds each block that is not what it wrote."""

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from nooks.lab.disk.raw import BLOCK, Reader, Writer, fill, runs

BLOCKS = 512


@given(st.sets(st.integers(0, 300)), st.integers(1, 8))
def test_runs_cover_all_numbers_once_and_are_no_longer_than_allowed(numbers: set[int], longest: int) -> None:
    found = list(runs(sorted(numbers), longest))
    assert [first + more for first, count in found for more in range(count)] == sorted(numbers)
    assert all(1 <= count <= longest for _, count in found)
    assert len(found) <= len(numbers)


def test_runs_are_as_long_as_can_be() -> None:
    assert list(runs([1, 2, 3, 4, 7, 9, 10], 3)) == [(1, 3), (4, 1), (7, 1), (9, 2)]


def test_each_block_that_is_not_what_was_written_counts(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(2 * BLOCKS * BLOCK)
    writer = Writer(path, BLOCKS, BLOCKS, seed=1)
    for _ in range(40):
        writer.step()
    writer.read_all()
    assert writer.errors == 0
    content = path.read_bytes()
    written = [block for block in range(2 * BLOCKS) if any(content[block * BLOCK : (block + 1) * BLOCK])]
    assert min(written) >= BLOCKS
    with path.open("r+b") as file:
        for block in (written[0], written[len(written) // 2], written[-1]):
            os.pwrite(file.fileno(), b"wrong", block * BLOCK + 100)
    writer.read_all()
    assert writer.errors == 3


def test_what_only_reads_knows_what_it_is_to_find(tmp_path: Path) -> None:
    path = tmp_path / "medium"
    with path.open("wb") as file:
        fill(file.fileno(), 2 * BLOCKS * BLOCK)
    content = path.read_bytes()
    reader = Reader(path, BLOCKS, BLOCKS, seed=1)
    for _ in range(40):
        reader.step()
    assert reader.errors == 0
    assert path.read_bytes() == content
    path.write_bytes(content[BLOCK:] + content[:BLOCK])
    reader.step()
    assert reader.errors > 0
