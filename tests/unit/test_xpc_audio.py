"""Packets of samples: whole however they are cut, and nothing else accepted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nooks.xpc import audio
from nooks.xpc.errors import ProtocolError

UINT32 = st.integers(0, 2**32 - 1)
PACKETS = st.lists(
    st.tuples(
        st.sampled_from([audio.PLAY, audio.FLUSH, audio.RECORD, audio.PLAYED, audio.RECORDED]),
        UINT32,
        st.integers(0, 2**64 - 1),
        st.integers(0, 255),
        UINT32,
        UINT32,
        st.binary(max_size=40),
    ),
    max_size=6,
)


@given(PACKETS, st.lists(st.integers(1, 30), max_size=40))
def test_packets_survive_any_cut(packets: list[tuple[int, int, int, int, int, int, bytes]], cuts: list[int]) -> None:
    stream = b"".join(
        audio.header(kind, tag, position, flags=flags, length=len(samples), first=first, second=second) + samples
        for kind, tag, position, flags, first, second, samples in packets
    )
    decoder = audio.Decoder()
    found: list[audio.Packet] = []
    for size in (*cuts, len(stream)):
        found += decoder.feed(stream[:size])
        stream = stream[size:]
    assert [(p.kind, p.tag, p.position, p.flags, p.first, p.second, p.samples) for p in found] == packets


@pytest.mark.parametrize(
    "wrong",
    [
        b"XX" + audio.header(audio.PLAYED, 1)[2:],
        audio.header(99, 1),
        audio.header(audio.RECORDED, 1, length=audio.MAX_SAMPLES_BYTES + 1),
    ],
)
def test_what_is_no_packet_is_refused(wrong: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(audio.Decoder().feed(wrong))


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_waited_for(data: bytes) -> None:
    decoder = audio.Decoder()
    try:
        for packet in decoder.feed(data):
            assert len(packet.samples) <= audio.MAX_SAMPLES_BYTES
    except ProtocolError:
        pass
