"""The host endpoint of a block nook by the kernel's userspace block device (ublk): no file and no loop device between.

When a supervisor dies, requests wait in the kernel for the next one. Until Linux 6.16 such a device can't change its
size, so it is for disks alone, not for drives whose medium changes.
"""

import contextlib
from pathlib import Path

from nooks.endpoint import ublk_control
from nooks.endpoint.fuse_disk import file_name
from nooks.endpoint.ublk import UblkFront
from nooks.endpoint.ublk_control import Shape
from nooks.host.errors import MachineError
from nooks.host.process import ProcessError, run


class UblkDisk:
    """As FuseDisk: the data path must serve ``front`` before ``publish`` already, and before ``resume``."""

    def __init__(self, front: UblkFront, number: int, path: Path | None = None) -> None:
        self.front = front
        self._number = number
        self._path = path

    @classmethod
    def create(cls, name: str, size_bytes: int, *, read_only: bool) -> "UblkDisk":
        """Of the nook ``name``, without a block device yet. Raises MachineError."""
        number = ublk_control.add(file_name(name))
        try:
            return cls(UblkFront.open(number, size_bytes, read_only=read_only), number)
        except BaseException as error:
            ublk_control.delete(number)
            if isinstance(error, OSError):
                raise MachineError(f"the userspace block device can't be served: {error.strerror}") from None
            raise

    @classmethod
    def adopt(cls, path: Path, size_bytes: int, *, read_only: bool) -> "UblkDisk":
        """That of a dead supervisor, whose device is at ``path``. Raises OSError."""
        number = ublk_control.number_of(path)
        ublk_control.take_over(number)
        return cls(UblkFront.open(number, size_bytes, read_only=read_only), number, path)

    @property
    def path(self) -> Path:
        """The block device, once it is published."""
        assert self._path is not None
        return self._path

    def publish(self, name: str, sector_bytes: int) -> None:
        """Let the block device appear; another thread must serve the front. Raises MachineError."""
        del name  # it has been known since it was made
        front = self.front
        shape = Shape(front.size_bytes, sector_bytes, front.read_only, front.zeroes, front.discards)
        try:
            ublk_control.start(self._number, shape)
        except OSError as error:
            told = f"no userspace block device can be started: {error.strerror}"
            raise MachineError(told, "see the kernel's log") from None
        self._path = Path(f"/dev/ublkb{self._number}")

    def resume(self) -> None:
        """Have the requests of an adopted device come. Raises MachineError."""
        try:
            ublk_control.taken_over(self._number)
        except OSError as error:
            told = f"{self._path} can't be taken over: {error.strerror}"
            raise MachineError(told, "see the kernel's log") from None

    @property
    def is_published(self) -> bool:
        """Whether there is a device."""
        return self._path is not None

    def resized(self) -> None:
        """Not for this kind of device: a disk keeps its size."""

    def flush(self, within_seconds: float) -> None:
        """Have the driver write what the host's page cache has of the device. Raises ProcessError."""
        if self._path is not None:
            run(["blockdev", "--flushbufs", str(self._path)], timeout_seconds=within_seconds)

    def withdraw(self) -> None:
        """Take the device away at once, so that whoever uses it gets errors; its front must still be served.

        Raises ProcessError.
        """
        if self._path is not None:
            try:
                ublk_control.stop(self._number)
            except OSError as error:
                raise ProcessError(f"{self._path} can't be taken away: {error.strerror}") from None
            self._path = None

    def close(self) -> None:
        """End the connection: whoever still uses the device gets errors. Again is harmless."""
        self.front.close()
        if self._number >= 0:
            with contextlib.suppress(OSError):
                ublk_control.delete(self._number)
            self._number = -1
