"""io_uring(7), as far as it takes to give commands to drivers (IORING_OP_URING_CMD): nothing else talks to ublk.

Numbers: include/uapi/linux/io_uring.h. Bindings that there are need a compiler, or a newer liburing than Debian 12's.
No barriers: the kernel looks at submissions in a system call of ours, and x86 stores become visible in their order.
"""

import ctypes
import mmap
import os
import struct
from contextlib import suppress

from nooks.host.errors import MachineError
from nooks.host.syscalls import call

# The same on all architectures: include/uapi/asm-generic/unistd.h
_SETUP, _ENTER = 425, 426
_URING_CMD = 46
_LARGE_ENTRIES, _COOPERATIVE = 1 << 10, 1 << 8
_SUBMISSIONS_AT, _ENTRIES_AT = 0, 0x10000000

_PARAMETERS = struct.Struct("=5I2I12x" + "8IQ" * 2)
"""struct io_uring_params: entries of both queues, flags, two of no use here, features, 0; then both queues' offsets."""

_ENTRY = struct.Struct("=BxxxiI20xQ8x")
"""struct io_uring_sqe up to its command: opcode, descriptor, the driver's number of the command, user data."""

_COMMAND_AT, _DRIVERS_NUMBER_AT = 48, 8
_COMPLETION = struct.Struct("=QiI")


class Ring:
    """Places for ``entries`` commands, a power of two, each for a driver's command of 16 bytes, or 80 if ``large``.

    A place may be given again once its command has completed. Not for two threads at a time; and a driver may want its
    commands from one thread only. Raises MachineError.
    """

    def __init__(self, entries: int, *, large: bool = False) -> None:
        parameters = ctypes.create_string_buffer(_PARAMETERS.size)
        flags = _COOPERATIVE | (_LARGE_ENTRIES if large else 0)
        _PARAMETERS.pack_into(parameters, 0, 0, 0, flags, *([0] * (2 + 2 + 18)))
        try:
            self._descriptor = call(_SETUP, entries, parameters)
        except OSError as error:
            fix = "see /proc/sys/kernel/io_uring_disabled; Linux 5.19 or newer is needed"
            raise MachineError(f"there is no io_uring: {error.strerror}", fix) from None
        fields = _PARAMETERS.unpack(parameters.raw)
        submissions, completions = fields[:2]
        _, tail_at, _, _, _, _, places_at, _, _ = fields[7:16]
        head_at, completed_at, _, _, _, completions_at, _, _, _ = fields[16:25]
        self._stride = 128 if large else 64
        queues_bytes = max(places_at + 4 * submissions, completions_at + completions * _COMPLETION.size)
        try:
            self._queues = mmap.mmap(self._descriptor, queues_bytes, offset=_SUBMISSIONS_AT)
            self._entries = mmap.mmap(self._descriptor, submissions * self._stride, offset=_ENTRIES_AT)
        except OSError as error:
            os.close(self._descriptor)
            raise MachineError(f"the rings of io_uring can't be mapped: {error.strerror}") from None
        self._words = memoryview(self._queues).cast("I")
        self._tail_at, self._places_at = tail_at // 4, places_at // 4
        self._head_at, self._completed_at = head_at // 4, completed_at // 4
        self._completions_at = completions_at
        self._mask, self._completions_mask = submissions - 1, completions - 1
        self._queued = 0

    def fileno(self) -> int:
        """Readable when a command has completed; it stays the ring's own."""
        return self._descriptor

    def place(self, index: int, descriptor: int, number: int, command: bytes) -> None:
        """Put the driver's command ``number``, for the file ``descriptor``, at a place; it completes as ``index``."""
        at = index * self._stride
        _ENTRY.pack_into(self._entries, at, _URING_CMD, descriptor, number, index)
        self._entries[at + _COMMAND_AT : at + _COMMAND_AT + len(command)] = command

    def renumber(self, index: int, number: int) -> None:
        """Make another command of the one at that place."""
        struct.pack_into("=I", self._entries, index * self._stride + _DRIVERS_NUMBER_AT, number)

    def write(self, index: int, offset: int, value: int) -> None:
        """Put a signed word of 32 bits into the command at that place, at ``offset`` bytes."""
        struct.pack_into("=i", self._entries, index * self._stride + _COMMAND_AT + offset, value)

    def queue(self, index: int) -> None:
        """Have the command at that place given with the next ``submit``."""
        words, tail = self._words, self._words[self._tail_at]
        words[self._places_at + (tail & self._mask)] = index
        words[self._tail_at] = (tail + 1) & 0xFFFFFFFF
        self._queued += 1

    def submit(self) -> None:
        """Give the driver what is queued. Raises OSError."""
        while self._queued:
            with suppress(InterruptedError, BlockingIOError):  # the latter: there was no memory for it just then
                self._queued -= call(_ENTER, self._descriptor, self._queued, 0, 0, None, 0)

    def reap(self) -> tuple[int, int] | None:
        """The index and the result of a command that has completed; None if there is none."""
        words = self._words
        head = words[self._head_at]
        if head == words[self._completed_at]:
            return None
        at = self._completions_at + (head & self._completions_mask) * _COMPLETION.size
        index, result, _ = _COMPLETION.unpack_from(self._queues, at)
        words[self._head_at] = (head + 1) & 0xFFFFFFFF
        return index, result

    def close(self) -> None:
        """Withdraw all commands. Again is harmless."""
        if self._descriptor >= 0:
            self._words.release()
            self._queues.close()
            self._entries.close()
            os.close(self._descriptor)
            self._descriptor = -1
