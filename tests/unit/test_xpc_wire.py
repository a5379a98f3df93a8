"""The wire format: round trips, any chunking, any garbage."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nooks.xpc import wire
from nooks.xpc.errors import ProtocolError
from nooks.xpc.wire import Decoder, Frame

UINT32 = st.integers(0, 2**32 - 1)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
).filter(lambda value: value not in (float("inf"), float("-inf")))
FRAMES = st.builds(
    Frame,
    st.integers(0, 4),
    UINT32,
    UINT32,
    st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=20) | st.booleans(), max_size=5),
)
LIMIT = wire.MAX_FRAME_BYTES


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


@given(st.lists(FRAMES, max_size=6), st.lists(st.integers(0, 10**6), max_size=20), st.booleans())
def test_frames_survive_any_chunking(frames: list[Frame], cuts: list[int], resync: bool) -> None:
    decoder = Decoder(resync=resync)
    seen = [frame for piece in pieces(b"".join(map(wire.encode, frames)), cuts) for frame in decoder.feed(piece)]
    assert seen == frames
    assert decoder.buffered_bytes == 0


@given(st.lists(st.binary(max_size=200) | FRAMES.map(wire.encode), max_size=6), st.data())
def test_garbage_gives_frames_or_a_protocol_error(chunks: list[bytes], data: st.DataObject) -> None:
    decoder = Decoder()
    mixed = bytearray(b"".join(chunks))
    for place in data.draw(st.lists(st.integers(0, 10**6), max_size=3)):
        if mixed:
            mixed[place % len(mixed)] ^= data.draw(st.integers(0, 255))
    try:
        for piece in pieces(bytes(mixed), data.draw(st.lists(st.integers(0, 10**6), max_size=5))):
            decoder.feed(piece)
            assert decoder.buffered_bytes < LIMIT
    except ProtocolError:
        pass


@given(st.binary(max_size=300), FRAMES)
def test_resync_finds_the_frame_behind_garbage(garbage: bytes, frame: Frame) -> None:
    decoder = Decoder(resync=True)
    seen = decoder.feed(garbage) + decoder.feed(bytes(LIMIT)) + decoder.feed(wire.encode(frame))
    assert seen[-1] == frame
    assert decoder.buffered_bytes == 0


@given(FRAMES, FRAMES, st.integers(1, 10**6))
def test_resync_survives_a_truncated_frame(lost: Frame, frame: Frame, cut: int) -> None:
    encoded = wire.encode(lost)
    decoder = Decoder(resync=True)
    seen = decoder.feed(encoded[: cut % len(encoded)] + bytes(LIMIT) + wire.encode(frame))
    assert seen == [frame]


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"1", b"{", b'{"a":NaN}', b'{"a":Infinity}', b"\xff", b"[" * 60000, b'{"a":' + b"9" * 5000 + b"}"],
)
def test_payload_that_is_no_object(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        Decoder().feed(wire.encode_body(wire.EVENT, 1, 1, body))


def test_payload_too_large_either_way() -> None:
    with pytest.raises(ProtocolError):
        wire.encode(Frame(wire.EVENT, 1, 1, {"a": "x" * wire.MAX_PAYLOAD_BYTES}))
    header = wire.HEADER.pack(wire.MAGIC, wire.VERSION, wire.EVENT, 1, 1, wire.MAX_PAYLOAD_BYTES + 1, 0)
    with pytest.raises(ProtocolError):
        Decoder().feed(header)


def test_payload_that_json_cannot_hold() -> None:
    with pytest.raises(ProtocolError):
        wire.encode(Frame(wire.EVENT, 1, 1, {"a": float("nan")}))
    with pytest.raises(ProtocolError):
        wire.encode(Frame(wire.EVENT, 1, 1, {"a": object()}))


def test_hunting_is_bounded() -> None:
    decoder = Decoder(resync=True, max_skipped_bytes=1000)
    with pytest.raises(ProtocolError):
        decoder.feed(random.Random(1).randbytes(3000))


def test_strict_after_the_first_frame() -> None:
    decoder = Decoder(resync=True)
    frame = Frame(wire.EVENT, 1, 1, {})
    assert decoder.feed(b"garbage" + wire.encode(frame)) == [frame]
    decoder.strict()
    with pytest.raises(ProtocolError):
        decoder.feed(b"garbage")
