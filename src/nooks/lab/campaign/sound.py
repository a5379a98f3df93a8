"""The class sound in a campaign: paplay as the application, judged at the card's plugs, to the frame.

Sound has no checksum, so the oracle is what comes out: samples that nobody played are an error, and so is music that
is lost or heard again beyond what a recovery may cost.
"""

import asyncio
import contextlib
import secrets
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nooks.device.emulated import SOUND_LINE_FRAMES, sound_trial
from nooks.image.payload import AGENT, Payload
from nooks.lab.campaign.told import ToldApplication
from nooks.lab.gauge import Gauge
from nooks.lab.meter import Meter
from nooks.lab.product import Product
from nooks.lab.sound.card_line import Line
from nooks.lab.sound.hearing import breaks, passages, without_first
from nooks.lab.sound.music import FRAME_BYTES
from nooks.lab.sound.recorder import Recorder, recorder
from nooks.lab.sound.stage import Client, Stage, plugged, sink_rate
from nooks.spec import Device

MUSIC_SECONDS = 120.0
LISTEN_SECONDS = 0.05
TAIL_SECONDS = 0.5
"""What was played last is heard by then."""

WRONG_FRAMES = 256
"""So many frames from nowhere in the music are wrong, not an accident at a seam."""

HELD_FRAMES = SOUND_LINE_FRAMES
"""QEMU holds back the end of what was played before, and lets it out with the next."""

_BEGINNING_BYTES = 64

BROKEN_FRAMES = 9216
"""A recovery may lose or repeat a window of 6144 frames, a report and what QEMU's plugs hold."""


class SoundApplication:
    """A player on a stage; hears what comes out from its beginning on."""

    def __init__(self, client: Client, music: Path, ears: Recorder) -> None:
        self.gauge = Gauge()
        self._client = client
        self._music = music
        self._ears = ears
        self._since = {pid: len(line.heard) for pid, line in ears.lines.items()}
        self._listening = asyncio.create_task(self._listen())

    def errors(self) -> list[str]:
        """What the player said so far."""
        return self._client.errors()

    async def finish(self, within_seconds: float) -> list[str]:
        """End it, and judge what was heard; the errors."""
        del within_seconds  # it ends when it is told to
        errors = self.errors()
        await self._client.end()
        await asyncio.sleep(TAIL_SECONDS)
        await self.close()
        return errors + await asyncio.to_thread(wrongs, self._lines(), self._music.read_bytes())

    async def close(self) -> None:
        """Listen no more. Safe to call twice."""
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)

    def _lines(self) -> dict[int, Line]:
        lines = self._ears.lines.items()
        return {pid: replace(line, heard=line.heard[self._since.get(pid, 0) :]) for pid, line in lines}

    async def _listen(self) -> None:
        meter = Meter(time.time())
        while True:
            await asyncio.sleep(LISTEN_SECONDS)
            sounding = (piece for line in self._lines().values() for piece in line.heard if piece.samples.strip(b"\0"))
            heard = sum(len(piece.samples) for piece in sounding)
            if heard > meter.received_bytes:
                meter.progressed(heard - meter.received_bytes, time.time())
            self.gauge.add(meter.report(time.time()))


def wrongs(lines: dict[int, Line], music: bytes) -> list[str]:
    """What a listener would complain of."""
    lines = _from_its_beginning(lines, music)
    found = passages(lines.items(), music)
    frames = [frame for line in lines.values() for frame in _frames(line.played())]
    sounding = len(frames) - frames.count(0)
    strange = sounding - sum(each.end - each.of for each in found)
    errors = [f"{strange} frames that nobody played"] if strange > WRONG_FRAMES else []
    for each in breaks(found):
        if abs(each.lost) > BROKEN_FRAMES:
            errors.append(f"{abs(each.lost)} frames {'lost' if each.lost > 0 else 'heard again'}")
    return errors


def _from_its_beginning(lines: dict[int, Line], music: bytes) -> dict[int, Line]:
    """Without the end of other music that the card still held when this one began."""
    for pid, line in lines.items():
        played = line.played()
        at = played.find(music[:_BEGINNING_BYTES])
        if at >= 0:
            before = _frames(played[:at])
            if len(before) - before.count(0) > HELD_FRAMES:
                return lines
            return lines | {pid: replace(line, heard=without_first(line.heard, at))}
    return lines


def _frames(samples: bytes) -> list[int]:
    """As numbers, without what is left of one at the end."""
    return memoryview(samples)[: len(samples) // FRAME_BYTES * FRAME_BYTES].cast("I").tolist()


class SoundSurroundings:
    """Ears at the plugs of a nook's card, and players on its server."""

    workload = "paplay, heard at the card's plugs"

    def __init__(self, ears: Recorder, folder: Path, flags: list[str]) -> None:
        self.name = f"lab-{secrets.token_hex(2)}"
        self._ears = ears
        self._folder = folder
        self._flags = flags
        self._stage: Stage | None = None

    def remains(self) -> dict[str, list[str]]:
        """Where music is written, and where the ears listen."""
        return {"folders": [str(self._folder), str(self._ears.path.parent)]}

    def flags(self) -> list[str]:
        """Where the card's plugs lead."""
        return self._flags

    async def started(self, document: dict[str, Any]) -> None:
        """Find the sink."""
        self._stage = Stage(Product(self.name), document, self._ears, self._folder)
        self._stage.rate = await sink_rate(self._stage)

    async def leaving(self) -> None:
        """Nothing is held."""

    @contextlib.asynccontextmanager
    async def application(self, seed: int) -> AsyncGenerator[SoundApplication, None]:
        """A player with music of its own."""
        assert self._stage is not None
        async with self._stage.player(MUSIC_SECONDS, seed) as (client, music):
            application = SoundApplication(client, music, self._ears)
            try:
                yield application
            finally:
                await application.close()
                music.unlink()


class NativeSoundApplication(ToldApplication):
    """``lab.sound.guest``'s player."""

    LAST = "judged"

    def errors(self) -> list[str]:
        """What went wrong so far."""
        return [self.gauge.broken] if self.gauge.broken else []


class NativeSoundSurroundings:
    """A guest's card, whose plugs lead nowhere."""

    workload = "a player in the same kernel"
    payload = Payload(
        AGENT.root,
        (*AGENT.packages, "nooks.lab.sound.guest", "nooks.lab.guest", "nooks.lab.content", "nooks.lab.meter"),
        "nooks.lab.sound.guest",
    )
    writes_files = False

    def __init__(self) -> None:
        self.name = f"sound-{secrets.token_hex(2)}"

    def remains(self) -> dict[str, list[str]]:
        """Nothing."""
        return {}

    def hardware(self, device: Device) -> tuple[str, ...]:
        """The card."""
        return sound_trial(device.model, device.options)

    def attachments(self) -> dict[str, int]:
        """None."""
        return {}

    def bring_up(self) -> dict[str, Any]:
        """Nothing to tell."""
        return {}

    def use(self, seed: int) -> dict[str, Any]:
        """What decides the noise."""
        return {"seed": seed}

    def settle(self) -> None:
        """A guest leaves nothing behind."""

    def application(self, say: Callable[[bytes], None]) -> NativeSoundApplication:
        """The player in a guest."""
        return NativeSoundApplication(lambda: say(b"finish\n"))


def workloads(driver: str) -> Sequence[str]:
    """None beside the ordinary one."""
    del driver
    return ()


@contextlib.asynccontextmanager
async def surroundings(driver: str, workload: str) -> AsyncGenerator[SoundSurroundings, None]:
    """The class's entry point."""
    del workload  # there is one
    with tempfile.TemporaryDirectory(prefix="nooks-campaign-") as folder:
        async with recorder() as ears, plugged(driver, (), ears, Path(folder)) as flags:
            yield SoundSurroundings(ears, Path(folder), flags)


@contextlib.asynccontextmanager
async def native_surroundings(driver: str) -> AsyncGenerator[NativeSoundSurroundings, None]:
    """The class's entry point for native controls."""
    del driver  # all of them have the same
    yield NativeSoundSurroundings()
