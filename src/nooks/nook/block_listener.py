"""What the data path of a block nook tells the event loop, and how it speaks of requests."""

from collections.abc import Mapping
from typing import Any, Protocol

from nooks.shadow import block
from nooks.shadow.requests import Request
from nooks.xpc.block import DISCARD, FLUSH, READ, WRITE, ZERO
from nooks.xpc.errors import ProtocolError

NAMES: Mapping[int, str] = {READ: "read", WRITE: "write", FLUSH: "flush", ZERO: "zero", DISCARD: "discard"}

WAITING: Mapping[int, str] = {
    READ: block.READ,
    WRITE: block.WRITE,
    FLUSH: block.FLUSH,
    ZERO: block.DISCARD,
    DISCARD: block.DISCARD,
}
"""As the shadow calls what waits for a driver."""


class Finished:
    """How many requests came to their end, by operation, and the bytes that were read and written."""

    def __init__(self) -> None:
        self._requests = dict.fromkeys(NAMES, 0)
        self._bytes = {READ: 0, WRITE: 0}

    def count(self, request: Request) -> None:
        """One more."""
        self._requests[request.operation] += 1
        if request.operation in self._bytes:
            self._bytes[request.operation] += request.length

    def facts(self) -> dict[str, Any]:
        """Figures for ``status`` and ``metrics``."""
        requests = {NAMES[operation]: count for operation, count in self._requests.items()}
        return {"requests": requests, "read_bytes": self._bytes[READ], "written_bytes": self._bytes[WRITE]}


class Listener(Protocol):
    """What the event loop is told."""

    def violated(self, error: ProtocolError) -> None:
        """The domain said what it must not say."""
        ...

    def corrupted(self, request: Mapping[str, Any]) -> None:
        """A read brought something else than what is known to be there."""
        ...

    def refused(self, request: Mapping[str, Any], why: str) -> None:
        """A request was answered with an error, and not for the device's saying so."""
        ...

    def doubted(self, request: Mapping[str, Any]) -> None:
        """The driver answered with an error for the first time: ``DataPath.believe`` it, or have another try."""
        ...

    def device_error(self, request: Mapping[str, Any]) -> None:
        """The device answered with an error, which was passed on."""
        ...

    def gone(self) -> None:
        """Somebody took the endpoint away."""
        ...


def facts_of(request: Request, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    """A request as the journal has it."""
    return {"request": NAMES[request.operation], "offset": request.offset, "length": request.length, **more}
