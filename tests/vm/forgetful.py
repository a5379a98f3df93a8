"""A medium with a cache that it loses: what no flush covers is gone, in part, when whoever wrote it has died.

A file of a FUSE file system. The kernel says of each request which process it is of (fuse_in_header.pid), so the file
notices that its writer is another one and the last one is dead: a domain that was fenced, and the next. Then it keeps
some of the writes since the last flush, by chance and in any order, and drops the others, as disks do whose power goes.
"""

import mmap
import os
import random
import select
import struct
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nooks.endpoint import fuse_mount
from nooks.endpoint.front import Arrival, FrontGone
from nooks.endpoint.fuse import FuseFile
from nooks.xpc.block import FLUSH, READ, REQUEST_BYTES_MAX, WRITE

_PID_AT = 32  # in struct fuse_in_header
KEPT = 0.3
"""How likely a write that no flush has covered is there afterwards."""


class _Front(FuseFile):
    """``thread`` is the one whose request was received last."""

    @property
    def thread(self) -> int:
        return int(struct.unpack_from("<I", self._head, _PID_AT)[0])


class ForgetfulMedium:
    """The medium at ``path``, while it is entered. ``forgotten`` counts writes that were dropped."""

    def __init__(self, folder: Path, size: int, seed: int = 0) -> None:
        self.path = folder / "disk.img"
        self.forgotten = 0
        self.flushes = 0
        self._folder = folder
        self._durable, self._seen = (memoryview(mmap.mmap(-1, size)) for _ in range(2))
        self._unflushed: list[tuple[int, int, bytes]] = []
        self._random = random.Random(seed)
        self._writer = 0
        self._descriptor = fuse_mount.open_device()
        self._front = _Front(self._descriptor, size)
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        options = f"fd={self._descriptor},rootmode=40000,user_id=0,group_id=0,allow_other,max_read={REQUEST_BYTES_MAX}"
        command = ["mount", "-i", "-t", "fuse", "-o", options, "forgetful", str(self._folder)]
        subprocess.run(command, check=True, pass_fds=[self._descriptor])
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run(["umount", "-l", str(self._folder)], check=True)
        self._thread.join()
        os.close(self._descriptor)

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        space = memoryview(bytearray(REQUEST_BYTES_MAX))
        try:
            while True:
                poll.poll()
                while (arrival := self._front.receive(space)) is not None:
                    self._take(arrival, space)
        except FrontGone:
            return

    def _take(self, arrival: Arrival, space: memoryview) -> None:
        self._look_who_asks()
        operation, offset, length, _, handle = arrival
        data: Any = None
        if operation == READ:
            data = self._seen[offset : offset + length]
        elif operation == FLUSH:
            self.flushes += 1
            for written in self._unflushed:
                self._put(self._durable, written)
            self._unflushed.clear()
        else:
            content = bytes(space[:length]) if operation == WRITE else bytes(length)
            self._unflushed.append((offset, length, content))
            self._put(self._seen, self._unflushed[-1])
        self._front.answer(handle, 0, data)

    def _look_who_asks(self) -> None:
        process = _process_of(self._front.thread)
        if process in (0, self._writer):
            return
        if self._writer and not Path("/proc", str(self._writer)).exists():
            self._forget()
        self._writer = process

    def _forget(self) -> None:
        kept = [written for written in self._unflushed if self._random.random() < KEPT]
        self.forgotten += len(self._unflushed) - len(kept)
        self._random.shuffle(kept)
        for written in self._unflushed:
            offset, length, _ = written
            self._seen[offset : offset + length] = self._durable[offset : offset + length]
        for written in kept:
            self._put(self._seen, written)
            self._put(self._durable, written)
        self._unflushed.clear()

    @staticmethod
    def _put(where: memoryview, written: tuple[int, int, bytes]) -> None:
        offset, length, content = written
        where[offset : offset + length] = content


def _process_of(thread: int) -> int:
    """Whose thread it is; 0 if it has ended already."""
    try:
        status = Path("/proc", str(thread), "status").read_text()
    except OSError:
        return 0
    return int(status.partition("Tgid:")[2].split()[0])
