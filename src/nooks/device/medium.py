"""The medium of an emulated disk or drive: a file or block device of the host's, held and locked by the supervisor.

The lock is the one that QEMU's own programs take (byte ranges of util-linux's kind, open file description locks), so
that neither another nook nor a QEMU of somebody else's gets at the same medium: block/file-posix.c, RAW_LOCK_*.
"""

import ctypes
import errno
import fcntl
import os
import stat
import struct
from pathlib import Path
from typing import NamedTuple

from nooks.host.errors import InputError, StateError

_GETLK, _SETLK = 36, 37  # F_OFD_GETLK, F_OFD_SETLK: include/uapi/asm-generic/fcntl.h
_FLOCK = struct.Struct("@hhqqi4x")
_IN_USE, _NOT_SHARED = 100, 200
_READING, _WRITING, _RESIZING = 0, 1, 3
"""QEMU's permissions, as bytes that are locked: what one does, and what one does not bear of others."""

_BLKGETSIZE64 = 0x80081272
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_libc = ctypes.CDLL(None, use_errno=True)


class Medium(NamedTuple):
    """An open medium; ``descriptor`` belongs to whoever has this."""

    descriptor: int
    size_bytes: int
    read_only: bool
    is_device: bool
    direct: bool

    @property
    def punches_holes(self) -> bool:
        """Whether what is dropped from it reads as zeros afterwards (fallocate(2)); tried beyond its end."""
        if self.read_only or self.is_device:
            return False
        mode = _PUNCH_HOLE | _KEEP_SIZE
        return _libc.fallocate(self.descriptor, mode, ctypes.c_int64(self.size_bytes), ctypes.c_int64(4096)) == 0

    def close(self) -> None:
        """Close it, which ends its lock."""
        os.close(self.descriptor)

    @property
    def missing_bytes(self) -> int:
        """How much shorter it has become since it was opened."""
        return 0 if self.is_device else max(0, self.size_bytes - os.fstat(self.descriptor).st_size)

    @property
    def is_deleted(self) -> bool:
        """Whether its last name was removed: what is written to it goes with the nook."""
        return os.fstat(self.descriptor).st_nlink == 0

    @property
    def free_bytes(self) -> int:
        """Room in the file system that it lies in."""
        found = os.fstatvfs(self.descriptor)
        return found.f_bavail * found.f_frsize


def open_medium(path: str, *, read_only: bool, sector_bytes: int) -> Medium:
    """Open and lock the medium at ``path``, whose size must be a multiple of ``sector_bytes``.

    Raises InputError if it is not fit, StateError if somebody else has it.
    """
    descriptor, direct = _open(path, read_only=read_only)
    try:
        size = _checked_size(descriptor, path, sector_bytes)
        _lock(descriptor, path, read_only=read_only)
    except BaseException:
        os.close(descriptor)
        raise
    return Medium(descriptor, size, read_only, _is_device(descriptor), direct)


def adopt_medium(descriptor: int, size_bytes: int) -> Medium:
    """The medium behind a descriptor from the keeper; its lock is held by that very descriptor."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    read_only = flags & os.O_ACCMODE == os.O_RDONLY
    return Medium(descriptor, size_bytes, read_only, _is_device(descriptor), bool(flags & os.O_DIRECT))


def _open(path: str, *, read_only: bool) -> tuple[int, bool]:
    """Without the page cache, where the file system can do that: then what is written is written."""
    mode = (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        if Path(path).is_block_device():
            mode |= os.O_EXCL  # refused while it is mounted
        try:
            return os.open(path, mode | os.O_DIRECT), True
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return os.open(path, mode), False
    except OSError as error:
        raise _unfit(path, error, read_only=read_only) from None


def _unfit(path: str, error: OSError, *, read_only: bool) -> InputError | StateError:
    if error.errno == errno.ENOENT:
        return InputError(f"there is no medium {path}", f"make one with 'truncate -s 1G {path}', or name another")
    if error.errno == errno.EISDIR:
        return InputError(f"the medium {path} is a directory", "name a file or a block device")
    if error.errno == errno.EBUSY:
        return StateError(f"the medium {path} is in use by the host", "unmount it, or name another")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and not read_only:
        fix = "make it writable, or give it to a drive that only reads (--driver ide-cd)"
        return InputError(f"the medium {path} can't be written: {error.strerror}", fix)
    return InputError(f"the medium {path} can't be opened: {error.strerror}", "name a file or a block device")


def _checked_size(descriptor: int, path: str, sector_bytes: int) -> int:
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind) and not stat.S_ISBLK(kind):
        raise InputError(f"the medium {path} is neither a file nor a block device", "name one that is")
    size = _size(descriptor)
    if size == 0:
        raise InputError(f"the medium {path} is empty", f"give it a size, with 'truncate -s 1G {path}'")
    if size % sector_bytes:
        fix = f"'truncate -s %{sector_bytes} {path}' adds the few bytes that are missing"
        raise InputError(f"the medium {path} has {size} bytes, which is no multiple of {sector_bytes}", fix)
    return size


def _size(descriptor: int) -> int:
    if not _is_device(descriptor):
        return os.fstat(descriptor).st_size
    return struct.unpack("=Q", fcntl.ioctl(descriptor, _BLKGETSIZE64, bytes(8)))[0]


def _is_device(descriptor: int) -> bool:
    return stat.S_ISBLK(os.fstat(descriptor).st_mode)


def _lock(descriptor: int, path: str, *, read_only: bool) -> None:
    """Say what we do and don't bear, then see whether somebody does what we don't bear, or the reverse."""
    uses = (_READING,) if read_only else (_READING, _WRITING, _RESIZING)
    bears_not = (_WRITING, _RESIZING)
    for byte in (*(_IN_USE + use for use in uses), *(_NOT_SHARED + one for one in bears_not)):
        _flock(descriptor, _SETLK, fcntl.F_RDLCK, byte)
    for byte in (*(_NOT_SHARED + use for use in uses), *(_IN_USE + one for one in bears_not)):
        if _flock(descriptor, _GETLK, fcntl.F_WRLCK, byte) != fcntl.F_UNLCK:
            raise StateError(f"the medium {path} is in use by another nook or virtual machine", "name another one")


def _flock(descriptor: int, command: int, kind: int, byte: int) -> int:
    """One byte's lock; returns the kind of lock that the kernel says there is."""
    answer = fcntl.fcntl(descriptor, command, _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))
    return _FLOCK.unpack(answer)[0]
