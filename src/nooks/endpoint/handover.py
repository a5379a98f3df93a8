"""What is configured on a host's interface, put on another one.

A network card that is taken away from the host's driver takes its interface along; a nook's TAP stands in its place
afterwards, usually under the same name, and has to be configured the same, and the other way round. What is not
carried over is told as ``problems`` where it is in use (in_use.py).
"""

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

from nooks.endpoint.configuration import (
    ADDRESS_FLAGS,
    ALLMULTI,
    FOR_EVER,
    HOP_FLAGS,
    METRIC_PREFIX,
    PERMANENT,
    PROMISCUOUS,
    PROXY,
    ROUTER,
    Address,
    Configuration,
    Neighbour,
    Route,
    record,
    sysctl_path,
)
from nooks.endpoint.in_use import problems
from nooks.endpoint.iproute import attributes, link_named, with_iproute

__all__ = ["Address", "Configuration", "Neighbour", "Route", "apply", "problems", "record"]

_LABEL_BYTES = 15


def apply(configuration: Configuration, interface: str, *, namespace: int | None = None) -> list[str]:
    """Put a configuration on an interface, of whatever name; what it has already is left as it is.

    Returns what the kernel refused, each a line for people. Raises InputError if there is no such interface.
    """

    def put(route: Any) -> list[str]:  # noqa: ANN401 - pyroute2's class
        link = link_named(route, interface)
        target = _Target(route, int(link["index"]), str(attributes(link)["IFLA_IFNAME"]))
        target.put(configuration, link)
        return target.refused

    return with_iproute(put, namespace)


class _Target:
    """The interface that gets a configuration. ``refused``: lines about what the kernel did not take."""

    def __init__(self, route: Any, index: int, name: str) -> None:  # noqa: ANN401
        self._route = route
        self._index = index
        self._name = name
        self.refused: list[str] = []

    def put(self, wanted: Configuration, link: Any) -> None:  # noqa: ANN401
        """IPv6 keeps addresses on an interface that is down only so long as it was never up, hence the order."""
        for key, value in wanted.sysctls.items():
            self._put_sysctl(key, value)
        self._put_link(wanted, attributes(link), int(link["flags"]))
        versions = [[one for one in wanted.addresses if (":" in one.address) is six] for six in (False, True)]
        for address in versions[0]:
            self._put_address(address)
        if wanted.up is not bool(int(link["flags"]) & 1):
            self._set_link("state", "up" if wanted.up else "down")
        for address in versions[1]:
            self._put_address(address)
        for route in sorted(wanted.routes, key=lambda route: bool(route.gateway)):
            self._put_route(route)
        for neighbour in wanted.neighbours:
            self._put_neighbour(neighbour)

    def _try(self, what: str, action: Callable[[], object]) -> None:
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            action()
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                self.refused.append(f"{self._name} does not take {what}: {os.strerror(error.code)}")
        except OSError as error:
            self.refused.append(f"{self._name} does not take {what}: {error.strerror}")

    def _put_sysctl(self, key: str, value: str) -> None:
        family, _, setting = key.partition(".")
        path = sysctl_path(family, self._name, setting)
        self._try(f"net.{family}.conf.{self._name}.{setting}={value}", lambda: path.write_text(value))

    def _set_link(self, key: str, value: object, **more: object) -> None:
        self._try(f"{key} {value}", lambda: self._route.link("set", index=self._index, **{key: value}, **more))

    def _put_link(self, wanted: Configuration, has: dict[str, Any], flags: int) -> None:
        for key, attribute, value in (
            ("address", "IFLA_ADDRESS", wanted.mac),
            ("mtu", "IFLA_MTU", wanted.mtu),
            ("txqlen", "IFLA_TXQLEN", wanted.txqueuelen),
        ):
            if value != has.get(attribute, ""):
                self._set_link(key, value)
        for flag, on in ((PROMISCUOUS, wanted.promiscuous), (ALLMULTI, wanted.allmulti)):
            if on is not bool(flags & flag):
                self._set_link("flags", flag if on else 0, change=flag)

    def _put_address(self, address: Address) -> None:
        if address.valid_seconds == 0:
            self.refused.append(f"{self._name} does not take the address {address.address}: its time is over")
            return
        own = ipaddress.ip_interface(address.address)
        attrs: list[tuple[str, Any]] = [
            ("IFA_LOCAL", str(own.ip)),
            ("IFA_ADDRESS", address.peer or str(own.ip)),
            ("IFA_FLAGS", sum(ADDRESS_FLAGS[flag] for flag in address.flags)),
            ("IFA_CACHEINFO", _cache_information(address)),
        ]
        if own.version == 4:
            attrs.append(("IFA_LABEL", (self._name + address.label)[:_LABEL_BYTES]))
        for name, value in (
            ("IFA_BROADCAST", address.broadcast),
            ("IFA_RT_PRIORITY", address.metric),
            ("IFA_PROTO", address.protocol),
        ):
            if value:
                attrs.append((name, value))
        header = {
            "family": _family(own.version),
            "prefixlen": own.network.prefixlen,
            "scope": address.scope,
            "index": self._index,
        }
        self._try(f"the address {address.address}", lambda: self._route.addr("replace", **header, attrs=attrs))

    def _put_route(self, route: Route) -> None:
        """Appended: another interface may have a route to the same place, and only the very same one is EEXIST."""
        to = ipaddress.ip_network(route.destination)
        came = ipaddress.ip_network(route.source_prefix) if route.source_prefix else None
        header = {
            "family": _family(route.version),
            "dst_len": to.prefixlen,
            "src_len": came.prefixlen if came else 0,
            "tos": route.tos,
            "table": route.table if route.table < 256 else 0,
            "proto": route.protocol,
            "scope": route.scope,
            "type": route.type,
            "flags": sum(HOP_FLAGS[flag] for flag in route.flags),
        }
        attrs: list[tuple[str, Any]] = [("RTA_OIF", self._index), ("RTA_TABLE", route.table)]
        if to.prefixlen:
            attrs.append(("RTA_DST", str(to.network_address)))
        if came:
            attrs.append(("RTA_SRC", str(came.network_address)))
        if route.gateway:
            attrs.append(_hop(route))
        if route.metrics:
            attrs.append(
                (
                    "RTA_METRICS",
                    {"attrs": [(METRIC_PREFIX + name.upper(), value) for name, value in route.metrics.items()]},
                )
            )
        if route.expires_seconds is not None:
            attrs.append(("RTA_EXPIRES", struct.pack("=I", max(1, route.expires_seconds))))
        for name, value in (
            ("RTA_PREFSRC", route.source),
            ("RTA_PRIORITY", route.metric),
            ("RTA_FLOW", route.realms),
            ("RTA_PREF", route.preference),
        ):
            if value:
                attrs.append((name, value))
        self._try(str(route), lambda: self._route.route("append", **header, attrs=attrs))

    def _put_neighbour(self, neighbour: Neighbour) -> None:
        flags = (PROXY if neighbour.proxy else 0) | (ROUTER if neighbour.router else 0)
        what = {"dst": neighbour.address, "ifindex": self._index, "state": PERMANENT, "flags": flags}
        if neighbour.mac:
            what["lladdr"] = neighbour.mac
        self._try(f"the neighbour {neighbour.address}", lambda: self._route.neigh("replace", **what))


def _cache_information(address: Address) -> dict[str, int]:
    valid, preferred = (
        FOR_EVER if seconds is None else seconds for seconds in (address.valid_seconds, address.preferred_seconds)
    )
    return {"ifa_preferred": min(preferred, valid), "ifa_valid": valid, "cstamp": 0, "tstamp": 0}


def _hop(route: Route) -> tuple[str, Any]:
    version = 6 if ":" in route.gateway else 4
    if version == route.version:
        return ("RTA_GATEWAY", route.gateway)
    return ("RTA_VIA", {"family": _family(version), "addr": route.gateway})


def _family(version: int) -> int:
    return socket.AF_INET6 if version == 6 else socket.AF_INET
