"""Every message that crosses the boundary, as a typed value. Host side only.

What a domain sends is parsed here with bounds; anything that does not fit is a ProtocolError. The agent,
for which importing dataclasses would cost a tenth of a second, handles the same messages as plain objects.

A request's payload carries its ``type`` beside its fields, an event's likewise; a reply's does not: the
request says what it must be.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Self

from nooks.xpc import checks
from nooks.xpc.checks import Check
from nooks.xpc.errors import ProtocolError
from nooks.xpc.message import Message, Request
from nooks.xpc.settings import Settings, SettingValue, check_settings, setting_key
from nooks.xpc.states import DeviceState, parse_state

_UINT32 = 2**32 - 1
_UINT64 = 2**64 - 1
_SECONDS = checks.number(0, 3600)
_REFUSED = checks.mapping(setting_key, checks.text(500), 256)
_NONCE = checks.matching("[0-9a-f]*", 64)
_MODULE = checks.matching(r"[A-Za-z0-9_-]+\.ko", 128)
_PARAMETERS = checks.text(1000)
_SECTIONS = checks.mapping(
    checks.matching("[A-Za-z0-9_]+", 64),
    checks.mapping(checks.matching(r"\.text[A-Za-z0-9_.]*", 64), checks.integer(0, _UINT64), 32),
    64,
)
_CLASS = checks.choice("network", "block", "sound")
_STATISTICS = checks.mapping(checks.matching("[a-z0-9_]+", 64), checks.integer(0, _UINT64), 64)
CRASHES = ("panic", "oops", "hang", "halt", "agent", "leak", "silent", "dma")
COUNTERS = ("host_rx", "host_tx", "nic_rx", "nic_tx")


def _module(value: object) -> "Module":
    return Module.parse(value)


@dataclass(frozen=True)
class Module(Message):
    """A kernel module in the image: its file name under /modules, and its parameters as one string."""

    CHECKS: ClassVar[Mapping[str, Check[Any]]] = {"path": _MODULE, "parameters": _PARAMETERS}

    path: str
    parameters: str = ""


@dataclass(frozen=True)
class BringUpTimes(Message):
    """Seconds spent: inserting modules, until the device was there, until it was of use (its carrier, say)."""

    CHECKS: ClassVar[Mapping[str, Check[Any]]] = {"load": _SECONDS, "probe": _SECONDS, "link": _SECONDS}

    load: float
    probe: float
    link: float


@dataclass(frozen=True)
class BringUpReply(Message):
    """The driver is up. ``readback`` is what driver and kernel say, no echo; ``sections`` where its code lies."""

    CHECKS: ClassVar[Mapping[str, Check[Any]]] = {
        "driver": checks.text(64),
        "state": parse_state,
        "seconds": BringUpTimes.parse,
        "readback": check_settings,
        "refused": _REFUSED,
        "sections": _SECTIONS,
    }

    driver: str
    state: DeviceState
    seconds: BringUpTimes
    readback: Settings
    refused: dict[str, str]
    sections: dict[str, dict[str, int]]


@dataclass(frozen=True)
class BringUp(Request[BringUpReply]):
    """Insert the modules in order, find the device's interface (or disk, or card), make it ready.

    ``claim_seconds`` is how long the driver may take to claim a device; one that is being plugged in takes a while.
    """

    TYPE: ClassVar[str] = "bring_up"
    REPLY: ClassVar[type[Message]] = BringUpReply
    CHECKS: ClassVar[Mapping[str, Check[Any]]] = {
        "device_class": _CLASS,
        "modules": checks.listing(_module, 64),
        "settings": check_settings,
        "claim_seconds": _SECONDS,
    }

    device_class: str
    modules: tuple[Module, ...]
    settings: Settings = field(default_factory=dict[str, SettingValue])
    claim_seconds: float = 4.0


@dataclass(frozen=True)
class PrepareReply(Message):
    """The modules are in, and wait for a device; ``load`` is how many seconds that took."""

    CHECKS: ClassVar[Mapping[str, Check[Any]]] = {"load": _SECONDS}

    load: float


@dataclass(frozen=True)
class Prepare(Request[PrepareReply]):
    """Insert the modules in order, though there is no device yet: all that can be done before it is plugged in."""

    TYPE: ClassVar[str] = "prepare"
    REPLY: ClassVar[type[Message]] = PrepareReply
    CHECKS: ClassVar[Mapping[str, Check[Any]]] = {"device_class": _CLASS, "modules": checks.listing(_module, 64)}

    device_class: str
    modules: tuple[Module, ...]


@dataclass(frozen=True)
class ApplyReply(Message):
    """The actual state of every setting that the driver lets us read, and why others were not taken."""

    CHECKS: ClassVar[Mapping[str, Check[Any]]] = {"readback": check_settings, "refused": _REFUSED}

    readback: Settings
    refused: dict[str, str]


@dataclass(frozen=True)
class Apply(Request[ApplyReply]):
    """Make these settings so; those absent stay as they are."""

    TYPE: ClassVar[str] = "apply"
    REPLY: ClassVar[type[Message]] = ApplyReply
    CHECKS: ClassVar[Mapping[str, Check[Any]]] = {"settings": check_settings}

    settings: Settings


@dataclass(frozen=True)
class ResumeReply(Message):
    """As ApplyReply, with the request's nonce; its frame carries the new incarnation."""

    CHECKS: ClassVar[Mapping[str, Check[Any]]] = {
        "nonce": _NONCE,
        "state": parse_state,
        "readback": check_settings,
        "refused": _REFUSED,
    }

    nonce: str
    state: DeviceState
    readback: Settings
    refused: dict[str, str]


@dataclass(frozen=True)
class Resume(Request[ResumeReply]):
    """The first request after a start or restore: who the domain is now, what time it is, and all settings.

    ``time_ns`` is CLOCK_REALTIME; ``entropy`` and ``nonce`` are hexadecimal and never used twice.
    """

    TYPE: ClassVar[str] = "resume"
    REPLY: ClassVar[type[Message]] = ResumeReply
    CHECKS: ClassVar[Mapping[str, Check[Any]]] = {
        "incarnation": checks.integer(0, _UINT32),
        "nonce": _NONCE,
        "time_ns": checks.integer(0, _UINT64),
        "entropy": checks.matching("[0-9a-f]*", 1024),
        "settings": check_settings,
    }

    incarnation: int
    nonce: str
    time_ns: int
    entropy: str
    settings: Settings


@dataclass(frozen=True)
class ReadReply(Message):
    """The present state, read from driver and kernel; ``statistics`` are the device's counters by name."""

    CHECKS: ClassVar[Mapping[str, Check[Any]]] = {
        "readback": check_settings,
        "state": parse_state,
        "statistics": _STATISTICS,
    }

    readback: Settings
    state: DeviceState
    statistics: dict[str, int]


@dataclass(frozen=True)
class Read(Request[ReadReply]):
    """Ask for the present state."""

    TYPE: ClassVar[str] = "read"
    REPLY: ClassVar[type[Message]] = ReadReply
    CHECKS: ClassVar[Mapping[str, Check[Any]]] = {}


@dataclass(frozen=True)
class SyncReply(Message):
    """The request's nonce: what follows in the stream was sent after it."""

    CHECKS: ClassVar[Mapping[str, Check[Any]]] = {"nonce": _NONCE}

    nonce: str


@dataclass(frozen=True)
class Sync(Request[SyncReply]):
    """The first request of a supervisor that adopts a domain."""

    TYPE: ClassVar[str] = "sync"
    REPLY: ClassVar[type[Message]] = SyncReply
    CHECKS: ClassVar[Mapping[str, Check[Any]]] = {"nonce": _NONCE}

    nonce: str


@dataclass(frozen=True)
class CrashReply(Message):
    """Sent just before it happens. ``means`` says what exactly the agent is about to do."""

    CHECKS: ClassVar[Mapping[str, Check[Any]]] = {"means": checks.text(200)}

    means: str


@dataclass(frozen=True)
class Register(Message):
    """A register to be written: PCI region, offset and size in bytes, value."""

    CHECKS: ClassVar[Mapping[str, Check[Any]]] = {
        "bar": checks.integer(0, 5),
        "offset": checks.integer(0, 2**24 - 1),
        "size": checks.integer(1, 4),
        "value": checks.integer(0, _UINT32),
    }

    bar: int
    offset: int
    size: int
    value: int


def _register(value: object) -> Register:
    return Register.parse(value)


@dataclass(frozen=True)
class Crash(Request[CrashReply]):
    """Fail on purpose; ``how`` is one of CRASHES. For ``dma`` the ``registers`` are written, one after the other."""

    TYPE: ClassVar[str] = "crash"
    REPLY: ClassVar[type[Message]] = CrashReply
    CHECKS: ClassVar[Mapping[str, Check[Any]]] = {
        "how": checks.choice(*CRASHES),
        "registers": checks.listing(_register, 32),
    }

    how: str
    registers: tuple[Register, ...] = ()


@dataclass(frozen=True)
class Hello(Message):
    """Event: the agent is there. ``boot_seconds`` is the domain's own uptime."""

    TYPE: ClassVar[str] = "hello"
    CHECKS: ClassVar[Mapping[str, Check[Any]]] = {
        "kernel": checks.text(128),
        "agent_version": checks.text(32),
        "boot_seconds": checks.number(0, 1e9),
    }

    kernel: str
    agent_version: str
    boot_seconds: float


@dataclass(frozen=True)
class Changed(Message):
    """Event: the device's state changed by itself; a cable was pulled, say."""

    TYPE: ClassVar[str] = "changed"
    CHECKS: ClassVar[Mapping[str, Check[Any]]] = {"state": parse_state}

    state: DeviceState


@dataclass(frozen=True)
class Heartbeat(Message):
    """A sign of life. ``counters``: now and then packets by COUNTERS' names since the start, else None."""

    CHECKS: ClassVar[Mapping[str, Check[Any]]] = {"counters": checks.optional(_STATISTICS)}

    counters: dict[str, int] | None

    @classmethod
    def parse(cls, payload: object) -> Self:
        """As Message.parse; an empty object is a beat without counters, which is nearly every one."""
        return cls(None) if payload == {} else super().parse(payload)


EVENTS: Mapping[str, type[Message]] = MappingProxyType({event.TYPE: event for event in (Hello, Changed)})
ERROR_TEXT = checks.text(2000)


def request_payload(request: Request[Any]) -> dict[str, object]:
    """A request's JSON object, with its ``type``."""
    return {"type": request.TYPE, **request.to_payload()}


def parse_event(payload: Mapping[str, object]) -> Message:
    """The event in an event frame. Raises ProtocolError."""
    kind = payload.get("type")
    event = EVENTS.get(kind) if isinstance(kind, str) else None
    if event is None:
        raise ProtocolError(f"unknown event {ascii(kind)[:40]}")
    return event.parse({key: value for key, value in payload.items() if key != "type"})


def parse_error(payload: Mapping[str, object]) -> str:
    """The text of an error frame. Raises ProtocolError."""
    return checks.record({"message": ERROR_TEXT}, payload)["message"]
