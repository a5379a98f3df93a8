"""What is configured on a host's interface: its form, and how it is read from the kernel. Nothing is changed here.

Routes that the kernel makes by itself (of addresses, in the local table) are left to it. Settings of the hardware
(ethtool) are the shadow driver's business. Numbers are those of include/uapi/linux/{rtnetlink,if_addr,if_link}.h.
"""

import socket
from pathlib import Path
from typing import Any

import msgspec

from nooks.endpoint.in_use import problems_of
from nooks.endpoint.iproute import all_routes, attributes, dump, link_named, with_iproute

SYSCTLS: dict[str, tuple[str, ...]] = {
    "ipv4": (
        *("forwarding", "rp_filter", "arp_accept", "arp_announce", "arp_filter", "arp_ignore", "arp_notify"),
        *("proxy_arp", "proxy_arp_pvlan", "accept_local", "accept_redirects", "send_redirects", "secure_redirects"),
        *("accept_source_route", "route_localnet", "src_valid_mark", "log_martians", "promote_secondaries"),
        *("ignore_routes_with_linkdown", "drop_gratuitous_arp", "drop_unicast_in_l2_multicast"),
    ),
    "ipv6": (
        *("disable_ipv6", "forwarding", "accept_ra", "accept_ra_defrtr", "accept_ra_pinfo", "accept_ra_rtr_pref"),
        *("accept_ra_rt_info_max_plen", "accept_ra_from_local", "accept_ra_mtu", "autoconf", "addr_gen_mode"),
        *("use_tempaddr", "accept_dad", "dad_transmits", "hop_limit", "keep_addr_on_down", "proxy_ndp"),
        *("accept_redirects", "accept_source_route", "ndisc_notify", "optimistic_dad", "router_solicitations"),
        *("use_oif_addrs_only", "ignore_routes_with_linkdown", "drop_unsolicited_na"),
    ),
}
"""Per-interface settings that administrators and network managers change (Documentation/networking/ip-sysctl.rst)."""

FOR_EVER = 0xFFFFFFFF
ADDRESS_FLAGS = {
    "nodad": 0x02,
    "optimistic": 0x04,
    "home": 0x10,
    "mngtmpaddr": 0x100,
    "noprefixroute": 0x200,
    "autojoin": 0x400,
}
"""Those that a user sets; the others are states (tentative, deprecated ...) that the kernel finds out anew."""
_TEMPORARY, PROMISCUOUS, ALLMULTI = 0x01, 0x100, 0x200
HOP_FLAGS = {"pervasive": 0x2, "onlink": 0x4}
_BY_KERNEL, _CLONED = 2, 0x200
PERMANENT, PROXY, ROUTER = 0x80, 0x08, 0x80
_TICKS = 100
METRIC_PREFIX = "RTAX_"


class Address(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``address`` with its prefix, as 192.0.2.7/24. ``valid_seconds`` and ``preferred_seconds`` are what was left when
    it was recorded, None for ever. ``label`` is what follows the interface's name in it. ``temporary``: of RFC 8981.
    """

    address: str
    peer: str = ""
    broadcast: str = ""
    label: str = ""
    scope: int = 0
    flags: tuple[str, ...] = ()
    metric: int = 0
    protocol: int = 0
    temporary: bool = False
    valid_seconds: int | None = None
    preferred_seconds: int | None = None

    @property
    def dynamic(self) -> bool:
        """Whether it ends by itself if nobody renews it: of DHCP or a router's advertisement."""
        return self.valid_seconds is not None


class Route(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One route by the interface. ``destination`` is 0.0.0.0/0 or ::/0 for the default one, ``source`` the preferred
    source address, ``source_prefix`` IPv6's "from". ``gateway`` may be of the other family. ``metrics`` are those of
    ip-route(8) (mtu, advmss, initcwnd ...). ``expires_seconds``: what was left when it was recorded, None for ever.
    """

    destination: str
    gateway: str = ""
    source: str = ""
    source_prefix: str = ""
    metric: int = 0
    table: int = 254
    protocol: int = 0
    scope: int = 0
    type: int = 1
    tos: int = 0
    flags: tuple[str, ...] = ()
    metrics: dict[str, int | str] = {}
    realms: int = 0
    preference: int = 0
    expires_seconds: int | None = None

    @property
    def version(self) -> int:
        """Of the Internet protocol."""
        return 6 if ":" in self.destination else 4

    def __str__(self) -> str:
        via = f" via {self.gateway}" if self.gateway else ""
        return f"the route {self.destination}{via} in table {self.table}"


class Neighbour(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A permanent entry of the neighbour table; of a ``proxy`` entry there is no hardware address."""

    address: str
    mac: str = ""
    proxy: bool = False
    router: bool = False


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """All that is configured on one interface, in the order in which it can be put on another. JSON-able by msgspec.

    ``sysctls``: those of SYSCTLS that differ from the namespace's default, as "ipv4.rp_filter". ``problems``: what
    will not be carried over, each a line for people.
    """

    name: str
    mac: str
    mtu: int
    up: bool
    promiscuous: bool = False
    allmulti: bool = False
    txqueuelen: int = 1000
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    sysctls: dict[str, str] = {}
    problems: tuple[str, ...] = ()


def record(interface: str, *, namespace: int | None = None) -> Configuration:
    """The configuration of an interface of the namespace with this descriptor (None: where we are).

    Raises InputError if there is no such interface.
    """

    def ask(route: Any) -> Configuration:  # noqa: ANN401 - pyroute2's class
        link = link_named(route, interface)
        found, index, flags = attributes(link), int(link["index"]), int(link["flags"])
        name = str(found["IFLA_IFNAME"])
        return Configuration(
            name=name,
            mac=str(found.get("IFLA_ADDRESS", "")),
            mtu=int(found["IFLA_MTU"]),
            up=bool(flags & 1),
            promiscuous=bool(flags & PROMISCUOUS),
            allmulti=bool(flags & ALLMULTI),
            txqueuelen=int(found["IFLA_TXQLEN"]),
            addresses=_addresses(route, index, name),
            routes=_routes(route, index),
            neighbours=_neighbours(route, index),
            sysctls=_sysctls(name),
            problems=problems_of(route, link),
        )

    return with_iproute(ask, namespace)


def _addresses(route: Any, index: int, name: str) -> tuple[Address, ...]:  # noqa: ANN401
    """IPv6 puts a new address before the others of its scope (ipv6_link_dev_addr), so those are turned round."""
    versions: dict[int, list[Address]] = {socket.AF_INET: [], socket.AF_INET6: []}
    for message in dump(route.addr):
        if message["index"] == index and message["family"] in versions:
            versions[message["family"]].append(_address(message, name))
    return (*versions[socket.AF_INET], *reversed(versions[socket.AF_INET6]))


def _address(message: Any, name: str) -> Address:  # noqa: ANN401
    found = attributes(message)
    local = str(found.get("IFA_LOCAL") or found["IFA_ADDRESS"])
    peer = str(found.get("IFA_ADDRESS", local))
    flags = int(found.get("IFA_FLAGS", message["flags"]))
    times = found.get("IFA_CACHEINFO") or {"ifa_valid": FOR_EVER, "ifa_preferred": FOR_EVER}
    return Address(
        address=f"{local}/{message['prefixlen']}",
        peer="" if peer == local else peer,
        broadcast=str(found.get("IFA_BROADCAST") or ""),
        label=str(found.get("IFA_LABEL") or "").removeprefix(name),
        scope=int(message["scope"]),
        flags=tuple(flag for flag, bit in ADDRESS_FLAGS.items() if flags & bit),
        metric=int(found.get("IFA_RT_PRIORITY") or 0),
        protocol=int(found.get("IFA_PROTO") or 0),
        temporary=message["family"] == socket.AF_INET6 and bool(flags & _TEMPORARY),
        valid_seconds=_limited(times["ifa_valid"]),
        preferred_seconds=_limited(times["ifa_preferred"]),
    )


def _routes(route: Any, index: int) -> tuple[Route, ...]:  # noqa: ANN401
    """Without those that encapsulate: put back without that, they would send in the clear."""
    found = ((message, attributes(message)) for message in all_routes(route))
    return tuple(
        _one_route(message, about)
        for message, about in found
        if about.get("RTA_OIF") == index and "RTA_ENCAP" not in about
        if message["proto"] != _BY_KERNEL and not message["flags"] & _CLONED
    )


def _one_route(message: Any, found: dict[str, Any]) -> Route:  # noqa: ANN401
    anywhere = "::" if message["family"] == socket.AF_INET6 else "0.0.0.0"
    via = found.get("RTA_VIA")
    metrics = dict(found["RTA_METRICS"]["attrs"]) if "RTA_METRICS" in found else {}
    expires = int((found.get("RTA_CACHEINFO") or {}).get("rta_expires", 0))
    return Route(
        destination=f"{found.get('RTA_DST', anywhere)}/{message['dst_len']}",
        gateway=str(via["addr"] if via else found.get("RTA_GATEWAY", "")),
        source=str(found.get("RTA_PREFSRC", "")),
        source_prefix=f"{found['RTA_SRC']}/{message['src_len']}" if "RTA_SRC" in found else "",
        metric=int(found.get("RTA_PRIORITY", 0)),
        table=int(found.get("RTA_TABLE", message["table"])),
        protocol=int(message["proto"]),
        scope=int(message["scope"]),
        type=int(message["type"]),
        tos=int(message["tos"]),
        flags=tuple(flag for flag, bit in HOP_FLAGS.items() if message["flags"] & bit),
        metrics={name.removeprefix(METRIC_PREFIX).lower(): value for name, value in metrics.items()},
        realms=int(found.get("RTA_FLOW", 0)),
        preference=int(found.get("RTA_PREF", 0)),
        expires_seconds=expires // _TICKS if expires > 0 else None,
    )


def _neighbours(route: Any, index: int) -> tuple[Neighbour, ...]:  # noqa: ANN401
    entries = [entry for entry in dump(route.neigh) if entry["state"] & PERMANENT]
    entries += dump(route.neigh, flags=PROXY)
    return tuple(_neighbour(entry) for entry in entries if entry["ifindex"] == index)


def _neighbour(entry: Any) -> Neighbour:  # noqa: ANN401
    found, flags = attributes(entry), int(entry["flags"])
    return Neighbour(
        address=str(found["NDA_DST"]),
        mac=str(found.get("NDA_LLADDR", "")),
        proxy=bool(flags & PROXY),
        router=bool(flags & ROUTER),
    )


def _sysctls(name: str) -> dict[str, str]:
    return {
        f"{family}.{setting}": value
        for family, settings in SYSCTLS.items()
        for setting in settings
        if (value := _read(sysctl_path(family, name, setting))) != _read(sysctl_path(family, "default", setting))
        if value is not None
    }


def sysctl_path(family: str, interface: str, setting: str) -> Path:
    """Where one of SYSCTLS is read and written, of the namespace that the thread is in."""
    return Path("/proc/sys/net", family, "conf", interface, setting)


def _read(path: Path) -> str | None:
    """None where this kernel has no such setting, or IPv6 is off."""
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _limited(seconds: int) -> int | None:
    return None if seconds == FOR_EVER else seconds
