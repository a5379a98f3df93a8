"""Inside a lab machine: its real cards, each with a far end in a namespace of its own."""

import json
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from nooks.device import pci, usb
from nooks.device.taking import resolve
from nooks.host import journal, paths
from nooks.lab.leaks import Picture
from nooks.lifecycle import contact
from nooks.nook.control import RemoteError

DEVICES = Path("/run/nooks-lab/devices.json")
COMMAND_SECONDS = 900
SPARE_SECONDS = 400.0
PORT = 7007
HANGS = {"heartbeat", "halted"}
NOTICED_AS = {
    # Slowly emulated, a domain that dies takes so long over it that its silence is often noticed first.
    "kill": {"exit"} | HANGS,
    "freeze": {"frozen"} | HANGS,
    "panic": {"panic"} | HANGS,
    "oops": {"oops", "panic"} | HANGS,
    "agent": {"panic", "exit"} | HANGS,
    "leak": {"memory", "panic", "no-progress"} | HANGS,  # a driver without memory for buffers moves nothing
    "hang": HANGS,
    "halt": HANGS,
    "silent": {"no-progress", "no-answer"},
    "dma": {"dma"},
}
ECHO = """
import socket, sys
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
connection, _ = server.accept()
while data := connection.recv(1):
    connection.sendall(data)
"""


def network_devices() -> list[dict[str, Any]]:
    """The network cards of this lab machine; none outside of one."""
    if not DEVICES.exists():
        return []
    return [device for device in json.loads(DEVICES.read_text()) if device["wire"]]


def driver_of(device: str) -> str | None:
    """The driver that has a real device now, named as for ``nooks attach``."""
    kind, _, where = resolve(device).partition(":")
    if kind == "pci":
        return pci.find(where).driver
    return next((one.driver for one in usb.find(where).interfaces if one.driver), None)


@dataclass
class Card:
    """A real card of the lab machine, configured; its cable ends in ``namespace``."""

    model: str
    device: str
    mac: str
    wire: str
    number: int
    namespace: str = field(default_factory=lambda: f"far-{secrets.token_hex(3)}")

    @property
    def tells_of_dma(self) -> bool:
        """Whether its machine tells what the IOMMU refused: a model of ours refuses by itself, and tells nobody."""
        return not self.device.startswith("usb") and not self.model.startswith("model:")

    @property
    def near(self) -> str:
        """The address of the card's interface."""
        return f"198.18.{self.number}.2"

    @property
    def far(self) -> str:
        """The address at the far end."""
        return f"198.18.{self.number}.1"

    @property
    def elsewhere(self) -> str:
        """A network that is reached by the far end."""
        return f"198.19.{self.number}.0/24"

    @property
    def interface(self) -> str:
        """The interface that has the card's MAC address now: the host's or the nook's."""
        for path in Path("/sys/class/net").iterdir():
            if path.name != self.wire and (path / "address").read_text().strip() == self.mac:
                return path.name
        raise LookupError(f"no interface has {self.mac}")

    def configured(self) -> dict[str, Any]:
        """What ``ip`` says of the interface, as far as it must survive."""
        name = self.interface
        (link,) = json.loads(_output("ip", "-json", "address", "show", "dev", name))
        addresses = sorted((one["local"], one["prefixlen"]) for one in link["addr_info"] if one["scope"] == "global")
        routes = sorted(one["dst"] for one in json.loads(_output("ip", "-json", "route", "show", "dev", name)))
        return {"name": name, "mtu": link["mtu"], "mac": link["address"], "addresses": addresses, "routes": routes}

    def reaches(self, within_seconds: float = 30.0) -> bool:
        """Whether the far end answers in time."""
        deadline = time.monotonic() + within_seconds
        argv = ["ping", "-q", "-c", "1", "-W", "2", self.far]
        while subprocess.run(argv, stdout=subprocess.DEVNULL, check=False).returncode:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True


@contextmanager
def cabled(device: dict[str, Any]) -> Generator[Card]:
    """The card of a line of devices.json with addresses at both ends; undone at the end."""
    adapter = usb.at_port(device["usb"]) if device["usb"] else None
    where = device["address"] if adapter is None else f"usb:{adapter.ids}"
    card = Card(device["model"], where, device["mac"], device["wire"], device["number"])
    name = card.interface
    run("ip", "netns", "add", card.namespace)
    try:
        run("ip", "link", "set", card.wire, "netns", card.namespace)
        run("ip", "-n", card.namespace, "address", "add", f"{card.far}/24", "dev", card.wire)
        run("ip", "-n", card.namespace, "link", "set", card.wire, "up")
        run("ip", "address", "add", f"{card.near}/24", "dev", name)
        run("ip", "link", "set", name, "up", "mtu", "1400")
        run("ip", "route", "add", card.elsewhere, "via", card.far)
        assert card.reaches(), "the cable itself works"
        yield card
    finally:
        run("ip", "address", "flush", "dev", card.interface)
        run("ip", "link", "set", card.interface, "down")
        run("ip", "netns", "delete", card.namespace)


class Nook:
    """A card in a nook."""

    def __init__(self, name: str) -> None:
        self.name = name

    def status(self) -> dict[str, Any]:
        """Asked at the control socket: a command would take seconds here."""
        return contact.status(self.name)

    def until(self, holds: Callable[[dict[str, Any]], bool], within_seconds: float = 120.0) -> dict[str, Any]:
        """The status as soon as it is so."""
        deadline = time.monotonic() + within_seconds
        while not holds(status := self.status()):
            assert time.monotonic() < deadline, status
            time.sleep(0.1)
        return status

    def crash(self, how: str) -> tuple[str, dict[str, Any]]:
        """Fail it, wait until it serves again; the reason that was noticed, and the detail of its ``resumed`` event."""
        before = self._fail(how, time.monotonic() + SPARE_SECONDS)
        self.until(lambda status: status["recoveries"] > before["recoveries"])
        failed = next(event for event in self.events("failed") if event.incarnation == before["incarnation"])
        return failed.reason, self.events("resumed")[-1].detail or {}

    def _fail(self, how: str, deadline: float) -> dict[str, Any]:
        """Ask for it when a spare is ready, again where the nook failed of itself just then; the status before."""
        while True:
            ready = self.until(lambda status: status["state"] == "running" and status["spare_ready"], SPARE_SECONDS)
            try:
                with contact.connect(self.name) as control:
                    control.request("crash", {"how": how}, timeout_seconds=30)
            except RemoteError as error:
                if "is recovering" not in error.message or time.monotonic() > deadline:
                    raise
            else:
                return ready

    def events(self, kind: str) -> list[journal.Event]:
        """The journal's events of one kind."""
        return [event for event in journal.read(self.name) if event.event == kind]


class Talk:
    """One TCP connection to the far end that must outlive everything: each byte sent comes back."""

    def __init__(self, card: Card) -> None:
        self.answers = 0
        self.error: BaseException | None = None
        self._ending = threading.Event()
        argv = ["ip", "netns", "exec", card.namespace, sys.executable, "-ISc", ECHO, card.far, str(PORT)]
        self._server = subprocess.Popen(argv)
        self._connection = _connected((card.far, PORT))
        self._thread = threading.Thread(target=self._talk)
        self._thread.start()

    def _talk(self) -> None:
        try:
            while not self._ending.is_set():
                said = bytes([self.answers % 251])
                self._connection.sendall(said)
                assert self._connection.recv(1) == said
                self.answers += 1
                time.sleep(0.05)
        except BaseException as error:  # noqa: BLE001 - for the test to see
            self.error = error

    def goes_on(self, within_seconds: float = 60.0) -> bool:
        """Whether an answer comes within this time."""
        before, deadline = self.answers, time.monotonic() + within_seconds
        while self.answers <= before + 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.answers > before + 1 and self.error is None

    def close(self) -> None:
        """End both sides."""
        self._ending.set()
        self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._connection.close()
        self._server.kill()
        self._server.wait()


def _connected(address: tuple[str, int]) -> socket.socket:
    deadline = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection(address, timeout=300)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def nooks(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with --json."""
    argv = [sys.executable, "-m", "nooks.cli.main", *arguments, "--json"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)


def ok(*arguments: str) -> dict[str, Any]:
    """Run a command that must succeed; its document."""
    done = nooks(*arguments)
    assert done.returncode == 0, done.stderr + logs()
    return json.loads(done.stdout.splitlines()[-1])


def end_nooks() -> None:
    """Give back what a test that failed left in a nook, so that the next one finds the machine as it was."""
    for directory in paths.run_dir().glob("*/"):
        nooks("detach", directory.name, "--force")


def logs() -> str:
    """What the nooks' logs say, for a failure that only they explain."""
    return "\n".join(path.read_text()[-6000:] for path in paths.log_dir().glob("*.log"))


def run(*argv: str) -> None:
    """Run a program that must succeed."""
    subprocess.run(argv, check=True)


def _output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test has run and log directories of its own, and must leave the machine as it was."""
    monkeypatch.setenv("NOOKS_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("NOOKS_LOG_DIR", str(tmp_path / "log"))
    monkeypatch.setenv("NOOKS_ETC_DIR", str(tmp_path / "etc"))
    run("ip", "netns", "add", "first")  # the first one ever mounts /run/netns for good
    run("ip", "netns", "delete", "first")
    before = Picture.now()
    yield
    deadline = time.monotonic() + 30
    while (left := Picture.now().left_since(before)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not left
