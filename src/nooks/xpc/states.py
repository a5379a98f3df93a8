"""What a driver says of its device now, by class: a part of replies, and an event when it changes. Host side only.

A state travels as an object whose ``class`` says which of STATES it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from nooks.xpc import checks
from nooks.xpc.checks import Check
from nooks.xpc.errors import ProtocolError
from nooks.xpc.message import Message
from nooks.xpc.settings import SPEED_UNKNOWN


class DeviceState(Message):
    """Base of the classes' states."""

    CLASS: ClassVar[str]

    def to_payload(self) -> dict[str, object]:
        """With the ``class`` that ``parse_state`` goes by."""
        return {"class": self.CLASS, **super().to_payload()}


@dataclass(frozen=True)
class NetworkState(DeviceState):
    """The card's cable: ``speed`` in Mbit/s, or -1 where it is not known."""

    CLASS: ClassVar[str] = "network"
    CHECKS: ClassVar[Mapping[str, Check[Any]]] = {
        "carrier": checks.boolean,
        "speed": checks.integer(SPEED_UNKNOWN, 2**31 - 1),
        "duplex": checks.choice("half", "full", "unknown"),
    }

    carrier: bool
    speed: int = SPEED_UNKNOWN
    duplex: str = "unknown"


STATES: Mapping[str, type[DeviceState]] = MappingProxyType({state.CLASS: state for state in (NetworkState,)})


def parse_state(value: object) -> DeviceState:
    """The state in an untrusted value. Raises ProtocolError."""
    kind = value.get("class") if isinstance(value, dict) else None
    state = STATES.get(kind) if isinstance(kind, str) else None
    if state is None or not isinstance(value, dict):
        raise ProtocolError(f"no device's state: {ascii(value)[:40]}")
    return state.parse({key: item for key, item in value.items() if key != "class"})
