"""The wire format of a sound card's data port: packets of a fixed header and samples. Both ends use it.

Header, little endian: magic ``NA``, kind, flags, tag, position, length of the samples in bytes, and two numbers that
depend on the kind. A tag tells the lives of a stream apart: what belongs to an earlier one is discarded. Positions
count frames since the tag began. A card that was told to run and runs is RUNNING. A position that nobody would have
told without being ASKED may be wrong by whole periods, for some drivers count their card's interrupts; when the
question alone showed that such a card had nothing more, it has STOPPED, who knows where.

| kind | from | position | numbers | samples |
|---|---|---|---|---|
| PLAY | host | of the first frame | | to be played; GO: the card is to run now |
| FLUSH | host | | | none: stop, forget what was not played, the tag begins |
| ASK | host | | | none: the card's position is to be told, whether it interrupts or not |
| RECORD | host | | | none: the tag begins with GO, without it recording ends |
| PLAYED | agent | frames played | frames in the card, underruns so far | none; RUNNING, ASKED, STOPPED |
| RECORDED | agent | of the first frame | frames recorded since, overruns so far | as recorded |
"""

from struct import Struct

from nooks.xpc.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"NA"
PLAY, FLUSH, ASK, RECORD, PLAYED, RECORDED = 1, 2, 3, 4, 17, 18
GO = RUNNING = 1
ASKED, STOPPED = 2, 4
HEADER = Struct("<2sBBIQIII")
MAX_SAMPLES_BYTES = 65536
_KINDS = (PLAY, FLUSH, ASK, RECORD, PLAYED, RECORDED)
_UNPACK = HEADER.unpack_from


class Packet:
    """One packet; ``first`` and ``second`` are the two numbers."""

    __slots__ = ("first", "flags", "kind", "position", "samples", "second", "tag")

    def __init__(
        self,
        kind: int,
        tag: int,
        position: int = 0,
        flags: int = 0,
        first: int = 0,
        second: int = 0,
        samples: "bytes | memoryview" = b"",
    ) -> None:
        self.kind = kind
        self.tag = tag
        self.position = position
        self.flags = flags
        self.first = first
        self.second = second
        self.samples = samples

    def __repr__(self) -> str:
        numbers = f"{self.tag}, {self.position}, {self.flags}, {self.first}, {self.second}"
        return f"Packet({self.kind}, {numbers}, {len(self.samples)} bytes)"


def header(
    kind: int, tag: int, position: int = 0, *, flags: int = 0, length: int = 0, first: int = 0, second: int = 0
) -> bytes:
    """A packet's header, after which ``length`` bytes of samples follow."""
    return HEADER.pack(MAGIC, kind, flags, tag, position, length, first, second)


class Decoder:
    """Cuts a byte stream into packets; holds at most one incomplete packet."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> "Iterator[Packet]":
        """The packets that ``data`` completes. Raises ProtocolError when wrong; unusable afterwards."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= HEADER.size:
            magic, kind, flags, tag, position, length, first, second = _UNPACK(buffer)
            if magic != MAGIC or kind not in _KINDS:
                raise ProtocolError(f"no packet of samples: {bytes(buffer[:4])!r}")
            if length > MAX_SAMPLES_BYTES:
                raise ProtocolError(f"{length} bytes of samples in a packet")
            end = HEADER.size + length
            if len(buffer) < end:
                return
            samples = bytes(buffer[HEADER.size : end])
            del buffer[:end]
            yield Packet(kind, tag, position, flags, first, second, samples)
