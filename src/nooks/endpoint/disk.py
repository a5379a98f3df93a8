"""Which host endpoint a disk gets: the one that outlives its supervisor with the kernel that is there.

FUSE sends again what a dead server left unanswered since Linux 6.9; before, the network block device does, if there is
one. With neither, FUSE serves, and what was under way when a supervisor was killed waits for ever.
"""

import os
from pathlib import Path
from typing import Literal

from nooks.endpoint import fuse_mount, nbd_control
from nooks.endpoint.fuse_disk import FuseDisk, file_name
from nooks.endpoint.loop import LoopDevice
from nooks.endpoint.nbd_disk import NbdDisk
from nooks.host.process import ProcessError

Disk = FuseDisk | NbdDisk

Kind = Literal["fuse", "nbd", "fuse-without-resend"]


def kind(*, load: bool = True) -> Kind:
    """What this machine gets; modules that it takes are loaded, or only looked for."""
    major, minor = os.uname().release.split(".")[:2]
    if (int(major), int(minor)) >= fuse_mount.RESEND_SINCE:
        return "fuse"
    return "nbd" if nbd_control.is_there(load=load) else "fuse-without-resend"


def create(size_bytes: int, *, read_only: bool) -> Disk:
    """A new one, without a device yet. Raises MachineError."""
    made = NbdDisk if kind() == "nbd" else FuseDisk
    return made.create(size_bytes, read_only=read_only)


def is_nbd(path: Path) -> bool:
    """Whether the block device at this path is a network block device."""
    return path.name.startswith("nbd")


def detach_left(path: Path, name: str) -> None:
    """Take away the block device of a dead nook, which nobody serves any more. Raises NooksError."""
    if not is_nbd(path):
        LoopDevice(path, file_name(name)).detach()
    elif nbd_control.owner(path) == file_name(name):
        try:
            nbd_control.disconnect(nbd_control.index_of(path))
        except OSError as error:
            raise ProcessError(f"{path} can't be taken away: {error.strerror}") from None
