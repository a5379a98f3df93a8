"""The log of a playback stream: every frame that was taken from applications and not yet heard, in a memory file.

Positions count frames since the nook was started and only grow. The file outlives its supervisor: the keeper holds a
duplicate of the descriptor. One word is written by one store, so that a supervisor killed at any instruction leaves
either the old value or the new one.
"""

import mmap
import os
from enum import IntEnum
from typing import Self

HEADER_BYTES = 4096
_MAGIC = int.from_bytes(b"NKFRAME1", "little")


class _Word(IntEnum):
    MAGIC = 0
    FRAME_BYTES = 1
    CAPACITY = 2
    TAKEN = 3
    HEARD = 4
    INCARNATION = 5
    TAG = 6
    BASE = 7
    INDEX = 8
    SILENT = 9


class FrameLog:
    """A ring of frames and the positions that tell what of it is what.

    ``taken`` is the end of what came from applications, ``heard`` the end of what was played for certain. A driver
    counts frames anew in each life of its stream, which a tag names: ``index`` were given to it in this life, of which
    the first ``silent`` were none of ours; its frame number i is our position ``base`` + i.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._memory = mmap.mmap(fd, os.fstat(fd).st_size)
        self._view = memoryview(self._memory)
        self._words = self._view[:HEADER_BYTES].cast("Q")
        self._frames = self._view[HEADER_BYTES:]
        self.frame_bytes = self._words[_Word.FRAME_BYTES]
        self.capacity = self._words[_Word.CAPACITY]

    @classmethod
    def create(cls, name: str, frame_bytes: int, capacity: int) -> Self:
        """A new, empty log for ``capacity`` frames; ``name`` is what /proc shows."""
        fd = os.memfd_create(name, os.MFD_CLOEXEC)
        os.ftruncate(fd, HEADER_BYTES + capacity * frame_bytes)
        header = {_Word.MAGIC: _MAGIC, _Word.FRAME_BYTES: frame_bytes, _Word.CAPACITY: capacity}
        for word, value in header.items():
            os.pwrite(fd, value.to_bytes(8, "little"), 8 * word)
        return cls(fd)

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """The log behind a descriptor from the keeper, which then belongs to this object. Raises ValueError."""
        if os.fstat(fd).st_size <= HEADER_BYTES or int.from_bytes(os.pread(fd, 8, 0), "little") != _MAGIC:
            raise ValueError("not a log of frames")
        return cls(fd)

    def fileno(self) -> int:
        """The descriptor; it stays this object's own."""
        return self._fd

    @property
    def taken(self) -> int:
        """The end of what was taken from applications."""
        return self._words[_Word.TAKEN]

    @property
    def heard(self) -> int:
        """The end of what was played for certain."""
        return self._words[_Word.HEARD]

    @heard.setter
    def heard(self, position: int) -> None:
        self._words[_Word.HEARD] = position

    @property
    def incarnation(self) -> int:
        """Which incarnation the present life of the stream belongs to; 0: none."""
        return self._words[_Word.INCARNATION]

    @property
    def tag(self) -> int:
        """The present life's name."""
        return self._words[_Word.TAG]

    @property
    def base(self) -> int:
        """The position of the driver's frame 0."""
        return self._words[_Word.BASE]

    @property
    def index(self) -> int:
        """How many frames the driver was given in this life."""
        return self._words[_Word.INDEX]

    @property
    def silent(self) -> int:
        """How many of them were silence of the shadow's own."""
        return self._words[_Word.SILENT]

    @property
    def sent(self) -> int:
        """The end of what was given to the driver."""
        return self.base + max(self.index, self.silent)

    @property
    def kept_from(self) -> int:
        """The oldest position whose frame is still there."""
        return max(0, self.taken - self.capacity)

    def begin(self, incarnation: int, base: int) -> int:
        """A new life of the stream, whose first frame is that at ``base``; returns its tag."""
        self._words[_Word.INCARNATION] = 0
        tag = self._words[_Word.TAG] % 0xFFFFFFFF + 1
        for word, value in ((_Word.TAG, tag), (_Word.BASE, base), (_Word.INDEX, 0), (_Word.SILENT, 0)):
            self._words[word] = value
        self._words[_Word.INCARNATION] = incarnation
        return tag

    def end(self) -> None:
        """The life is over: its driver is gone."""
        self._words[_Word.INCARNATION] = 0

    def gave(self, frames: int) -> None:
        """The driver was given the next frames."""
        self._words[_Word.INDEX] += frames

    def gave_silence(self, frames: int) -> None:
        """The driver was given silence, before anything else."""
        self._words[_Word.SILENT] += frames
        self._words[_Word.INDEX] += frames

    def go_on_at(self, position: int) -> None:
        """The next frame that the driver is given is that at ``position``, as if all before it had led there."""
        self._words[_Word.BASE] = position - self.index

    def space(self, frames: int) -> memoryview:
        """Where the next frames belong, at most ``frames`` of them; shorter at the ring's end."""
        start = self.taken % self.capacity
        return self._slice(start, min(frames, self.capacity - start))

    def took(self, frames: int) -> None:
        """The next ``frames`` are in their place."""
        self._words[_Word.TAKEN] += frames

    def frames(self, position: int, frames: int) -> memoryview:
        """The frames from ``position`` on, at most ``frames`` of them; shorter at the ring's end."""
        start = position % self.capacity
        return self._slice(start, min(frames, self.capacity - start))

    def close(self) -> None:
        """Let go of the memory; again is harmless."""
        if self._fd >= 0:
            self._words.release()
            self._frames.release()
            self._view.release()
            self._memory.close()
            os.close(self._fd)
            self._fd = -1

    def _slice(self, start: int, frames: int) -> memoryview:
        return self._frames[start * self.frame_bytes : (start + frames) * self.frame_bytes]
