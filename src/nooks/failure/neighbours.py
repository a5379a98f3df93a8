"""Whom a network interface knows: the kernel's neighbours and the interface's own addresses, by rtnetlink.

Two dumps with the standard library (rtnetlink(7)): a probe is made by the same event loop that judges heartbeats, and
a netlink library's set-up costs more than the question.
"""

import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_RTM_GETADDR, _RTM_GETNEIGH = 22, 30
_REQUEST_DUMP = 0x301
_ERROR, _DONE = 2, 3
_NDA_DST, _NDA_LLADDR, _NDA_CACHEINFO = 1, 2, 3
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_NUD_USABLE = 0x02 | 0x04 | 0x08 | 0x10 | 0x80
"""Reachable, stale, delay, probe, permanent: all but incomplete, failed and those that need no resolution."""
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Neighbour:
    """A neighbour with a hardware address; ``confirmed_seconds`` ago the kernel knew that it was there."""

    address: Address
    hardware: bytes
    confirmed_seconds: float


def neighbours(index: int) -> list[Neighbour]:
    """Those that the kernel holds for usable on the interface with that index, latest first. Raises OSError."""
    found: list[Neighbour] = []
    for body in dump(_RTM_GETNEIGH, struct.pack("=BxxxiHBB", socket.AF_UNSPEC, 0, 0, 0, 0)):
        family, where, state = struct.unpack_from("=BxxxiH", body)
        parts = dict(attributes(body[12:]))
        if where != index or not state & _NUD_USABLE or not {_NDA_DST, _NDA_LLADDR} <= set(parts):
            continue
        address = address_of(family, parts[_NDA_DST])
        hardware = parts[_NDA_LLADDR]
        if address is None or len(hardware) != 6 or address.is_multicast:
            continue
        ticks = struct.unpack_from("=I", parts.get(_NDA_CACHEINFO, b"\xff" * 16))[0]
        found.append(Neighbour(address, hardware, ticks / _TICKS_PER_SECOND))
    return sorted(found, key=lambda neighbour: neighbour.confirmed_seconds)


def own_addresses(index: int) -> list[ipaddress.IPv4Interface | ipaddress.IPv6Interface]:
    """The interface's own addresses with their prefixes. Raises OSError."""
    found: list[ipaddress.IPv4Interface | ipaddress.IPv6Interface] = []
    for body in dump(_RTM_GETADDR, struct.pack("=BBBBi", socket.AF_UNSPEC, 0, 0, 0, 0)):
        family, prefix, _, _, where = struct.unpack_from("=BBBBi", body)
        parts = dict(attributes(body[8:]))
        address = address_of(family, parts.get(_IFA_LOCAL, parts.get(_IFA_ADDRESS, b"")))
        if where == index and address is not None:
            found.append(ipaddress.ip_interface((address, prefix)))
    return found


def source_for(target: Address, own: list[ipaddress.IPv4Interface | ipaddress.IPv6Interface]) -> Address | None:
    """The address to ask ``target`` from: one of its network, or link-local.

    For IPv4 without one 0.0.0.0, which ARP allows (RFC 5227 section 2.1.1); None if it can't be asked.
    """
    for interface in own:
        if interface.version == target.version and target in interface.network:
            return interface.ip
    if target.version == 4:
        return ipaddress.IPv4Address(0)
    return next((interface.ip for interface in own if interface.version == 6 and interface.ip.is_link_local), None)


def address_of(family: int, data: bytes) -> Address | None:
    """An address as the kernel gives it; None if it is of another family."""
    if family == socket.AF_INET and len(data) == 4:
        return ipaddress.IPv4Address(data)
    if family == socket.AF_INET6 and len(data) == 16:
        return ipaddress.IPv6Address(data)
    return None


def dump(kind: int, request: bytes, protocol: int = socket.NETLINK_ROUTE) -> Iterator[bytes]:
    """The bodies of a netlink dump's messages. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as netlink:
        netlink.bind((0, 0))
        netlink.settimeout(1.0)
        netlink.send(struct.pack("=IHHII", 16 + len(request), kind, _REQUEST_DUMP, 1, 0) + request)
        while True:
            data = netlink.recv(1 << 17)
            offset = 0
            while offset + 16 <= len(data):
                length, message = struct.unpack_from("=IH", data, offset)
                if message == _DONE:
                    return
                if message == _ERROR:
                    code = -struct.unpack_from("=i", data, offset + 16)[0]
                    raise OSError(code, os.strerror(code))
                yield data[offset + 16 : offset + length]
                offset += (length + 3) & ~3


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes of a netlink message: kind and value."""
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            return
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
