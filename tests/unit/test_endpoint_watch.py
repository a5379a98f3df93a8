"""The watch on a real interface: the user's changes, all of them, and nobody else's."""

import asyncio
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from endpoints import CSUM, MAC, TSO4, TSO6, command, needs_tap, new_namespace, offload
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from nooks.endpoint import netlink, netns, rtnl
from nooks.endpoint.ledger import Ledger
from nooks.endpoint.tap import TapEndpoint
from nooks.endpoint.watch import Watch, multicast_groups
from nooks.xpc.settings import Settings

pytestmark = needs_tap

SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_MR_PROMISC = 263, 1, 1
GROUP = "01:00:5e:7f:00:07"


@pytest.fixture
def namespace() -> Iterator[int]:
    with new_namespace() as fd:
        yield fd


class Heard:
    """What the watch reported, and a way to wait for it."""

    def __init__(self, namespace: int, tap: TapEndpoint) -> None:
        self.namespace, self.tap = namespace, tap
        self.reports: list[Settings] = []
        self.removed = 0

    def note_removed(self) -> None:
        self.removed += 1

    async def user(self, *argv: str) -> None:
        await asyncio.to_thread(command, self.namespace, *argv)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)

    async def hears(self, expected: Settings) -> None:
        """The next reports, put together, are exactly this."""
        await self.until(lambda: self.together() == expected)
        self.reports.clear()

    async def hears_nothing(self) -> None:
        await asyncio.sleep(0.2)
        assert self.reports == []

    def together(self) -> Settings:
        merged: Settings = {}
        for report in self.reports:
            merged.update(report)
        return merged


def watching(
    namespace: int, body: Callable[[Heard, TapEndpoint], Awaitable[None]], *, poll_seconds: float = 0.05
) -> None:
    async def run() -> None:
        tap = TapEndpoint.create("nook", namespace=namespace, mac=MAC)
        try:
            command(namespace, "sysctl", "-qw", "net.ipv6.conf.nook.disable_ipv6=1")
            tap.configure(["192.0.2.1/24"], up=True)
            heard = Heard(namespace, tap)
            async with Watch(tap, heard.reports.append, heard.note_removed, poll_seconds=poll_seconds):
                assert set(heard.together()) <= {"multicast"}
                heard.reports.clear()
                await asyncio.sleep(0.1)
                heard.reports.clear()
                await body(heard, tap)
        finally:
            tap.close()

    asyncio.run(run())


def test_each_kind_of_change_is_reported_once(namespace: int) -> None:
    async def body(heard: Heard, tap: TapEndpoint) -> None:
        await heard.user("ip", "link", "set", "nook", "mtu", "1400")
        await heard.hears({"mtu": 1400})
        await heard.user("ip", "link", "set", "nook", "address", "02:00:00:00:07:ff")
        await heard.hears({"mac": "02:00:00:00:07:ff"})
        await heard.user("ip", "link", "set", "nook", "promisc", "on")
        await heard.hears({"promisc": True})
        await heard.user("ip", "link", "set", "nook", "promisc", "off", "allmulticast", "on")
        await heard.hears({"promisc": False, "allmulti": True})
        await heard.user("ethtool", "-K", "nook", "gro", "off")
        await heard.hears({"feature.rx-gro": False})
        await heard.user("ethtool", "-s", "nook", "speed", "100", "duplex", "full", "autoneg", "off")
        await heard.hears({"link.autoneg": False, "link.speed": 100, "link.duplex": "full"})
        await heard.user("ip", "link", "set", "nook", "down")
        await heard.until(lambda: heard.together().get("up") is False)
        await heard.hears_nothing() if not heard.reports else heard.reports.clear()

    watching(namespace, body)


def test_multicast_groups_are_found_by_polling(namespace: int) -> None:
    async def body(heard: Heard, tap: TapEndpoint) -> None:
        await heard.user("ip", "maddr", "add", GROUP, "dev", "nook")
        await heard.until(lambda: GROUP in str(heard.together().get("multicast")))
        heard.reports.clear()
        await heard.user("ip", "maddr", "del", GROUP, "dev", "nook")
        await heard.until(lambda: "multicast" in heard.together())
        assert GROUP not in str(heard.together()["multicast"])

    watching(namespace, body)


def test_a_new_ipv6_address_brings_its_group_without_waiting_for_the_poll(namespace: int) -> None:
    async def body(heard: Heard, tap: TapEndpoint) -> None:
        await heard.user("sysctl", "-qw", "net.ipv6.conf.nook.disable_ipv6=0")
        await heard.user("ip", "addr", "add", "2001:db8::7:89ab/64", "dev", "nook")
        await heard.until(lambda: "33:33:ff:07:89:ab" in str(heard.together().get("multicast")))

    watching(namespace, body, poll_seconds=3600)


def test_a_packet_capture_makes_it_promiscuous(namespace: int) -> None:
    async def body(heard: Heard, tap: TapEndpoint) -> None:
        with netns.entered(namespace):
            capture = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        with capture:
            request = struct.pack("=iHH8x", tap.index, PACKET_MR_PROMISC, 0)
            capture.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, request)
            await heard.hears({"promisc": True})
        await heard.hears({"promisc": False})

    watching(namespace, body)


def test_our_own_changes_are_not_the_users(namespace: int) -> None:
    async def body(heard: Heard, tap: TapEndpoint) -> None:
        tap.mirror_link(100, "half")
        tap.set_carrier(False)
        tap.set_carrier(True)
        tap.restore({"mtu": 1300, "mac": "02:00:00:00:07:55", "feature.rx-gro": False})
        with tap.launching(1):
            offload(tap, 0)
            await heard.hears_nothing()
            offload(tap, CSUM | TSO4 | TSO6)
        await heard.hears_nothing()
        await heard.user("ip", "link", "set", "nook", "mtu", "1400")
        await heard.hears({"mtu": 1400})

    watching(namespace, body)


def test_a_users_change_that_ours_overwrites_is_still_reported(namespace: int) -> None:
    async def body(heard: Heard, tap: TapEndpoint) -> None:
        command(namespace, "ethtool", "-s", "nook", "speed", "10", "duplex", "half", "autoneg", "off")
        tap.mirror_link(1000, "full")
        await heard.hears({"link.autoneg": False, "link.speed": 10, "link.duplex": "half"})

    watching(namespace, body)


def test_changes_while_no_supervisor_lived_are_found_at_adoption(namespace: int) -> None:
    state = b""

    def store(new: bytes) -> None:
        nonlocal state
        state = new

    async def run() -> None:
        tap = TapEndpoint.create("nook", namespace=namespace, mac=MAC, ledger=Ledger(store))
        heard = Heard(namespace, tap)
        async with Watch(tap, heard.reports.append, heard.note_removed):
            pass
        kept = [os.dup(fd) for fd in tap.queue_fds]
        tap.close()
        command(namespace, "ip", "link", "set", "nook", "mtu", "1400", "promisc", "on")
        tap = TapEndpoint.adopt(kept, Ledger(store, state))
        heard = Heard(namespace, tap)
        async with Watch(tap, heard.reports.append, heard.note_removed):
            assert heard.reports == [{"mtu": 1400, "promisc": True}]
        tap.close()

    asyncio.run(run())


def test_a_report_that_was_not_recorded_comes_again(namespace: int) -> None:
    async def run() -> None:
        tap = TapEndpoint.create("nook", namespace=namespace)
        reports: list[Settings] = []

        def fails(changes: Settings) -> None:
            reports.append(changes)
            if len(reports) == 1:
                raise RuntimeError("no room")

        with pytest.raises(RuntimeError):
            async with Watch(tap, fails, lambda: None):
                pass
        async with Watch(tap, fails, lambda: None):
            assert reports[1] == reports[0]
        tap.close()

    asyncio.run(run())


def test_a_deleted_interface_is_noticed_once(namespace: int) -> None:
    async def body(heard: Heard, tap: TapEndpoint) -> None:
        await heard.user("ip", "link", "del", "nook")
        await heard.until(lambda: heard.removed > 0)
        await asyncio.sleep(0.2)
        assert heard.removed == 1

    watching(namespace, body)


def test_vlans_on_top_are_reported(namespace: int) -> None:
    async def body(heard: Heard, tap: TapEndpoint) -> None:
        try:
            await heard.user("ip", "link", "add", "link", "nook", "name", "nook.7", "type", "vlan", "id", "7")
        except AssertionError:
            pytest.skip("this kernel has no VLANs")
        await heard.hears({"vlans": (7,)})
        await heard.user("ip", "link", "del", "nook.7")
        await heard.hears({"vlans": ()})

    watching(namespace, body)


def test_a_vlan_message_is_read_as_pyroute2_writes_it() -> None:
    message: Any = ifinfmsg()  # its own types are none that pyright accepts
    message["index"], message["family"] = 9, 0
    message["attrs"] = [
        ("IFLA_IFNAME", "nook.7"),
        ("IFLA_LINK", 4),
        ("IFLA_PROMISCUITY", 1),
        (
            "IFLA_LINKINFO",
            {"attrs": [("IFLA_INFO_KIND", "vlan"), ("IFLA_INFO_DATA", {"attrs": [("IFLA_VLAN_ID", 7)]})]},
        ),
    ]
    message["header"]["type"] = rtnl.RTM_NEWLINK
    message.encode()
    ((kind, body),) = netlink.messages(bytes(message.data))
    assert rtnl.parse_link(kind, body) == rtnl.Link(9, "nook.7", True, False, parent=4, vlan=7)


def test_multicast_lists_are_told_apart_by_index() -> None:
    text = b"2    eth0            1     0     333300000001\n12   nook            2     0     01005e000001\n"
    assert multicast_groups(text, 12) == ("01:00:5e:00:00:01",)
    assert multicast_groups(text, 1) == ()


def test_an_idle_watch_costs_next_to_nothing(namespace: int) -> None:
    async def body(heard: Heard, tap: TapEndpoint) -> None:
        start = time.process_time()
        await asyncio.sleep(2)
        assert time.process_time() - start < 0.02

    watching(namespace, body, poll_seconds=1.0)
