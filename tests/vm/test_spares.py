"""Spares are prepared on a second queue of the very TAP that the live domain serves: nobody may notice.

Datagrams with a checksum of their own go both ways all the time while spares are loaded and thrown away.
"""

import asyncio
import os
import random
import secrets
import shutil
import socket
import subprocess
import threading
import time
import zlib
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

import pytest

from nooks.device.emulated import NETWORK_CABLE, as_argument, host_side_network, network_card
from nooks.domain.accel import tcg
from nooks.domain.domain import Domain, Jail
from nooks.domain.maker import DomainMaker
from nooks.domain.monitor import Event
from nooks.domain.qemu import Plan
from nooks.endpoint import netns
from nooks.endpoint.tap import TapEndpoint
from nooks.endpoint.wire import Wire, parse_wire
from nooks.image import initramfs, kernel
from nooks.nook.incarnation import Incarnation
from nooks.xpc.errors import ProtocolError
from nooks.xpc.messages import BringUp, Message, Module, Resume

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs QEMU"),
]

PORT = 7000
INTERVAL_SECONDS = 0.001


class _Deaf:
    """Nobody listens."""

    def heard_beat(self, incarnation: Incarnation, count: int, counters: dict[str, int] | None) -> None: ...

    def heard_message(self, incarnation: Incarnation, message: Message) -> None: ...

    def heard_violation(self, incarnation: Incarnation, error: ProtocolError) -> None: ...

    def heard_machine(self, incarnation: Incarnation, event: Event) -> None: ...


class Datagrams:
    """Sends numbered, checksummed datagrams of random length one way and counts what arrives, and how."""

    def __init__(self, sender: socket.socket, receiver: socket.socket, to: tuple[str, int]) -> None:
        self.sent = self.arrived = self.corrupted = 0
        self._sender, self._receiver, self._to = sender, receiver, to
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=each) for each in (self._send, self._receive)]
        receiver.settimeout(0.2)
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Stop both ways; what is under way may still arrive."""
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        source = random.Random(1)
        while not self._ending.is_set():
            body = source.randbytes(source.randrange(1, 1400))
            self._sender.sendto(zlib.crc32(body).to_bytes(4, "big") + body, self._to)
            self.sent += 1
            time.sleep(INTERVAL_SECONDS)

    def _receive(self) -> None:
        while True:
            try:
                data = self._receiver.recv(2048)
            except TimeoutError:
                if self._ending.is_set():
                    return
                continue
            self.arrived += 1
            self.corrupted += zlib.crc32(data[4:]).to_bytes(4, "big") != data[:4]


@asynccontextmanager
async def live_domain() -> AsyncGenerator[tuple[DomainMaker, TapEndpoint, Wire, str]]:
    """A domain with the first driver of the table that serves on bay 0, and the maker of its spares for bay 1."""
    suffix = secrets.token_hex(3)
    endpoint = TapEndpoint.create(f"s{suffix}")
    wire = await Wire.open(parse_wire(f"tap:w{suffix}@ns-{suffix}"))
    chosen = kernel.resolve()
    image = initramfs.build(chosen, ["e1000"])
    hardware = (*host_side_network(), *NETWORK_CABLE, *as_argument(network_card("e1000", ())))
    plan = Plan(chosen.vmlinux, image.initramfs, image.digest, 128 << 20, hardware, tcg())
    jail = Jail(1_990_000_000, netns.empty_netns(), f"nooks-test-{suffix}")

    async def bring_up(domain: Domain) -> dict[str, object]:
        booted = Incarnation(domain, 0, -1, _Deaf())
        booted.open()
        modules = tuple(Module(name) for name in image.load_order)
        facts = (await booted.first(BringUp("network", modules))).to_payload()
        await booted.close()
        return facts

    maker = DomainMaker(plan, jail, bring_up, "test-spares")
    try:
        with endpoint.launching(0):
            domain = await maker.restore(descriptors(endpoint, wire, 0), spare=False)
        try:
            endpoint.switch(0)
            wire.switch(0)
            live = Incarnation(domain, 1, 0, _Deaf())
            live.open()
            await domain.run()
            mac = str(endpoint.observe()["mac"])
            await live.channel.request(Resume(1, secrets.token_hex(8), time.time_ns(), "00", {"mac": mac}), 30)
            yield maker, endpoint, wire, f"ns-{suffix}"
            await live.close()
        finally:
            await domain.destroy()
    finally:
        await maker.close()
        await wire.close()
        endpoint.close()
        jail.close()


def descriptors(endpoint: TapEndpoint, wire: Wire, bay: int) -> dict[str, int]:
    """What a domain in ``bay`` is handed."""
    return {"host": endpoint.queue_fds[bay], "wire": wire.queue_fds[bay]}


@contextmanager
def traffic(endpoint: TapEndpoint, wire: Wire, namespace: str) -> Generator[list[Datagrams]]:
    """Datagrams both ways through the live domain."""
    net = f"10.{random.randrange(0x80, 0xC0)}.{random.randrange(256)}"  # other tests on this machine take theirs
    here, there = f"{net}.1", f"{net}.2"
    endpoint.configure([f"{here}/24"], up=True)
    address = ["ip", "-n", namespace, "address", "add", f"{there}/24", "dev", str(wire.spec.interface)]
    subprocess.run(address, check=True)
    outside = netns.open_named(namespace)
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    with netns.entered(outside):
        sockets += [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    os.close(outside)
    sockets[1].bind((here, PORT))
    sockets[3].bind((there, PORT))
    ways = [
        Datagrams(sockets[0], sockets[3], (there, PORT)),
        Datagrams(sockets[2], sockets[1], (here, PORT)),
    ]
    try:
        yield ways
    finally:
        for way in ways:
            way.end()
        for each in sockets:
            each.close()


@pytest.mark.parametrize("preparations", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_preparing_spares_disturbs_no_frame(preparations: int) -> None:
    async def body() -> None:
        async with live_domain() as (maker, endpoint, wire, namespace):
            with traffic(endpoint, wire, namespace) as ways:
                await asyncio.sleep(3)  # the card lets nothing in for a second after its filters were set
                lost_before = [way.sent - way.arrived for way in ways]
                for _ in range(preparations):
                    with endpoint.launching_apart(1):
                        spare = await maker.restore(descriptors(endpoint, wire, 1), spare=True)
                    await spare.destroy()
                await asyncio.sleep(1)
            for way, lost in zip(ways, lost_before, strict=True):
                print(f"{way.sent} sent, {way.arrived} arrived, {way.corrupted} corrupted, {lost} lost before")
                assert way.corrupted == 0
                assert way.arrived > 1000
                assert way.sent - way.arrived - lost <= way.sent // 200

    asyncio.run(body())
