"""Snapshots: the memory and the device state of a domain that is ready and has served nobody.

The memory is a sealed memory file: a restored domain maps it copy-on-write and can't change it, not even through
the descriptor, so one incarnation can't poison the next. On disk a snapshot is a directory of the cache.
"""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

PAGE = 4096
CHUNK_PAGES = 256
MEMORY, STATE, FACTS = "memory", "state", "facts.json"
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def new_memory(size_bytes: int) -> int:
    """A fresh memory file for a domain that boots cold; the descriptor is the caller's."""
    descriptor = os.memfd_create("nooks-memory", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size_bytes)
    # Whoever else maps it must not be hurt by a domain that shortens it.
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return descriptor


class Snapshot:
    """A snapshot in memory, ready to be restored any number of times.

    ``facts`` is what its maker recorded of the ready domain.
    """

    def __init__(self, memory: int, state: int, facts: dict[str, Any]) -> None:
        self.memory = memory
        self.state = state
        self.facts = facts

    @classmethod
    def load(cls, directory: Path) -> "Snapshot":
        """Read a snapshot from its directory. Raises OSError or ValueError if it is damaged."""
        facts = json.loads((directory / FACTS).read_text())
        memory = _load_sealed(directory / MEMORY, "nooks-snapshot")
        try:
            state = _load_sealed(directory / STATE, "nooks-state")
        except BaseException:
            os.close(memory)
            raise
        return cls(memory, state, facts)

    @classmethod
    def seal(cls, memory: int, state: int, facts: dict[str, Any]) -> "Snapshot":
        """A snapshot of a domain that is gone; ``memory`` is duplicated, ``state`` becomes this object's own."""
        for descriptor in (memory, state):
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
        return cls(os.dup(memory), state, facts)

    def save(self, directory: Path) -> None:
        """Write the snapshot into an empty directory; pages of zeros become holes. Raises OSError (disk full)."""
        _save_sparse(self.memory, directory / MEMORY)
        _save_sparse(self.state, directory / STATE)
        (directory / FACTS).write_text(json.dumps(self.facts))

    def open_memory(self) -> int:
        """A descriptor of the memory for one domain; the caller closes it."""
        return os.dup(self.memory)

    def copy_memory(self) -> int:
        """A descriptor of a copy of the memory that may be changed; the caller closes it."""
        size = os.fstat(self.memory).st_size
        copy = new_memory(size)
        try:
            _copy_data(self.memory, copy, size)
        except BaseException:
            os.close(copy)
            raise
        return copy

    def open_state(self) -> int:
        """A descriptor of the device state with a file offset of its own; the caller closes it."""
        return os.open(f"/proc/self/fd/{self.state}", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of both files."""
        os.close(self.memory)
        os.close(self.state)


def _save_sparse(source: int, target: Path) -> None:
    size = os.fstat(source).st_size
    zero = bytes(PAGE)
    with target.open("wb") as out:
        os.ftruncate(out.fileno(), size)
        for start, end in _extents(source, size):
            for offset in range(start, end, PAGE * CHUNK_PAGES):
                block = os.pread(source, min(PAGE * CHUNK_PAGES, end - offset), offset)
                for page in range(0, len(block), PAGE):
                    content = block[page : page + PAGE]
                    if content != zero[: len(content)]:
                        os.pwrite(out.fileno(), content, offset + page)


def _load_sealed(source: Path, name: str) -> int:
    with source.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, size)
            _copy_data(file.fileno(), descriptor, size)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def _copy_data(source: int, target: int, size: int) -> None:
    """Copy what a sparse file holds into another. Raises ValueError if it turns out shorter than ``size``."""
    for start, end in _extents(source, size):
        os.lseek(target, start, os.SEEK_SET)
        offset = start
        while offset < end:
            sent = os.sendfile(target, source, offset, end - offset)
            if sent == 0:
                raise ValueError("a snapshot is shorter than it was")
            offset += sent


def _extents(descriptor: int, size: int) -> list[tuple[int, int]]:
    """The parts of a sparse file that hold data, as (start, end)."""
    found: list[tuple[int, int]] = []
    position = 0
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError:
            break
        position = os.lseek(descriptor, start, os.SEEK_HOLE)
        found.append((start, position))
    return found
