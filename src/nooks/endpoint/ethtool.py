"""Link settings and features of an interface, by the ethtool ioctl (include/uapi/linux/ethtool.h)."""

import array
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from nooks.endpoint.interface import Interface

SPEED_UNKNOWN = -1

_GSTRINGS, _GSSET_INFO = 0x1B, 0x37
_GFEATURES, _SFEATURES = 0x3A, 0x3B
_GLINKSETTINGS, _SLINKSETTINGS = 0x4C, 0x4D
_FEATURE_NAMES = 4
_STRING_BYTES = 32
_LINK = struct.Struct("=IIBBBBBBBbBBBB28x")
_DUPLEX = {0: "half", 1: "full"}
_DUPLEX_UNKNOWN = 0xFF
_names: list[str] = []


@dataclass(frozen=True)
class LinkSettings:
    """``speed`` in Mbit/s or SPEED_UNKNOWN; ``duplex`` half, full or unknown; ``autoneg``: both are negotiated."""

    speed: int
    duplex: str
    autoneg: bool


def link_settings(interface: Interface) -> LinkSettings:
    """What the interface says of its link. Raises OSError."""
    fields, _ = _read_link(interface)
    speed = SPEED_UNKNOWN if fields[1] == 0xFFFFFFFF else fields[1]
    return LinkSettings(speed, _DUPLEX.get(fields[2], "unknown"), bool(fields[5]))


def set_link_settings(interface: Interface, settings: LinkSettings) -> None:
    """Have the interface say this of its link. Raises OSError."""
    fields, masks = _read_link(interface)
    duplex = next((code for code, name in _DUPLEX.items() if name == settings.duplex), _DUPLEX_UNKNOWN)
    fields[0:3] = [_SLINKSETTINGS, settings.speed & 0xFFFFFFFF, duplex]
    fields[5] = int(settings.autoneg)
    _call(interface, _LINK.pack(*fields) + masks)


def wanted_features(interface: Interface) -> dict[str, bool]:
    """The features that can be changed, and whether they are *wanted*; active are those that fit together.

    Raises OSError.
    """
    names = _feature_names(interface)
    blocks = (len(names) + 31) // 32
    answer = _call(interface, struct.pack("=II", _GFEATURES, blocks) + bytes(16 * blocks))
    wanted: dict[str, bool] = {}
    for number, name in enumerate(names):
        available, requested, _, never = struct.unpack_from("=4I", answer, 8 + 16 * (number // 32))
        bit = 1 << number % 32
        if name and available & bit and not never & bit:
            wanted[name] = bool(requested & bit)
    return wanted


def want_features(interface: Interface, features: Mapping[str, bool]) -> None:
    """Change what is wanted. Unknown names are left out: another kernel may lack one. Raises OSError."""
    names = _feature_names(interface)
    blocks = [[0, 0] for _ in range((len(names) + 31) // 32)]
    for number, name in enumerate(names):
        if name in features:
            block, bit = blocks[number // 32], 1 << number % 32
            block[0] |= bit
            block[1] |= bit if features[name] else 0
    body = b"".join(struct.pack("=II", *block) for block in blocks)
    _call(interface, struct.pack("=II", _SFEATURES, len(blocks)) + body)


def _read_link(interface: Interface) -> tuple[list[int], bytes]:
    """The link structure's fields and its three link mode masks; the kernel tells their length first."""
    answer = _call(interface, _LINK.pack(_GLINKSETTINGS, *[0] * 13))
    words = -_LINK.unpack_from(answer)[9]
    answer = _call(interface, _LINK.pack(_GLINKSETTINGS, *[0] * 8, words, *[0] * 4) + bytes(12 * words))
    return list(_LINK.unpack_from(answer)), answer[_LINK.size :]


def _feature_names(interface: Interface) -> tuple[str, ...]:
    """The names, in the order of their bits; they are the kernel's own, whichever interface is asked."""
    if not _names:
        answer = _call(interface, struct.pack("=IIQI", _GSSET_INFO, 0, 1 << _FEATURE_NAMES, 0))
        (count,) = struct.unpack_from("=I", answer, 16)
        request = struct.pack("=III", _GSTRINGS, _FEATURE_NAMES, count)
        answer = _call(interface, request + bytes(_STRING_BYTES * count))
        raw = (answer[start : start + _STRING_BYTES] for start in range(12, len(answer), _STRING_BYTES))
        _names.extend(name.split(b"\0", 1)[0].decode() for name in raw)
    return tuple(_names)


def _call(interface: Interface, structure: bytes) -> bytes:
    buffer = array.array("B", structure)
    interface.ethtool(buffer.buffer_info()[0])
    return buffer.tobytes()
