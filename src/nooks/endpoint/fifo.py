"""Named pipes between a sound server and a nook: what applications play comes out of one, what is recorded goes in.

A pipe is one page long, so that little waits in it, and its reader sets the pace. Both ends of it are open here, so
that neither side's going is the other's end; a descriptor of it is held by the keeper.
"""

import array
import fcntl
import os
import select
import stat
import termios
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from nooks.host.errors import MachineError
from nooks.xpc.settings import SAMPLE_BYTES

PLAYED_SAMPLE_BYTES = 4
"""The server renders 32 bits for a card of any kind: finer steps of the volume, and half as much waits in a page."""

_PAGE_BYTES = 4096
_BACKLOG_SECONDS = 0.25
"""What is recorded waits for a reader for so long at most."""


def make_directory(path: Path, user_id: int) -> None:
    """A directory for pipes that the sound server's user alone can enter. Raises MachineError."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        if user_id != os.geteuid():
            os.chown(path, user_id, -1)
    except OSError as error:
        raise MachineError(f"{path} can't be made: {error.strerror}", "free some space") from None


def make(path: Path, user_id: int) -> int:
    """A new named pipe at ``path`` that belongs to the sound server's user; its descriptor. Raises MachineError."""
    try:
        path.unlink(missing_ok=True)
        os.mkfifo(path, 0o600)
        if user_id != os.geteuid():
            os.chown(path, user_id, -1)
    except OSError as error:
        raise MachineError(f"the pipe {path} can't be made: {error.strerror}", "free some space") from None
    return join(path)


def join(path: Path) -> int:
    """A descriptor of the pipe at ``path``, which is made one page long. Raises MachineError."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise MachineError(f"the pipe {path} can't be opened: {error.strerror}", "start the nook again") from None
    with suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PAGE_BYTES)
    return descriptor


def is_there(path: Path, descriptor: int) -> bool:
    """Whether ``path`` still leads to the pipe with this descriptor: a server may remove it when it goes."""
    try:
        found = path.stat()
    except OSError:
        return False
    own = os.fstat(descriptor)
    return stat.S_ISFIFO(found.st_mode) and (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)


def _to_16_bits(played: bytes, space: memoryview) -> None:
    space.cast("H")[:] = memoryview(played).cast("H")[1::2]


def _to_24_bits(played: bytes, space: memoryview) -> None:
    for byte in range(3):
        space[byte::3] = memoryview(played)[byte + 1 :: 4]


def _to_32_bits(played: bytes, space: memoryview) -> None:
    space[:] = played


def _to_8_bits(played: bytes, space: memoryview) -> None:
    space[:] = played[3::4].translate(_UNSIGNED)


_UNSIGNED = bytes((value + 128) % 256 for value in range(256))
_CONVERTERS: dict[str, Callable[[bytes, memoryview], None]] = {
    "s16": _to_16_bits,
    "s24-3": _to_24_bits,
    "s32": _to_32_bits,
    "u8": _to_8_bits,
}
"""From 32 bits a sample, little endian, to what a card takes, by its format."""


class PlayedPipe:
    """What applications play, by whole frames of 32 bits a sample, as a card wants it."""

    def __init__(self, descriptor: int, sample_format: str, channels: int) -> None:
        self.descriptor = descriptor
        self._frame_bytes = channels * PLAYED_SAMPLE_BYTES
        self._card_frame_bytes = channels * SAMPLE_BYTES[sample_format]
        self._convert = _CONVERTERS[sample_format]
        self._waiting = array.array("i", [0])

    def take(self, space: memoryview, frames: int) -> int:
        """Put up to ``frames`` into ``space``; how many there were."""
        fcntl.ioctl(self.descriptor, termios.FIONREAD, self._waiting, True)
        frames = min(frames, self._waiting[0] // self._frame_bytes)
        if frames > 0:
            played = os.read(self.descriptor, frames * self._frame_bytes)
            self._convert(played, space[: frames * self._card_frame_bytes])
        return frames


class RecordedPipe:
    """What was recorded, as the server takes it. While nobody does, the pipe is full of silence."""

    def __init__(self, descriptor: int, rate: int, silence: bytes) -> None:
        self.descriptor = descriptor
        self._most_bytes = int(rate * _BACKLOG_SECONDS) * len(silence)
        self._piece_bytes = select.PIPE_BUF // len(silence) * len(silence)
        self._backlog = bytearray()
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._silence = silence

    def stuff(self) -> None:
        """Fill the pipe with silence, so that there is room in it only when somebody reads."""
        with suppress(BlockingIOError):
            while True:
                os.write(self.descriptor, self._silence * (self._piece_bytes // len(self._silence)))

    @property
    def listening(self) -> bool:
        """Whether somebody reads."""
        return bool(self._poll.poll(0))

    def deliver(self, samples: bytes) -> bool:
        """Hand on what was recorded, now or soon; False if nobody has read for a while, and it is lost."""
        self._backlog += samples
        moved = False
        with suppress(BlockingIOError):
            while self._backlog:
                written = os.write(self.descriptor, memoryview(self._backlog)[: self._piece_bytes])
                del self._backlog[:written]
                moved = True
        del self._backlog[: max(0, len(self._backlog) - self._most_bytes)]
        return moved
