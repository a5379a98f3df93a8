"""A FUSE file system that stands nowhere in the directory tree: nobody comes across it, and nobody has to unmount it.

It goes with its last open file. The new mount interface makes that possible (fsopen(2), since Linux 5.2).
"""

import errno
import os
from pathlib import Path

from nooks.host.errors import MachineError
from nooks.host.syscalls import call
from nooks.xpc.block import REQUEST_BYTES_MAX

DEVICE = Path("/dev/fuse")
RESEND_SINCE = (6, 9)
"""The first Linux that sends again what a dead server left unanswered (FUSE_NOTIFY_RESEND)."""

# The same on all architectures: include/uapi/asm-generic/unistd.h
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_CLOEXEC = 1
_SET_STRING, _CREATE = 1, 6
_ROOT_MODE = "40000"


def open_device() -> int:
    """A new connection to the kernel's FUSE, for a server that does not block. Raises MachineError."""
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise MachineError(f"{DEVICE} can't be opened: {error.strerror}", "modprobe fuse") from None


def mount(descriptor: int) -> int:
    """A file system served on ``descriptor``, attached nowhere; returns what holds it. Raises MachineError.

    Nothing can be read from ``descriptor`` before that.
    """
    try:
        return _mount(descriptor)
    except OSError as error:
        fix = "Linux 5.2 or newer is needed" if error.errno == errno.ENOSYS else "see the kernel's log"
        raise MachineError(f"a FUSE file system can't be mounted: {error.strerror}", fix) from None


def open_file(mounted: int, name: str, *, read_only: bool) -> int:
    """Open the one file in it, under any name; the server must be at work meanwhile, in another thread.

    Raises MachineError.
    """
    try:
        flags = os.O_RDONLY if read_only else os.O_RDWR
        return os.open(name, flags | os.O_CLOEXEC, dir_fd=mounted)
    except OSError as error:
        raise MachineError(f"the FUSE file can't be opened: {error.strerror}", "see the nook's log") from None


def _mount(descriptor: int) -> int:
    context = call(_FSOPEN, b"fuse", _CLOEXEC)
    try:
        options = {"fd": descriptor, "rootmode": _ROOT_MODE, "user_id": os.geteuid(), "group_id": os.getegid()}
        for key, value in (*options.items(), ("max_read", REQUEST_BYTES_MAX)):
            call(_FSCONFIG, context, _SET_STRING, key.encode(), str(value).encode(), 0)
        call(_FSCONFIG, context, _CREATE, None, None, 0)
        return call(_FSMOUNT, context, _CLOEXEC, 0)
    finally:
        os.close(context)
