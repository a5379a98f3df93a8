"""Where data of writes lie until they are surely on the medium: a ring in a memory file, which the keeper has as well.

The endpoint puts what it receives straight into the ring, at its head; a request's place is where in the ring its data
begin. What the driver acknowledged is also written into a table, so that the next supervisor finds it. Killed at any
instruction, the table has only whole entries: an entry's number is stored last, by one store of a word.
"""

import mmap
import os
from collections import deque
from collections.abc import Iterator
from contextlib import suppress

from nooks.shadow.requests import Request
from nooks.xpc.block import REQUEST_BYTES_MAX

RING_BYTES = 64 << 20
ENTRIES = 8192
ALIGNMENT = 4096
RESERVED_ENTRIES = 512
"""So many requests may be under way when nothing more is taken."""

_WORDS = 8
_NUMBER, _OPERATION, _OFFSET, _LENGTH, _PLACE, _FUA = range(6)
_NOWHERE = 2**64 - 1
_WORD_BYTES = 8


class WriteLog:
    """Implements the request log's Store over the memory file ``fd``, which it owns."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._map = mmap.mmap(fd, os.fstat(fd).st_size)
        table_bytes = ENTRIES * _WORDS * _WORD_BYTES
        whole = memoryview(self._map)
        self._table = whole[:table_bytes].cast("Q")
        self.ring = whole[table_bytes:]
        self._size = len(self.ring)
        self._head = self._tail = 0
        self._places: deque[int] = deque()
        """Of all data in the ring, from the tail on; those that are no more in ``_live`` are given up."""
        self._live: set[int] = set()
        self._entries: dict[int, int] = {}
        self._free = [entry for entry in range(ENTRIES - 1, -1, -1) if not self._table[entry * _WORDS]]

    @classmethod
    def create(cls, name: str = "nooks-writes", ring_bytes: int = RING_BYTES) -> "WriteLog":
        """A new, empty one; ``name`` is what /proc shows."""
        fd = os.memfd_create(name, os.MFD_CLOEXEC)
        os.ftruncate(fd, ENTRIES * _WORDS * _WORD_BYTES + ring_bytes)
        return cls(fd)

    @classmethod
    def adopt(cls, fd: int) -> tuple["WriteLog", list[Request]]:
        """That of an earlier supervisor, and the acknowledged requests in it."""
        log = cls(fd)
        kept = sorted(log._recorded(), key=lambda each: each.number)
        log._occupy([(request.place, request.length) for request in kept if request.place is not None])
        return log, kept

    def fileno(self) -> int:
        """The memory file."""
        return self._fd

    @property
    def full(self) -> bool:
        """Whether there is no room for one more request of the largest size, or no entry for its record."""
        return len(self._free) < RESERVED_ENTRIES or self._room() < REQUEST_BYTES_MAX

    def space(self) -> memoryview:
        """Where the data of the next request are to be put; it must not be ``full``."""
        return self.ring[self._head : self._head + REQUEST_BYTES_MAX]

    def keep(self, length: int) -> int:
        """What was put into ``space`` since ``full`` was asked is ``length`` bytes to be kept; returns their place."""
        place = self._head
        end = place + (length + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
        self._places.append(place)
        self._live.add(place)
        self._head = end
        return place

    def data(self, request: Request) -> memoryview:
        """What a request is to write."""
        return self.ring[request.place : request.place + request.length]

    def acknowledge(self, request: Request) -> None:
        """Record it, so that it outlives this process."""
        entry = self._free.pop()
        self._entries[request.number] = entry
        table, at = self._table, entry * _WORDS
        table[at + _OPERATION] = request.operation
        table[at + _OFFSET] = request.offset
        table[at + _LENGTH] = request.length
        table[at + _PLACE] = _NOWHERE if request.place is None else request.place
        table[at + _FUA] = request.fua
        table[at + _NUMBER] = request.number

    def release(self, request: Request) -> None:
        """Give up its record and its data, if it has any."""
        entry = self._entries.pop(request.number, None)
        if entry is not None:
            self._table[entry * _WORDS] = 0
            self._free.append(entry)
        if request.place is not None:
            self._live.remove(request.place)
            while self._places and self._places[0] not in self._live:
                self._places.popleft()
            self._tail = self._places[0] if self._places else self._head

    def close(self) -> None:
        """Close the memory file; again is harmless."""
        if self._fd < 0:
            return
        self._table.release()
        self.ring.release()
        with suppress(BufferError):  # somebody still looks at it: it goes with them
            self._map.close()
        os.close(self._fd)
        self._fd = -1

    def _room(self) -> int:
        """Bytes in a row from the head on; the head moves to the beginning if there is not enough behind it.

        The head never catches up with the tail, since equal they mean an empty ring.
        """
        if not self._places:
            self._head = self._tail = 0
            return self._size
        if self._head < self._tail:
            return self._tail - self._head - ALIGNMENT
        if self._size - self._head < REQUEST_BYTES_MAX and self._tail > REQUEST_BYTES_MAX:
            self._head = 0
            return self._tail - ALIGNMENT
        return self._size - self._head

    def _recorded(self) -> Iterator[Request]:
        for entry in range(ENTRIES):
            at = entry * _WORDS
            number, operation, offset, length, place, fua = self._table[at : at + 6].tolist()
            if number:
                found = Request(operation, offset, length, fua=bool(fua), place=None if place == _NOWHERE else place)
                found.number = number
                self._entries[number] = entry
                yield found

    def _occupy(self, taken: list[tuple[int, int]]) -> None:
        """Begin with data in the ring, given oldest first: the next go behind the newest."""
        for place, length in taken:
            self._head = place
            self.keep(length)
        self._tail = self._places[0] if self._places else self._head
