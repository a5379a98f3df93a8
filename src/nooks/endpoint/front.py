"""What moves the data of a block nook sees of its host endpoint, whichever that is: requests in, answers out."""

from errno import EINVAL, EIO, EROFS
from typing import Any, NamedTuple, Protocol

from nooks.host.errors import NooksError
from nooks.xpc.block import DISCARD, FLUSH, READ, REQUEST_BYTES_MAX, WRITE

_BLOCK = 4096
"""What the kernel's users of discards keep to."""


class FrontGone(NooksError):  # noqa: N818 - the name says what happened
    """The kernel asks for nothing any more: somebody took the endpoint away."""


class Arrival(NamedTuple):
    """A request: ``operation`` of xpc.block, ``offset`` and ``length`` in bytes; ``handle`` is for its answer."""

    operation: int
    offset: int
    length: int
    fua: bool
    handle: Any


class Shape(Protocol):
    """Of a block device: its size in bytes, and what may be done to it."""

    size_bytes: int
    read_only: bool
    discards: bool


def refusal(device: Shape, operation: int | None, offset: int, length: int) -> int:
    """An errno if a request is not to be carried out; ``operation`` is None if it is none of ours."""
    if operation is None:
        return EINVAL
    if operation == FLUSH:
        return 0
    if device.read_only and operation != READ:
        return EROFS
    if offset + length > device.size_bytes or (operation in (READ, WRITE) and length > REQUEST_BYTES_MAX):
        return EIO
    if operation == DISCARD and (not device.discards or offset % _BLOCK or length % _BLOCK):
        return EINVAL
    return 0


class Front(Protocol):
    """The kernel's side of a block device. Nothing blocks."""

    def fileno(self) -> int:
        """Readable when a request has arrived; it stays the front's own."""
        ...

    def receive(self, space: memoryview) -> Arrival | None:
        """The next request, the data of a write at the beginning of ``space``; None if there is none now.

        Raises FrontGone.
        """
        ...

    def answer(self, handle: Any, error: int, data: memoryview | None = None) -> None:  # noqa: ANN401
        """Answer a request with an errno, or 0 and the ``data`` of a read; sent by ``settle`` at the latest."""
        ...

    def settle(self) -> None:
        """Send what was answered. For the thread that receives, before it waits. Raises FrontGone."""
        ...
