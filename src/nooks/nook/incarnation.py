"""One incarnation: a domain that serves (or is about to), with the connections that lead to its agent.

Joins domain and xpc; knows nothing of classes. What arrives goes to the listener, which judges it.
"""

import asyncio
import re
import time
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from nooks.domain.domain import Domain
from nooks.domain.monitor import Event
from nooks.host.errors import NooksError
from nooks.host.pace import slowness
from nooks.xpc.channel import Channel
from nooks.xpc.errors import ProtocolError
from nooks.xpc.heartbeats import HeartbeatReader
from nooks.xpc.messages import Hello, Message, Request

T = TypeVar("T")
R = TypeVar("R", bound=Message)

BOOT_SECONDS = 30.0
"""How long a cold boot may take until the agent says hello, on an idle machine, where it takes 2 s."""

BRING_UP_SECONDS = 60.0
"""How long a driver may take to find its device and get its carrier."""

_SIGNS_OF_TOO_LITTLE_MEMORY = ("memory", "Initramfs unpacking failed")
"""What a kernel says last when it did not have enough (init/initramfs.c: the archive is cut off then)."""


class BootError(NooksError):
    """A domain did not boot, or its driver did not come up."""


class DomainLost(NooksError):  # noqa: N818 - the name says what happened
    """A domain ended or panicked while something was asked of it."""


class Listener(Protocol):
    """Who hears what an incarnation says. Called from the event loop; must not block."""

    def heard_beat(self, incarnation: "Incarnation", count: int, counters: dict[str, int] | None) -> None:
        """A heartbeat arrived; ``count`` is its number."""
        ...

    def heard_message(self, incarnation: "Incarnation", message: Message) -> None:
        """The agent sent an event."""
        ...

    def heard_violation(self, incarnation: "Incarnation", error: ProtocolError) -> None:
        """The domain broke the protocol."""
        ...

    def heard_machine(self, incarnation: "Incarnation", event: Event) -> None:
        """QEMU sent an event."""
        ...


class Incarnation:
    """A domain under a number, with its request channel and its heartbeats.

    ``bay`` is which of the nook's two places (queues) the domain is attached to. A spare has number 0 until it is
    appointed.
    """

    def __init__(self, domain: Domain, number: int, bay: int, listener: Listener, *, adopted: bool = False) -> None:
        self.domain = domain
        self.number = number
        self.bay = bay
        self.since = time.monotonic()
        self._listener = listener
        self._hello = asyncio.Event()
        self._panicked = asyncio.Event()
        self._silenced = False
        told = number if adopted else 0
        self.channel = Channel(
            domain.handles.sockets["xpc"].dup(),
            on_event=self._on_message,
            on_violation=self._on_violation,
            incarnation=told,
        )
        self.heartbeats = HeartbeatReader(
            domain.handles.sockets["heartbeat"].dup(),
            on_beat=self._on_beat,
            on_violation=self._on_violation,
            incarnation=told,
            adopted=adopted,
        )
        domain.on_event = self._on_machine

    def open(self) -> None:
        """Begin to listen; call when the domain's CPU is about to run."""
        self.heartbeats.allow(self.number)
        self.channel.start()
        self.heartbeats.start()

    def appoint(self, number: int) -> None:
        """A spare becomes the incarnation ``number``; its agent is told by the next ``resume``."""
        self.number = number
        self.heartbeats.allow(number)

    async def first(self, request: Request[R]) -> R:
        """Wait for a freshly booted agent and ask it to bring the driver up, or to prepare for it.

        Raises BootError if the domain dies or does not get there in time, XpcError if the agent refuses.
        """
        try:
            return await self._while_alive(self._boot_and_ask(request))
        except DomainLost:
            raise _not_booted(self.domain.console.text()) from None

    async def ask(self, request: Request[R], within_seconds: float) -> R:
        """Ask the agent for as long as the domain lives, longer on a slow machine. Raises DomainLost, XpcError."""
        return await self._while_alive(self.channel.request(request, within_seconds * slowness()))

    async def resync(self, within_seconds: float) -> None:
        """Agree with the agent of an adopted domain where requests begin. Raises DomainLost, XpcError."""
        await self._while_alive(self.channel.resync(within_seconds))

    async def _while_alive(self, work: Coroutine[Any, Any, T]) -> T:
        """Await ``work`` for as long as the domain lives. Raises DomainLost if it ends or panics."""
        lost = {asyncio.create_task(self.domain.wait_ended()), asyncio.create_task(self._panicked.wait())}
        working = asyncio.create_task(work)
        try:
            await asyncio.wait({working, *lost}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done() or (working.exception() is not None and any(task.done() for task in lost)):
                what = "panicked" if self._panicked.is_set() else "ended"
                raise DomainLost(f"the domain {what}: {_last_words(self.domain.console.text())}")
            return working.result()
        finally:
            for task in (working, *lost):
                task.cancel()
            await asyncio.gather(working, *lost, return_exceptions=True)

    async def _boot_and_ask(self, request: Request[R]) -> R:
        try:
            async with asyncio.timeout(BOOT_SECONDS * slowness()):
                await self._hello.wait()
        except TimeoutError:
            raise _not_booted(self.domain.console.text()) from None
        return await self.channel.request(request, BRING_UP_SECONDS * slowness())

    def silence(self) -> None:
        """From now on the listener hears nothing: the domain is to be fenced."""
        self._silenced = True

    async def close(self) -> None:
        """Close both connections (the domain itself is not touched). Safe to call twice."""
        self.silence()
        await self.channel.close()
        await self.heartbeats.close()

    def _on_message(self, message: Message) -> None:
        if isinstance(message, Hello):
            self._hello.set()
        if not self._silenced:
            self._listener.heard_message(self, message)

    def _on_beat(self, count: int, counters: dict[str, int] | None, incarnation: int) -> None:
        if not self._silenced:
            self._listener.heard_beat(self, count, counters)

    def _on_violation(self, error: ProtocolError) -> None:
        if not self._silenced:
            self._listener.heard_violation(self, error)

    def _on_machine(self, event: Event) -> None:
        if event["event"] == "GUEST_PANICKED":
            self._panicked.set()
        if not self._silenced:
            self._listener.heard_machine(self, event)


def _not_booted(console: str) -> BootError:
    """The error for a domain that ended, or said nothing for long, before its agent spoke."""
    last = _last_words(console)
    memory = not console.strip() or any(sign in last for sign in _SIGNS_OF_TOO_LITTLE_MEMORY)
    return BootError(f"the domain did not boot: {last}", "give it more memory, with --memory" if memory else "")


def _last_words(console: str) -> str:
    """The line of a console that says most about why a domain ended."""
    lines = [re.sub(r"^\[ *[0-9.]+\] ", "", line.strip()) for line in console.splitlines() if line.strip()]
    panics = [line for line in lines if "Kernel panic" in line or "Out of memory" in line]
    return (panics or lines or ["it said nothing"])[-1][:200]
