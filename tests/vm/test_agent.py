"""The agent in real domains: a QEMU of our own around it, no supervisor, frames counted at both ends of the cable."""

import asyncio
import fcntl
import os
import secrets
import shutil
import socket
import struct
import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from nooks.device.emulated import as_argument, network_card
from nooks.endpoint import netns
from nooks.failure import storm
from nooks.image import initramfs, kernel
from nooks.image.initramfs import Image
from nooks.xpc import messages
from nooks.xpc.errors import RequestError
from nooks.xpc.settings import Settings
from nooks.xpc.states import DeviceState, NetworkState

from .bare_domain import BOOT_SECONDS, BareDomain, bare_domain

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs QEMU"),
]

CARDS = {"e1000": "e1000", "e100": "i82557b", "pcnet32": "pcnet"}
CARD_MAC = "02:00:00:00:00:01"
PEER_MAC = "02:00:00:00:00:99"
BROADCAST = "ff:ff:ff:ff:ff:ff"
GROUP = "01:00:5e:01:02:03"
ETHERTYPE = 0x88B5  # for local experiments (IEEE 802)
ETH_P_ALL = 3
TUNSETIFF, SIOCSIFFLAGS = 0x400454CA, 0x8914
IFF_UP, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x1, 0x2, 0x1000, 0x4000


def build(flavour: str) -> Image:
    return initramfs.build(kernel.resolve("debian", flavour), list(CARDS))


@pytest.fixture(scope="module")
def image() -> Image:
    return build("amd64")


class End:
    """One end of the data path: a TAP in a network namespace of its own, with a socket that sees its frames."""

    def __init__(self, suffix: str, flags: int) -> None:
        self.namespace = f"nooks-test-{suffix}"
        netns.make(self.namespace)
        self._inside = netns.open_named(self.namespace)
        with netns.entered(self._inside):
            Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
            Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
            self.tap = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
            fcntl.ioctl(self.tap, TUNSETIFF, struct.pack("16sH22x", b"tap", IFF_TAP | IFF_NO_PI | flags))
            self.frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE))
            self.everything = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            fcntl.ioctl(self.frames, SIOCSIFFLAGS, struct.pack("16sH22x", b"tap", IFF_UP))
        for packets, kind in ((self.frames, ETHERTYPE), (self.everything, ETH_P_ALL)):
            packets.bind(("tap", kind))

    def send(self, to: str, text: bytes, sender: str = PEER_MAC, vlan: int | None = None) -> None:
        """Send a frame out of the TAP, that is, into the domain or the card."""
        tag = b"" if vlan is None else struct.pack("!HH", 0x8100, vlan)
        addresses = bytes.fromhex((to + sender).replace(":", ""))
        self.frames.send((addresses + tag + struct.pack("!H", ETHERTYPE) + text).ljust(60, b"\0"))

    def receives(self, text: bytes, timeout_seconds: float) -> bool:
        """Whether a frame with ``text`` comes out of the TAP in time."""
        deadline = time.monotonic() + timeout_seconds
        while (remaining := deadline - time.monotonic()) > 0:
            self.frames.settimeout(remaining)
            try:
                if text in self.frames.recv(4096):
                    return True
            except TimeoutError:
                return False
        return False

    def seen(self) -> list[bytes]:
        """Every frame that came out of the TAP so far."""
        frames: list[bytes] = []
        self.everything.setblocking(False)
        while True:
            try:
                frame, address = self.everything.recvfrom(4096)
            except BlockingIOError:
                return frames
            if address[2] != socket.PACKET_OUTGOING:
                frames.append(frame)

    def close(self) -> None:
        self.frames.close()
        self.everything.close()
        os.close(self.tap)
        os.close(self._inside)
        netns.remove(self.namespace)


@dataclass
class Agent:
    """A network domain with both ends of its data path."""

    domain: BareDomain
    host: End
    wire: End

    async def bring_up(self, card: str, image: Image, settings: Settings | None = None) -> messages.BringUpReply:
        modules = tuple(messages.Module(name) for name in image.load_order if _needed(card, name))
        wanted: Settings = {"mac": CARD_MAC, **(settings or {})}
        return await self.domain.channel.request(messages.BringUp("network", modules, wanted), 40)


def _needed(card: str, module: str) -> bool:
    """Of all cards' modules in the image: those of one card."""
    return module == f"{card}.ko" or module.removesuffix(".ko") not in CARDS


@asynccontextmanager
async def booted(image: Image, folder: Path, card: str = "e1000") -> AsyncGenerator[Agent]:
    suffix = secrets.token_hex(3)
    with ExitStack() as stack:
        host, wire = End(f"{suffix}h", IFF_VNET_HDR), End(f"{suffix}w", 0)
        stack.callback(host.close)
        stack.callback(wire.close)
        hardware = (
            *("-netdev", f"tap,id=host,fd={host.tap}"),
            *("-device", "virtio-net-pci,netdev=host,disable-modern=on,mrg_rxbuf=off"),
            *("-netdev", f"tap,id=wire,fd={wire.tap}", *as_argument(network_card(CARDS[card], ()) | {"id": "card"})),
        )
        async with bare_domain(image, folder, hardware, fds=[host.tap, wire.tap]) as domain:
            yield Agent(domain, host, wire)


@pytest.mark.parametrize("card", CARDS)
def test_life_of_a_card(image: Image, tmp_path: Path, card: str) -> None:
    live(image, tmp_path, card)


def test_life_on_a_kernel_of_32_bits(tmp_path: Path) -> None:
    live(build("686"), tmp_path, "e1000")


def live(image: Image, tmp_path: Path, card: str) -> None:
    async def body() -> None:
        async with booted(image, tmp_path, card) as agent:
            hello = await agent.domain.event(messages.Hello, BOOT_SECONDS)
            assert isinstance(hello, messages.Hello)
            assert hello.kernel == image.kernel.version
            with pytest.raises(RequestError, match=r"No such file.*none\.ko"):
                await agent.domain.channel.request(messages.BringUp("network", (messages.Module("none.ko"),), {}), 10)
            reply = await agent.bring_up(card, image)
            assert (reply.driver, reply.readback["mac"], reply.refused) == (card, CARD_MAC, {})
            assert carrier(reply.state)
            assert reply.seconds.link < 5
            await asyncio.sleep(0.3)
            assert agent.host.seen() == agent.wire.seen() == [], "the domain talks by itself"
            await check_resume(agent, reply)
            check_both_ways(agent)
            await check_filters(agent)
            await check_refusals(agent)
            if card != "e100":  # QEMU's model of it does not know whether a cable is plugged in
                await check_link_event(agent)
            await check_silence(agent)

    asyncio.run(body())


def carrier(state: DeviceState) -> bool:
    assert isinstance(state, NetworkState)
    return state.carrier


async def check_resume(agent: Agent, reply: messages.BringUpReply) -> None:
    for incarnation in (3, 4):
        started = time.monotonic()
        resumed = await agent.domain.resume(incarnation, reply.readback)
        print(f"resume took {1000 * (time.monotonic() - started):.1f} ms")
        assert (resumed.readback, resumed.refused, resumed.state) == (reply.readback, {}, reply.state)
    await asyncio.sleep(0.5)
    assert agent.domain.beats[-1][3] == 4
    counters = [counters for _, _, counters, _ in agent.domain.beats if counters]
    assert counters[-1].keys() == {*messages.COUNTERS, storm.COUNTER}


def check_both_ways(agent: Agent) -> None:
    for number, to in enumerate((CARD_MAC, BROADCAST)):
        agent.wire.send(to, b"from the wire %d" % number)
        assert agent.host.receives(b"from the wire %d" % number, 2)
    agent.host.send(PEER_MAC, b"to the wire", sender=CARD_MAC)
    assert agent.wire.receives(b"to the wire", 2)


async def check_filters(agent: Agent) -> None:
    """What the card lets in is what the settings say, not more."""
    marker = iter(range(1000))

    def let_in(to: str, expected: bool, vlan: int | None = None) -> bool:
        text = b"frame %d." % next(marker)
        agent.wire.send(to, text, vlan=vlan)
        return agent.host.receives(text, 2 if expected else 0.3)

    assert not let_in(GROUP, False)
    assert not let_in(PEER_MAC, False)
    assert (await agent.domain.apply(multicast=(GROUP,))).readback["multicast"] == (GROUP,)
    assert let_in(GROUP, True)
    assert (await agent.domain.apply(multicast=())).readback["multicast"] == ()
    assert not let_in(GROUP, False)
    await agent.domain.apply(allmulti=True)
    assert let_in(GROUP, True)
    await agent.domain.apply(allmulti=False, promisc=True)
    assert let_in(PEER_MAC, True)
    await agent.domain.apply(promisc=False)
    assert not let_in(PEER_MAC, False)
    changed = await agent.domain.apply(mac="02:00:00:00:00:02", mtu=1400)
    assert (changed.readback["mac"], changed.readback["mtu"]) == ("02:00:00:00:00:02", 1400)
    await asyncio.sleep(0.2)
    assert let_in("02:00:00:00:00:02", True)
    assert not let_in(CARD_MAC, False)
    vlans = await agent.domain.apply(mac=CARD_MAC, mtu=1500, vlans=(5, 7))
    await asyncio.sleep(0.2)
    if "vlans" in vlans.refused:
        return  # a card that VLANs are too long for
    assert vlans.readback["vlans"] == (5, 7)
    assert let_in(CARD_MAC, True, vlan=5)
    assert (await agent.domain.apply(vlans=())).readback["vlans"] == ()


async def check_refusals(agent: Agent) -> None:
    refused = (await agent.domain.apply(mtu=60000, coalesce__rx_usecs=3)).refused
    assert set(refused) == {"mtu", "coalesce.rx_usecs"}
    with pytest.raises(RequestError, match="up already"):
        await agent.domain.channel.request(messages.BringUp("network", (), {}), 10)
    found = await agent.domain.channel.request(messages.Read(), 10)
    assert carrier(found.state)
    assert found.statistics["rx_packets"] > 0


async def check_link_event(agent: Agent) -> None:
    agent.domain.events.clear()
    agent.domain.command("set_link", name="card", up=False)
    lost = await agent.domain.event(messages.Changed, 8)
    assert lost == messages.Changed(NetworkState(carrier=False))
    agent.domain.command("set_link", name="card", up=True)
    found = await agent.domain.event(messages.Changed, 8)
    assert isinstance(found, messages.Changed)
    assert carrier(found.state)


async def check_silence(agent: Agent) -> None:
    await asyncio.sleep(0.2)
    check_both_ways(agent)
    await agent.domain.channel.request(messages.Crash("silent"), 5)
    await asyncio.sleep(0.1)
    before = len(agent.domain.beats)
    agent.wire.send(CARD_MAC, b"unheard")
    agent.host.send(PEER_MAC, b"unsaid", sender=CARD_MAC)
    assert not agent.host.receives(b"unheard", 1)
    assert not agent.wire.receives(b"unsaid", 1)
    await asyncio.sleep(0.3)
    assert len(agent.domain.beats) > before


@pytest.mark.parametrize("how", ["panic", "oops", "agent", "leak"])
def test_crashes_that_end_the_domain(image: Image, tmp_path: Path, how: str) -> None:
    async def body() -> None:
        async with booted(image, tmp_path) as agent:
            await agent.domain.event(messages.Hello, BOOT_SECONDS)
            await agent.domain.channel.request(messages.Crash(how), 5)
            assert await agent.domain.ended(10)
            assert "Kernel panic" in agent.domain.console.read_text(errors="replace")

    asyncio.run(body())


@pytest.mark.parametrize("how", ["hang", "halt"])
def test_crashes_that_stop_the_processor(image: Image, tmp_path: Path, how: str) -> None:
    async def body() -> None:
        async with booted(image, tmp_path) as agent:
            await agent.domain.event(messages.Hello, BOOT_SECONDS)
            await asyncio.sleep(0.5)
            assert len(agent.domain.beats) >= 3
            await agent.domain.channel.request(messages.Crash(how), 5)
            await asyncio.sleep(0.3)
            before = len(agent.domain.beats)
            await asyncio.sleep(0.7)
            assert len(agent.domain.beats) == before
            assert agent.domain.process.poll() is None

    asyncio.run(body())
