"""The little netlink that a nook needs: adding addresses, and hearing of changes to links.

pyroute2 would do, but loading it takes 0.26 s and 16 MB, of the 0.7 s that a start and the 250 MB that a nook may
cost; the tests use it to check this module. Formats: rtnetlink(7), include/uapi/linux/{rtnetlink,if_link}.h.
"""

import ipaddress
import socket
import struct
from dataclasses import dataclass

from nooks.endpoint import netlink, netns
from nooks.host.errors import InputError

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR = 20
_GROUP_LINK, _GROUP_IPV4_ADDRESS, _GROUP_IPV6_ADDRESS = 0x1, 0x10, 0x100
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_LINK, _IFLA_LINKINFO = 1, 3, 5, 18
_IFLA_PROMISCUITY, _IFLA_LINK_NETNSID, _IFLA_ALLMULTI = 30, 37, 61
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_VLAN_ID = 1, 2, 1
_IFLA_TUN_NUM_QUEUES, _IFLA_TUN_NUM_DISABLED_QUEUES = 8, 9
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_IFF_PROMISC, _IFF_ALLMULTI = 0x100, 0x200
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1


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
    connection = _route_socket(namespace)
    connection.bind((0, _GROUP_LINK | _GROUP_IPV4_ADDRESS | _GROUP_IPV6_ADDRESS))
    connection.setblocking(False)
    return connection


def ethtool_socket(namespace: int | None = None) -> socket.socket | None:
    """A non-blocking socket on which ethtool's notifications arrive; None where the kernel has none."""
    with netns.entered(namespace):
        connection = netlink.generic_socket()
    try:
        connection.bind((0, 0))
        group = netlink.multicast_group(connection, "ethtool", "monitor")
        connection.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
    except OSError:
        connection.close()
        return None
    connection.setblocking(False)
    return connection


def links(namespace: int | None = None) -> list[Link]:
    """All interfaces of a namespace. Raises OSError."""
    with _route_socket(namespace) as connection:
        request = netlink.message(RTM_GETLINK, netlink.REQUEST | netlink.DUMP, _LINK.pack(0, 0, 0, 0, 0))
        return [link for kind, body in netlink.exchange(connection, request) if (link := parse_link(kind, body))]


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
    body += netlink.attribute(_IFA_LOCAL, parsed.packed) + netlink.attribute(_IFA_ADDRESS, parsed.packed)
    if not version_6 and parsed.network.prefixlen < 31:
        body += netlink.attribute(_IFA_BROADCAST, parsed.network.broadcast_address.packed)
    with _route_socket(namespace) as connection:
        request = netlink.message(RTM_NEWADDR, netlink.REQUEST | netlink.ACK | netlink.CREATE | netlink.EXCLUSIVE, body)
        try:
            list(netlink.exchange(connection, request))
        except FileExistsError:
            return


def delete_link(index: int, namespace: int | None = None) -> None:
    """Delete an interface. Raises OSError as the kernel does."""
    with _route_socket(namespace) as connection:
        request = netlink.message(RTM_DELLINK, netlink.REQUEST | netlink.ACK, _LINK.pack(0, 0, index, 0, 0))
        list(netlink.exchange(connection, request))


def parse_link(kind: int, body: bytes) -> Link | None:
    """The interface in a link message; None for messages of other types."""
    if kind not in (RTM_NEWLINK, RTM_DELLINK):
        return None
    family, _, index, flags, _ = _LINK.unpack_from(body)
    if family != socket.AF_UNSPEC:  # a bridge's view of its port: a DELLINK of this family removes nothing
        return None
    found = netlink.attributes(body[_LINK.size :])
    promiscuity = netlink.number(found.get(_IFLA_PROMISCUITY))
    allmulti = netlink.number(found.get(_IFLA_ALLMULTI))
    information = netlink.attributes(found.get(_IFLA_LINKINFO, b""))
    kind_of_link = netlink.text(information.get(_IFLA_INFO_KIND))
    details = netlink.attributes(information.get(_IFLA_INFO_DATA, b""))
    queues = [
        netlink.number(details.get(number)) or 0 for number in (_IFLA_TUN_NUM_QUEUES, _IFLA_TUN_NUM_DISABLED_QUEUES)
    ]
    elsewhere = _IFLA_LINK_NETNSID in found
    return Link(
        index=index,
        name=netlink.text(found.get(_IFLA_IFNAME)),
        promisc=bool(flags & _IFF_PROMISC) if promiscuity is None else promiscuity > 0,
        allmulti=bool(flags & _IFF_ALLMULTI) if allmulti is None else allmulti > 0,
        parent=None if elsewhere else netlink.number(found.get(_IFLA_LINK)),
        vlan=netlink.number(details.get(_IFLA_VLAN_ID)) if kind_of_link == "vlan" else None,
        queues=sum(queues) if kind_of_link == "tun" else 0,
        removed=kind == RTM_DELLINK,
    )


def address_index(kind: int, body: bytes) -> int | None:
    """The index of the interface whose addresses changed; None for messages of other types."""
    if kind not in (RTM_NEWADDR, RTM_NEWADDR + 1) or len(body) < _ADDRESS.size:
        return None
    return int(_ADDRESS.unpack_from(body)[4])


def _route_socket(namespace: int | None) -> socket.socket:
    with netns.entered(namespace):
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
