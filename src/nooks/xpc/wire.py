"""The wire format of XPC: frames of a fixed header and a JSON object. Knows nothing of their meaning.

Header, little endian: magic ``NK``, version, kind, sequence, incarnation, payload length, CRC-32 of the
payload. Used on both sides; inside an emulated domain each import costs tens of milliseconds, hence so
few of them, hand-written classes, and a JSON parser that the agent replaces by a cheaper one.
"""

from binascii import crc32
from struct import Struct

from nooks.xpc.errors import ProtocolError

TYPE_CHECKING = False  # importing typing would cost as much as all the rest
if TYPE_CHECKING:
    from collections.abc import Callable

MAGIC = b"NK"
VERSION = 1
REQUEST, REPLY, ERROR, EVENT, HEARTBEAT = range(5)
MAX_PAYLOAD_BYTES = 65536
HEADER = Struct("<2sBBIIII")
MAX_FRAME_BYTES = HEADER.size + MAX_PAYLOAD_BYTES
_READ_HEADER = HEADER.unpack_from


class Frame:
    """One frame: ``kind`` (REQUEST ... HEARTBEAT), ``sequence`` and ``incarnation`` (32 bits), ``payload``."""

    __slots__ = ("incarnation", "kind", "payload", "sequence")

    def __init__(self, kind: int, sequence: int, incarnation: int, payload: dict[str, object]) -> None:
        self.kind = kind
        self.sequence = sequence
        self.incarnation = incarnation
        self.payload = payload

    def __repr__(self) -> str:
        return f"Frame({self.kind}, {self.sequence}, {self.incarnation}, {self.payload!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Frame) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((self.kind, self.sequence, self.incarnation))

    def _key(self) -> tuple[int, int, int, dict[str, object]]:
        return (self.kind, self.sequence, self.incarnation, self.payload)


def encode(frame: Frame) -> bytes:
    """The bytes of ``frame``. Raises ProtocolError if its payload is too large or no JSON."""
    import json  # not at the top: the agent does without

    try:
        body = json.dumps(frame.payload, separators=(",", ":"), allow_nan=False).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"payload is not JSON: {error}") from None
    return encode_body(frame.kind, frame.sequence, frame.incarnation, body)


def encode_body(kind: int, sequence: int, incarnation: int, body: bytes) -> bytes:
    """A frame around ``body``, which must be an encoded JSON object."""
    if len(body) > MAX_PAYLOAD_BYTES:
        raise ProtocolError(f"payload of {len(body)} bytes exceeds {MAX_PAYLOAD_BYTES}")
    return HEADER.pack(MAGIC, VERSION, kind, sequence, incarnation, len(body), crc32(body)) + body


def load(body: bytes) -> object:
    """The JSON value in ``body``; ValueError or RecursionError if it is none or holds what JSON has not (NaN)."""
    import json  # not at the top: the agent does without

    return json.loads(body.decode("utf-8"), parse_constant=_no_constant)


class Decoder:
    """Cuts a byte stream into frames; holds at most one incomplete frame.

    With ``resync`` it skips whatever is no valid frame, for a stream whose beginning may be lost (adoption,
    or the agent's side after the death of a supervisor in the middle of a write). ``max_skipped_bytes``
    bounds that; None for a peer that is trusted. ``parse`` turns a payload into a JSON value.
    """

    def __init__(
        self,
        resync: bool = False,
        max_skipped_bytes: "int | None" = None,
        parse: "Callable[[bytes], object]" = load,
    ) -> None:
        self._parse = parse
        self._buffer = bytearray()
        self._resync = resync
        self._max_skipped_bytes = max_skipped_bytes
        self.skipped_bytes = 0

    @property
    def buffered_bytes(self) -> int:
        """Bytes of the incomplete frame; less than MAX_FRAME_BYTES."""
        return len(self._buffer)

    def strict(self) -> None:
        """From now on anything invalid is an error: the stream is in step."""
        self._resync = False

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that ``data`` completes. Raises ProtocolError when wrong; unusable afterwards."""
        self._buffer += data
        frames: list[Frame] = []
        if self._resync:
            while self._hunt(frames):
                pass
        else:
            while self._take(frames):
                pass
        return frames

    def _take(self, frames: list[Frame]) -> bool:
        """Move one frame from the buffer to ``frames``; False if there is no complete one."""
        buffer = self._buffer
        if not MAGIC.startswith(buffer[:2]):
            raise ProtocolError(f"bad magic {bytes(buffer[:2])!r}")
        if len(buffer) < HEADER.size:
            return False
        _, version, kind, sequence, incarnation, length, checksum = _READ_HEADER(buffer)
        if version != VERSION:
            raise ProtocolError(f"version {version}")
        if kind > HEARTBEAT:
            raise ProtocolError(f"kind {kind}")
        if length > MAX_PAYLOAD_BYTES:
            raise ProtocolError(f"payload of {length} bytes exceeds {MAX_PAYLOAD_BYTES}")
        end = HEADER.size + length
        if len(buffer) < end:
            return False
        body = bytes(buffer[HEADER.size : end])
        if crc32(body) != checksum:
            raise ProtocolError("checksum mismatch")
        payload = self._load(body)
        del buffer[:end]
        frames.append(Frame(kind, sequence, incarnation, payload))
        return True

    def _load(self, body: bytes) -> dict[str, object]:
        try:
            payload = self._parse(body)
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"payload is not JSON: {error}") from None
        if not isinstance(payload, dict):
            raise ProtocolError("payload is not an object")
        return payload

    def _hunt(self, frames: list[Frame]) -> bool:
        try:
            return self._take(frames)
        except ProtocolError:
            start = self._buffer.find(MAGIC, 1)
            if start < 0:
                start = len(self._buffer) - self._buffer.endswith(MAGIC[:1])
                start = max(start, 1)
            del self._buffer[:start]
            self.skipped_bytes += start
            if self._max_skipped_bytes is not None and self.skipped_bytes > self._max_skipped_bytes:
                raise ProtocolError(f"no frame in {self.skipped_bytes} bytes") from None
            return True


def _no_constant(name: str) -> object:
    raise ValueError(name)
