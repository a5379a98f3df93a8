"""PulseAudio's tagged values: what its native protocol's commands consist of, and what can be wrong with them.

Source: PulseAudio's src/pulsecore/tagstruct.c. Integers are big-endian; every value carries a letter for its type.
"""

import struct
from collections.abc import Iterator

from nooks.host.errors import NooksError

_WORD = struct.Struct(">I")
_LONG = struct.Struct(">Q")
_SAMPLE_SPEC = struct.Struct(">BBI")

Value = int | str | bytes | bool | tuple[int, ...] | dict[str, bytes] | None


class PulseError(NooksError):
    """The sound server refused something; ``code`` is its number for that."""

    def __init__(self, message: str, fix: str = "", *, code: int = 0) -> None:
        super().__init__(message, fix)
        self.code = code


class ServerGone(PulseError):  # noqa: N818 - the name says what happened
    """There is no sound server at an address (any more)."""


class Invalid(PulseError):  # noqa: N818 - the name says what happened
    """The server said something that makes no sense."""


def put(*values: Value) -> bytes:
    """Values in the form in which they travel; integers are 32 bits wide."""
    data = bytearray()
    for value in values:
        if isinstance(value, bool):
            data += b"1" if value else b"0"
        elif isinstance(value, int):
            data += b"L" + _WORD.pack(value)
        elif isinstance(value, str):
            data += b"t" + value.encode() + b"\0"
        elif isinstance(value, bytes):
            data += b"x" + _WORD.pack(len(value)) + value
        elif isinstance(value, dict):
            data += b"P"
            for key, item in value.items():
                data += put(key, len(item), item)
            data += b"N"
        else:
            data += b"N"
    return bytes(data)


class Reader:
    """Takes values out of what a server sent. Raises Invalid for what is none."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def more(self) -> bool:
        """Whether there is another value."""
        return self._at < len(self._data)

    def value(self) -> Value:
        """The next value, whatever it is."""
        try:
            return self._value()
        except (IndexError, ValueError, struct.error):
            raise Invalid("the sound server's answer makes no sense") from None

    def word(self) -> int:
        """The next value, which must be an integer."""
        value = self.value()
        if not isinstance(value, int) or isinstance(value, bool):
            raise Invalid(f"the sound server sent {value!r} instead of a number")
        return value

    def text(self) -> str:
        """The next value, which must be a text; empty for none."""
        value = self.value()
        if value is not None and not isinstance(value, str):
            raise Invalid(f"the sound server sent {value!r} instead of a text")
        return value or ""

    def _value(self) -> Value:
        kind = self._bytes(1)
        match kind:
            case b"L" | b"V":
                return _WORD.unpack(self._bytes(4))[0]
            case b"B":
                return self._bytes(1)[0]
            case b"R" | b"U" | b"r" | b"T":
                return _LONG.unpack(self._bytes(8))[0]
            case b"1" | b"0":
                return kind == b"1"
            case b"N":
                return None
            case b"t":
                end = self._data.index(b"\0", self._at)
                text, self._at = self._data[self._at : end], end + 1
                return text.decode("utf-8", "replace")
            case b"x":
                return self._bytes(_WORD.unpack(self._bytes(4))[0])
            case b"a":
                return _SAMPLE_SPEC.unpack(self._bytes(_SAMPLE_SPEC.size))
            case b"m":
                return tuple(self._bytes(self._bytes(1)[0]))
            case b"v":
                count = self._bytes(1)[0]
                return struct.unpack(f">{count}I", self._bytes(4 * count))
            case b"P":
                return dict(self._properties())
            case b"f":
                self._value()
                return self._value()
            case _:
                raise ValueError(kind)

    def _properties(self) -> Iterator[tuple[str, bytes]]:
        while isinstance(key := self._value(), str):
            self._value()
            item = self._value()
            yield key, item if isinstance(item, bytes) else b""

    def _bytes(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        if len(piece) < count:
            raise ValueError(count)
        self._at += count
        return piece
