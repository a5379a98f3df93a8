"""Asks a neighbour to echo frames of several sizes: a driver that moves small frames may lose or spoil large ones.

ICMP echo (RFC 792) through the host's own stack, so that the question goes the way of everybody's packets. Not
everybody echoes: silence counts only where an echo was heard before.
"""

import contextlib
import ipaddress
import os
import socket
import struct
from pathlib import Path

from nooks.host.clock import Clock

TRIES = 3
_REQUEST, _REPLY = 8, 0
_HEADERS_BYTES = 28
"""Of IPv4 and ICMP."""
_SIZES = (200, 700)
"""Of the payload; a full frame is asked for as well."""
_HEADER = struct.Struct("!BBHHH")
_ICMP = socket.IPPROTO_ICMP
_IDENTIFIER = 0x6E6B
_LOOK_SECONDS = 0.01
_PACKETS_PER_TURN = 64
_URGENT = 6
"""Past bulk that waits in the host's queue (tc-prio(8): interactive)."""


class EchoProber:
    """Echoes over one host interface. Needs CAP_NET_RAW."""

    def __init__(self, interface: str, clock: Clock) -> None:
        self._interface = interface
        self._clock = clock
        self._echoed: set[ipaddress.IPv4Address] = set()

    async def echo(self, neighbours: list[ipaddress.IPv4Address], timeout_seconds: float) -> bool | None:
        """Ask those who echoed before, or all ``neighbours`` if none of them did.

        True: one of them echoed every size. False: none of those who did before. None: nobody is known to echo.
        """
        known = [address for address in neighbours if address in self._echoed]
        for address in known or neighbours:
            try:
                if await self._ask(address, timeout_seconds):
                    self._echoed.add(address)
                    return True
            except OSError:
                return None
        return False if known else None

    def forget(self) -> None:
        """Whoever echoed has to prove it again."""
        self._echoed.clear()

    async def _ask(self, address: ipaddress.IPv4Address, timeout_seconds: float) -> bool:
        """Whether every size came back, in one of the tries. Raises OSError if it can't be asked."""
        mtu = int(Path(f"/sys/class/net/{self._interface}/mtu").read_text())
        sizes = [size for size in (*_SIZES, mtu - _HEADERS_BYTES) if size > 0]
        missing = {os.urandom(size) for size in sizes}
        with _open(self._interface) as asking:
            for attempt in range(TRIES):
                for payload in missing:
                    with contextlib.suppress(BlockingIOError):
                        asking.sendto(_request(attempt, payload), (str(address), 0))
                deadline = self._clock.monotonic() + timeout_seconds / TRIES
                while missing and self._clock.monotonic() < deadline:
                    await self._clock.sleep(_LOOK_SECONDS)
                    missing -= _received(asking, str(address))
                if not missing:
                    return True
        return False


def _open(interface: str) -> socket.socket:
    asking = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _ICMP)
    try:
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, _URGENT)
    except OSError:
        asking.close()
        raise
    return asking


def _request(sequence: int, payload: bytes) -> bytes:
    unsummed = _HEADER.pack(_REQUEST, 0, 0, _IDENTIFIER, sequence) + payload
    return _HEADER.pack(_REQUEST, 0, _checksum(unsummed), _IDENTIFIER, sequence) + payload


def _received(asking: socket.socket, address: str) -> set[bytes]:
    """The payloads of all echoes of ``address`` that have come, whatever was sent."""
    found: set[bytes] = set()
    for _ in range(_PACKETS_PER_TURN):
        try:
            packet, sender = asking.recvfrom(1 << 16)
        except BlockingIOError:
            break
        body = packet[(packet[0] & 0x0F) * 4 :] if packet else b""
        if sender[0] == address and len(body) >= _HEADER.size and body[0] == _REPLY:
            found.add(body[_HEADER.size :])
    return found


def _checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
