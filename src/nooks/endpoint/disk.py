"""Which host endpoint a disk gets: the quickest that outlives its supervisor with the kernel that is there.

That is ublk, if there is one (usually a module, since Linux 6.5), but not for a drive whose medium changes. Else FUSE
sends again what a dead server left unanswered since Linux 6.9; before, the network block device does, if there is one.
With none of them FUSE serves, and what was under way when a supervisor was killed waits for ever.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from nooks.endpoint import fuse_mount, nbd_control, ublk_control
from nooks.endpoint.fuse_disk import FuseDisk, file_name
from nooks.endpoint.loop import LoopDevice
from nooks.endpoint.nbd_disk import NbdDisk
from nooks.endpoint.ublk_disk import UblkDisk
from nooks.host.kernel import version
from nooks.host.process import ProcessError

Disk = FuseDisk | NbdDisk | UblkDisk

Kind = Literal["ublk", "fuse", "nbd", "fuse-without-resend"]


def offered(*, removable: bool = False, load: bool = True) -> Iterator[Kind]:
    """What this machine has, the best first; modules for it are loaded, or only looked for.

    ``removable``: media come and go.
    """
    if not removable and ublk_control.is_there(load=load):
        yield "ublk"
    resends = version() >= fuse_mount.RESEND_SINCE
    if resends:
        yield "fuse"
    if nbd_control.is_there(load=load):
        yield "nbd"
    if not resends:
        yield "fuse-without-resend"


def kind(*, removable: bool = False, load: bool = True) -> Kind:
    """What a disk gets here, or a drive whose media come and go."""
    return next(offered(removable=removable, load=load))


def create(name: str, size_bytes: int, *, removable: bool) -> Disk:
    """A new one for the nook ``name``, without a device yet. Raises MachineError."""
    return make(kind(removable=removable), name, size_bytes, read_only=removable)


def make(wanted: Kind, name: str, size_bytes: int, *, read_only: bool) -> Disk:
    """One of that kind. Raises MachineError."""
    if wanted == "ublk":
        return UblkDisk.create(name, size_bytes, read_only=read_only)
    return (NbdDisk if wanted == "nbd" else FuseDisk).create(size_bytes, read_only=read_only)


def adopt(path: Path, name: str, size_bytes: int, *, read_only: bool, connection: Callable[[], int]) -> Disk:
    """That of a dead supervisor, whose device is at ``path``; ``connection`` is asked for FUSE's. Raises OSError."""
    if is_ublk(path):
        return UblkDisk.adopt(path, size_bytes, read_only=read_only)
    if is_nbd(path):
        return NbdDisk.adopt(path, name, size_bytes, read_only=read_only)
    return FuseDisk.adopt(connection(), path, name, size_bytes, read_only=read_only)


def is_nbd(path: Path) -> bool:
    """Whether the block device at this path is a network block device."""
    return path.name.startswith("nbd")


def is_ublk(path: Path) -> bool:
    """Whether the block device at this path is a userspace block device."""
    return path.name.startswith("ublkb")


def detach_left(path: Path | None, name: str) -> None:
    """Take away the block device of a dead nook, which nobody serves any more. Raises NooksError.

    ``path`` is None if the nook died before it knew: only ublk may have got so far, since nobody holds such a device.
    """
    try:
        if path is None:
            for number in ublk_control.unserved(file_name(name)):
                ublk_control.delete(number)
        elif is_ublk(path):
            number = ublk_control.number_of(path)
            if ublk_control.is_named(number, file_name(name)):
                ublk_control.delete(number)
        elif is_nbd(path):
            if nbd_control.owner(path) == file_name(name):
                nbd_control.disconnect(nbd_control.index_of(path))
        else:
            LoopDevice(path, file_name(name)).detach()
    except OSError as error:
        raise ProcessError(f"{path} can't be taken away: {error.strerror}") from None
