"""Real nooks for tests: each with a name, a wire and a namespace of its own, and a look at what it leaves behind."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from nooks.lab.leaks import Picture

COMMAND_SECONDS = 300
GONE_SECONDS = 15
"""How long what was ended may take to be gone for good (the machine's init reaps orphans now and then)."""


@dataclass
class Command:
    """What a run of the command line said."""

    status: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:  # noqa: ANN401 - any JSON
        """The one JSON document on its standard output."""
        return json.loads(self.stdout)


@dataclass
class Bench:
    """A nook's surroundings: addresses, a namespace at the cable's end, and the command line."""

    name: str
    namespace: str
    number: int
    stack: ExitStack = field(default_factory=ExitStack)

    @property
    def host_address(self) -> str:
        """The host interface's address."""
        return f"10.{self.number >> 8 & 0x3F | 0x40}.{self.number & 0xFF}.1"

    @property
    def peer_address(self) -> str:
        """The address at the far end of the cable."""
        return self.host_address[:-1] + "2"

    def nooks(self, *arguments: str, within: Sequence[str] = (), within_seconds: float = COMMAND_SECONDS) -> Command:
        """Run the command line with --json; ``within`` is a command that runs it."""
        argv = [*within, *self.argv(*arguments)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=within_seconds, check=False)
        return Command(done.returncode, done.stdout, done.stderr)

    def argv(self, *arguments: str) -> list[str]:
        """The command line with --json."""
        return [sys.executable, "-m", "nooks.cli.main", *arguments, "--json"]

    def flags(self, **changed: str) -> list[str]:
        """What ``start`` needs, with some of it changed."""
        flags = {
            "name": self.name,
            "driver": "e1000",
            "device": "emulated:e1000",
            "wire": f"tap:w{self.name[1:]}@{self.namespace}",
            "address": f"{self.host_address}/24",
        }
        return ["start", *(word for key, value in (flags | changed).items() for word in (f"--{key}", value))]

    def ok(self, *arguments: str) -> Any:  # noqa: ANN401 - any JSON
        """As ``nooks``, which must succeed; returns its document."""
        done = self.nooks(*arguments)
        assert done.status == 0, done.stderr
        return done.document

    def start(self, driver: str, device: str, *flags: str) -> dict[str, Any]:
        """Start the nook, with an address at either end of the cable."""
        wire = f"tap:w{self.name[1:]}@{self.namespace}"
        flags = ("--wire", wire, "--address", f"{self.host_address}/24", *flags)
        started = self.ok("start", "--driver", driver, "--device", device, "--name", self.name, *flags)
        self.stack.callback(self.nooks, "stop", self.name, "--force")
        peer = f"{self.peer_address}/24"
        subprocess.run(["ip", "-n", self.namespace, "address", "add", peer, "dev", f"w{self.name[1:]}"], check=True)
        return started

    def status(self) -> dict[str, Any]:
        """The nook's status."""
        return self.ok("status", self.name)

    def events(self) -> list[dict[str, Any]]:
        """The nook's journal."""
        return [json.loads(line) for line in self.nooks("events", self.name).stdout.splitlines()]

    def until(self, holds: Callable[[dict[str, Any]], bool], within_seconds: float = 30.0) -> dict[str, Any]:
        """The first status of which ``holds`` is true."""
        deadline = time.monotonic() + within_seconds
        while not holds(status := self.status()):
            assert time.monotonic() < deadline, f"still {status}; {self.events()[-6:]}"
            time.sleep(0.1)
        return status

    def reaches_peer(self) -> bool:
        """Whether the far end of the cable answers."""
        ping = ["ping", "-c", "3", "-i", "0.2", "-W", "3", self.peer_address]
        return subprocess.run(ping, capture_output=True, check=False).returncode == 0


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Surroundings for one nook; afterwards nothing of it may be left."""
    if os.geteuid() != 0 or shutil.which("qemu-system-x86_64") is None:
        pytest.skip("needs root and QEMU")
    monkeypatch.setenv("NOOKS_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("NOOKS_LOG_DIR", str(tmp_path / "log"))
    suffix = secrets.token_hex(3)
    before = Picture.now()
    made = Bench(f"n{suffix}", f"ns-{suffix}", int(suffix, 16))
    with made.stack:
        yield made
    deadline = time.monotonic() + GONE_SECONDS
    while (left := _left(before, made, tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left, "\n".join(left)


def _left(before: Picture, bench: Bench, own: Path) -> list[str]:
    """What this bench's nook left; other tests and people work on the same machine."""
    new = Picture.now().left_since(before)
    marks = (bench.name, bench.namespace, str(own))
    named = [line for line in new if any(mark in line for mark in marks) and str(own / "log") not in line]
    descriptors = [line for line in new if line.startswith("descriptors")]
    return [*named, *descriptors, *_processes_of(own)]


def _processes_of(own: Path) -> list[str]:
    """Every process that was started with this test's run directory."""
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        try:
            if str(own).encode() in (process / "environ").read_bytes():
                found.append(f"process {process.name}: {(process / 'cmdline').read_bytes()[:200]!r}")
        except OSError:
            continue
    return found
