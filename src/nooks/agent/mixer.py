"""A card's mixer: its control elements by name, as settings.

An element's key is ``mixer.`` and its name in lower case, words joined by dashes; a second one of the same name gets
its index. Volumes and switches are lists of integers, one for each channel; choices are words.
"""

import fcntl
import os
from struct import Struct

from nooks.agent import alsa

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PREFIX = "mixer."
_AUDIBLE = ("master", "pcm", "front", "speaker", "headphone", "line-out", "wave", "synth", "dac", "digital")
_OTHER_WAYS = ("capture", "mic", "boost", "loopback", "bypass", "line-in", "cd", "aux", "video", "phone")
_TLV_DB_SCALE = 1  # include/uapi/sound/tlv.h
_DB_STEP_MASK = 0xFFFF
_LONGS = {count: Struct(f"@{count}l") for count in range(1, 17)}
_WORDS = {count: Struct(f"@{count}I") for count in range(1, 17)}
_TLV_WORDS = Struct("@6I")


class Element:
    """One control element."""

    __slots__ = ("count", "high", "identity", "items", "key", "kind", "low", "numid", "readable_decibels", "writable")

    def __init__(self, descriptor: int, identity: bytes, key: str) -> None:
        """Raises OSError."""
        self.key = key
        self.identity = identity
        self.numid = alsa.ELEMENT_ID.unpack(identity)[0]
        _, kind, access, count, _, description = alsa.ELEMENT_INFO.unpack(alsa.element_info(descriptor, identity))
        self.kind = kind
        self.count = min(count, max(_LONGS))
        readable = access & alsa.ACCESS_READ and not access & alsa.ACCESS_INACTIVE
        self.writable = bool(readable and access & alsa.ACCESS_WRITE)
        self.readable_decibels = bool(access & alsa.ACCESS_TLV_READ)
        self.items: list[str] = []
        self.low, self.high = 0, 1
        if kind == alsa.INTEGER_VALUE:
            self.low, self.high, _ = alsa.INFO_RANGE.unpack_from(description)
        elif kind == alsa.ENUMERATED:
            self.items = [
                self._item(descriptor, number) for number in range(alsa.INFO_ITEM.unpack_from(description)[0])
            ]
            self.high = len(self.items) - 1

    @property
    def usable(self) -> bool:
        """Whether it can be a setting."""
        return self.writable and self.kind in (alsa.BOOLEAN, alsa.INTEGER_VALUE, alsa.ENUMERATED) and self.count > 0

    def read(self, descriptor: int) -> "list[int] | str | list[str]":
        """The present value. Raises OSError."""
        _, _, content = alsa.ELEMENT_VALUE.unpack(alsa.element_read(descriptor, self.identity))
        if self.kind != alsa.ENUMERATED:
            return list(_LONGS[self.count].unpack_from(content))
        words = [self.items[min(number, self.high)] for number in _WORDS[self.count].unpack_from(content)]
        return words[0] if self.count == 1 else words

    def write(self, descriptor: int, value: object) -> None:
        """Raises ValueError in words for the user, OSError."""
        values = value if isinstance(value, list) else [value]
        if len(values) == 1:
            values = values * self.count
        if len(values) != self.count:
            raise ValueError(f"it has {self.count} values, not {len(values)}")
        layout = _WORDS if self.kind == alsa.ENUMERATED else _LONGS
        content = layout[self.count].pack(*[self._number(each) for each in values])
        alsa.element_write(descriptor, alsa.ELEMENT_VALUE.pack(self.identity, 0, content))

    def describe(self) -> "dict[str, Any]":
        """As the host is told."""
        return {"count": self.count, "low": self.low, "high": self.high, "items": self.items}

    def _number(self, value: object) -> int:
        if self.kind == alsa.ENUMERATED:
            if not isinstance(value, str) or value not in self.items:
                raise ValueError(f"it is one of {', '.join(self.items)}")
            return self.items.index(value)
        if not isinstance(value, int) or not self.low <= value <= self.high:
            raise ValueError(f"it is {self.low} to {self.high}")
        return value

    def _item(self, descriptor: int, number: int) -> str:
        asked = alsa.ELEMENT_INFO.pack(self.identity, 0, 0, 0, 0, alsa.INFO_ITEM.pack(0, number, b""))
        description = alsa.ELEMENT_INFO.unpack(alsa.element_info(descriptor, asked))[5]
        return name_of(alsa.INFO_ITEM.unpack_from(description)[2])


class Mixer:
    """All elements of one card that can be settings."""

    def __init__(self, path: str) -> None:
        """Raises OSError if the control node ``path`` can't be opened."""
        self.descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        elements = (Element(self.descriptor, identity, key) for identity, key in _identities(self.descriptor))
        self.elements = {element.key: element for element in elements if element.usable}

    def __enter__(self) -> "Mixer":
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.descriptor)

    def card(self) -> str:
        """The card's name."""
        return name_of(alsa.CARD_INFO.unpack(alsa.card_info(self.descriptor))[4])

    def read(self, keys: "list[str] | None" = None) -> "dict[str, Any]":
        """The present values, of all elements or those of ``keys`` that there are; what can't be read is left out."""
        values: dict[str, Any] = {}
        for key in self.elements if keys is None else keys:
            if key in self.elements:
                try:
                    values[key] = self.elements[key].read(self.descriptor)
                except OSError:
                    continue
        return values

    def apply(self, wanted: "dict[str, Any]") -> "dict[str, str]":
        """Write values by key; for each that was not taken, why."""
        refused: dict[str, str] = {}
        for key, value in wanted.items():
            element = self.elements.get(key)
            if element is None:
                refused[key] = "the card has no such element"
                continue
            try:
                element.write(self.descriptor, value)
            except ValueError as error:
                refused[key] = str(error)
            except OSError as error:
                refused[key] = error.strerror or str(error)
        return refused

    def make_audible(self) -> None:
        """Unmute what leads to the loudspeakers and from the recording input, without amplification.

        Cards begin silent (Documentation/sound/alsa-configuration.rst); what ``alsactl init`` does, by names alone.
        """
        for key, element in self.elements.items():
            name = key.removeprefix(_PREFIX)
            if element.kind == alsa.ENUMERATED or not _leads_anywhere(name):
                continue
            full = element.high if element.kind == alsa.BOOLEAN else self._unity(element)
            try:
                element.write(self.descriptor, full)
            except (OSError, ValueError):
                continue

    def _unity(self, element: Element) -> int:
        """The value at which nothing is amplified, or the greatest if that is not known."""
        if not element.readable_decibels:
            return element.high
        try:
            scale = _decibels(self.descriptor, element.numid)
        except OSError:
            return element.high
        if scale is None:
            return element.high
        lowest, step = scale
        return min(element.high, element.low + max(0, -lowest) // step) if step else element.high


def _leads_anywhere(name: str) -> bool:
    if name.startswith("capture-") or name.endswith(("-capture-switch", "-capture-volume")):
        return not name.startswith(("loopback", "mic-boost"))
    return name.startswith(_AUDIBLE) and not any(word in name for word in _OTHER_WAYS)


def _decibels(descriptor: int, numid: int) -> "tuple[int, int] | None":
    """The gain at an element's least value and of a step, in hundredths of a decibel; None if it is not linear."""
    buffer = bytearray(alsa.TLV.size)
    buffer[: alsa.TLV.size] = alsa.TLV.pack(numid, alsa.TLV.size - 8, b"")
    fcntl.ioctl(descriptor, alsa.TLV_READ_NUMBER, buffer, True)
    kind, _, lowest, step, _, _ = _TLV_WORDS.unpack_from(buffer, 8)
    if kind != _TLV_DB_SCALE:
        return None
    return lowest - (lowest >> 31 << 32), step & _DB_STEP_MASK


def _identities(descriptor: int) -> "list[tuple[bytes, str]]":
    """The mixer elements' ids with their keys, in the card's order."""
    found: list[tuple[bytes, str]] = []
    for identity in alsa.element_ids(descriptor):
        _, iface, device, subdevice, name, index = alsa.ELEMENT_ID.unpack(identity)
        if iface == alsa.IFACE_MIXER and not device and not subdevice:
            found.append((identity, _key(name_of(name), index)))
    return found


def _key(name: str, index: int) -> str:
    letters = "".join(letter if letter.isascii() and letter.isalnum() else " " for letter in name.lower())
    words = [*letters.split(), *([str(index)] if index else [])]
    return (_PREFIX + "-".join(words))[:64]


def name_of(content: bytes) -> str:
    """A name as the kernel gives it, in letters that can be shown."""
    text = content.partition(b"\0")[0].decode("ascii", "replace")
    return "".join(letter if letter.isprintable() else "?" for letter in text)
