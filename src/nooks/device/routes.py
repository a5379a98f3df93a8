"""By which interfaces this machine reaches an address. Asks the kernel, changes nothing."""

import errno
import ipaddress
import socket
from typing import Protocol

from nooks.device import peers, usage
from nooks.device.problem import Problem
from nooks.device.sysfs import HOST, Sysfs


class Routes(Protocol):
    """The kernel's routing, as far as it matters here."""

    def leaves_by(self, address: str) -> str | None:
        """The interface by which packets to ``address`` leave; None if there is no route."""
        ...

    def having(self, address: str) -> str | None:
        """The interface that has ``address``; None if none has."""
        ...

    def defaults(self) -> set[str]:
        """The interfaces by which default routes leave."""
        ...


class KernelRoutes:
    """Routes by netlink. Raises OSError where netlink is not to be had."""

    def leaves_by(self, address: str) -> str | None:
        zone = address.partition("%")[2]
        if zone:
            return zone
        # Imported here: it takes 0.26 s, and most commands don't need it.
        from pyroute2 import IPRoute
        from pyroute2.netlink.exceptions import NetlinkError

        family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
        with IPRoute() as netlink:
            try:
                answers = list(netlink.route("get", dst=address, family=family))
            except NetlinkError as error:
                if error.code in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL):
                    return None
                raise OSError(error.code, str(error)) from None
        return next((name for answer in answers if (name := _name(answer.get_attr("RTA_OIF")))), None)

    def having(self, address: str) -> str | None:
        from pyroute2 import IPRoute

        with IPRoute() as netlink:
            found = [entry["index"] for entry in netlink.get_addr() if entry.get_attr("IFA_ADDRESS") == address]
        return next((name for index in found if (name := _name(index))), None)

    def defaults(self) -> set[str]:
        from pyroute2 import IPRoute

        with IPRoute() as netlink:
            routes = [route for family in (socket.AF_INET, socket.AF_INET6) for route in netlink.get_routes(family)]
        default = [route for route in routes if route["dst_len"] == 0 and route["type"] == 1]
        indexes = [route.get_attr("RTA_OIF") for route in default]
        for route in default:
            indexes += [hop["oif"] for hop in route.get_attr("RTA_MULTIPATH") or ()]
        return {name for index in indexes if (name := _name(index))}


def login_path(interface: str, sysfs: Sysfs = HOST, routes: Routes | None = None) -> str | None:
    """What says that the host would lose a login with an interface, in words; None: no login comes by it."""
    asked = routes or KernelRoutes()
    for peer in peers.logins(sysfs):
        if _passes(peer, interface, sysfs, asked):
            return f"{peer.what} from {peer.address} comes in by {interface}"
    return None


def losses(interface: str, sysfs: Sysfs = HOST, routes: Routes | None = None) -> list[Problem]:
    """What the host would lose with an interface: logins, network file systems and disks."""
    asked = routes or KernelRoutes()
    login = login_path(interface, sysfs, asked)
    fix = "log in by another way, or run nooks from the console"
    found = [] if login is None else [Problem(login, fix, force=True)]
    for peer in peers.storage(sysfs):
        if _passes(peer, interface, sysfs, asked):
            message = f"{peer.what} comes from {peer.address} by {interface}"
            fix = "a nook can't have the card that the machine runs over" if peer.root else "unmount it first"
            found.append(Problem(message, fix, force=not peer.root))
    return found


def carries_default(interface: str, sysfs: Sysfs = HOST, routes: Routes | None = None) -> bool:
    """Whether a default route leaves by an interface, or by what stands on it."""
    return any(interface in usage.below(name, sysfs) for name in (routes or KernelRoutes()).defaults())


def _passes(peer: peers.Peer, interface: str, sysfs: Sysfs, routes: Routes) -> bool:
    ways = [routes.leaves_by(peer.address), routes.having(peer.local) if peer.local else None]
    return any(interface in usage.below(way, sysfs) for way in ways if way is not None)


def _name(index: int | None) -> str | None:
    try:
        return None if index is None else socket.if_indextoname(index)
    except OSError:
        return None
