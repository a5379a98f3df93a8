"""What hangs on a host's interface and would not survive if another one took its place. Everything is only read.

Seen is one namespace: a macvlan interface that was moved into a container is not noticed. Device-level use (other
functions of the card, virtual functions, mounts) is not looked at.
"""

import contextlib
from pathlib import Path
from typing import Any

from nooks.endpoint.iproute import all_routes, attributes, dump, link_named, with_iproute
from nooks.host.proc import all_pids, name_of, open_sockets

_RTA_NH_ID = "30"
_BY_KERNEL = 2
_PAIRED = ("veth", "netkit")
"""Their IFLA_LINK is the other end, not what is below."""
_CLSACT = ("clsact", "ingress")


def problems(interface: str, *, namespace: int | None = None) -> tuple[str, ...]:
    """What is in the way of replacing an interface, each a line for people; none is good.

    ``namespace``: a descriptor, None for where we are. Raises InputError if there is no such interface.
    """
    return with_iproute(lambda route: problems_of(route, link_named(route, interface)), namespace)


def problems_of(route: Any, link: Any) -> tuple[str, ...]:  # noqa: ANN401 - pyroute2's classes
    """As ``problems``, for whoever holds an open IPRoute and the interface's link message."""
    found, index = attributes(link), int(link["index"])
    name = str(found["IFLA_IFNAME"])
    return (
        *_stacked(route, index, name, found),
        *_routes(route, index, name),
        *_traffic_control(route, index, name),
        *_express_path(name, found),
        *_wireless(name),
        *_packet_sockets(index, name),
    )


def _stacked(route: Any, index: int, name: str, found: dict[str, Any]) -> list[str]:  # noqa: ANN401
    told: list[str] = []
    for other in dump(route.link):
        about = attributes(other)
        if other["index"] == found.get("IFLA_MASTER"):
            told.append(f"{name} is a port of {about['IFLA_IFNAME']} ({_kind(about) or 'unknown'})")
        elif index in _below(about):
            told.append(f"{about['IFLA_IFNAME']} ({_kind(about) or 'unknown'}) is on top of {name}")
    return told


def _kind(about: dict[str, Any]) -> str:
    return str(dict(about.get("IFLA_LINKINFO", {}).get("attrs", ())).get("IFLA_INFO_KIND", ""))


def _below(about: dict[str, Any]) -> set[int]:
    """The indices of the interfaces that one needs: VLANs and their like by IFLA_LINK, tunnels in their own data."""
    if "IFLA_LINK_NETNSID" in about or _kind(about) in _PAIRED:
        return set()
    data = dict(about.get("IFLA_LINKINFO", {}).get("attrs", ())).get("IFLA_INFO_DATA")
    details = dict(data["attrs"]) if isinstance(data, dict) and "attrs" in data else {}
    return {about.get("IFLA_LINK", 0), *(value for key, value in details.items() if str(key).endswith("_LINK"))}


def _routes(route: Any, index: int, name: str) -> list[str]:  # noqa: ANN401
    own = {
        str(about.get("IFA_LOCAL") or about["IFA_ADDRESS"])
        for message in dump(route.addr)
        if message["index"] == index
        for about in [attributes(message)]
    }
    told: list[str] = []
    for message in all_routes(route):
        about = attributes(message)
        by, source = about.get("RTA_OIF"), about.get("RTA_PREFSRC")
        to = f"{about['RTA_DST']}/{message['dst_len']}" if "RTA_DST" in about else "default"
        what = f"the route {to} in table {about.get('RTA_TABLE', message['table'])}"
        if any(hop["oif"] == index for hop in about.get("RTA_MULTIPATH", ())):
            told.append(f"{what} has several next hops, one of them by {name}")
        elif by == index and _RTA_NH_ID in about:
            told.append(f"{what} uses a next-hop object, and would become a plain one")
        elif by == index and "RTA_ENCAP" in about:
            told.append(f"{what} encapsulates, and would be lost")
        elif by not in (None, index) and source in own and message["proto"] != _BY_KERNEL:
            told.append(f"{what}, by another interface, has {name}'s address {source} as its source")
    return told


def _traffic_control(route: Any, index: int, name: str) -> list[str]:  # noqa: ANN401
    """The kernel's own queueing disciplines have no handle (qdisc_create_dflt); a user's always have."""
    told: list[str] = []
    for qdisc in dump(route.tc):
        if qdisc["index"] != index or not qdisc["handle"]:
            continue
        kind = str(attributes(qdisc)["TCA_KIND"])
        told.append(
            f"{name} has tc filters ({kind})" if kind in _CLSACT else f"{name} has the queueing discipline {kind}"
        )
    return told


def _express_path(name: str, found: dict[str, Any]) -> list[str]:
    attached = [key for key in dict(found.get("IFLA_XDP", {}).get("attrs", ())) if str(key).endswith("PROG_ID")]
    return [f"{name} has an XDP program"] if attached else []


def _wireless(name: str) -> list[str]:
    return [f"{name} is a wireless interface"] if Path("/sys/class/net", name, "phy80211").exists() else []


def _packet_sockets(index: int, name: str) -> list[str]:
    """Raw sockets that are bound to the interface: DHCP clients, wpa_supplicant, captures. They end with it.

    Columns of /proc/net/packet: sk, RefCnt, Type, Proto, Iface, R, Rmem, User, Inode (net/packet/af_packet.c).
    """
    with contextlib.suppress(OSError):
        rows = [line.split() for line in Path("/proc/thread-self/net/packet").read_text().splitlines()[1:]]
        inodes = {row[8] for row in rows if len(row) > 8 and row[4] == str(index)}
        if inodes:
            users = ", ".join(sorted(_owners(inodes))) or "an unknown process"
            return [f"{name} has packet sockets: {users}"]
    return []


def _owners(inodes: set[str]) -> set[str]:
    return {f"{name_of(pid)} ({pid})" for pid in all_pids() if inodes & open_sockets(pid)}
