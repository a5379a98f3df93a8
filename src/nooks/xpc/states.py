"""What a driver says of its device now, by class: a part of replies, and an event when it changes. Host side only.

A state travels as an object whose ``class`` says which of STATES it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

from nooks.xpc import checks
from nooks.xpc.checks import Check
from nooks.xpc.errors import ProtocolError
from nooks.xpc.message import Message
from nooks.xpc.settings import MAX_SETTINGS, SAMPLE_BYTES, SPEED_UNKNOWN, setting_key


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


@dataclass(frozen=True)
class StreamState(Message):
    """How a sound card's stream is configured: ``rate`` in frames a second, ``period`` and ``buffer`` in frames."""

    CHECKS: ClassVar[Mapping[str, Check[Any]]] = {
        "format": checks.choice(*SAMPLE_BYTES),
        "channels": checks.integer(1, 32),
        "rate": checks.integer(1000, 768000),
        "rate_min": checks.integer(0, 2**32 - 1),
        "rate_max": checks.integer(0, 2**32 - 1),
        "period": checks.integer(1, 2**20),
        "buffer": checks.integer(2, 2**24),
    }

    format: str
    channels: int
    rate: int
    rate_min: int
    rate_max: int
    period: int
    buffer: int

    @property
    def frame_bytes(self) -> int:
        """Bytes that one sample of every channel takes."""
        return self.channels * SAMPLE_BYTES[self.format]


@dataclass(frozen=True)
class ElementState(Message):
    """What a mixer element may be: ``count`` values from ``low`` to ``high``, or one of ``items`` where it has some."""

    CHECKS: ClassVar[Mapping[str, Check[Any]]] = {
        "count": checks.integer(1, 128),
        "low": checks.integer(-(2**31), 2**31 - 1),
        "high": checks.integer(-(2**31), 2**31 - 1),
        "items": checks.listing(checks.text(64), 256),
    }

    count: int
    low: int
    high: int
    items: tuple[str, ...] = ()


@dataclass(frozen=True)
class SoundState(DeviceState):
    """The card, its streams (None where it has none), and its mixer's elements by key where all was asked for.

    ``jacks``: whether something is plugged in, by the names of those that can tell.
    """

    CLASS: ClassVar[str] = "sound"
    CHECKS: ClassVar[Mapping[str, Check[Any]]] = {
        "card": checks.text(80),
        "playback": checks.optional(StreamState.parse),
        "capture": checks.optional(StreamState.parse),
        "elements": checks.optional(checks.mapping(setting_key, ElementState.parse, MAX_SETTINGS)),
        "jacks": checks.mapping(checks.text(64), checks.boolean, 32),
    }

    card: str
    playback: StreamState | None
    capture: StreamState | None
    elements: dict[str, ElementState] | None = None
    jacks: dict[str, bool] = field(default_factory=dict[str, bool])


@dataclass(frozen=True)
class BlockState(DeviceState):
    """A disk or drive. Sizes in bytes; ``medium``: whether one is in it; ``cached``: whether it has a write cache.

    ``discard_bytes`` and ``zero_bytes`` are the most that it drops or zeroes by itself at a time, 0 if it can't;
    ``region_bytes`` is how much of the buffer region its agent has found.
    """

    CLASS: ClassVar[str] = "block"
    CHECKS: ClassVar[Mapping[str, Check[Any]]] = {
        "medium": checks.boolean,
        "size_bytes": checks.integer(0, 2**63 - 1),
        "sector_bytes": checks.integer(512, 4096),
        "physical_bytes": checks.integer(512, 1 << 20),
        "read_only": checks.boolean,
        "rotational": checks.boolean,
        "cached": checks.boolean,
        "discard_bytes": checks.integer(0, 2**63 - 1),
        "zero_bytes": checks.integer(0, 2**63 - 1),
        "region_bytes": checks.integer(0, 2**32 - 1),
        "model": checks.text(64),
    }

    medium: bool
    size_bytes: int
    sector_bytes: int
    physical_bytes: int
    read_only: bool
    rotational: bool
    cached: bool
    discard_bytes: int
    zero_bytes: int
    region_bytes: int
    model: str


STATES: Mapping[str, type[DeviceState]] = MappingProxyType(
    {state.CLASS: state for state in (NetworkState, SoundState, BlockState)}
)


def parse_state(value: object) -> DeviceState:
    """The state in an untrusted value. Raises ProtocolError."""
    kind = value.get("class") if isinstance(value, dict) else None
    state = STATES.get(kind) if isinstance(kind, str) else None
    if state is None or not isinstance(value, dict):
        raise ProtocolError(f"no device's state: {ascii(value)[:40]}")
    return state.parse({key: item for key, item in value.items() if key != "class"})
