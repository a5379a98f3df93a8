"""A player in the very kernel that the sound card's driver is in."""

import os
import select
import time
from pathlib import Path
from random import Random
from typing import Any

from nooks.agent.mixer import Mixer
from nooks.agent.pcm import Stream
from nooks.lab import guest
from nooks.lab.meter import Meter

LEAD_FRAMES = 6144
"""What the player gives the card in advance: as much as a nook does."""
STEP_SECONDS = 0.02
_NODES = Path("/dev/snd")
_APPEAR_SECONDS = 20.0
_NOISE_FRAMES = 48000


class SoundGuest:
    """A card, and the player."""

    def __init__(self) -> None:
        self._stream: Stream

    def bring_up(self, order: guest.Order) -> None:
        """Wait for the card, and make it ready to play. Raises Unable, OSError."""
        del order
        node = guest.wait_for(_playback, _APPEAR_SECONDS, "no sound card appeared")
        with Mixer(str(_NODES / f"controlC{node.removeprefix('pcmC').partition('D')[0]}")) as mixer:
            mixer.make_audible()
        self._stream = Stream(str(_NODES / node), playback=True)

    def use(self, order: guest.Order, report: guest.Report, control: int) -> None:
        """Play until something comes. Raises Unable, OSError.

        The stream is prepared only now: a snapshot taken in between costs QEMU's sb16 its voice (its post_load opens
        it again only while DMA runs), and the card then plays a whole buffer in no time, over and over.
        """
        self._stream.configure({})
        player = Player(self._stream, order["seed"])
        told: dict[str, Any] = {}
        while not told.get("broken"):
            readable, _, _ = select.select([control], [], [], STEP_SECONDS)
            if readable and os.read(control, 4096):
                break
            told = player.step(time.time())
            report(told)
        report(told | {"judged": True})


class Player:
    """Plays noise, and says how far the card has come (``meter``), how often it ran dry, and what broke it."""

    def __init__(self, stream: Stream, seed: int) -> None:
        self._stream = stream
        self._frame_bytes = stream.parameters.frame_bytes
        self._noise = Random(seed).randbytes(_NOISE_FRAMES * self._frame_bytes)
        self._at = 0
        self._written = 0
        self._running = False
        self._meter = Meter(time.time())
        self._played = 0
        self._dry = 0

    def step(self, now: float) -> dict[str, Any]:
        """Give the card what it has room for; a line of output."""
        broken = ""
        try:
            self._advance(now)
        except BrokenPipeError:
            self._dry += 1
            self._running = False
            self._played = self._written
            self._stream.prepare()
        except OSError as error:
            broken = str(error)
        line = self._meter.report(now) | {"dry": self._dry}
        return line | ({"broken": broken} if broken else {})

    def _advance(self, now: float) -> None:
        waiting = self._stream.waiting() if self._running else self._written - self._played
        if self._running and self._written - waiting > self._played:
            self._meter.progressed((self._written - waiting - self._played) * self._frame_bytes, now)
            self._played = self._written - waiting
        size = min(LEAD_FRAMES - waiting, _NOISE_FRAMES - self._at) * self._frame_bytes
        if size > 0:
            start = self._at * self._frame_bytes
            taken = self._stream.write(self._noise[start : start + size]) // self._frame_bytes
            self._written += taken
            self._at = (self._at + taken) % _NOISE_FRAMES
        if not self._running and self._written > self._played:
            self._stream.start()
            self._running = True


def _playback() -> str:
    """The first stream that plays, once its card's control is there too."""
    names = sorted(node.name for node in _NODES.iterdir()) if _NODES.exists() else []
    return next((name for name in names if name.startswith("pcmC") and name.endswith("p")), "")


def main() -> None:
    """Be the guest's init."""
    guest.serve(SoundGuest())
