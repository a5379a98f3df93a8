"""What moves the data of a block nook sees of its host endpoint, whichever that is: requests in, answers out."""

from typing import Any, NamedTuple, Protocol

from nooks.host.errors import NooksError


class FrontGone(NooksError):  # noqa: N818 - the name says what happened
    """The kernel asks for nothing any more: somebody took the endpoint away."""


class Arrival(NamedTuple):
    """A request: ``operation`` of xpc.block, ``offset`` and ``length`` in bytes; ``handle`` is for its answer."""

    operation: int
    offset: int
    length: int
    fua: bool
    handle: Any


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
