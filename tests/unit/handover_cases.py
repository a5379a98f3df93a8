"""Generated configurations of an interface, such as the kernel takes without complaint."""

import ipaddress

from endpoints import MAC
from hypothesis import strategies as st

from nooks.endpoint.handover import Address, Configuration, Route

LIFETIMES = st.one_of(st.just((None, None)), st.tuples(st.integers(5000, 10**6), st.integers(1000, 5000)))


@st.composite
def addresses_4(draw: st.DrawFn) -> Address:
    own = ipaddress.ip_interface(
        f"{ipaddress.IPv4Address(draw(st.integers(0x0A000001, 0x0AFFFFFE)))}/{draw(st.integers(8, 32))}"
    )
    valid, preferred = draw(LIFETIMES)
    return Address(
        address=str(own),
        broadcast=str(own.network.broadcast_address) if own.network.prefixlen < 31 and draw(st.booleans()) else "",
        label=draw(st.sampled_from(["", ":1", ":alias"])),
        scope=draw(st.sampled_from([0, 253])),
        flags=draw(st.sampled_from([(), ("noprefixroute",)])),
        metric=draw(st.integers(0, 2**31)),
        protocol=draw(st.integers(0, 255)),
        valid_seconds=valid,
        preferred_seconds=preferred,
    )


@st.composite
def addresses_6(draw: st.DrawFn) -> Address:
    number = (0x20010DB8 << 96) + draw(st.integers(1, 2**95))
    valid, preferred = draw(LIFETIMES)
    return Address(
        address=f"{ipaddress.IPv6Address(number)}/{draw(st.integers(48, 128))}",
        flags=draw(st.sampled_from([("nodad",), ("nodad", "noprefixroute")])),
        metric=draw(st.integers(0, 2**31)),
        protocol=draw(st.integers(0, 255)),
        valid_seconds=valid,
        preferred_seconds=preferred,
    )


@st.composite
def routes_4(draw: st.DrawFn) -> Route:
    to = ipaddress.ip_network((draw(st.integers(0xC6120000, 0xC613FFFF)), draw(st.integers(15, 32))), strict=False)
    onlink = draw(st.booleans())
    gateway = draw(st.sampled_from(["", "192.0.2.9", "fe80::9"] if not onlink else ["172.30.0.1"]))
    return Route(
        destination=draw(st.sampled_from([str(to), "0.0.0.0/0"])),
        gateway=gateway,
        source=draw(st.sampled_from(["", "192.0.2.1"])),
        metric=draw(st.integers(0, 2**32 - 1)),
        table=draw(st.sampled_from([254, 100, 5000])),
        protocol=draw(st.sampled_from([3, 4, 16, 186])),
        scope=0 if gateway else 253,
        tos=draw(st.sampled_from([0, 0x10])),
        flags=("onlink",) if onlink else (),
        metrics=draw(st.sampled_from([{}, {"mtu": 1280}, {"advmss": 1200, "initcwnd": 20}])),
    )


@st.composite
def routes_6(draw: st.DrawFn) -> Route:
    number = (0x20010DB98000 << 80) + draw(st.integers(0, 2**79))
    to = ipaddress.ip_network((number, draw(st.integers(48, 128))), strict=False)
    return Route(
        destination=draw(st.sampled_from([str(to), "::/0"])),
        gateway=draw(st.sampled_from(["", "fe80::1", "fe80::2"])),
        metric=draw(st.integers(1, 2**32 - 1)),
        table=draw(st.sampled_from([254, 100, 5000])),
        protocol=draw(st.sampled_from([3, 4, 9, 186])),
        metrics=draw(st.sampled_from([{}, {"mtu": 1280}])),
        preference=draw(st.sampled_from([0, 1, 3])),
    )


def network_of(address: Address) -> object:
    return ipaddress.ip_interface(address.address).network


@st.composite
def configurations(draw: st.DrawFn) -> Configuration:
    four = draw(st.lists(addresses_4(), max_size=4, unique_by=network_of))
    six = draw(st.lists(addresses_6(), max_size=4, unique_by=network_of))
    routes = draw(
        st.lists(
            st.one_of(routes_4(), routes_6()),
            max_size=6,
            unique_by=lambda one: (one.destination, one.tos, one.metric, one.table),
        )
    )
    return Configuration(
        name="h0",
        mac=MAC,
        mtu=draw(st.integers(1280, 9000)),
        up=True,
        txqueuelen=draw(st.integers(1, 5000)),
        addresses=(Address(address="192.0.2.1/24"), *four, *six),
        routes=tuple(routes),
    )
