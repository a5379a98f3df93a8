"""Whole disks of the host that a device makes: what speaks against a nook having them, and holding them while taken.

Sources: Documentation/ABI/stable/sysfs-block, Documentation/scsi (types); open(2) and block/bdev.c: who opens a block
device with O_EXCL keeps others from mounting it, and finds out whether somebody has.
"""

import contextlib
import errno
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path

from nooks.device.problem import Problem
from nooks.device.sysfs import HOST, Sysfs
from nooks.device.vfio import users
from nooks.host.errors import StateError

_ROM = 5
"""TYPE_ROM (include/scsi/scsi_proto.h)."""
_ABSENT = (errno.ENOENT, errno.ENXIO, errno.ENODEV, getattr(errno, "ENOMEDIUM", 123))


def problems(disks: Sequence[str], driver: str | None, sysfs: Sysfs = HOST) -> Iterator[Problem]:
    """What speaks against a device that makes these disks by the host's ``driver``, beside who uses them."""
    if len(disks) > 1:
        yield Problem(f"it makes {len(disks)} disks ({', '.join(disks)}); a nook has one", "use a device with one disk")
    elif driver is not None and not disks:
        yield Problem(f"{driver} has made no disk here", "plug one in; 'lsblk' shows it then")
    for disk in disks:
        place = sysfs.at("sys/class/block", disk)
        if sysfs.number(place / "device/type") == _ROM:
            yield Problem(f"{disk} is a drive for CDs or DVDs", "use a disk")
        elif sysfs.number(place / "size") == 0:
            yield Problem(f"{disk} has no medium", "put one in")
        nodes = [Path("/dev", name) for name in (disk, *sysfs.names(place)) if name.startswith(disk)]
        pids = users(nodes, sysfs)
        if pids:
            what = f"process {', '.join(map(str, pids))} has {disk} open"
            yield Problem(what, "end it", force=True)


@contextlib.contextmanager
def held(disks: Iterable[str], sysfs: Sysfs = HOST) -> Generator[None]:
    """For the block nobody mounts the disks or makes something of them; what the page cache had of them is written.

    Raises StateError if somebody uses one: in another mount namespace, say.
    """
    with contextlib.ExitStack() as stack:
        for disk in disks:
            node = sysfs.at("dev", disk)
            try:
                descriptor = os.open(node, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
                stack.callback(os.close, descriptor)
                os.fsync(descriptor)
            except OSError as error:
                if error.errno == errno.EBUSY:
                    fix = f"see 'lsblk /dev/{disk}', and 'grep {disk} /proc/*/mountinfo' for other namespaces"
                    raise StateError(f"{disk} is in use", fix) from None
                if error.errno not in _ABSENT:
                    raise sysfs.failure(error, node, "could not be written to its end") from None
        yield
