"""The host endpoint of a block nook by FUSE: a loop device on a file that we serve. It outlives the supervisor.

The keeper holds the connection to FUSE; what a dead supervisor left unanswered the kernel sends to the next one again.
"""

import os
from pathlib import Path

from nooks.endpoint import fuse_mount
from nooks.endpoint.fuse import FuseFile
from nooks.endpoint.loop import LoopDevice


class FuseDisk:
    """Owns ``descriptor``, the connection to FUSE. The data path must serve ``front`` before ``publish`` already."""

    def __init__(self, descriptor: int, front: FuseFile, loop: LoopDevice | None) -> None:
        self.descriptor = descriptor
        self.front = front
        self._loop = loop
        self._mounted = -1

    @classmethod
    def create(cls, size_bytes: int, *, read_only: bool) -> "FuseDisk":
        """Without a device yet. Raises MachineError."""
        descriptor = fuse_mount.open_device()
        disk = cls(descriptor, FuseFile(descriptor, size_bytes, read_only=read_only), None)
        try:
            disk._mounted = fuse_mount.mount(descriptor)
        except BaseException:
            disk.close()
            raise
        return disk

    @classmethod
    def adopt(cls, descriptor: int, path: Path, name: str, size_bytes: int, *, read_only: bool) -> "FuseDisk":
        """That of a dead supervisor, whose device is at ``path``; its requests come again. Raises OSError."""
        front = FuseFile(descriptor, size_bytes, read_only=read_only)
        front.resend()
        return cls(descriptor, front, LoopDevice(path, file_name(name)))

    @property
    def path(self) -> Path:
        """The block device, once it is published."""
        assert self._loop is not None
        return self._loop.path

    def publish(self, name: str, sector_bytes: int) -> None:
        """Make the block device of the nook ``name``; another thread must serve the front. Raises MachineError."""
        read_only = self.front.read_only
        file = fuse_mount.open_file(self._mounted, file_name(name), read_only=read_only)
        try:
            self._loop = LoopDevice.create(file, file_name(name), sector_bytes=sector_bytes, read_only=read_only)
        finally:
            os.close(file)
            os.close(self._mounted)
            self._mounted = -1

    def resume(self) -> None:
        """An adopted one's requests have come again already."""

    @property
    def is_published(self) -> bool:
        """Whether there is a device."""
        return self._loop is not None

    def resized(self) -> None:
        """The front's size is another one. Raises ProcessError."""
        if self._loop is not None:
            self._loop.resized()

    def flush(self, within_seconds: float) -> None:
        """Have the driver write what the host's page cache has of the device. Raises ProcessError."""
        if self._loop is not None:
            self._loop.flush(within_seconds)

    def withdraw(self) -> None:
        """Take the device away, at the latest when its last user closes it; its front must still be served.

        Raises ProcessError.
        """
        if self._loop is not None:
            self._loop.detach()
            self._loop = None

    def close(self) -> None:
        """End the connection: whoever still uses the device gets errors. Again is harmless."""
        for descriptor in (self._mounted, self.descriptor):
            if descriptor >= 0:
                os.close(descriptor)
        self._mounted = self.descriptor = -1


def file_name(name: str) -> str:
    """What the file under the device of the nook ``name`` is called, for losetup to show."""
    return f"nooks-{name}"
