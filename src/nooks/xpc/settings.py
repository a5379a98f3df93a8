"""The settings that cross the boundary: which keys there are, and what their values may be.

Flat keys, the same in ``bring_up``, ``resume``, ``apply`` and in every readback, whose values come from an
untrusted domain. A class of drivers adds its keys to the tables here.
"""

from collections.abc import Mapping
from typing import Any

from nooks.xpc import checks
from nooks.xpc.checks import Check
from nooks.xpc.errors import ProtocolError

SettingValue = bool | int | str | tuple[str, ...] | tuple[int, ...]
Settings = dict[str, SettingValue]

MAX_SETTINGS = 256
MAX_MULTICAST = 512
MAX_VLANS = 512
SPEED_UNKNOWN = -1

_COUNT = checks.integer(0, 2**31 - 1)

NETWORK: dict[str, Check[Any]] = {
    "mac": checks.mac,
    "mtu": checks.integer(0, 65535),
    "up": checks.boolean,
    "promisc": checks.boolean,
    "allmulti": checks.boolean,
    "multicast": checks.listing(checks.mac, MAX_MULTICAST),
    "vlans": checks.listing(checks.integer(1, 4094), MAX_VLANS),
    "ring.rx": _COUNT,
    "ring.tx": _COUNT,
    "coalesce.rx_usecs": _COUNT,
    "coalesce.tx_usecs": _COUNT,
    "pause.autoneg": checks.boolean,
    "pause.rx": checks.boolean,
    "pause.tx": checks.boolean,
    "link.autoneg": checks.boolean,
    "link.speed": checks.integer(SPEED_UNKNOWN, 2**31 - 1),
    "link.duplex": checks.choice("half", "full", "unknown"),
}

SAMPLE_BYTES = {"s16": 2, "s32": 4, "s24-3": 3, "u8": 1}
"""Bytes of one sample by the format's name."""

_STREAM: dict[str, Check[Any]] = {
    "format": checks.choice(*SAMPLE_BYTES),
    "channels": checks.integer(1, 32),
    "rate": checks.integer(1000, 768000),
    "period": checks.integer(16, 65536),
}

SOUND: dict[str, Check[Any]] = {
    f"{direction}.{name}": rule for direction in ("playback", "capture") for name, rule in _STREAM.items()
}

MAX_MIXER_VALUES = 128

_feature_name = checks.matching(r"feature\.[a-z0-9][a-z0-9-]*", 64)
setting_key = checks.matching(r"[a-z0-9._-]+", 64)
_mixer_name = checks.matching(r"mixer\.[a-z0-9]+(-[a-z0-9]+)*", 64)
_mixer_number = checks.integer(-(2**31), 2**31 - 1)
_mixer_word = checks.text(64)


def _mixer_value(value: object) -> SettingValue:
    """A word of a choice, or numbers or words by channel."""
    if isinstance(value, str):
        return _mixer_word(value)
    if isinstance(value, list | tuple) and any(isinstance(item, str) for item in value):
        return checks.listing(_mixer_word, MAX_MIXER_VALUES)(value)
    return checks.listing(_mixer_number, MAX_MIXER_VALUES)(value)


_BY_PREFIX: dict[str, tuple[Check[str], Check[Any]]] = {
    "feature.": (_feature_name, checks.boolean),
    "mixer.": (_mixer_name, _mixer_value),
}
"""Keys that a device brings along: the form of their names, and of their values."""


def check_setting(key: object, value: object) -> SettingValue:
    """One setting's value, checked by its key's rule. Raises ProtocolError, also for an unknown key."""
    name = setting_key(key)
    by_prefix = _BY_PREFIX.get(name[: name.find(".") + 1])
    if by_prefix is not None:
        by_prefix[0](name)
    rule = by_prefix[1] if by_prefix is not None else NETWORK.get(name) or SOUND.get(name)
    if rule is None:
        raise ProtocolError(f"unknown setting {name}")
    try:
        return rule(value)
    except ProtocolError as error:
        raise ProtocolError(f"{name}: {error}") from None


def check_settings(value: object) -> Settings:
    """A whole object of settings; lists become tuples."""
    if not isinstance(value, dict) or len(value) > MAX_SETTINGS:
        raise ProtocolError(f"settings must be an object of at most {MAX_SETTINGS} entries")
    return {setting_key(key): check_setting(key, item) for key, item in value.items()}


def to_json(settings: Mapping[str, SettingValue]) -> dict[str, object]:
    """Settings as they travel: tuples become lists."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
