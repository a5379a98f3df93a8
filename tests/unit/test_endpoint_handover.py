"""What is configured on an interface goes over to another one, on real interfaces in a namespace of the test's own."""

import asyncio
import ctypes
import os
import platform
import re
import socket
import struct
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from endpoints import MAC, command, new_namespace
from handover_cases import configurations
from hypothesis import HealthCheck, given, settings

from nooks.endpoint import netns
from nooks.endpoint.handover import Address, Configuration, Neighbour, Route, apply, problems, record
from nooks.endpoint.iproute import with_iproute
from nooks.host.errors import InputError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

CONFIGURED = """
sysctl -qw net.ipv4.conf.h0.rp_filter=2
sysctl -qw net.ipv4.conf.h0.proxy_arp=1
sysctl -qw net.ipv6.conf.h0.accept_ra=0
ip link set h0 address 02:00:00:00:07:01 mtu 1400 txqueuelen 333 promisc on allmulticast on
ip address add 192.0.2.1/24 brd + dev h0 label h0:one
ip address add 192.0.2.2/24 dev h0 metric 300
ip address add 10.9.0.1 peer 10.9.0.2/32 dev h0
ip address add 198.51.100.5/25 dev h0 noprefixroute valid_lft 10000 preferred_lft 5000
ip link set h0 up
ip address add 2001:db8::1/64 dev h0 nodad
ip address add 2001:db8::2/64 dev h0 nodad valid_lft 10000 preferred_lft 5000
ip address add 2001:db8::3/64 dev h0 nodad preferred_lft 0
ip route add default via 192.0.2.254 dev h0 proto dhcp metric 100 src 192.0.2.1 mtu 1300 initcwnd 20 congctl reno
ip route add 203.0.113.0/24 dev h0 scope link
ip route add 203.0.114.0/24 via 203.0.113.9 dev h0 table 777 tos 0x10 realms 3/4
ip route add 100.64.0.0/10 via 7.7.7.7 dev h0 onlink
ip route add 100.128.0.0/16 via inet6 fe80::9 dev h0
ip route add local 203.0.115.5/32 dev h0 table local proto 99
ip -6 route add default via fe80::1 dev h0 proto ra metric 100 pref high
ip -6 route add 2001:db8:5::/48 via 2001:db8::99 dev h0 table 4000
ip -6 route add 2001:db8:6::/48 from 2001:db8::/64 dev h0
ip neigh add 192.0.2.77 lladdr 02:00:00:00:00:01 dev h0
ip neigh add 2001:db8::77 lladdr 02:00:00:00:00:02 dev h0 router
ip neigh add proxy 192.0.2.88 dev h0
"""
_BPF_PROG_TYPE_XDP = 6
_SYSCALL_BPF = {"x86_64": 321, "aarch64": 280}


@pytest.fixture(scope="module")
def namespace() -> Iterator[int]:
    with new_namespace() as fd:
        yield fd


@pytest.fixture
def cable(namespace: int) -> Iterator[int]:
    """h0 and h1, two ends of one cable; h1 is up."""
    make_cable(namespace, "h0", "h1")
    yield namespace
    delete_all(namespace)


def make_cable(namespace: int, name: str, peer: str) -> None:
    def make(route: Any) -> None:  # noqa: ANN401 - pyroute2's class
        route.link("add", ifname=name, kind="veth", peer=peer)
        route.link("set", index=route.link_lookup(ifname=peer)[0], state="up")

    with_iproute(make, namespace)


def delete_all(namespace: int) -> None:
    with netns.entered(namespace):
        names = [name for _, name in socket.if_nameindex() if re.match("[ht][0-9]$", name)]
    for name in names:
        with_iproute(
            lambda route, name=name: [route.link("del", index=i) for i in route.link_lookup(ifname=name)], namespace
        )


def run_all(namespace: int, commands: str) -> None:
    for line in commands.strip().splitlines():
        command(namespace, *line.split())


def seen_by_iproute2(namespace: int, name: str) -> list[str]:
    """What another program sees of an interface, without its name, its number and the seconds that are left."""
    shown = [
        command(namespace, "ip", "-d", "address", "show", "dev", name),
        *(command(namespace, "ip", version, "route", "show", "table", "all", "dev", name) for version in ("-4", "-6")),
        command(namespace, "ip", "neigh", "show", "nud", "permanent", "dev", name),
        command(namespace, "ip", "neigh", "show", "proxy", "dev", name),
    ]
    text = "\n".join(shown).replace(name, "NAME")
    text = re.sub(r"^\d+: NAME@\S+|\d+sec|\btentative\b", "", text, flags=re.MULTILINE)
    return [line.strip() for line in text.splitlines()]


def without_time(configuration: Configuration, **changes: object) -> Configuration:
    """To compare: of what ends by itself, only that it does."""
    addresses = [
        msgspec.structs.replace(
            one,
            valid_seconds=one.valid_seconds and 1,
            preferred_seconds=one.preferred_seconds and 1,
        )
        for one in configuration.addresses
    ]
    routes = [msgspec.structs.replace(one, expires_seconds=one.expires_seconds and 1) for one in configuration.routes]
    routes.sort(key=repr)
    return msgspec.structs.replace(configuration, addresses=tuple(addresses), routes=tuple(routes), **changes)


def test_what_was_configured_is_recorded(cable: int) -> None:
    run_all(cable, CONFIGURED)
    found = record("h0", namespace=cable)
    assert (found.name, found.mac, found.mtu, found.up) == ("h0", MAC, 1400, True)
    assert (found.promiscuous, found.allmulti, found.txqueuelen) == (True, True, 333)
    assert found.sysctls == {"ipv4.rp_filter": "2", "ipv4.proxy_arp": "1", "ipv6.accept_ra": "0"}
    assert found.problems == ()
    addresses = {one.address: one for one in found.addresses}
    assert addresses["192.0.2.1/24"] == Address(address="192.0.2.1/24", broadcast="192.0.2.255", label=":one")
    assert addresses["192.0.2.2/24"].metric == 300
    assert addresses["10.9.0.1/32"].peer == "10.9.0.2"
    leased = addresses["198.51.100.5/25"]
    assert leased.dynamic
    assert leased.flags == ("noprefixroute",)
    assert leased.preferred_seconds in range(4900, 5001)
    assert addresses["2001:db8::2/64"].dynamic
    assert addresses["2001:db8::3/64"].preferred_seconds == 0
    routes = {one.destination: one for one in found.routes}
    assert len(routes) == len(found.routes) == 9
    assert routes["0.0.0.0/0"] == Route(
        destination="0.0.0.0/0",
        gateway="192.0.2.254",
        source="192.0.2.1",
        metric=100,
        protocol=16,
        metrics={"mtu": 1300, "initcwnd": 20, "cc_algo": "reno"},
    )
    assert routes["203.0.114.0/24"].table == 777
    assert routes["203.0.114.0/24"].realms == 0x30004
    assert routes["100.64.0.0/10"].flags == ("onlink",)
    assert routes["100.128.0.0/16"].gateway == "fe80::9"
    assert routes["2001:db8:6::/48"].source_prefix == "2001:db8::/64"
    assert routes["::/0"].preference == 1
    assert set(found.neighbours) == {
        Neighbour(address="192.0.2.77", mac="02:00:00:00:00:01"),
        Neighbour(address="2001:db8::77", mac="02:00:00:00:00:02", router=True),
        Neighbour(address="192.0.2.88", proxy=True),
    }
    assert msgspec.json.decode(msgspec.json.encode(found), type=Configuration) == found


def test_another_interface_gets_it_and_looks_the_same_to_other_programs(cable: int) -> None:
    run_all(cable, CONFIGURED)
    before, recorded = seen_by_iproute2(cable, "h0"), record("h0", namespace=cable)
    delete_all(cable)
    make_cable(cable, "h5", "h6")
    for _ in range(2):
        assert apply(recorded, "h5", namespace=cable) == []
        assert seen_by_iproute2(cable, "h5") == before
        assert without_time(record("h5", namespace=cable), name="h0") == without_time(recorded)
    assert msgspec.json.decode(command(cable, "ip", "-j", "route", "get", "8.8.8.8"))[0]["prefsrc"] == "192.0.2.1"


def test_what_expires_goes_on_expiring(cable: int) -> None:
    run_all(cable, "ip link set h0 up\nip -6 route add default via fe80::1 dev h0 proto ra expires 600")
    recorded = record("h0", namespace=cable)
    assert recorded.routes[0].expires_seconds in range(550, 601)
    run_all(cable, "ip -6 route del default dev h0")
    assert apply(recorded, "h0", namespace=cable) == []
    left = re.search(r"expires (\d+)sec", command(cable, "ip", "-6", "route", "show", "default"))
    assert left is not None
    assert int(left[1]) in range(550, 601)  # 600 still, on a quick day


def test_an_interface_that_is_down_stays_down(cable: int) -> None:
    run_all(cable, "ip address add 192.0.2.1/24 dev h0\nip address add 2001:db8::1/64 dev h0")
    recorded = record("h0", namespace=cable)
    assert not recorded.up
    delete_all(cable)
    make_cable(cable, "h0", "h1")
    command(cable, "ip", "link", "set", "h0", "up")
    assert apply(recorded, "h0", namespace=cable) == []
    assert without_time(record("h0", namespace=cable)) == without_time(recorded)


def test_what_is_refused_is_told_and_the_rest_is_done(cable: int) -> None:
    wanted = Configuration(
        name="eth9",
        mac="02:00:00:00:07:01",
        mtu=9000000,
        up=True,
        addresses=(
            Address(address="192.0.2.1/24"),
            Address(address="192.0.2.2/24", valid_seconds=0, preferred_seconds=0),
        ),
        routes=(
            Route(destination="198.18.0.0/16", gateway="172.16.0.1", protocol=3),
            Route(destination="198.19.0.0/16", gateway="192.0.2.9", protocol=3),
        ),
        sysctls={"ipv4.rp_filter": "many", "ipv4.arp_ignore": "1"},
    )
    refused = apply(wanted, "h0", namespace=cable)
    assert [line.partition(":")[0] for line in refused] == [
        "h0 does not take net.ipv4.conf.h0.rp_filter=many",
        "h0 does not take mtu 9000000",
        "h0 does not take the address 192.0.2.2/24",
        "h0 does not take the route 198.18.0.0/16 via 172.16.0.1 in table 254",
    ]
    found = record("h0", namespace=cable)
    assert [one.destination for one in found.routes] == ["198.19.0.0/16"]
    assert found.sysctls == {"ipv4.arp_ignore": "1"}


def test_a_route_by_another_interface_to_the_same_place_is_not_taken_for_ours(cable: int) -> None:
    run_all(
        cable,
        "ip link set h0 up\nip -6 route add 2001:db8:1::/48 dev h0\nip route add 198.18.0.0/16 dev h0",
    )
    recorded = record("h0", namespace=cable)
    run_all(
        cable,
        "ip -6 route del 2001:db8:1::/48\nip -6 route add 2001:db8:1::/48 dev h1\n"
        "ip route del 198.18.0.0/16\nip route add 198.18.0.0/16 dev h1",
    )
    assert apply(recorded, "h0", namespace=cable) == []
    assert record("h0", namespace=cable).routes == recorded.routes


def test_it_can_be_asked_from_a_coroutine(cable: int) -> None:
    async def ask() -> int:
        return record("h0", namespace=cable).mtu

    assert asyncio.run(ask()) == 1500


def test_an_interface_that_is_not_there(cable: int) -> None:
    wanted = record("h0", namespace=cable)
    for name in ("h7", "far-too-long-for-an-interface", ""):
        with pytest.raises(InputError, match="there is no network interface"):
            record(name, namespace=cable)
        with pytest.raises(InputError, match="there is no network interface"):
            problems(name, namespace=cable)
        with pytest.raises(InputError, match="there is no network interface"):
            apply(wanted, name, namespace=cable)


PROBLEMS = {
    "ip link add t0 type bridge\nip link set h0 master t0": "h0 is a port of t0 (bridge)",
    "ip link add link h0 name t0 type macvlan": "t0 (macvlan) is on top of h0",
    "ip link add t0 type vxlan id 5 dev h0 dstport 4789": "t0 (vxlan) is on top of h0",
    "ip route add 203.0.113.0/24 nexthop via 192.0.2.3 dev h0 nexthop via 192.0.3.3 dev h1": (
        "the route 203.0.113.0/24 in table 254 has several next hops, one of them by h0"
    ),
    "ip -6 route add 2001:db8:9::/48 nexthop via fe80::3 dev h0 nexthop via fe80::4 dev h1": (
        "the route 2001:db8:9::/48 in table 254 has several next hops, one of them by h0"
    ),
    "ip route add 203.0.114.0/24 via 192.0.3.3 dev h1 src 192.0.2.1": (
        "the route 203.0.114.0/24 in table 254, by another interface, has h0's address 192.0.2.1 as its source"
    ),
    "ip nexthop add id 7 via 192.0.2.9 dev h0\nip route add 203.0.115.0/24 nhid 7": (
        "the route 203.0.115.0/24 in table 254 uses a next-hop object, and would become a plain one"
    ),
    "ip route add 203.0.116.0/24 encap ip id 5 dst 1.1.1.1 via 192.0.2.9 dev h0": (
        "the route 203.0.116.0/24 in table 254 encapsulates, and would be lost"
    ),
    "tc qdisc add dev h0 root handle 1: htb": "h0 has the queueing discipline htb",
    "tc qdisc add dev h0 clsact": "h0 has tc filters (clsact)",
}


@pytest.mark.parametrize(("commands", "told"), PROBLEMS.items())
def test_what_hangs_on_an_interface_is_a_problem(cable: int, commands: str, told: str) -> None:
    run_all(cable, "ip address add 192.0.2.1/24 dev h0\nip address add 192.0.3.1/24 dev h1\nip link set h0 up")
    assert problems("h0", namespace=cable) == ()
    run_all(cable, commands)
    assert problems("h0", namespace=cable) == (told,)
    recorded = record("h0", namespace=cable)
    assert recorded.problems == (told,)
    assert [one.destination for one in recorded.routes] == ["203.0.115.0/24"] * ("next-hop object" in told)


def test_a_packet_socket_is_a_problem_and_its_owner_is_told(cable: int) -> None:
    with netns.entered(cable), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as listener:
        listener.bind(("h0", 3))
        (told,) = problems("h0", namespace=cable)
    assert told.startswith("h0 has packet sockets: ")
    assert f"({os.getpid()})" in told
    assert problems("h0", namespace=cable) == ()


@pytest.mark.skipif(platform.machine() not in _SYSCALL_BPF, reason="the number of the system call is not known")
def test_an_xdp_program_is_a_problem(cable: int) -> None:
    program = xdp_program()
    index = with_iproute(lambda route: route.link_lookup(ifname="h0")[0], cable)
    try:
        with_iproute(lambda route: route.link("set", index=index, xdp_fd=program), cable)
    finally:
        os.close(program)
    assert problems("h0", namespace=cable) == ("h0 has an XDP program",)


def xdp_program() -> int:
    """A descriptor of a program that lets every packet pass."""
    code = struct.pack("=BBhi", 0xB7, 0, 0, 2) + struct.pack("=BBhi", 0x95, 0, 0, 0)
    buffer, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    body = struct.pack("=IIQQ", _BPF_PROG_TYPE_XDP, 2, ctypes.addressof(buffer), ctypes.addressof(licence))
    attributes = ctypes.create_string_buffer(body, 72)
    program = ctypes.CDLL(None, use_errno=True).syscall(_SYSCALL_BPF[platform.machine()], 5, attributes, 72)
    assert program >= 0, os.strerror(ctypes.get_errno())
    return program


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=configurations())
def test_what_was_recorded_and_put_is_recorded_again(namespace: int, wanted: Configuration) -> None:
    make_cable(namespace, "h0", "h1")
    try:
        assert apply(wanted, "h0", namespace=namespace) == []
        first = record("h0", namespace=namespace)
        assert {repr(one) for one in without_time(first).routes} == {repr(one) for one in wanted.routes}
        made = {repr(one) for one in without_time(first).addresses}
        assert made >= {repr(one) for one in without_time(wanted).addresses}
        assert len(made) == len(wanted.addresses) + 1
        delete_all(namespace)
        make_cable(namespace, "h2", "h3")
        assert apply(first, "h2", namespace=namespace) == []
        assert without_time(record("h2", namespace=namespace), name="h0") == without_time(first)
    finally:
        delete_all(namespace)
