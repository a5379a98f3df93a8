"""The host endpoint of a block nook by the kernel's network block device, where FUSE can't outlive the supervisor.

When a supervisor dies its connection ends, and requests wait in the kernel for the next one's.
"""

import contextlib
import socket
from pathlib import Path

from nooks.endpoint import nbd_control
from nooks.endpoint.fuse_disk import file_name
from nooks.endpoint.nbd import NbdFront
from nooks.host.errors import MachineError
from nooks.host.process import ProcessError, run
from nooks.xpc.block import REQUEST_BYTES_MAX

_SECONDS = 60.0

UNANSWERED_MILLISECONDS = 2000
"""After so long the kernel looks whether the connection is another one, and sends a request again if so."""


class NbdDisk:
    """As FuseDisk: the data path must serve ``front`` before ``publish`` already."""

    def __init__(self, front: NbdFront, theirs: socket.socket | None, name: str, path: Path | None) -> None:
        self.front = front
        self._theirs = theirs
        self._name = name
        self._path = path

    @classmethod
    def create(cls, size_bytes: int, *, read_only: bool) -> "NbdDisk":
        """Without a device yet."""
        front, theirs = NbdFront.create(size_bytes, read_only=read_only)
        return cls(front, theirs, "", None)

    @classmethod
    def adopt(cls, path: Path, name: str, size_bytes: int, *, read_only: bool) -> "NbdDisk":
        """That of a dead supervisor, whose device is at ``path``; its requests come again. Raises OSError."""
        front, theirs = NbdFront.create(size_bytes, read_only=read_only)
        with theirs:
            nbd_control.reconnect(nbd_control.index_of(path), file_name(name), theirs.fileno())
        return cls(front, None, file_name(name), path)

    @property
    def path(self) -> Path:
        """The block device, once it is published."""
        assert self._path is not None
        return self._path

    def publish(self, name: str, sector_bytes: int) -> None:
        """Make the block device of the nook ``name``; another thread must serve the front. Raises MachineError."""
        assert self._theirs is not None
        front, self._name = self.front, file_name(name)
        with self._theirs as theirs:
            index = nbd_control.connect(
                theirs.fileno(), self._name, size_bytes=front.size_bytes, block_bytes=sector_bytes, flags=front.flags
            )
        self._theirs = None
        self._path = Path(f"/dev/nbd{index}")
        queue = nbd_control.SYSFS / self._path.name / "queue"
        try:
            (queue / "io_timeout").write_text(str(UNANSWERED_MILLISECONDS))
            (queue / "max_sectors_kb").write_text(str(REQUEST_BYTES_MAX >> 10))
        except OSError as error:
            raise MachineError(f"{queue} can't be set up: {error.strerror}", "see the kernel's log") from None
        with contextlib.suppress(ProcessError):  # a CD without a medium has none
            _blockdev("--rereadpt", self._path)

    def resume(self) -> None:
        """An adopted one's requests have come again already."""

    @property
    def is_published(self) -> bool:
        """Whether there is a device."""
        return self._path is not None

    def resized(self) -> None:
        """The front's size is another one. Raises ProcessError."""
        if self._path is not None:
            try:
                nbd_control.resize(nbd_control.index_of(self._path), self._name, self.front.size_bytes)
            except OSError as error:
                raise ProcessError(f"{self._path} can't be resized: {error.strerror}") from None
            self.flush(_SECONDS)

    def flush(self, within_seconds: float) -> None:
        """Have the driver write what the host's page cache has of the device. Raises ProcessError."""
        if self._path is not None:
            _blockdev("--flushbufs", self._path, within_seconds)

    def withdraw(self) -> None:
        """Take the device away, at the latest when its last user closes it; its front must still be served.

        Raises ProcessError.
        """
        if self._path is not None:
            withdraw(self._path, self._name)
            self._path = None

    def close(self) -> None:
        """End the connection: whoever still uses the device gets errors. Again is harmless."""
        self.front.close()
        if self._theirs is not None:
            self._theirs.close()
            self._theirs = None


def withdraw(path: Path, name: str) -> None:
    """Take the device away if it still has that name, at the latest when its last user closes it.

    Raises ProcessError.
    """
    if nbd_control.owner(path) != name:
        return
    try:
        nbd_control.leave(nbd_control.index_of(path), name)
    except OSError as error:
        raise ProcessError(f"{path} can't be taken away: {error.strerror}") from None
    with contextlib.suppress(ProcessError):  # it opens the device, and closing it is what counts
        _blockdev("--getsize64", path)


def _blockdev(what: str, path: Path, within_seconds: float = _SECONDS) -> None:
    """In a program of its own: whoever serves the device must not wait for it (loop.py). Raises ProcessError."""
    run(["blockdev", what, str(path)], timeout_seconds=within_seconds)
