"""The rings of a buffer region, and the bell: what the host believes of them, and what it doesn't."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from socket import socket

import pytest
from block_fakes import put_reply

from nooks.nook.block_link import Link
from nooks.nook.block_rings import Rings
from nooks.xpc.block import (
    AWAKE,
    KICK,
    READ,
    REPLIED,
    REQUEST,
    REQUEST_MAGIC,
    REQUEST_MARK,
    REQUESTED,
    REQUESTS_AT,
    RING,
    TAKEN,
)
from nooks.xpc.errors import ProtocolError


@dataclass
class Domain:
    """The domain's side, by hand."""

    link: Link
    port: socket
    bell: socket
    replied: int = 0

    def word(self, at: int) -> int:
        return int.from_bytes(self.link.region[at : at + 4], "little")

    def store(self, at: int, value: int) -> None:
        self.link.region[at : at + 4] = value.to_bytes(4, "little")

    def reply(self, tag: int, *, ring: bool = True) -> None:
        put_reply(self.link.region, self.replied, tag, 4096)
        self.replied += 1
        if ring:
            self.bell.send(b"!")

    def asked(self, index: int) -> int:
        """The tag of a request in the ring."""
        return REQUEST.unpack_from(self.link.region, REQUESTS_AT + index % RING * REQUEST.size)[3]

    def at_port(self) -> list[int]:
        """The operations of what came by the port."""
        try:
            return [fields[1] for fields in REQUEST.iter_unpack(self.port.recv(1 << 16))]
        except BlockingIOError:
            return []


@pytest.fixture
def domain() -> Iterator[Domain]:
    link, port, bell = Link.create()
    port.setblocking(False)
    with port, bell:
        yield Domain(link, port, bell)
    link.close()


def request(tag: int) -> bytes:
    return REQUEST.pack(REQUEST_MAGIC, READ, 0, tag, 0, 4096, 0, 0, REQUEST_MARK)


def ask(link: Link, *tags: int) -> None:
    for tag in tags:
        link.put(request(tag))
    assert link.flush()


def test_a_mover_that_is_awake_gets_requests_in_the_ring(domain: Domain) -> None:
    domain.store(AWAKE, 1)
    ask(domain.link, 1, 2)
    assert domain.at_port() == []
    assert (domain.word(REQUESTED), domain.asked(0), domain.asked(1)) == (2, 1, 2)
    domain.reply(1)
    domain.reply(2, ring=False)
    assert domain.link.rung() == [(1, 4096), (2, 4096)]
    assert domain.word(TAKEN) == 2
    assert domain.link.rung() == ()


def test_one_that_sleeps_gets_them_at_the_port(domain: Domain) -> None:
    ask(domain.link, 1, 2)
    assert domain.at_port() == [READ, READ]
    assert domain.word(REQUESTED) == 0


def test_one_that_falls_asleep_just_then_is_woken(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    domain.store(AWAKE, 1)

    def fall_asleep(rings: Rings) -> None:
        del rings
        domain.store(AWAKE, 0)

    monkeypatch.setattr(Rings, "_order", fall_asleep)
    ask(domain.link, 1)
    assert domain.word(REQUESTED) == 1
    assert domain.at_port() == [KICK]


def test_more_frames_than_a_ring_has_room_for(domain: Domain) -> None:
    domain.store(AWAKE, 1)
    for tag in range(3 * RING // 2):
        ask(domain.link, tag)
        assert domain.asked(tag) == tag
        domain.reply(tag)
        assert domain.link.rung() == [(tag, 4096)]
    ask(domain.link, *range(RING))
    assert not domain.link.room
    domain.reply(0)
    assert domain.link.rung() == [(0, 4096)]
    assert domain.link.room


@pytest.mark.parametrize("said", [2, RING, 2**31, 2**32 - 1])
def test_more_replies_than_requests_are_not_believed(domain: Domain, said: int) -> None:
    domain.store(AWAKE, 1)
    ask(domain.link, 1)
    domain.store(REPLIED, said)
    domain.bell.send(b"!")
    with pytest.raises(ProtocolError, match="replies to 1 requests"):
        domain.link.rung()


def test_a_reply_in_the_ring_is_looked_at_like_one_at_the_port(domain: Domain) -> None:
    ask(domain.link, 1)
    domain.store(REPLIED, 1)
    domain.bell.send(b"!")
    with pytest.raises(ProtocolError, match="no reply"):
        domain.link.rung()


def test_a_bell_that_rings_for_nothing_is_a_violation(domain: Domain) -> None:
    ask(domain.link, 1)
    domain.reply(1, ring=False)
    domain.bell.send(b"!!")
    with pytest.raises(ProtocolError, match="bell"):
        domain.link.rung()


def test_a_bell_may_be_heard_late(domain: Domain) -> None:
    """What came while the ring was being emptied was taken at once; its bell is heard afterwards."""
    ask(domain.link, 1, 2)
    domain.reply(1)
    domain.reply(2, ring=False)
    assert domain.link.rung() == [(1, 4096), (2, 4096)]
    domain.bell.send(b"!")
    assert domain.link.rung() == []


def test_a_bell_that_is_gone_is_the_end(domain: Domain) -> None:
    domain.bell.close()
    assert domain.link.rung() is None


def test_closing_leaves_no_descriptor() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    link, port, bell = Link.create()
    with port, bell:
        pass
    link.close()
    link.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
