"""What a disk's blocks were when they last passed through the nook: a CRC32C for each, to notice a driver that lies.

A block is known or unknown; unknown is whatever was never seen, was written in part, zeroed, discarded or refused, or
is being written. Memory is bounded: block n shares its entry with n plus the table's size, and the later one is known.
A block that is known to be wrong, and could not be mended, is ``condemned`` until it is written again.
"""

import mmap
from array import array

from nooks.shadow.checksums import BLOCK_BYTES, Summing, by_package

ENTRIES_MAX = 1 << 22
"""Of 8 bytes, touched only when used: 16 GiB of disk at a time."""

CONDEMNED_MAX = 4096

_WORD_BYTES = 4


class IntegrityMap:
    """The blocks of a disk of ``size_bytes``, all unknown."""

    def __init__(self, size_bytes: int, summing: Summing = by_package) -> None:
        self._summing = summing
        self._entries = max(1, min(ENTRIES_MAX, -(-size_bytes // BLOCK_BYTES)))
        self._map = mmap.mmap(-1, 2 * _WORD_BYTES * self._entries, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        words = memoryview(self._map).cast("I")
        self._sums, self._laps = words[: self._entries], words[self._entries :]
        """Of each entry: the checksum, and which of the blocks that share it that is of, from 1; 0: none."""
        self._condemned: set[int] = set()

    def learn(self, offset: int, data: memoryview) -> None:
        """``data`` are on the disk at ``offset``."""
        first, count, skipped = self._whole(offset, len(data))
        self.forget(offset, len(data))
        if count:
            self._store(first, self._sum(data, skipped, count))

    def forget(self, offset: int, length: int) -> None:
        """Nobody knows what is there: all blocks that this touches are unknown."""
        first, last = offset // BLOCK_BYTES, -(-(offset + length) // BLOCK_BYTES)
        if last - first >= self._entries:
            self._laps[:] = memoryview(bytes(_WORD_BYTES * self._entries)).cast("I")
        else:
            for start, end, _ in self._runs(first, last - first):
                self._laps[start:end] = array("I", bytes(_WORD_BYTES * (end - start)))
        if self._condemned:
            self._condemned = {block for block in self._condemned if not first <= block < last}

    def check(self, offset: int, data: memoryview) -> int | None:
        """Compare what was read with what is known, and know what was not; the offset of the first wrong block."""
        first, count, skipped = self._whole(offset, len(data))
        if not count:
            return None
        sums = self._sum(data, skipped, count)
        at = 0
        for start, end, lap in self._runs(first, count):
            run = sums[at : at + end - start]
            if self._laps[start:end].tobytes() != array("I", [lap]).tobytes() * (end - start):
                wrong = self._compare(start, run, lap)
            elif self._sums[start:end].tobytes() != run.tobytes():
                wrong = next(index for index, one in enumerate(run) if self._sums[start + index] != one)
            else:
                wrong = None
            if wrong is not None:
                return (first + at + wrong) * BLOCK_BYTES
            at += end - start
        return None

    def condemn(self, offset: int) -> None:
        """The block at ``offset`` is wrong and stays so. Beyond a bound it becomes unknown instead."""
        if len(self._condemned) < CONDEMNED_MAX:
            self._condemned.add(offset // BLOCK_BYTES)
        else:
            self.forget(offset, BLOCK_BYTES)

    def is_condemned(self, offset: int, length: int) -> bool:
        """Whether any block of these is known to be wrong."""
        if not self._condemned:
            return False
        return any(
            block in self._condemned for block in range(offset // BLOCK_BYTES, -(-(offset + length) // BLOCK_BYTES))
        )

    def _compare(self, start: int, run: "array[int]", lap: int) -> int | None:
        """Entry by entry, where not all are known; the index of the first wrong one."""
        for index, one in enumerate(run):
            entry = start + index
            if self._laps[entry] == lap:
                if self._sums[entry] != one:
                    return index
            else:
                self._sums[entry], self._laps[entry] = one, lap
        return None

    def _store(self, first: int, sums: "array[int]") -> None:
        at = 0
        for start, end, lap in self._runs(first, len(sums)):
            count = end - start
            self._sums[start:end] = sums[at : at + count]
            self._laps[start:end] = array("I", [lap]) * count
            at += count

    def _runs(self, first: int, count: int) -> list[tuple[int, int, int]]:
        """The entries of blocks in a row, as (start, end, lap); more than one where the table begins again."""
        runs: list[tuple[int, int, int]] = []
        while count > 0:
            lap, start = divmod(first, self._entries)
            length = min(count, self._entries - start)
            runs.append((start, start + length, lap + 1))
            first += length
            count -= length
        return runs

    def _sum(self, data: memoryview, skipped: int, count: int) -> "array[int]":
        return self._summing(data[skipped : skipped + count * BLOCK_BYTES])

    @staticmethod
    def _whole(offset: int, length: int) -> tuple[int, int, int]:
        """The first block that lies wholly in these bytes, how many do, and where in the bytes the first begins."""
        first = -(-offset // BLOCK_BYTES)
        count = (offset + length) // BLOCK_BYTES - first
        return first, max(0, count), first * BLOCK_BYTES - offset
