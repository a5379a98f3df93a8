"""The agent's request loop, driven by the host's real channel; its driver and its heartbeat are fakes."""

import asyncio
import os
import socket
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import pytest

from nooks.agent import main as agent_main
from nooks.agent import system
from nooks.agent.main import Agent
from nooks.xpc import messages, wire
from nooks.xpc.channel import Channel
from nooks.xpc.errors import ProtocolError, RequestError
from nooks.xpc.messages import Message
from nooks.xpc.states import NetworkState

BRING_UP = messages.BringUp("network", (messages.Module("a_driver.ko", "x=1"),), {"mtu": 1400})


class FakeHeartbeat:
    def __init__(self) -> None:
        self.incarnations: list[int] = []
        self.counters: dict[str, str] = {}

    def set_incarnation(self, incarnation: int) -> None:
        self.incarnations.append(incarnation)

    def set_counters(self, paths: dict[str, str]) -> None:
        self.counters = paths


STATE = NetworkState(carrier=True, speed=1000, duplex="full").to_payload()
UNPLUGGED = NetworkState(carrier=False)


class FakeDriver:
    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.silenced = False
        self.news, self._notify = os.pipe()

    def bring_up(self, settings: dict[str, Any], claim_seconds: float) -> dict[str, Any]:
        self.settings.update(settings)
        return {
            "driver": "a_driver",
            "state": STATE,
            "seconds": {"probe": 0.1, "link": 0.2},
            "readback": self.settings,
            "refused": {},
        }

    def apply(self, settings: dict[str, Any]) -> dict[str, Any]:
        if settings.get("mtu") == 1:
            raise OSError(22, "Invalid argument")
        self.settings.update(settings)
        return {"readback": self.settings, "refused": {}, "state": STATE}

    def read(self) -> dict[str, Any]:
        return {
            "readback": self.settings,
            "state": STATE,
            "statistics": {"rx_packets": 1},
        }

    def counters(self) -> dict[str, str]:
        return {"nic_rx": "/somewhere"}

    def silence(self) -> None:
        self.silenced = True

    def fileno(self) -> int:
        return self.news

    def close(self) -> None:
        os.close(self.news)
        os.close(self._notify)

    def change_link(self) -> None:
        os.write(self._notify, b"x")

    def events(self) -> list[dict[str, Any]]:
        os.read(self.news, 1)
        return [{"type": "changed", "state": UNPLUGGED.to_payload()}]


class Bench:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.driver = FakeDriver()
        self.heartbeat = FakeHeartbeat()
        self.inserted: list[tuple[str, str]] = []
        self.clock: list[int] = []
        self.entropy: list[bytes] = []
        self.events: list[Message] = []
        self.violations: list[ProtocolError] = []
        module = ModuleType("fake_class")
        module.create = lambda: self.driver  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "fake_class", module)
        monkeypatch.setitem(agent_main.CLASSES, "network", "fake_class")
        monkeypatch.setattr(system, "insert_module", self._insert)
        monkeypatch.setattr(system, "set_clock", self.clock.append)
        monkeypatch.setattr(system, "add_entropy", self.entropy.append)
        monkeypatch.setattr(agent_main, "complain", lambda: None)
        self.host, self.peer = socket.socketpair()
        agent = Agent(self.peer.fileno(), self.heartbeat)  # type: ignore[arg-type]
        agent.hello()
        self._agent = agent
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        self.channel = Channel(
            self.host.dup(), on_event=self.events.append, on_violation=self.violations.append, incarnation=0
        )

    def _insert(self, path: str, parameters: str = "") -> None:
        self.inserted.append((path, parameters))

    def _serve(self) -> None:
        while not self._ended.is_set():
            self._agent.serve_once(timeout_ms=10)

    def close(self) -> None:
        """End the agent's thread and give everything back."""
        self._ended.set()
        self._thread.join(10)
        self.host.close()
        self.peer.close()
        self.driver.close()

    async def resume(self, incarnation: int) -> messages.ResumeReply:
        return await self.channel.request(messages.Resume(incarnation, "ab", 77, "0102", {"mtu": 1300}), 5)


@asynccontextmanager
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Bench]:
    made = Bench(monkeypatch)
    made.channel.start()
    try:
        yield made
    finally:
        await made.channel.close()
        made.close()
        assert not made.violations


async def settle() -> None:
    await asyncio.sleep(0.05)


def test_a_whole_life(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async with bench(monkeypatch) as it:
            reply = await it.channel.request(BRING_UP, 5)
            assert it.inserted == [("/modules/a_driver.ko", "x=1")]
            assert reply.readback == {"mtu": 1400}
            assert it.heartbeat.counters == {"nic_rx": "/somewhere"}
            resumed = await it.resume(4)
            assert (resumed.nonce, resumed.readback) == ("ab", {"mtu": 1300})
            assert it.channel.incarnation == 4
            assert it.heartbeat.incarnations == [4]
            assert (it.clock, it.entropy) == ([77], [b"\x01\x02"])
            applied = await it.channel.request(messages.Apply({"promisc": True}), 5)
            assert applied.readback == {"mtu": 1300, "promisc": True}
            assert (await it.channel.request(messages.Read(), 5)).statistics == {"rx_packets": 1}
            it.driver.change_link()
            await settle()
            assert isinstance(it.events[0], messages.Hello)
            assert it.events[1:] == [messages.Changed(UNPLUGGED)]

    asyncio.run(body())


def test_what_was_prepared_is_not_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async with bench(monkeypatch) as it:
            prepare = messages.Prepare(BRING_UP.device_class, BRING_UP.modules)
            for _ in range(2):
                assert (await it.channel.request(prepare, 5)).load < 5
            assert it.driver.settings == {}
            await it.channel.request(BRING_UP, 5)
            assert it.inserted == [("/modules/a_driver.ko", "x=1")]
            assert it.driver.settings == {"mtu": 1400}

    asyncio.run(body())


def test_failures_are_answered_and_the_agent_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async with bench(monkeypatch) as it:
            early: list[messages.Request[Any]] = [messages.Apply({}), messages.Read(), messages.Crash("silent")]
            for request in early:
                with pytest.raises(RequestError, match="no driver"):
                    await it.channel.request(request, 5)
            await it.channel.request(BRING_UP, 5)
            with pytest.raises(RequestError, match="up already"):
                await it.channel.request(BRING_UP, 5)
            with pytest.raises(RequestError, match="Invalid argument"):
                await it.channel.request(messages.Apply({"mtu": 1}), 5)
            with pytest.raises(RequestError, match="No such file"):
                await it.channel.request(messages.Crash("hang"), 5)
            await it.resume(4)
            with pytest.raises(RequestError, match="incarnation 3 after 4"):
                await it.resume(3)
            await it.channel.request(messages.Read(), 5)

    asyncio.run(body())


def test_silence_comes_after_its_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async with bench(monkeypatch) as it:
            await it.channel.request(BRING_UP, 5)
            await it.channel.request(messages.Crash("silent"), 5)
            await settle()
            assert it.driver.silenced

    asyncio.run(body())


def test_garbage_and_requests_of_other_incarnations_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async with bench(monkeypatch) as it:
            stale = wire.Frame(wire.REQUEST, 900, 7, {"type": "read"})
            it.host.sendall(b"rubbish" + wire.encode(wire.Frame(wire.EVENT, 1, 0, {})) + wire.encode(stale))
            assert (await it.channel.request(messages.Sync("1"), 5)).nonce == "1"
            with pytest.raises(RequestError, match="unknown request"):
                await it.channel.request(Nonsense(), 5)

    asyncio.run(body())


class Nonsense(messages.Read):
    TYPE = "nonsense"


def test_adoption(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async with bench(monkeypatch) as it:
            await it.channel.request(BRING_UP, 5)
            await it.resume(4)
            # the supervisor died in the middle of a request, with a reply unread
            await asyncio.sleep(0)
            await it.channel.close()
            it.host.sendall(wire.encode(wire.Frame(wire.REQUEST, 50, 4, {"type": "read"})))
            it.host.sendall(wire.encode(wire.Frame(wire.REQUEST, 51, 4, {"type": "read"}))[:25])
            await settle()
            successor = Channel(
                it.host.dup(), on_event=it.events.append, on_violation=it.violations.append, incarnation=4
            )
            successor.start()
            await successor.resync(5)
            assert (await successor.request(messages.Read(), 5)).readback == {"mtu": 1300}
            await successor.close()

    asyncio.run(body())
