"""One card's process: ``python -m nooks.hardware.card MODEL``, with descriptors for all that it touches.

It serves one domain after the other, and ends when nobody holds the other end of its control connection.
"""

import argparse
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nooks.hardware.confinement import confine
from nooks.hardware.control import Control
from nooks.hardware.emu10k1 import Audigy, Emu10k1
from nooks.hardware.epic100 import Epic100
from nooks.hardware.es1371 import Es1371
from nooks.hardware.etherlink import EtherLink
from nooks.hardware.loop import Loop
from nooks.hardware.memory import Refused
from nooks.hardware.messages import Next, by_library
from nooks.hardware.misbehaviour import Kind, Misbehaviour
from nooks.hardware.network import NetworkCardFactory
from nooks.hardware.pci import PciFunction
from nooks.hardware.server import Server
from nooks.hardware.wave import WaveSink, WaveSource

NETWORK_CARDS: dict[str, NetworkCardFactory] = {"3c905b": EtherLink, "epic100": Epic100}
"""Cards by the names that specifications use (``model:NAME``)."""

SoundCardFactory = Callable[[Loop, Refused, WaveSink, WaveSource], PciFunction]
SOUND_CARDS: dict[str, SoundCardFactory] = {"es1371": Es1371, "sblive": Emu10k1, "audigy": Audigy}


TELL_SECONDS = 0.1
SOUND_NICENESS = -11
"""A sound card's clock does not go slower when the machine has much to do. (As PulseAudio's own processes have it.)"""


class Card:
    """A model, its server and its connection to the nook."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._loop = Loop()
        self._function = self._made(options)
        handlers = {"state": self._state, "reset": self._reset, "misbehave": self._misbehave}
        self._control = Control(socket.socket(fileno=options.control_fd), handlers, self._loop.stop)
        self._loop.add(self._control.fileno(), self._control.serve)
        listener = socket.socket(fileno=options.listener_fd)
        self._server = Server(self._loop, listener, self._function, self._changed, _library(options.library))
        self._misbehaviour = Misbehaviour(self._function, self._server)
        self._tell_again = 0.0

    def _made(self, options: argparse.Namespace) -> PciFunction:
        if options.model in NETWORK_CARDS:
            return NETWORK_CARDS[options.model](self._loop, self._refused, options.cable_fd, options.serial)
        sink, source = WaveSink(options.play_fd), WaveSource(options.record_fd)
        return SOUND_CARDS[options.model](self._loop, self._refused, sink, source)

    def run(self) -> None:
        """Until nobody needs the card any more."""
        self._loop.run()
        self._server.close()
        self._function.close()

    def _refused(self, address: int, size: int, access: str) -> None:
        """A card that goes astray does so thousands of times a second: once in a while is enough to be told."""
        now = self._loop.clock()
        if now >= self._tell_again:
            self._tell_again = now + TELL_SECONDS
            self._control.tell("refused", address=address, size=size, access=access)

    def _changed(self, connected: bool) -> None:
        self._tell_again = 0.0
        if connected:
            self._misbehaviour.taken()
        self._control.tell("connected" if connected else "disconnected")

    def _state(self, request: dict[str, Any]) -> dict[str, Any]:
        return {
            "connected": self._server.connected,
            "absent": self._server.absent,
            "misbehaviour": self._misbehaviour.kind,
            "refused": self._function.memory.refusals,
        }

    def _reset(self, request: dict[str, Any]) -> str:
        return self._function.reset_from_outside()

    def _misbehave(self, request: dict[str, Any]) -> dict[str, Any]:
        kind = Kind(request["kind"])
        self._misbehaviour.begin(kind, lasting=bool(request.get("lasting")))
        if kind in (Kind.PULLED, Kind.NONE):
            self._control.tell("absent" if self._server.absent else "present")
        return {"kind": kind}


def _library(path: Path | None) -> Next | None:
    """By which messages are taken. Where the cache is on a file system without programs, it goes without."""
    try:
        return by_library(path) if path is not None else None
    except OSError as error:
        print(f"messages are taken without the library, which is slower: {error}", file=sys.stderr, flush=True)
        return None


def main() -> int:
    """The process's entry point."""
    parser = argparse.ArgumentParser(prog="nooks.hardware.card")
    parser.add_argument("model", choices=sorted([*NETWORK_CARDS, *SOUND_CARDS]))
    for name in ("listener", "control"):
        parser.add_argument(f"--{name}-fd", type=int, required=True)
    for name in ("cable", "play", "record"):
        parser.add_argument(f"--{name}-fd", type=int, default=-1)
    parser.add_argument("--serial", default="")
    parser.add_argument("--library", type=Path, help="messages.c, compiled")
    parser.add_argument("--user-id", type=int)
    parser.add_argument("--network-fd", type=int, default=-1)
    parser.add_argument("--address-space-bytes", type=int, default=0)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.chdir("/")
    card = Card(options)
    if options.model in SOUND_CARDS:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, SOUND_NICENESS)
    if options.user_id is not None:
        confine(options.user_id, options.network_fd, options.address_space_bytes)
    card.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
