"""Hears of the user's changes to a nook's interface, and reports them as settings.

Netlink (links, VLANs on top, addresses) and ethtool notifications only say that something changed; what it is now is
then asked for, and the ledger says whose change it was. Multicast lists are announced by no kernel before 6.13, so
they are polled. Must not know what becomes of the reports.
"""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable

from nooks.endpoint import netlink, netns, rtnl
from nooks.endpoint.interface import read_all
from nooks.endpoint.multiqueue import EndpointGone
from nooks.endpoint.tap import TapEndpoint
from nooks.host.clock import Clock, SystemClock
from nooks.xpc.settings import Settings

POLL_SECONDS = 1.0
_RECEIVE_BYTES = 1 << 17
_DEFAULTS: Settings = {"promisc": False, "allmulti": False, "vlans": ()}
"""What a new interface has. Its multicast list is not among them: the card must know of the kernel's own groups."""

Report = Callable[[Settings], None]


class Watch:
    """Watches one TapEndpoint. Use it as ``async with``: from then on ``report`` gets the user's changes.

    ``report`` must have recorded them when it returns; only then are they taken as known. ``removed`` is called once
    if the interface disappears.
    """

    def __init__(
        self,
        endpoint: TapEndpoint,
        report: Report,
        removed: Callable[[], None],
        *,
        clock: Clock | None = None,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._endpoint = endpoint
        self._report = report
        self._removed = removed
        self._clock = clock or SystemClock()
        self._poll_seconds = poll_seconds
        self._index = 0
        self._promisc = False
        self._allmulti = False
        self._vlans: dict[int, int] = {}
        self._gone = False

    async def __aenter__(self) -> "Watch":
        async with contextlib.AsyncExitStack() as stack:
            self._index = self._endpoint.index
            namespace = self._endpoint.namespace
            with netns.entered(namespace):
                self._multicast_lists = os.open("/proc/thread-self/net/dev_mcast", os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, self._multicast_lists)
            self._listen(stack, rtnl.link_socket(namespace), self._on_links)
            ethtool_socket = rtnl.ethtool_socket(namespace)
            if ethtool_socket is not None:
                self._listen(stack, ethtool_socket, self._on_ethtool)
            self._ethtool_polled = ethtool_socket is None
            for key, value in _DEFAULTS.items():
                if key not in self._endpoint.ledger.known:
                    self._endpoint.ledger.learn({key: value})
            self._relist()
            self._look()
            poller = asyncio.create_task(self._poll(), name="interface watch")
            stack.push_async_callback(_cancel, poller)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def look(self) -> None:
        """Report now what changed, notifications or not."""
        self._relist()
        self._look()

    def _listen(
        self, stack: contextlib.AsyncExitStack, connection: socket.socket, heard: Callable[[socket.socket], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        stack.enter_context(connection)
        loop.add_reader(connection, heard, connection)
        stack.callback(loop.remove_reader, connection)

    def _on_links(self, connection: socket.socket) -> None:
        mine = False
        for data in _datagrams(connection):
            if data is None:
                self._relist()
                mine = True
                continue
            for kind, body in netlink.messages(data):
                link = rtnl.parse_link(kind, body)
                if link is not None:
                    mine |= self._note(link)
                else:
                    mine |= rtnl.address_index(kind, body) == self._index
        if mine:
            self._look()

    def _on_ethtool(self, connection: socket.socket) -> None:
        for _ in _datagrams(connection):
            pass
        self._look()

    def _note(self, link: rtnl.Link) -> bool:
        """Take in one interface; whether it concerns us."""
        if link.index == self._index:
            if link.removed:
                self._disappeared()
            self._promisc, self._allmulti = link.promisc, link.allmulti
            return True
        if link.removed:
            return self._vlans.pop(link.index, None) is not None
        if link.parent == self._index and link.vlan is not None:
            self._vlans[link.index] = link.vlan
            return True
        return False

    def _relist(self) -> None:
        self._vlans.clear()
        for link in rtnl.links(self._endpoint.namespace):
            self._note(link)

    async def _poll(self) -> None:
        last = b""
        while not self._gone:
            await self._clock.sleep(self._poll_seconds)
            now = read_all(self._multicast_lists)
            if now != last or self._ethtool_polled:
                last = now
                self._look()

    def _look(self) -> None:
        if self._gone:
            return
        try:
            observed = self._endpoint.observe()
            observed["promisc"] = self._promisc
            observed["allmulti"] = self._allmulti
            observed["vlans"] = tuple(sorted(set(self._vlans.values())))
            observed["multicast"] = multicast_groups(read_all(self._multicast_lists), self._index)
            changes = self._endpoint.ledger.changes(observed)
        except EndpointGone:
            self._disappeared()
            return
        if not changes:
            return
        self._report(_whole_link(changes, observed))
        self._endpoint.ledger.reported(changes)

    def _disappeared(self) -> None:
        if not self._gone:
            self._gone = True
            self._removed()


def multicast_groups(lists: bytes, index: int) -> tuple[str, ...]:
    """The multicast addresses of the interface with this index, from /proc/net/dev_mcast, sorted.

    Columns: index, name, users, whether all of them are global, address (net/core/dev_addr_lists.c).
    """
    groups: set[str] = set()
    for line in lists.decode().splitlines():
        number, *_, address = line.split()
        if number == str(index):
            groups.add(bytes.fromhex(address).hex(":"))
    return tuple(sorted(groups))


def _whole_link(changes: Settings, observed: Settings) -> Settings:
    """Speed and duplex mean something only together, and only where they are not negotiated."""
    link = {key for key in changes if key.startswith("link.")}
    if not link:
        return changes
    rest = {key: value for key, value in changes.items() if key not in link}
    if (observed | changes)["link.autoneg"]:
        return rest | {"link.autoneg": True}
    merged = observed | changes
    return rest | {key: merged[key] for key in ("link.autoneg", "link.speed", "link.duplex")}


def _datagrams(connection: socket.socket) -> "list[bytes | None]":
    """All datagrams that wait; None among them says that some were lost."""
    received: list[bytes | None] = []
    while True:
        try:
            received.append(connection.recv(_RECEIVE_BYTES))
        except BlockingIOError:
            return received
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            received.append(None)


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
