"""How TCP fares with the neighbours of an interface: a driver may spoil just what it leaves to its card.

Segments that the card should cut up or sum are TCP's alone, so no other question shows that they are lost; the host's
own connections do. Read by sock_diag(7), structures of linux/inet_diag.h and linux/tcp.h.
"""

import socket
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from nooks.failure.neighbours import Address, address_of, attributes, dump

STALLED_RETRIES = 4
"""Of one segment: three seconds without an acknowledgement."""
TROUBLE_SEGMENTS = 8
TROUBLE_SHARE = 1 / 3
"""So many segments, and such a share of all, sent again."""
FINE_SEGMENTS = 100
FINE_SHARE = 1 / 10

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_INET_DIAG_INFO = 2
_SENDING_STATES = 1 << 1 | 1 << 4 | 1 << 8 | 1 << 9 | 1 << 11
"""Established, fin-wait-1, close-wait, last-ack, closing (net/tcp_states.h)."""
_RETRANSMISSION = 1
"""The timer that runs."""
_MESSAGE = struct.Struct("=BBBB4x16s16s4x8s20x")
_TOTAL_RETRANSMISSIONS, _SEGMENTS_OUT = 100, 136
"""Offsets in tcp_info."""


@dataclass(frozen=True)
class _Connection:
    cookie: bytes
    own: Address
    peer: Address
    stalled: bool
    sent: int
    again: int


class Connections:
    """Compares the host's connections from look to look."""

    def __init__(self) -> None:
        self._before: dict[bytes, _Connection] = {}

    def look(self, own: Collection[Address], neighbours: Collection[Address]) -> tuple[set[Address], bool]:
        """The neighbours with whom TCP has trouble since the last look, and whether it is known to fare well.

        Raises OSError.
        """
        now = {each.cookie: each for each in _connections() if each.own in own and each.peer in neighbours}
        sent = dict.fromkeys((each.peer for each in now.values()), 0)
        again = dict(sent)
        for cookie, each in now.items():
            before = self._before.get(cookie)
            sent[each.peer] += each.sent - (before.sent if before else 0)
            again[each.peer] += each.again - (before.again if before else 0)
        self._before = now
        stalled = {each.peer for each in now.values() if each.stalled}
        limping = {
            peer for peer in sent if again[peer] >= TROUBLE_SEGMENTS and again[peer] >= sent[peer] * TROUBLE_SHARE
        }
        fine = sum(sent.values()) >= FINE_SEGMENTS and sum(again.values()) <= sum(sent.values()) * FINE_SHARE
        return stalled | limping, fine and not stalled


def _connections() -> Iterator[_Connection]:
    for family in (socket.AF_INET, socket.AF_INET6):
        request = struct.pack("=BBBxI48x", family, socket.IPPROTO_TCP, 1 << (_INET_DIAG_INFO - 1), _SENDING_STATES)
        for body in dump(_SOCK_DIAG_BY_FAMILY, request, _NETLINK_SOCK_DIAG):
            found = _parse(body)
            if found is not None:
                yield found


def _parse(body: bytes) -> _Connection | None:
    family, _, timer, retries, source, target, cookie = _MESSAGE.unpack_from(body)
    length = 4 if family == socket.AF_INET else 16
    own, peer = address_of(family, source[:length]), address_of(family, target[:length])
    information = dict(attributes(body[_MESSAGE.size :])).get(_INET_DIAG_INFO, b"")
    if own is None or peer is None or len(information) < _SEGMENTS_OUT + 4:
        return None
    (again,) = struct.unpack_from("=I", information, _TOTAL_RETRANSMISSIONS)
    (sent,) = struct.unpack_from("=I", information, _SEGMENTS_OUT)
    return _Connection(cookie, own, peer, timer == _RETRANSMISSION and retries >= STALLED_RETRIES, sent, again)
