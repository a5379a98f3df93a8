"""The ethtool ioctl, the part that the agent needs. Source: include/uapi/linux/ethtool.h.

All its structures are of 32-bit numbers, alike on 32 and 64 bits; only ``struct ifreq`` around them differs.
"""

import fcntl
from _socket import AF_INET, SOCK_CLOEXEC, SOCK_DGRAM, socket
from array import array
from struct import Struct

_SIOCETHTOOL = 0x8946
_IFREQ = Struct("@16sP16x")  # no smaller than the kernel's on either word size
_GCOALESCE, _SCOALESCE, _GRINGPARAM, _SRINGPARAM, _GPAUSEPARAM, _SPAUSEPARAM = 0x0E, 0x0F, 0x10, 0x11, 0x12, 0x13
_GSTRINGS, _GSSET_INFO, _GFEATURES, _SFEATURES = 0x1B, 0x37, 0x3A, 0x3B
_GLINKSETTINGS, _SLINKSETTINGS = 0x4C, 0x4D
_SS_FEATURES = 4
_STRING_BYTES = 32
_BLOCK_BITS = 32
_COALESCE_WORDS, _RING_WORDS, _PAUSE_WORDS = 23, 9, 4
_EOPNOTSUPP = 95
SPEED_UNKNOWN = -1

# struct ethtool_link_settings, by bytes; three masks follow it: supported, advertising, of the link partner
_LINK_BYTES, _SPEED_AT, _DUPLEX_AT, _AUTONEG_AT, _MASK_WORDS_AT = 48, 4, 8, 11, 15
_SPEED = Struct("=i")
_DUPLEXES = {0: "half", 1: "full"}


class Feature:
    """One offload: whether the driver lets it be changed, and whether it is on."""

    __slots__ = ("active", "changeable")

    def __init__(self, changeable: bool, active: bool) -> None:
        self.changeable = changeable
        self.active = active


class LinkSettings:
    """What the driver says of the link. ``speed`` in Mbit/s, or -1."""

    __slots__ = ("autoneg", "duplex", "speed")

    def __init__(self, autoneg: bool, speed: int, duplex: str) -> None:
        self.autoneg = autoneg
        self.speed = speed
        self.duplex = duplex


class Ethtool:
    """One interface's ethtool. Every method raises OSError: EOPNOTSUPP where its driver has no such thing."""

    def __init__(self, interface: str) -> None:
        self._socket = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)
        self._interface = interface.encode()
        self._feature_names: list[str] = []
        self._mask_words = 0

    def fileno(self) -> int:
        """A socket that interface ioctls may be made on."""
        return self._socket.fileno()

    def _call(self, buffer: "array[int]") -> None:
        """Hand ``buffer`` to the driver, which may change it."""
        request = _IFREQ.pack(self._interface, buffer.buffer_info()[0])
        fcntl.ioctl(self._socket.fileno(), _SIOCETHTOOL, request)

    def _get(self, command: int, words: int) -> "array[int]":
        buffer = array("I", bytes(4 * words))
        buffer[0] = command
        self._call(buffer)
        return buffer

    def _change(self, get: int, put: int, words: int, changes: "dict[int, int]") -> None:
        buffer = self._get(get, words)
        buffer[0] = put
        for place, value in changes.items():
            buffer[place] = value
        self._call(buffer)

    def rings(self) -> "tuple[int, int]":
        """Descriptors in the receive and transmit rings."""
        ring = self._get(_GRINGPARAM, _RING_WORDS)
        return ring[5], ring[8]

    def set_rings(self, receive: "int | None", transmit: "int | None") -> None:
        """Change them; None leaves one as it is."""
        self._change(_GRINGPARAM, _SRINGPARAM, _RING_WORDS, _given({5: receive, 8: transmit}))

    def coalesce(self) -> "tuple[int, int]":
        """Interrupt delays for receive and transmit, in microseconds (or the driver's special values)."""
        coalesce = self._get(_GCOALESCE, _COALESCE_WORDS)
        return coalesce[1], coalesce[5]

    def set_coalesce(self, receive: "int | None", transmit: "int | None") -> None:
        """Change them; None leaves one as it is."""
        self._change(_GCOALESCE, _SCOALESCE, _COALESCE_WORDS, _given({1: receive, 5: transmit}))

    def pause(self) -> "tuple[bool, bool, bool]":
        """Flow control: negotiated, for receive, for transmit."""
        pause = self._get(_GPAUSEPARAM, _PAUSE_WORDS)
        return bool(pause[1]), bool(pause[2]), bool(pause[3])

    def set_pause(self, autoneg: "bool | None", receive: "bool | None", transmit: "bool | None") -> None:
        """Change it; None leaves one as it is."""
        self._change(_GPAUSEPARAM, _SPAUSEPARAM, _PAUSE_WORDS, _given({1: autoneg, 2: receive, 3: transmit}))

    def _link(self) -> "array[int]":
        """struct ethtool_link_settings with its masks, as bytes."""
        while True:
            buffer = array("B", bytes(_LINK_BYTES + 12 * self._mask_words))
            buffer[0] = _GLINKSETTINGS
            buffer[_MASK_WORDS_AT] = self._mask_words
            self._call(buffer)
            words = buffer[_MASK_WORDS_AT]
            if words < 128:
                return buffer
            self._mask_words = 256 - words  # the kernel answers minus the number that it wants

    def link(self) -> LinkSettings:
        """Negotiation, speed and duplex as the driver sees them now."""
        raw = self._link()
        speed = _SPEED.unpack_from(raw, _SPEED_AT)[0]
        duplex = _DUPLEXES.get(raw[_DUPLEX_AT], "unknown")
        return LinkSettings(raw[_AUTONEG_AT] == 1, speed if speed > 0 else SPEED_UNKNOWN, duplex)

    def set_link(self, autoneg: bool, speed: "int | None", duplex: "str | None") -> None:
        """Negotiate everything that the card supports, or force ``speed`` and ``duplex`` (None: as they are)."""
        raw = self._link()
        raw[0] = _SLINKSETTINGS
        raw[_AUTONEG_AT] = autoneg
        if autoneg:
            size = 4 * self._mask_words
            raw[_LINK_BYTES + size : _LINK_BYTES + 2 * size] = raw[_LINK_BYTES : _LINK_BYTES + size]
        else:
            if speed is not None:
                _SPEED.pack_into(raw, _SPEED_AT, speed)
            if duplex is not None:
                raw[_DUPLEX_AT] = 0 if duplex == "half" else 1
        self._call(raw)

    def _names(self) -> "list[str]":
        if not self._feature_names:
            info = array("I", [_GSSET_INFO, 0, 1 << _SS_FEATURES, 0, 0])
            self._call(info)
            count = info[4]
            strings = array("B", bytes(12 + _STRING_BYTES * count))
            strings[:12] = array("B", array("I", [_GSTRINGS, _SS_FEATURES, count]).tobytes())
            self._call(strings)
            raw = strings.tobytes()
            starts = range(12, len(raw), _STRING_BYTES)
            self._feature_names = [raw[at : at + _STRING_BYTES].split(b"\0")[0].decode() for at in starts]
        return self._feature_names

    def features(self) -> "dict[str, Feature]":
        """Every offload that this kernel knows, by ethtool's name."""
        names = self._names()
        blocks = (len(names) + _BLOCK_BITS - 1) // _BLOCK_BITS
        buffer = array("I", [_GFEATURES, blocks, *[0] * (4 * blocks)])
        self._call(buffer)
        # each block: available, requested, active, never_changed
        available, active, never = (_join(buffer[2 + part :: 4]) for part in (0, 2, 3))
        changeable = available & ~never
        found: dict[str, Feature] = {}
        for bit, name in enumerate(names):
            mask = 1 << bit
            if changeable & mask or active & mask:
                found[name] = Feature(bool(changeable & mask), bool(active & mask))
        return found

    def set_features(self, wanted: "dict[str, bool]") -> None:
        """Turn offloads on and off by name; the driver may decline silently. EOPNOTSUPP for an unknown name."""
        names = self._names()
        blocks = (len(names) + _BLOCK_BITS - 1) // _BLOCK_BITS
        buffer = array("I", [_SFEATURES, blocks, *[0] * (2 * blocks)])
        for name, on in wanted.items():
            if name not in names:
                raise OSError(_EOPNOTSUPP, "no such feature")
            block, bit = divmod(names.index(name), _BLOCK_BITS)
            buffer[2 + 2 * block] |= 1 << bit
            buffer[3 + 2 * block] |= on << bit
        self._call(buffer)


def _given(values: "dict[int, int | None]") -> "dict[int, int]":
    return {place: int(value) for place, value in values.items() if value is not None}


def _join(words: "array[int]") -> int:
    """32-bit blocks, lowest first, as one number."""
    return int.from_bytes(words.tobytes(), "little")
