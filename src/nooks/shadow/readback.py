"""What a driver's readback says of the settings that it was asked for: taken, rounded, or refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from nooks.xpc.settings import SPEED_UNKNOWN, Settings, SettingValue

_ROUNDED = ("ring.", "coalesce.", "playback.period")
"""Where a driver takes the nearest value that its hardware has (ethtool(8), -G and -C)."""

_FILTERS = ("multicast", "vlans")
"""Lists that the kernel in the domain adds entries of its own to."""


@dataclass(frozen=True)
class LinkState:
    """What the card says of its cable; ``speed`` in Mbit/s or -1, ``duplex`` half, full or unknown."""

    carrier: bool
    speed: int = -1
    duplex: str = "unknown"


@dataclass(frozen=True)
class Outcome:
    """A driver's answer: the present value of what can be read, and why some keys were not taken.

    ``link`` is the cable's state if the answer tells it.
    """

    readback: Settings
    refused: Mapping[str, str] = field(default_factory=dict[str, str])
    link: LinkState | None = None


@dataclass(frozen=True)
class Verdict:
    """``accepted``: as the driver has it; ``unverified``: accepted keys that cannot be read back."""

    accepted: Settings
    refused: dict[str, str]
    unverified: tuple[str, ...]


def judge(wanted: Settings, outcome: Outcome) -> Verdict:
    """Compare what was asked for with what the driver says; a value that it kept silently counts as refused."""
    accepted: Settings = {}
    refused: dict[str, str] = {}
    unverified: list[str] = []
    for key, value in wanted.items():
        got = outcome.readback.get(key)
        if key in outcome.refused:
            refused[key] = outcome.refused[key]
        elif got is None or _says_nothing(key, got, wanted):
            unverified.append(key)
            accepted[key] = value
        elif same(key, value, got):
            accepted[key] = value
        elif key.startswith(_ROUNDED):
            accepted[key] = got
        else:
            refused[key] = f"the driver has {shown(got)}"
    return Verdict(accepted, refused, tuple(unverified))


def same(key: str, wanted: SettingValue, got: SettingValue) -> bool:
    """Whether the driver has what was wanted; a filter may let in more."""
    if key in _FILTERS and isinstance(wanted, tuple) and isinstance(got, tuple):
        return set(wanted) <= set(got)
    return wanted == got


def shown(value: SettingValue) -> str:
    """A value as people write it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _says_nothing(key: str, got: SettingValue, wanted: Settings) -> bool:
    """Speed and duplex depend on the partner where they are negotiated, and are unknown without a carrier."""
    if key not in ("link.speed", "link.duplex"):
        return False
    return got in (SPEED_UNKNOWN, "unknown") or wanted.get("link.autoneg") is True
