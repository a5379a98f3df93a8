"""The papers' MP3 player on a real card: the host's own driver has it, then a nook, by turns.

mpg123 plays to a PulseAudio of its own on either side, and processor time is the whole machine's. A card that cannot
keep up makes the player take longer than its music lasts.
"""

import asyncio
import contextlib
import os
import secrets
import tempfile
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from nooks.device import taking
from nooks.endpoint import private_pulse
from nooks.host.errors import InputError, NooksError
from nooks.host.process import require, spawn, wait_readable
from nooks.lab import real_card
from nooks.lab.figures import machine
from nooks.lab.processor import Window, of_machine
from nooks.lab.sound.music import write_mp3

BASELINE = "host"
ROUNDS = 2
SETTLE_SECONDS = 2.0
SPARE_SECONDS = 60.0
CARD_SECONDS = 30.0
PATIENCE = 60.0
"""A player takes at most so many times as long as its music lasts: an emulated PC in an emulated PC took 40 times."""
TIME, CPU = "time that an MP3 of {:.0f} s takes", "processor time of the whole machine meanwhile"


@dataclass(frozen=True)
class SoundCard:
    """``device`` is its address, ``driver`` the host's."""

    device: str
    driver: str


@dataclass(frozen=True)
class Played:
    """How long a player took, and how many of the machine's processors were busy meanwhile."""

    seconds: float
    cores: float


def find(text: str) -> SoundCard:
    """The card that ``nooks attach`` would take, which the host's driver has now. Raises InputError."""
    device, cards, driver = real_card.made_of(text, lambda found: found.sounds, lambda part: part.sounds)
    if not cards or driver is None:
        raise InputError(f"{text} makes no sound card just now", "give a card that the host's driver has")
    return SoundCard(device, driver)


async def run(text: str, seconds: float, console: Console) -> dict[str, Any]:
    """Play an MP3 of so many seconds on both sides, in turn; CONTRACT's document. Raises NooksError."""
    for program in ("mpg123", "ffmpeg"):
        require(program, program)
    private_pulse.check()
    card = find(text)
    sides: dict[str, list[Played]] = {"nook": [], BASELINE: []}
    with tempfile.TemporaryDirectory(prefix="nooks-mp3-") as name:
        folder = Path(name)
        music = folder / "music.mp3"
        await asyncio.to_thread(write_mp3, music, seconds)

        async def once(side: str, server: str, sink: str, number: int) -> None:
            played = await _play(music, server, sink, folder, seconds)
            sides[side].append(played)
            what = f"{played.seconds:.1f} s, {100 * played.cores:.0f}% of a core"
            console.print(f"round {number + 1} of {ROUNDS}, {side}: {what}", markup=False)

        for number in range(ROUNDS):
            async with _by_the_host(card, folder) as (server, sink):
                await once(BASELINE, server, sink, number)
            async with _by_a_nook(card) as started:
                await once("nook", started["server"], started["sink"], number)
    return {
        "driver": card.driver,
        "seconds": seconds,
        "benchmarks": compare(seconds, sides["nook"], sides[BASELINE]),
        "machine": machine(),
    }


def compare(seconds: float, nook: list[Played], native: list[Played]) -> list[dict[str, Any]]:
    """CONTRACT's rows: medians, and their ratio, nook to native."""
    figures = {
        (TIME.format(seconds), "s"): ([one.seconds for one in side] for side in (nook, native)),
        (CPU, "% of a core"): ([100 * one.cores for one in side] for side in (nook, native)),
    }
    rows: list[dict[str, Any]] = []
    for (name, unit), sides in figures.items():
        ours, theirs = map(median, sides)
        ratio = round(ours / theirs, 3) if theirs else None
        row = {"name": name, "unit": unit, "baseline": BASELINE, "native": round(theirs, 2), "nook": round(ours, 2)}
        rows.append(row | {"ratio": ratio})
    return rows


@contextlib.asynccontextmanager
async def _by_the_host(card: SoundCard, folder: Path) -> AsyncGenerator[tuple[str, str]]:
    """A sound server that has the card by the host's driver: its address, and the sink."""
    name = await asyncio.to_thread(taking.card, taking.plan(card.device), CARD_SECONDS)
    if name is None:
        raise NooksError(f"{card.device} makes no sound card any more", "see 'dmesg'")
    server, process = await private_pulse.start(folder)
    try:
        sink = "host"
        await server.client.load("module-alsa-sink", f"device=hw:{name.removeprefix('card')} sink_name={sink}")
        await server.leave()
        yield server.address, sink
    finally:
        await asyncio.shield(process.terminate())
        process.close()


@contextlib.asynccontextmanager
async def _by_a_nook(card: SoundCard) -> AsyncGenerator[dict[str, Any]]:
    """The card in a nook; what its ``attach`` said."""
    async with real_card.in_a_nook(f"lab-{secrets.token_hex(2)}", card.device) as (product, started):
        await product.wait_for_spare(SPARE_SECONDS)
        await asyncio.sleep(SETTLE_SECONDS)
        yield started


async def _play(music: Path, server: str, sink: str, folder: Path, seconds: float) -> Played:
    """mpg123 from its start to its end. Raises NooksError if it complains, or doesn't end."""
    said = folder / "mpg123.said"
    env = {**os.environ, "PULSE_SERVER": server, "PULSE_COOKIE": str(folder / "cookie")}
    window = Window(of_machine())
    window.begin()
    with said.open("wb") as file:
        process = spawn(
            ["mpg123", "-q", "-o", "pulse", "-a", sink, str(music)], stdout=file.fileno(), stderr=file.fileno(), env=env
        )
    try:
        ended = await wait_readable(process.pidfd, PATIENCE * seconds)
    finally:
        await asyncio.shield(process.terminate())
        process.close()
    window.end()
    complaint = said.read_text(errors="replace").strip()
    if not ended:
        raise NooksError(f"mpg123 has not played {seconds:.0f} s of music within {PATIENCE * seconds:.0f} s")
    if process.returncode or complaint:
        raise NooksError(f"mpg123 ended with {process.returncode}: {complaint}")
    return Played(window.seconds, window.cores)
