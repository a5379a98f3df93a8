"""Moves a disk's data between the driver and the buffer region, at the host's orders; a process of its own.

Several threads, each of which takes an order from the data port, carries it out, and answers. Reads and writes bypass
the page cache. A process and not a thread of the agent: CPython's global lock is theirs alone. Where the image has
the same in C (``mover.c``), the process runs that.
"""

import mmap
import os
import sys
from _thread import allocate_lock, start_new_thread
from errno import EINVAL, EIO, ENXIO
from fcntl import ioctl
from struct import Struct
from time import sleep

from nooks.agent import system
from nooks.xpc.block import (
    ALONE,
    BARRIER,
    DISCARD,
    FLUSH,
    FUA,
    READ,
    REPLY,
    REPLY_MAGIC,
    REPLY_MARK,
    REQUEST,
    REQUEST_MAGIC,
    REQUEST_MARK,
    WRITE,
    ZERO,
)

THREADS = 4
PROGRAM = "/usr/bin/nooks-mover"
"""Where an image has ``mover.c``, compiled."""

_RANGE = Struct("=2Q")
_RWF_DSYNC = 0x2  # include/uapi/linux/fs.h, and the next two
_BLKDISCARD, _BLKZEROOUT = 0x1277, 0x127F
_READ_BYTES = 4096
_BEGINNING = REQUEST_MAGIC.to_bytes(2, "little")


class Mover:
    """The agent's handle on its mover. ``region`` is the name of the device-dax node."""

    def __init__(self, port: str, disk: str, region: str) -> None:
        self.region_bytes = int(system.read(f"/sys/bus/dax/devices/{region}/size"))
        self.process_id = os.fork()
        if self.process_id == 0:
            try:
                node = os.open(port, os.O_RDWR)
                if os.path.exists(PROGRAM):  # noqa: PTH110 - pathlib costs too much here
                    os.set_inheritable(node, True)
                    os.execv(PROGRAM, (PROGRAM, str(node), disk, f"/dev/{region}", str(self.region_bytes), "io"))
                Work(node, disk, f"/dev/{region}", self.region_bytes).run()
            except Exception:  # noqa: BLE001 - the console is all there is
                sys.__excepthook__(*sys.exc_info())  # type: ignore[arg-type]
            finally:
                os._exit(1)


class Work:
    """What the mover's process does. ``port`` is the data port, open; ``region`` the node of the buffer region."""

    def __init__(self, port: int, disk: str, region: str, region_bytes: int) -> None:
        node = os.open(region, os.O_RDWR | os.O_CLOEXEC)
        self._region = memoryview(mmap.mmap(node, region_bytes))
        self._port = port
        try:
            self._disk = os.open(disk, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == ENXIO:
                raise  # it is not there (yet), which is something else than not to be written to
            self._disk = os.open(disk, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC | os.O_NONBLOCK)
        self._taking = allocate_lock()
        self._received = b""
        self._at_work = [False] * THREADS

    def run(self) -> None:
        """Work for ever."""
        for index in range(1, THREADS):
            start_new_thread(self._loop, (index,))
        self._loop(0)

    def _loop(self, index: int) -> None:
        unpack, pack, write, port, at_work = REQUEST.unpack_from, REPLY.pack, os.write, self._port, self._at_work
        size = REQUEST.size
        taking = False
        while True:
            if not taking:
                self._taking.acquire()
            taking = False
            while len(self._received) < size:
                received = os.read(port, _READ_BYTES)
                if not received:
                    sleep(0.02)  # nobody holds the other end
                self._received += received
            magic, operation, flags, tag, offset, length, buffer, _, mark = unpack(self._received)
            if magic != REQUEST_MAGIC or mark != REQUEST_MARK:
                self._skip()
                self._taking.release()
                continue
            self._received = self._received[size:]
            while operation == BARRIER and any(at_work):
                sleep(0.001)
            at_work[index] = True
            taking = bool(flags & ALONE)  # waking the next thread is dear, and it has nothing to do
            if not taking:
                self._taking.release()
            try:
                result = self._carry_out(operation, flags, offset, length, buffer)
            except OSError as error:
                result = -(error.errno or EIO)
            write(port, pack(REPLY_MAGIC, 0, tag, result, REPLY_MARK))
            at_work[index] = False

    def _skip(self) -> None:
        """Go on to what may be the next request: a supervisor died in the midst of this one."""
        at = self._received.find(_BEGINNING, 1)
        self._received = self._received[at:] if at > 0 else self._received[-1:]

    def _carry_out(self, operation: int, flags: int, offset: int, length: int, buffer: int) -> int:
        """The bytes moved, or 0. Raises OSError."""
        if operation == READ:
            return os.preadv(self._disk, (self._region[buffer : buffer + length],), offset)
        if operation == WRITE:
            through = _RWF_DSYNC if flags & FUA else 0
            return os.pwritev(self._disk, (self._region[buffer : buffer + length],), offset, through)
        if operation == FLUSH:
            os.fdatasync(self._disk)
        elif operation == ZERO:
            ioctl(self._disk, _BLKZEROOUT, _RANGE.pack(offset, length))
        elif operation == DISCARD:
            ioctl(self._disk, _BLKDISCARD, _RANGE.pack(offset, length))
        elif operation != BARRIER:
            return -EINVAL
        return 0
