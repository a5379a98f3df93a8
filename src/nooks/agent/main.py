"""The domain's init: prepares the system, answers the supervisor's requests one after the other, never ends.

A request that fails is answered with an error frame; only ``crash`` ends the domain. What a class of drivers
needs is in a module of its own, named in CLASSES.
"""

import os
import select
import sys
import time

from nooks.agent import quickjson, system
from nooks.agent.heartbeat import Heartbeat
from nooks.agent.ports import find_port
from nooks.xpc import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    class DriverClass(Protocol):
        """What a class module's ``create()`` returns."""

        def bring_up(self, settings: dict[str, Any], claim_seconds: float) -> dict[str, Any]:
            """Wait for the driver's device to appear, make it ready; the reply without ``seconds.load``.

            ``claim_seconds``: a probe that has begun may take at least as long as claiming the device.
            """
            ...

        def apply(self, settings: dict[str, Any]) -> dict[str, Any]:
            """Make the settings so: ``{readback, refused, state}``."""
            ...

        def read(self) -> dict[str, Any]:
            """The present state, as the ``read`` reply."""
            ...

        def counters(self) -> dict[str, str]:
            """Files for the heartbeat to read, by counter name."""
            ...

        def device(self) -> str:
            """The folder of the PCI device behind the driver: its card, or a USB device's controller."""
            ...

        def silence(self) -> None:
            """Make the device stop making progress without telling the driver."""
            ...

        def fileno(self) -> int:
            """Readable when ``events`` has something to say."""
            ...

        def events(self) -> list[dict[str, Any]]:
            """Events for the host, with their ``type``."""
            ...


AGENT_VERSION = "1"
CLASSES = {
    "network": "nooks.agent.network",
    "sound": "nooks.agent.sound",
    "block": "nooks.agent.block",
}
_PORT_TIMEOUT_SECONDS = 10.0
_PRIORITY = 1
_RESYNC_TYPES = ("resume", "sync")


class Agent:
    """Requests in, replies and events out. ``port`` is the request port, open for reading and writing."""

    def __init__(self, port: int, heartbeat: Heartbeat) -> None:
        self._port = port
        self._heartbeat = heartbeat
        self._decoder = wire.Decoder(resync=True, parse=quickjson.load)
        self._incarnation = 0
        self._event_sequence = 0
        self._prepared: DriverClass | None = None
        self._driver: DriverClass | None = None
        self._crash: Callable[[], None] | None = None
        self._poller = select.poll()
        self._poller.register(port, select.POLLIN)
        self._handlers = {
            "prepare": self._prepare,
            "bring_up": self._bring_up,
            "resume": self._resume,
            "apply": self._apply,
            "read": self._read,
            "sync": self._sync,
            "crash": self._announce_crash,
        }

    def hello(self) -> None:
        """Tell the host that the agent is there."""
        kernel = os.uname().release
        uptime = system.uptime_seconds()
        self._event({"type": "hello", "kernel": kernel, "agent_version": AGENT_VERSION, "boot_seconds": uptime})

    def serve(self) -> None:
        """Serve for ever."""
        while True:
            try:
                self.serve_once()
            except Exception:  # noqa: BLE001 - init must not end
                complain()

    def serve_once(self, timeout_ms: "int | None" = None) -> None:
        """Wait for something to do, for ever or ``timeout_ms``, and do it."""
        for descriptor, _ in self._poller.poll(timeout_ms):
            if descriptor == self._port:
                self._receive()
            elif self._driver is not None:
                for event in self._driver.events():
                    self._event(event)

    def _receive(self) -> None:
        data = os.read(self._port, 65536)
        if not data:
            time.sleep(0.02)  # nobody holds the other end
        for frame in self._decoder.feed(data):
            if frame.kind == wire.REQUEST:
                self._answer(frame)

    def _answer(self, frame: wire.Frame) -> None:
        payload = frame.payload
        kind = payload.pop("type", None)
        if frame.incarnation != self._incarnation and kind not in _RESYNC_TYPES:
            return  # meant for a domain that is no more
        try:
            handler = self._handlers.get(kind)  # type: ignore[arg-type]
            if handler is None:
                raise ValueError(f"unknown request {kind!r}")
            reply = quickjson.dump(handler(payload))
            answer = wire.REPLY
        except Exception as error:  # noqa: BLE001 - whatever it is, the host is told
            complain()
            text = str(error) if isinstance(error, system.Unable) else f"{type(error).__name__}: {error}"
            reply = quickjson.dump({"message": text[:2000]})
            answer = wire.ERROR
        self._send(wire.encode_body(answer, frame.sequence, self._incarnation, reply))
        crash, self._crash = self._crash, None
        if crash is not None:
            crash()

    def _event(self, payload: "dict[str, Any]") -> None:
        self._event_sequence += 1
        body = quickjson.dump(payload)
        self._send(wire.encode_body(wire.EVENT, self._event_sequence, self._incarnation, body))

    def _send(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._port, data) :]

    def _prepare(self, request: "dict[str, Any]") -> "dict[str, Any]":
        started = time.monotonic()
        if self._prepared is None:
            name = request["device_class"]
            if name not in CLASSES:
                raise ValueError(f"no class {name!r} in this agent")
            prepared: DriverClass = __import__(CLASSES[name], fromlist=["create"]).create()
            for module in request["modules"]:
                system.insert_module(f"/modules/{module['path']}", module["parameters"])
            self._prepared = prepared
        return {"load": time.monotonic() - started}

    def _bring_up(self, request: "dict[str, Any]") -> "dict[str, Any]":
        if self._driver is not None:
            raise ValueError("the driver is up already")
        loaded = self._prepare(request)["load"]
        driver = self._prepared
        assert driver is not None
        started = time.monotonic()
        system.wait_for_device([module["path"] for module in request["modules"]], request["claim_seconds"])
        claimed = time.monotonic() - started
        reply = driver.bring_up(request["settings"], request["claim_seconds"])
        reply["seconds"]["load"] = loaded
        reply["seconds"]["probe"] += claimed
        reply["sections"] = system.code_sections([module["path"] for module in request["modules"]])
        self._driver = driver
        self._heartbeat.set_counters(driver.counters())
        self._poller.register(driver.fileno(), select.POLLIN)
        return reply

    def _resume(self, request: "dict[str, Any]") -> "dict[str, Any]":
        incarnation = request["incarnation"]
        if incarnation < self._incarnation:
            raise ValueError(f"incarnation {incarnation} after {self._incarnation}")
        driver = self._up()
        self._incarnation = incarnation
        self._heartbeat.set_incarnation(incarnation)
        system.set_clock(request["time_ns"])
        if request["entropy"]:
            system.add_entropy(bytes.fromhex(request["entropy"]))
        return {"nonce": request["nonce"], **driver.apply(request["settings"])}

    def _apply(self, request: "dict[str, Any]") -> "dict[str, Any]":
        reply = self._up().apply(request["settings"])
        return {"readback": reply["readback"], "refused": reply["refused"]}

    def _read(self, request: "dict[str, Any]") -> "dict[str, Any]":
        return self._up().read()

    def _sync(self, request: "dict[str, Any]") -> "dict[str, Any]":
        return {"nonce": request["nonce"]}

    def _announce_crash(self, request: "dict[str, Any]") -> "dict[str, Any]":
        from nooks.agent import crash

        how = request["how"]
        if how == "silent":
            self._up()
            means, action = "the card may not reach memory any more", self._up().silence
        elif how == "dma":
            from nooks.agent.registers import write_registers

            device, registers = self._up().device(), request["registers"]
            means, action = "the card reaches outside the memory", lambda: write_registers(device, registers)
        else:
            means, action = crash.describe(how), lambda: crash.crash(how)
        self._crash = action
        return {"means": means}

    def _up(self) -> "DriverClass":
        if self._driver is None:
            raise ValueError("no driver is up")
        return self._driver


def complain() -> None:
    """Print the present exception on the console. (The traceback module would cost 50 ms.)"""
    sys.__excepthook__(*sys.exc_info())  # type: ignore[arg-type]


def insert_base_modules() -> None:
    """Insert what /modules/base.list names, in its order."""
    for name in system.read("/modules/base.list").split():
        try:
            system.insert_module(f"/modules/{name}")
        except OSError:
            complain()


def main() -> None:
    """Be the domain's init. Returns never."""
    try:
        system.mount_all()
        system.set_fail_stop()
        insert_base_modules()
        heartbeat = Heartbeat(find_port("nooks.heartbeat", _PORT_TIMEOUT_SECONDS))
        system.make_real_time(_PRIORITY)
        port = os.open(find_port("nooks.xpc", _PORT_TIMEOUT_SECONDS), os.O_RDWR | os.O_CLOEXEC)
        agent = Agent(port, heartbeat)
        agent.hello()
    except Exception:  # noqa: BLE001 - the console is all there is
        complain()
        os._exit(1)
    agent.serve()
