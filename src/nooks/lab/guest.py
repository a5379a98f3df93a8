"""The init of a guest in which driver and application share one kernel: the native control of a fault-injection trial.

Everything is as the distribution has it, panic settings included, and as in any machine without us. Orders come and
answers go as JSON lines over a port; a heartbeat on another port tells that the kernel still schedules. What a class of
drivers needs is in a module of its own. Standard library only, with the agent's own helpers.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from nooks.agent import system
from nooks.agent.heartbeat import Heartbeat
from nooks.agent.main import complain, insert_base_modules
from nooks.agent.ports import find_port

Order = dict[str, Any]
Report = Callable[[dict[str, Any]], None]

PANIC_SETTINGS = (
    *("panic", "panic_on_oops", "panic_on_warn", "panic_on_rcu_stall"),
    *("softlockup_panic", "hung_task_panic", "hung_task_timeout_secs", "watchdog_thresh"),
)
_PORT_SECONDS = 10.0
_CLAIM_SECONDS = 20.0


class GuestClass(Protocol):
    """What a class's guest brings."""

    def bring_up(self, order: Order) -> None:
        """The driver's modules are in: make its device ready for the application. Raises OSError, Unable."""
        ...

    def use(self, order: Order, report: Report, control: int) -> None:
        """Run the application until something comes on ``control``; its lines go to ``report``."""
        ...


def wait_for(look: Callable[[], str], within_seconds: float, otherwise: str) -> str:
    """What ``look`` finds, as soon as that is something. Raises Unable, saying ``otherwise``."""
    deadline = time.monotonic() + within_seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise system.Unable(otherwise)
        time.sleep(0.01)
    return found


def serve(guest: GuestClass) -> None:
    """Be the guest's init. Returns never."""
    try:
        system.mount_all()
        insert_base_modules()
        Heartbeat(find_port("nooks.heartbeat", _PORT_SECONDS))
        port = os.open(find_port("nooks.xpc", _PORT_SECONDS), os.O_RDWR | os.O_CLOEXEC)
    except Exception:  # noqa: BLE001 - the console is all there is
        complain()
        os._exit(1)

    def say(line: dict[str, Any]) -> None:
        data = json.dumps(line).encode() + b"\n"
        while data:
            data = data[os.write(port, data) :]

    say({"event": "hello", "settings": {name: _setting(name) for name in PANIC_SETTINGS}})
    while True:
        line = _line(port)
        try:
            if line.get("order") == "bring_up":
                _bring_up(guest, line, say)
            elif line.get("order") == "use":
                system.set_clock(line["time_ns"])
                guest.use(line, say, port)
        except Exception as error:  # noqa: BLE001 - init must not end
            complain()
            say({"event": "error", "message": f"{type(error).__name__}: {error}"})


def _bring_up(guest: GuestClass, order: Order, say: Report) -> None:
    files = system.read("/modules/driver.list").split()
    for file in files:
        system.insert_module(f"/modules/{file}", order["parameters"].get(file.removesuffix(".ko"), ""))
    system.wait_for_device(files, _CLAIM_SECONDS)
    guest.bring_up(order)
    say({"event": "ready", "sections": system.code_sections(files)})


def _line(port: int) -> Order:
    """The next order."""
    data = b""
    while not data.endswith(b"\n"):
        received = os.read(port, 65536)
        if not received:
            time.sleep(0.02)  # nobody holds the other end
        data += received
    try:
        return json.loads(data.splitlines()[-1])
    except ValueError:
        sys.stderr.write(f"not an order: {data[:200]!r}\n")
        return {}


def _setting(name: str) -> str:
    try:
        return system.read(f"/proc/sys/kernel/{name}").strip()
    except OSError:
        return ""
