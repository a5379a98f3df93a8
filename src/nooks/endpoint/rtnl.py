"""The little netlink that a nook needs: adding addresses, and hearing of changes to links.

pyroute2 would do, but loading it takes 0.26 s and 16 MB, of the 0.7 s that a start and the 250 MB that a nook may
cost; the tests use it to check this module. Formats: rtnetlink(7), include/uapi/linux/{rtnetlink,if_link}.h.
"""

import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from nooks.endpoint import netns
from nooks.host.errors import InputError

NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR = 20
_REQUEST, _ACK, _DUMP, _CREATE, _EXCLUSIVE = 0x1, 0x4, 0x300, 0x400, 0x200
_GROUP_LINK, _GROUP_IPV4_ADDRESS, _GROUP_IPV6_ADDRESS = 0x1, 0x10, 0x100
_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_LINK, _IFLA_LINKINFO = 1, 3, 5, 18
_IFLA_PROMISCUITY, _IFLA_LINK_NETNSID, _IFLA_ALLMULTI = 30, 37, 61
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_VLAN_ID = 1, 2, 1
_IFLA_TUN_NUM_QUEUES, _IFLA_TUN_NUM_DISABLED_QUEUES = 8, 9
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_IFF_PROMISC, _IFF_ALLMULTI = 0x100, 0x200
_TYPE_MASK = 0x3FFF
_RECEIVE_BYTES = 1 << 17
_NETLINK_GENERIC, _SOL_NETLINK, _ADD_MEMBERSHIP = 16, 270, 1
_GENL_CONTROL, _GETFAMILY, _CTRL_FAMILY_NAME, _CTRL_GROUPS = 16, 3, 2, 7


@dataclass(frozen=True)
class Link:
    """What a link message says of one interface, as far as a shadow cares.

    ``promisc``, ``allmulti``: somebody (a user, a packet socket, a bridge) wants all frames, all multicast.
    ``vlan``: its VLAN number if it is a VLAN interface on top of ``parent``. ``queues``: how many queues of a TAP
    processes hold.
    """

    index: int
    name: str
    promisc: bool
    allmulti: bool
    parent: int | None = None
    vlan: int | None = None
    queues: int = 0
    removed: bool = False


def link_socket(namespace: int | None = None) -> socket.socket:
    """A non-blocking socket on which the namespace's link and address changes arrive. Raises OSError."""
    with netns.entered(namespace):
        connection = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    connection.bind((0, _GROUP_LINK | _GROUP_IPV4_ADDRESS | _GROUP_IPV6_ADDRESS))
    connection.setblocking(False)
    return connection


def ethtool_socket(namespace: int | None = None) -> socket.socket | None:
    """A non-blocking socket on which ethtool's notifications arrive; None where the kernel has none."""
    with netns.entered(namespace):
        connection = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_GENERIC)
    try:
        connection.bind((0, 0))
        group = _multicast_group(connection, "ethtool", "monitor")
        connection.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
    except OSError:
        connection.close()
        return None
    connection.setblocking(False)
    return connection


def links(namespace: int | None = None) -> list[Link]:
    """All interfaces of a namespace. Raises OSError."""
    with netns.entered(namespace):
        connection = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    with connection:
        request = _message(RTM_GETLINK, _REQUEST | _DUMP, _LINK.pack(0, 0, 0, 0, 0))
        return [link for kind, body in _exchange(connection, request) if (link := parse_link(kind, body))]


def add_address(index: int, address: str, namespace: int | None = None) -> None:
    """Give an interface an address such as 192.0.2.7/24; one that it has already is fine.

    Raises InputError if it is no address, OSError as the kernel does.
    """
    try:
        parsed = ipaddress.ip_interface(address)
    except ValueError:
        raise InputError(f"{address!r} is no address", "write it like 192.0.2.7/24") from None
    version_6 = parsed.version == 6
    family = socket.AF_INET6 if version_6 else socket.AF_INET
    body = _ADDRESS.pack(family, parsed.network.prefixlen, 0, 0, index)
    body += _attribute(_IFA_LOCAL, parsed.packed) + _attribute(_IFA_ADDRESS, parsed.packed)
    if not version_6 and parsed.network.prefixlen < 31:
        body += _attribute(_IFA_BROADCAST, parsed.network.broadcast_address.packed)
    with netns.entered(namespace):
        connection = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    with connection:
        request = _message(RTM_NEWADDR, _REQUEST | _ACK | _CREATE | _EXCLUSIVE, body)
        try:
            list(_exchange(connection, request))
        except FileExistsError:
            return


def delete_link(index: int, namespace: int | None = None) -> None:
    """Delete an interface. Raises OSError as the kernel does."""
    with netns.entered(namespace):
        connection = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    with connection:
        list(_exchange(connection, _message(RTM_DELLINK, _REQUEST | _ACK, _LINK.pack(0, 0, index, 0, 0))))


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The type and body of each message in one datagram."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield kind, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def parse_link(kind: int, body: bytes) -> Link | None:
    """The interface in a link message; None for messages of other types."""
    if kind not in (RTM_NEWLINK, RTM_DELLINK):
        return None
    family, _, index, flags, _ = _LINK.unpack_from(body)
    if family != socket.AF_UNSPEC:  # a bridge's view of its port: a DELLINK of this family removes nothing
        return None
    found = _attributes(body[_LINK.size :])
    promiscuity = _number(found.get(_IFLA_PROMISCUITY))
    allmulti = _number(found.get(_IFLA_ALLMULTI))
    information = _attributes(found.get(_IFLA_LINKINFO, b""))
    kind_of_link = _text(information.get(_IFLA_INFO_KIND))
    details = _attributes(information.get(_IFLA_INFO_DATA, b""))
    queues = [_number(details.get(number)) or 0 for number in (_IFLA_TUN_NUM_QUEUES, _IFLA_TUN_NUM_DISABLED_QUEUES)]
    elsewhere = _IFLA_LINK_NETNSID in found
    return Link(
        index=index,
        name=_text(found.get(_IFLA_IFNAME)),
        promisc=bool(flags & _IFF_PROMISC) if promiscuity is None else promiscuity > 0,
        allmulti=bool(flags & _IFF_ALLMULTI) if allmulti is None else allmulti > 0,
        parent=None if elsewhere else _number(found.get(_IFLA_LINK)),
        vlan=_number(details.get(_IFLA_VLAN_ID)) if kind_of_link == "vlan" else None,
        queues=sum(queues) if kind_of_link == "tun" else 0,
        removed=kind == RTM_DELLINK,
    )


def address_index(kind: int, body: bytes) -> int | None:
    """The index of the interface whose addresses changed; None for messages of other types."""
    if kind not in (RTM_NEWADDR, RTM_NEWADDR + 1) or len(body) < _ADDRESS.size:
        return None
    return int(_ADDRESS.unpack_from(body)[4])


def _multicast_group(connection: socket.socket, family: str, group: str) -> int:
    body = struct.pack("=BBH", _GETFAMILY, 1, 0) + _attribute(_CTRL_FAMILY_NAME, family.encode() + b"\0")
    for kind, answer in _exchange(connection, _message(_GENL_CONTROL, _REQUEST | _ACK, body)):
        if kind != _GENL_CONTROL:
            continue
        for entry in _attributes(_attributes(answer[4:]).get(_CTRL_GROUPS, b"")).values():
            found = _attributes(entry)
            if _text(found.get(1)) == group:
                return _number(found.get(2)) or 0
    raise OSError(2, f"generic netlink has no group {family}/{group}")


def _exchange(connection: socket.socket, request: bytes) -> Iterator[tuple[int, bytes]]:
    """Send one request; its answers up to the acknowledgement or the end of the dump. Raises OSError."""
    connection.send(request)
    while True:
        for kind, body in messages(connection.recv(_RECEIVE_BYTES)):
            if kind == NLMSG_DONE:
                return
            if kind == NLMSG_ERROR:
                (code,) = struct.unpack_from("=i", body)
                if code:
                    raise OSError(-code, os.strerror(-code))
                return
            yield kind, body


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _TYPE_MASK] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found


def _number(value: bytes | None) -> int | None:
    return None if value is None else int.from_bytes(value, sys.byteorder)


def _text(value: bytes | None) -> str:
    return "" if value is None else value.split(b"\0", 1)[0].decode(errors="replace")
