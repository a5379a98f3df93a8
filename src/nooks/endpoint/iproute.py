"""pyroute2's IPRoute for a moment, wherever the caller is: it brings an event loop of its own, so it gets a thread.

For what is done now and then. What a start needs is in rtnl.py, which loads in no time. Knows no configuration.
"""

import errno
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from nooks.endpoint import netns
from nooks.host.errors import InputError, MachineError

T = TypeVar("T")
_ATTEMPTS = 5
_NO_SUCH_NAME = (errno.ENODEV, errno.ERANGE, errno.EINVAL)


def with_iproute(work: Callable[[Any], T], namespace: int | None = None) -> T:
    """What ``work`` returns, given an open IPRoute in the namespace with this descriptor (None: where we are).

    ``work`` runs on a thread of its own, which is in that namespace; so /proc/sys/net is that namespace's as well.
    Raises what ``work`` raises.
    """

    def body() -> T:
        from pyroute2 import IPRoute  # costs 0.3 s

        with netns.entered(namespace), IPRoute() as route:
            return work(route)

    with ThreadPoolExecutor(1, "rtnetlink") as executor:
        return executor.submit(body).result()


def dump(ask: Callable[..., Any], **what: object) -> list[Any]:
    """All answers of one of IPRoute's methods, unfiltered; asked again if they changed meanwhile.

    Raises MachineError if they never stand still.
    """
    from pyroute2.netlink.exceptions import NetlinkDumpInterrupted

    for _ in range(_ATTEMPTS):
        try:
            return list(ask("dump", dump_filter=None, **what))
        except NetlinkDumpInterrupted:
            continue
    raise MachineError("the kernel's network configuration changes all the time", "try again in a quiet moment")


def all_routes(route: Any) -> list[Any]:  # noqa: ANN401 - pyroute2's class
    """Of all tables, IPv4 first. A kernel without IPv6 answers the question for it with everything it has."""
    families = (socket.AF_INET, socket.AF_INET6)
    return [one for family in families for one in dump(route.route, family=family) if one["family"] == family]


def link_named(route: Any, interface: str) -> Any:  # noqa: ANN401 - pyroute2's classes
    """The link message of an interface, found by name or alternative name. Raises InputError if there is none."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        (link,) = route.link("get", ifname=interface)
    except NetlinkError as error:
        if error.code not in _NO_SUCH_NAME:
            raise
        raise InputError(f"there is no network interface {interface!r}", "'ip link' lists them") from None
    return link


def attributes(message: Any) -> dict[str, Any]:  # noqa: ANN401
    """A message's attributes by name; those that this pyroute2 has no name for are under their number."""
    found: dict[str, Any] = {}
    for name, value, *_ in message["attrs"]:
        key = str(value["header"]["type"] & 0x3FFF) if name == "UNKNOWN" else str(name)
        found[key] = value
    return found
