"""Asks the neighbours of a host interface for a sign of life: ARP for IPv4, neighbour solicitation for IPv6.

Asked are only those of whom the kernel (or an earlier probe) knew lately that they are there. One that failed to answer
isn't asked again before it was heard of anew: a peer that is switched off must not be held against the driver twice.
"""

import asyncio
import contextlib
import errno
import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path

from nooks.failure.connections import Connections
from nooks.failure.echo import EchoProber
from nooks.failure.frames import ETH_ARP, ETH_IPV6, advertiser, arp_request, arp_sender, solicitation
from nooks.failure.neighbours import Address, Neighbour, neighbours, own_addresses, source_for
from nooks.host.clock import Clock

RECENT_SECONDS = 300.0
MOST_ASKED = 3
TRIES = 3
_SOL_PACKET, _PACKET_QDISC_BYPASS = 263, 20
_FRAMES_PER_TURN = 64


@dataclass(frozen=True)
class _Question:
    """One neighbour and the frames that ask it: straight, and by broadcast or multicast."""

    address: Address
    frames: tuple[bytes, bytes]


class NeighbourProber:
    """A ``network.Prober`` on one host interface, which is looked up anew each time. Needs CAP_NET_RAW."""

    def __init__(self, interface: str, clock: Clock) -> None:
        self._interface = interface
        self._clock = clock
        self._answered: dict[Address, float] = {}
        self._failed: dict[Address, float] = {}
        self._echoes = EchoProber(interface, clock)
        self._connections = Connections()

    async def probe(self, timeout_seconds: float, *, again: bool = False) -> bool | None:
        """True: a neighbour answered. False: none did. None: nobody to ask, or the interface is down or gone.

        ``again``: those that failed to answer are asked as well.
        """
        if again:
            self._failed.clear()
        try:
            answered = await self._asked(self._questions(), timeout_seconds)
        except OSError:
            return None
        return bool(answered) if answered is not None else None

    async def trouble(self, timeout_seconds: float) -> bool | None:
        """As the detector's Prober says."""
        try:
            index = socket.if_nametoindex(self._interface)
            known = {each.address for each in neighbours(index)}
            own = {each.ip for each in own_addresses(index)}
            troubled, fine = self._connections.look(own, known)
            questions = [each for each in self._questions() if each.address in troubled]
            answered = await self._asked(questions, timeout_seconds)
        except OSError:
            return None
        return True if answered else False if fine else None

    async def _asked(self, questions: list[_Question], timeout_seconds: float) -> set[Address] | None:
        """Those who answered; None if there is nobody to ask. Raises OSError."""
        if not questions:
            return None
        with _Wire(self._interface, {question.address for question in questions[:MOST_ASKED]}) as wire:
            answered = await self._ask(wire, questions[:MOST_ASKED], timeout_seconds)
        now = self._clock.monotonic()
        self._answered.update(dict.fromkeys(answered, now))
        if not answered:
            self._failed.update({question.address: now for question in questions[:MOST_ASKED]})
        return answered

    async def echo(self, timeout_seconds: float) -> bool | None:
        """As the detector's Prober says."""
        try:
            known = self._worth_asking(socket.if_nametoindex(self._interface))
        except OSError:
            return None
        addresses = [each.address for each in known if isinstance(each.address, ipaddress.IPv4Address)]
        return await self._echoes.echo(addresses[:MOST_ASKED], timeout_seconds)

    def forget(self) -> None:
        """As the detector's Prober says."""
        self._echoes.forget()

    async def _ask(self, wire: "_Wire", questions: list[_Question], timeout_seconds: float) -> set[Address]:
        """Raises OSError if not even one question could be sent."""
        for attempt in range(TRIES):
            for question in questions:
                wire.send(question.frames[min(attempt, 1)])
            await wire.heard(self._clock, timeout_seconds / TRIES)
            if wire.answered:
                break
        return wire.answered

    def _questions(self) -> list[_Question]:
        index = socket.if_nametoindex(self._interface)
        mac = bytes.fromhex(Path(f"/sys/class/net/{self._interface}/address").read_text().strip().replace(":", ""))
        own = own_addresses(index)
        questions: list[_Question] = []
        for neighbour in self._worth_asking(index):
            source = source_for(neighbour.address, own)
            if isinstance(neighbour.address, ipaddress.IPv4Address) and isinstance(source, ipaddress.IPv4Address):
                straight = arp_request(mac, source, neighbour.address, neighbour.hardware)
                frames = (straight, arp_request(mac, source, neighbour.address))
            elif isinstance(neighbour.address, ipaddress.IPv6Address) and isinstance(source, ipaddress.IPv6Address):
                straight = solicitation(mac, source, neighbour.address, neighbour.hardware)
                frames = (straight, solicitation(mac, source, neighbour.address))
            else:
                continue
            questions.append(_Question(neighbour.address, frames))
        return questions

    def _worth_asking(self, index: int) -> list[Neighbour]:
        now = self._clock.monotonic()
        known: list[Neighbour] = []
        for neighbour in neighbours(index):
            heard = now - neighbour.confirmed_seconds
            heard = max(heard, self._answered.get(neighbour.address, heard))
            if now - heard <= RECENT_SECONDS and heard > self._failed.get(neighbour.address, heard - 1):
                known.append(neighbour)
        return known


class _Wire:
    """Raw sockets on an interface: questions go out past its queue, answers of ``wanted`` come in."""

    def __init__(self, interface: str, wanted: set[Address]) -> None:
        self.answered: set[Address] = set()
        self._wanted = wanted
        self._heard = asyncio.Event()
        self._stack = contextlib.ExitStack()
        self._interface = interface

    def __enter__(self) -> "_Wire":
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            self._sockets = [stack.enter_context(self._open(protocol)) for protocol in (ETH_ARP, ETH_IPV6)]
            for each in self._sockets:
                loop.add_reader(each.fileno(), self._receive, each)
                stack.callback(loop.remove_reader, each.fileno())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def send(self, frame: bytes) -> None:
        """A full queue is no error: then the question is as stuck as everything else. Raises OSError if it is down."""
        try:
            self._sockets[0].send(frame)
        except OSError as error:
            if error.errno not in (errno.ENOBUFS, errno.EAGAIN):
                raise

    async def heard(self, clock: Clock, timeout_seconds: float) -> None:
        """Wait for the first answer, or until the time is over."""
        waits = {asyncio.ensure_future(self._heard.wait()), asyncio.ensure_future(clock.sleep(timeout_seconds))}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _open(self, protocol: int) -> socket.socket:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        raw = socket.socket(socket.AF_PACKET, kind, 0)
        try:
            raw.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
            raw.bind((self._interface, protocol))
        except OSError:
            raw.close()
            raise
        return raw

    def _receive(self, raw: socket.socket) -> None:
        for _ in range(_FRAMES_PER_TURN):
            try:
                frame = raw.recv(2048)
            except OSError:
                return
            sender = arp_sender(frame) or advertiser(frame)
            if sender is not None and sender in self._wanted:
                self.answered.add(sender)
                self._heard.set()
