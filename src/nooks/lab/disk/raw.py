"""An application that writes and reads a file past the page cache, and compares: every block that it ever wrote.

Four threads, each in a part of its own. Writes JSON lines in the form of ``meter`` (progress in operations);
``errors`` counts blocks that are not what was written last. On SIGTERM all of them are read once more. Any other
error is told and is the end. What only reads finds what ``fill`` wrote. Standard library only.
"""

import argparse
import hashlib
import mmap
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from nooks.lab.meter import REPORT_SECONDS, Meter, say

BLOCK = 4096
THREADS = 4
_COUNTS = (1, 1, 1, 4, 16, 64)


class Reader:
    """One thread's part: ``blocks`` from ``first`` on, all of generation 0 but for those that are ``known``."""

    ACCESS = os.O_RDONLY

    def __init__(self, path: Path, first: int, blocks: int, seed: int) -> None:
        self._descriptor = os.open(path, self.ACCESS | os.O_DIRECT)
        self._page = memoryview(mmap.mmap(-1, max(_COUNTS) * BLOCK))
        self._first, self._blocks = first, blocks
        self._random = Random(seed + first)
        self._known: dict[int, int] = {}
        self.errors = 0

    def step(self) -> None:
        """Read something. Raises OSError."""
        self._compare(*self._place())

    def read_all(self) -> None:
        """Nothing is left to be compared."""

    def _place(self) -> tuple[int, int]:
        """Some blocks: the first, and how many."""
        count = self._random.choice(_COUNTS)
        return self._random.randrange(self._blocks - count), count

    def _compare(self, at: int, count: int = 1) -> None:
        os.preadv(self._descriptor, [self._page[: count * BLOCK]], (self._first + at) * BLOCK)
        for number in range(count):
            found = self._page[number * BLOCK : (number + 1) * BLOCK]
            block = at + number
            self.errors += bytes(found) != content(self._first + block, self._known.get(block, 0))


class Writer(Reader):
    """Writes as well; what it wrote is ``known`` by its generation."""

    ACCESS = os.O_RDWR

    def __init__(self, path: Path, first: int, blocks: int, seed: int) -> None:
        super().__init__(path, first, blocks, seed)
        self._generation = 0

    def step(self) -> None:
        """Write, sometimes flush, and read something back. Raises OSError."""
        random, (at, count) = self._random, self._place()
        self._generation += 1
        for number in range(count):
            self._page[number * BLOCK : (number + 1) * BLOCK] = content(self._first + at + number, self._generation)
        os.pwritev(self._descriptor, [self._page[: count * BLOCK]], (self._first + at) * BLOCK)
        self._known.update(dict.fromkeys(range(at, at + count), self._generation))
        if random.random() < 0.05:
            os.fdatasync(self._descriptor)
        self._compare(random.choice(list(self._known)) if random.random() < 0.2 else at)

    def read_all(self) -> None:
        """Compare all that was ever written, in long pieces. Raises OSError."""
        for at, count in runs(sorted(self._known), max(_COUNTS)):
            self._compare(at, count)


def content(block: int, generation: int) -> bytes:
    """What such a block of the file has in it then."""
    seed = hashlib.sha256(f"{block} {generation}".encode()).digest()
    return seed * (BLOCK // len(seed))


def fill(descriptor: int, size_bytes: int) -> None:
    """Write what a reader expects."""
    for block in range(size_bytes // BLOCK):
        os.pwrite(descriptor, content(block, 0), block * BLOCK)


class Work:
    """All threads' parts, and what they have in common; lines of output go to ``tell``."""

    def __init__(
        self, path: Path, seed: int, tell: Callable[[dict[str, Any]], None] = say, *, reads_only: bool = False
    ) -> None:
        self._tell = tell
        blocks = size_of(path) // BLOCK // THREADS
        kind = Reader if reads_only else Writer
        self._parts = [kind(path, index * blocks, blocks, seed) for index in range(THREADS)]
        self._meter = Meter(time.time())
        self._reported = time.time()
        self._lock = threading.Lock()
        self.ending = threading.Event()
        self.broken = ""

    def run(self) -> None:
        """Until ``ending`` is set, or something breaks."""
        threads = [threading.Thread(target=self._work, args=(part,)) for part in self._parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.report(time.time(), final=True)

    def report(self, now: float, *, final: bool = False) -> None:
        """Say how it goes."""
        line = self._meter.report(now) | {"errors": sum(part.errors for part in self._parts)}
        self._tell(line | ({"broken": self.broken} if self.broken else {}) | ({"judged": True} if final else {}))

    def _work(self, part: Reader) -> None:
        try:
            while not self.ending.is_set():
                part.step()
                self._progressed()
            part.read_all()
        except OSError as error:
            self.broken = str(error)
            self.ending.set()

    def _progressed(self) -> None:
        with self._lock:
            now = time.time()
            self._meter.progressed(1, now)
            if now - self._reported >= REPORT_SECONDS:
                self.report(now)
                self._reported = now


def runs(numbers: Sequence[int], longest: int) -> Iterator[tuple[int, int]]:
    """Ascending numbers as pieces without a gap: the first, and how many."""
    start = 0
    for end in range(1, len(numbers) + 1):
        if end == len(numbers) or numbers[end] != numbers[end - 1] + 1 or end - start == longest:
            yield numbers[start], end - start
            start = end


def size_of(path: Path) -> int:
    """Of a file or block device, in bytes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)


def main() -> None:
    """Work until SIGTERM."""
    parser = argparse.ArgumentParser(prog="nooks.lab.disk.raw")
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reads-only", action="store_true")
    options = parser.parse_args()
    work = Work(options.path, options.seed, reads_only=options.reads_only)
    signal.signal(signal.SIGTERM, lambda number, frame: work.ending.set())
    work.report(time.time())
    work.run()
    sys.exit(1 if work.broken else 0)


if __name__ == "__main__":
    main()
