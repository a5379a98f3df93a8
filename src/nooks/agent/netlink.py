"""rtnetlink, the little of it that the agent needs: links, VLANs, and redirection between two interfaces.

Source: include/uapi/linux/{netlink,rtnetlink,if_link,pkt_sched,pkt_cls}.h and tc_act/tc_mirred.h. All numbers
are in the machine's own byte order; every structure has the same layout on 32 and 64 bits.
"""

import os
from _socket import AF_NETLINK, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_RAW, socket
from struct import Struct

IFF_UP, IFF_PROMISC, IFF_ALLMULTI, IFF_LOWER_UP = 0x1, 0x100, 0x200, 0x10000
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK = 1, 3, 4, 5
IFLA_TXQLEN, IFLA_LINKINFO, IFLA_STATS64, IFLA_EXT_MASK = 13, 18, 23, 29
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18

_NETLINK_ROUTE = 0
_RTMGRP_LINK = 1
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_EXCL, _NLM_F_CREATE = 1, 4, 0x200, 0x400
_NLMSG_ERROR = 2
_RTM_NEWQDISC, _RTM_NEWTFILTER = 36, 44
_RTEXT_FILTER_SKIP_STATS = 8
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_VLAN_ID = 1, 2, 1
_NLA_TYPE_MASK = 0x3FFF
_TCA_KIND, _TCA_OPTIONS, _TCA_MATCHALL_ACT, _TCA_ACT_KIND, _TCA_ACT_OPTIONS, _TCA_MIRRED_PARMS = 1, 2, 2, 1, 2, 2
_TC_H_INGRESS, _INGRESS_HANDLE = 0xFFFFFFF1, 0xFFFF0000
_TC_ACT_STOLEN, _TCA_EGRESS_REDIR = 4, 1
_ETH_P_ALL_BE = 0x0300  # htons(ETH_P_ALL) on a little-endian machine, which x86 is
_PRIORITY = 1

_NLMSGHDR = Struct("=IHHII")
_IFINFOMSG = Struct("=BxHiII")
_TCMSG = Struct("=BxxxiIII")
_NLATTR = Struct("=HH")
_INT = Struct("=i")
_UINT = Struct("=I")
_MIRRED = Struct("=5IiI")

# struct rtnl_link_stats64 begins with these, each 64 bits
STATISTICS = (
    "rx_packets", "tx_packets", "rx_bytes", "tx_bytes", "rx_errors", "tx_errors", "rx_dropped", "tx_dropped",
    "multicast", "collisions", "rx_length_errors", "rx_over_errors", "rx_crc_errors", "rx_frame_errors",
    "rx_fifo_errors", "rx_missed_errors", "tx_aborted_errors", "tx_carrier_errors", "tx_fifo_errors",
    "tx_heartbeat_errors", "tx_window_errors",
)  # fmt: skip
_STATISTICS = Struct(f"={len(STATISTICS)}Q")


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded; nested ones are concatenated attributes as ``value``."""
    return _NLATTR.pack(_NLATTR.size + len(value), kind) + value + bytes(-len(value) % 4)


def text(kind: int, value: str) -> bytes:
    """A zero-terminated string attribute."""
    return attribute(kind, value.encode() + b"\0")


def attributes(data: bytes, start: int) -> "dict[int, bytes]":
    """The attributes in ``data`` from ``start``, by type; of repeated ones the last."""
    found: dict[int, bytes] = {}
    end = len(data)
    while start + _NLATTR.size <= end:
        length, kind = _NLATTR.unpack_from(data, start)
        if length < _NLATTR.size:
            break
        found[kind & _NLA_TYPE_MASK] = data[start + _NLATTR.size : start + length]
        start += (length + 3) & ~3
    return found


def mac_text(address: bytes) -> str:
    """Six bytes as 02:00:..."""
    return address.hex(":")


class Link:
    """What the kernel says of one interface."""

    __slots__ = ("attributes", "flags", "index")

    def __init__(self, message: bytes) -> None:
        _, _, self.index, self.flags, _ = _IFINFOMSG.unpack_from(message, _NLMSGHDR.size)
        self.attributes = attributes(message, _NLMSGHDR.size + _IFINFOMSG.size)

    @property
    def name(self) -> str:
        """The interface's name."""
        return self.attributes[IFLA_IFNAME].rstrip(b"\0").decode()

    @property
    def mac(self) -> str:
        """Its present MAC address."""
        return mac_text(self.attributes[IFLA_ADDRESS])

    @property
    def mtu(self) -> int:
        """Its MTU in bytes."""
        return _UINT.unpack(self.attributes[IFLA_MTU])[0]

    @property
    def carrier(self) -> bool:
        """Whether it is up and its driver reports a carrier."""
        return bool(self.flags & IFF_LOWER_UP)

    def statistics(self) -> "dict[str, int]":
        """Its counters by the names in STATISTICS; empty if they were not asked for."""
        raw = self.attributes.get(IFLA_STATS64)
        if raw is None:
            return {}
        return dict(zip(STATISTICS, _STATISTICS.unpack_from(raw), strict=True))


class Netlink:
    """A request socket. Every method raises OSError with the kernel's error number."""

    def __init__(self) -> None:
        self._socket = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, _NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._sequence = 0

    def request(self, kind: int, flags: int, body: bytes) -> bytes:
        """Send one message; its answer, empty for a mere acknowledgement."""
        self._sequence += 1
        flags |= _NLM_F_REQUEST | (0 if kind == RTM_GETLINK else _NLM_F_ACK)
        header = _NLMSGHDR.pack(_NLMSGHDR.size + len(body), kind, flags, self._sequence, 0)
        self._socket.send(header + body)
        while True:
            answer = self._socket.recv(32768)
            length, kind, _, sequence, _ = _NLMSGHDR.unpack_from(answer)
            if sequence != self._sequence:
                continue
            if kind == _NLMSG_ERROR:
                number = -_INT.unpack_from(answer, _NLMSGHDR.size)[0]
                if number:
                    raise OSError(number, os.strerror(number))
                return b""
            return answer[:length]

    def link(self, index: int, with_statistics: bool = False) -> Link:
        """The present state of interface ``index``."""
        mask = b"" if with_statistics else attribute(IFLA_EXT_MASK, _UINT.pack(_RTEXT_FILTER_SKIP_STATS))
        return Link(self.request(RTM_GETLINK, 0, _IFINFOMSG.pack(0, 0, index, 0, 0) + mask))

    def change(self, index: int, *attributes: bytes, flags: int = 0, mask: int = 0) -> None:
        """Set attributes, and those flags that are in ``mask``."""
        self.request(RTM_NEWLINK, 0, _IFINFOMSG.pack(0, 0, index, flags, mask) + b"".join(attributes))

    def set_mac(self, index: int, mac: str) -> None:
        """Change the MAC address; takes the interface down for that if its driver wants it so."""
        address = attribute(IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))
        try:
            self.change(index, address)
        except OSError:
            if not self.link(index).flags & IFF_UP:
                raise
            self.change(index, mask=IFF_UP)
            try:
                self.change(index, address)
            finally:
                self.change(index, flags=IFF_UP, mask=IFF_UP)

    def add_vlan(self, parent: int, name: str, vlan: int) -> None:
        """Make an 802.1Q interface, which stays down: it is there to let the driver's filter know the id."""
        data = attribute(_IFLA_INFO_DATA, attribute(_IFLA_VLAN_ID, vlan.to_bytes(2, "little")))
        info = attribute(IFLA_LINKINFO, text(_IFLA_INFO_KIND, "vlan") + data)
        body = _IFINFOMSG.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, name)
        link = attribute(IFLA_LINK, _UINT.pack(parent))
        self.request(RTM_NEWLINK, _NLM_F_CREATE | _NLM_F_EXCL, body + link + info)

    def delete_by_name(self, name: str) -> None:
        """Remove a virtual interface."""
        self.request(RTM_DELLINK, 0, _IFINFOMSG.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, name))

    def redirect(self, source: int, target: int) -> None:
        """Send everything that ``source`` receives out of ``target``, inside the kernel (tc-mirred(8)).

        The ingress qdisc rather than clsact: the latter would hook every transmission as well, for nothing.
        """
        create = _NLM_F_CREATE | _NLM_F_EXCL
        qdisc = _TCMSG.pack(0, source, _INGRESS_HANDLE, _TC_H_INGRESS, 0) + text(_TCA_KIND, "ingress")
        self.request(_RTM_NEWQDISC, create, qdisc)
        parameters = _MIRRED.pack(0, 0, _TC_ACT_STOLEN, 0, 0, _TCA_EGRESS_REDIR, target)
        mirred = text(_TCA_ACT_KIND, "mirred")
        mirred += attribute(_TCA_ACT_OPTIONS, attribute(_TCA_MIRRED_PARMS, parameters))
        options = attribute(_TCA_OPTIONS, attribute(_TCA_MATCHALL_ACT, attribute(1, mirred)))
        info = _PRIORITY << 16 | _ETH_P_ALL_BE
        head = _TCMSG.pack(0, source, 0, _INGRESS_HANDLE, info)
        self.request(_RTM_NEWTFILTER, create, head + text(_TCA_KIND, "matchall") + options)


class LinkMonitor:
    """Tells of changes to interfaces."""

    def __init__(self) -> None:
        self._socket = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, _NETLINK_ROUTE)
        self._socket.bind((0, _RTMGRP_LINK))

    def fileno(self) -> int:
        """Readable when there is news."""
        return self._socket.fileno()

    def drain(self) -> None:
        """Forget the news: whoever was woken looks for himself (messages may be lost, the state is not)."""
        while True:
            try:
                self._socket.recv(32768)
            except BlockingIOError:
                return
            except OSError:
                continue  # ENOBUFS: some were lost
