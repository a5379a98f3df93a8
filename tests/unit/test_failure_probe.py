"""The neighbour probe: frames against the RFCs, and the whole of it against a real peer in a namespace."""

import asyncio
import contextlib
import ipaddress
import os
import secrets
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakes import run
from hypothesis import given
from hypothesis import strategies as st

from nooks.failure.frames import advertiser, arp_request, arp_sender, solicitation
from nooks.failure.neighbours import neighbours, own_addresses, source_for
from nooks.failure.probe import NeighbourProber
from nooks.host.clock import SystemClock

MAC, PEER = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
needs_namespaces = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


def ip(text: str) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(text)


def ip6(text: str) -> ipaddress.IPv6Address:
    return ipaddress.IPv6Address(text)


def test_arp_request_is_rfc_826s() -> None:
    frame = arp_request(MAC, ip("192.0.2.1"), ip("192.0.2.9"))
    assert frame.hex().startswith("ffffffffffff02000000000108060001080006040001")
    assert frame[22:42].hex() == "020000000001c0000201000000000000c0000209"
    assert len(frame) == 60


def test_arp_reply_is_recognised_and_nothing_else() -> None:
    body = struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 2) + PEER + ip("192.0.2.9").packed + MAC + bytes(4)
    assert arp_sender(MAC + PEER + body) == ip("192.0.2.9")
    assert arp_sender(arp_request(MAC, ip("192.0.2.1"), ip("192.0.2.9"))) is None
    assert arp_sender((MAC + PEER + body)[:41]) is None


def test_solicitation_goes_to_the_group_with_a_right_checksum() -> None:
    frame = solicitation(MAC, ip6("fe80::1"), ip6("2001:db8::1234:5678"))
    assert frame[:6].hex() == "3333ff345678"
    assert frame[38:54] == ip6("ff02::1:ff34:5678").packed
    message = frame[54:]
    pseudo = frame[22:54] + struct.pack("!II", len(message), 58)
    words = struct.unpack(f"!{len(pseudo + message) // 2}H", pseudo + message)
    total = sum(words)
    assert (total & 0xFFFF) + (total >> 16) in (0xFFFF, 0x1FFFE)
    assert solicitation(MAC, ip6("fe80::1"), ip6("fe80::2"), PEER)[:6] == PEER


@given(st.binary(max_size=120))
def test_any_frame_is_survived(frame: bytes) -> None:
    assert arp_sender(frame) is None or frame[12:14] == b"\x08\x06"
    assert advertiser(frame) is None or frame[12:14] == b"\x86\xdd"


def test_source_addresses() -> None:
    own = [ipaddress.ip_interface("192.0.2.7/24"), ipaddress.ip_interface("fe80::7/64")]
    assert source_for(ip("192.0.2.1"), own) == ip("192.0.2.7")
    assert source_for(ip("198.51.100.1"), own) == ip("0.0.0.0")
    assert source_for(ip6("2001:db8::1"), own) == ip6("fe80::7")
    assert source_for(ip6("2001:db8::1"), own[:1]) is None


@dataclass
class Cable:
    """A host interface whose other end is in a namespace."""

    interface: str
    namespace: str
    net4: str
    net6: str

    def far(self, version: int) -> str:
        """The peer's address."""
        return f"{self.net4}.2" if version == 4 else f"{self.net6}::2"

    def peer(self, *command: str) -> None:
        subprocess.run(["ip", "netns", "exec", self.namespace, *command], check=True, capture_output=True)

    def meet(self, address: str) -> None:
        """Let the kernel know the peer: a datagram makes it resolve the address."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            for _ in range(100):
                with contextlib.suppress(OSError):
                    sender.sendto(b"x", (address, 9))
                known = neighbours(socket.if_nametoindex(self.interface))
                if any(str(each.address) == address and each.confirmed_seconds < 20 for each in known):
                    return
                subprocess.run(["sleep", "0.1"], check=True)
        known = subprocess.run(["ip", "-d", "neigh", "show", "dev", self.interface], capture_output=True, text=True)
        raise AssertionError(f"the peer was never met, only {known.stdout!r}")


@pytest.fixture
def cable() -> Iterator[Cable]:
    suffix = secrets.token_hex(3)
    net4 = f"198.{18 + int(suffix[0], 16) % 2}.{int(suffix[:2], 16)}"  # RFC 2544's, for nobody else uses them
    made = Cable(f"pr{suffix}", f"pr{suffix}", net4, f"fd00:1{suffix[:3]}:1{suffix[3:]}")
    commands = [
        f"ip netns add {made.namespace}",
        f"ip link add {made.interface} type veth peer name far netns {made.namespace}",
        f"ip addr add {made.net4}.1/24 dev {made.interface}",
        f"ip addr add {made.net6}::1/64 dev {made.interface} nodad",
        f"ip link set {made.interface} up",
        f"ip -n {made.namespace} addr add {made.far(4)}/24 dev far",
        f"ip -n {made.namespace} addr add {made.far(6)}/64 dev far nodad",
        f"ip -n {made.namespace} link set far up",
    ]
    try:
        for command in commands:
            subprocess.run(command.split(), check=True, capture_output=True)
        yield made
    finally:
        subprocess.run(["ip", "link", "del", made.interface], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", made.namespace], check=True, capture_output=True)


def ask(prober: NeighbourProber, seconds: float = 2.0) -> bool | None:
    async def main() -> bool | None:
        result = await prober.probe(seconds)
        await asyncio.sleep(0.01)
        assert len(asyncio.all_tasks()) == 1
        return result

    before = len(list(Path("/proc/self/fd").iterdir()))
    result = run(main)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    return result


@needs_namespaces
@pytest.mark.parametrize("version", [4, 6])
def test_a_peer_that_answers_that_stops_and_that_comes_back(cable: Cable, version: int) -> None:
    address = cable.far(version)
    prober = NeighbourProber(cable.interface, SystemClock())
    assert ask(prober) is None  # nobody was met yet
    cable.meet(address)
    assert ask(prober) is True
    cable.peer("ip", "link", "set", "far", "arp", "off")
    cable.peer("sysctl", "-qw", "net.ipv6.conf.far.disable_ipv6=1")
    assert ask(prober, 0.6) is False
    assert ask(prober, 0.6) is None  # not asked again until it was heard of
    cable.peer("sysctl", "-qw", "net.ipv6.conf.far.disable_ipv6=0")
    cable.peer("ip", "link", "set", "far", "arp", "on")
    with contextlib.suppress(subprocess.CalledProcessError):
        cable.peer("ip", "addr", "add", f"{cable.far(6)}/64", "dev", "far", "nodad")
    subprocess.run(["ip", "neigh", "flush", "dev", cable.interface], check=True, capture_output=True)
    cable.meet(address)
    assert ask(prober) is True


def ask_for_echoes(prober: NeighbourProber, seconds: float = 2.0) -> bool | None:
    return run(lambda: prober.echo(seconds))


@needs_namespaces
def test_whole_frames_are_missed_only_where_they_came_before(cable: Cable) -> None:
    prober = NeighbourProber(cable.interface, SystemClock())
    assert ask_for_echoes(prober) is None  # nobody was met yet
    cable.meet(cable.far(4))
    cable.peer("sysctl", "-qw", "net.ipv4.icmp_echo_ignore_all=1")
    assert ask_for_echoes(prober, 0.3) is None  # this one may not echo at all
    cable.peer("sysctl", "-qw", "net.ipv4.icmp_echo_ignore_all=0")
    assert ask_for_echoes(prober) is True
    cable.peer("ip", "link", "set", "far", "mtu", "600")  # drops what is larger, as a broken driver may
    assert ask(prober) is True
    assert ask_for_echoes(prober, 0.3) is False
    prober.forget()
    assert ask_for_echoes(prober, 0.3) is None
    cable.peer("ip", "link", "set", "far", "mtu", "1500")
    assert ask_for_echoes(prober) is True


_SINK = """
import ctypes, select, socket, struct, sys
nothing = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0))  # BPF: return 0
with socket.create_server(("", 5001)) as server:
    print("ready", flush=True)
    connection = server.accept()[0]
    while sys.stdin not in select.select([connection, sys.stdin], [], [])[0]:
        connection.recv(65536)
    connection.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HP", 1, ctypes.addressof(nothing)))  # SO_ATTACH_FILTER
    print("deaf", flush=True)
    sys.stdin.readline()
    select.select([], [], [])
"""


@needs_namespaces
def test_tcp_that_gets_nowhere_with_a_neighbour_that_answers(cable: Cable) -> None:
    prober = NeighbourProber(cable.interface, SystemClock())
    command = ["ip", "netns", "exec", cable.namespace, sys.executable, "-c", _SINK]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sink:
        assert sink.stdin is not None
        assert sink.stdout is not None
        try:
            assert sink.stdout.readline() == b"ready\n"
            with socket.create_connection((cable.far(4), 5001), timeout=20) as connection:
                assert run(lambda: prober.trouble(2.0)) is not True
                connection.sendall(bytes(3_000_000))
                assert run(lambda: prober.trouble(2.0)) is False
                sink.stdin.write(b"\n")
                sink.stdin.flush()
                assert sink.stdout.readline() == b"deaf\n"
                connection.send(bytes(1000))
                until_in_trouble(prober)
                cable.peer("ip", "link", "set", "far", "arp", "off")
                assert run(lambda: prober.trouble(0.6)) is None  # one that doesn't answer may be gone
        finally:
            sink.kill()


def until_in_trouble(prober: NeighbourProber) -> None:
    deadline = time.monotonic() + 20
    while run(lambda: prober.trouble(2.0)) is not True:
        assert time.monotonic() < deadline
        time.sleep(0.2)


@needs_namespaces
def test_an_interface_that_is_down_or_gone_cannot_be_asked(cable: Cable) -> None:
    prober = NeighbourProber(cable.interface, SystemClock())
    cable.meet(cable.far(4))
    subprocess.run(["ip", "link", "set", cable.interface, "down"], check=True)
    assert ask(prober) is None
    assert ask_for_echoes(prober) is None
    subprocess.run(["ip", "link", "del", cable.interface], check=True)
    assert ask(prober) is None


@needs_namespaces
def test_own_addresses_and_neighbours_of_one_interface_only(cable: Cable) -> None:
    index = socket.if_nametoindex(cable.interface)
    cable.meet(cable.far(4))
    own = {str(each.ip) for each in own_addresses(index)}
    assert {f"{cable.net4}.1", f"{cable.net6}::1"} <= own
    assert "127.0.0.1" not in own
    assert [str(each.address) for each in neighbours(index) if each.address.version == 4] == [cable.far(4)]
    assert neighbours(1) == []
