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
