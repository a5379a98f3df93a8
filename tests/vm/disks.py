"""Disks of block nooks for tests: started, read and written past the page cache, and kept busy with verified writes."""

import mmap
import os
import random
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from .conftest import Bench

SIZE = 256 << 20
BLOCK = 4096


@dataclass
class Disk:
    """A nook's disk; ``path`` is its block device."""

    bench: Bench
    medium: Path
    path: Path

    @classmethod
    def start(cls, bench: Bench, medium: Path, driver: str, device: str, *flags: str, size: int = SIZE) -> Self:
        """Start the nook, on a medium that is made unless it is there."""
        if not medium.exists():
            with medium.open("wb") as file:
                file.truncate(size)
        named = ("--driver", driver, "--device", device, "--name", bench.name, "--media", str(medium))
        started = bench.ok("start", *named, *flags)
        bench.stack.callback(bench.nooks, "stop", bench.name, "--force")
        return cls(bench, medium, Path(started["block_device"]))

    def is_running(self) -> bool:
        """Whether it could be made to fail now."""
        return self.bench.until(lambda status: status["state"] == "running")["state"] == "running"

    def read(self, offset: int, length: int) -> bytes:
        """Past the page cache. Raises OSError."""
        buffer = mmap.mmap(-1, length)
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECT)
        try:
            assert os.preadv(descriptor, [buffer], offset) == length
        finally:
            os.close(descriptor)
        return buffer[:]

    def write(self, offset: int, data: bytes) -> None:
        """Past the page cache. Raises OSError."""
        buffer = mmap.mmap(-1, len(data))
        buffer[:] = data
        descriptor = os.open(self.path, os.O_RDWR | os.O_DIRECT)
        try:
            assert os.pwritev(descriptor, [buffer], offset) == len(data)
        finally:
            os.close(descriptor)


class Load:
    """Several threads write, flush and read back, each in a part of the disk; ``errors`` says what went wrong."""

    THREADS = 4

    def __init__(self, path: Path) -> None:
        self.errors: list[str] = []
        self.written = 0
        self._path = path
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(index,)) for index in range(self.THREADS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _work(self, index: int) -> None:
        source = random.Random(index)
        blocks = SIZE // self.THREADS // BLOCK
        first = index * blocks
        known: dict[int, bytes] = {}
        page = mmap.mmap(-1, 16 * BLOCK)
        view = memoryview(page)
        descriptor = os.open(self._path, os.O_RDWR | os.O_DIRECT)
        try:
            while not self._ending.is_set():
                count = source.choice((1, 1, 1, 4, 16))
                at = source.randrange(blocks - count)
                data = source.randbytes(count * BLOCK)
                view[: len(data)] = data
                os.pwritev(descriptor, [view[: len(data)]], (first + at) * BLOCK)
                known.update({at + number: data[number * BLOCK : (number + 1) * BLOCK] for number in range(count)})
                self.written += count
                if source.random() < 0.1:
                    os.fsync(descriptor)
                self._compare(descriptor, view, first, source.choice(list(known)), known)
            for block in list(known):
                self._compare(descriptor, view, first, block, known)
        except OSError as error:
            self.errors.append(str(error))
        finally:
            os.close(descriptor)

    def _compare(self, descriptor: int, view: memoryview, first: int, block: int, known: dict[int, bytes]) -> None:
        os.preadv(descriptor, [view[:BLOCK]], (first + block) * BLOCK)
        if bytes(view[:BLOCK]) != known[block]:
            self.errors.append(f"block {first + block} is not what was written")
