"""``nooks bench sound``: what playing through a nook costs while nothing fails: gaps, latency, processor time.

Measured at the card's plugs, outside of the domain. QEMU hands over 1024 frames at a time there, and holds as many
before, which is in the latency (43 ms at 48 kHz). Beside it the baseline ``in-domain``: a player in a guest with the
same card and driver. Its processor time has the player in it, emulated; the nook's has none.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from nooks.host.errors import NooksError
from nooks.lab.by_hand import arguments_of
from nooks.lab.figures import machine, quantiles
from nooks.lab.processes import family_of
from nooks.lab.processor import Window, of_processes
from nooks.lab.running import run_lab
from nooks.lab.sound import in_domain, mp3_player
from nooks.lab.sound.hearing import breaks, passages
from nooks.lab.sound.live import latencies, speaking
from nooks.lab.sound.stage import Stage, stage
from nooks.lab.sound.world import World

DRIVER = "intel8x0"
SECONDS = 60.0
LATENCY_SECONDS = 15.0
SETTLE_SECONDS = 3.0
SPARE_SECONDS = 30.0
BASELINE = "in-domain"
DRY, CPU = "times that the card ran dry", "processor time of the nook"
_SERVERS = ("pulseaudio", "pipewire")


def run(
    driver: str = DRIVER, seconds: float = SECONDS, json: bool = False, attach: str | None = None
) -> dict[str, Any]:
    """Play for ``seconds`` through a nook of ``driver``; then measure latency in both settings. CONTRACT's document.

    With ``attach`` an MP3 player plays on a real card instead, by the host's driver and by a nook in turn.
    """
    console = Console(stderr=True, quiet=json, highlight=False)
    return run_lab(_run(driver, seconds, console) if attach is None else mp3_player.run(attach, seconds, console))


BASELINE_SECONDS = 60.0
"""The guest beside it plays no longer: its figures are rates."""


async def _run(driver: str, seconds: float, console: Console) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    async with stage(driver) as made:
        console.print(f"{driver} plays for {seconds:.0f} s", markup=False)
        arguments = arguments_of(int(made.started["domain_pid"]))
        rows += await _playing(made, seconds)
        rows += await _latency(made, "default")
    async with stage(driver, "--latency", "low") as made:
        rows += await _latency(made, "low")
    if in_domain.can(driver):
        shorter = min(seconds, BASELINE_SECONDS)
        console.print(f"a guest with the same card plays for {shorter:.0f} s", markup=False)
        played = await in_domain.play(driver, arguments, made.rate, SETTLE_SECONDS, shorter)
        native = {DRY: played.dry, CPU: round(100 * played.cores, 1)}
        console.print(f"the guest's card played at {played.rate:.1%} of its rate", markup=False)
        rows = [_beside(row, native.get(row["name"])) for row in rows]
    return {"driver": driver, "seconds": seconds, "benchmarks": rows, "machine": machine()}


async def _playing(made: Stage, seconds: float) -> list[dict[str, Any]]:
    """Gaps in what was heard, and processor time, while paplay plays."""
    await made.product.wait_for_spare(SPARE_SECONDS)
    async with made.player(seconds + 2 * SETTLE_SECONDS) as (player, music):
        await asyncio.sleep(SETTLE_SECONDS)
        family = await _family(made)
        server = [pid for pid, role in family.items() if role in _SERVERS]
        windows = Window(of_processes(set(family) - set(server))), Window(of_processes(server))
        began = time.monotonic()
        for window in windows:
            window.begin()
        await asyncio.sleep(seconds)
        for window in windows:
            window.end()
        _raise_errors(player.errors())
    found = passages(made.ears.lines.items(), music.read_bytes())
    gaps = [gap for gap in breaks(found) if gap.when >= began]
    longest = max((gap.silence_seconds for gap in gaps), default=0.0)
    lost = sum(abs(gap.lost) for gap in gaps)
    return [
        _row(DRY, "times", len(gaps)),
        _row("longest gap", "s", round(longest, 4)),
        _row("frames lost or repeated", "frames", lost),
        _row(CPU, "% of a core", round(100 * windows[0].cores, 1)),
        _row("processor time of its own sound server", "% of a core", round(100 * windows[1].cores, 1)),
    ]


async def _latency(made: Stage, setting: str) -> list[dict[str, Any]]:
    """From an application's write to the card's plugs."""
    await made.product.wait_for_spare(SPARE_SECONDS)
    pid = int((await made.product.status())["domain_pid"])
    world = World()
    async with speaking(made, world) as speaker:
        await asyncio.sleep(SETTLE_SECONDS)
        since = time.monotonic()
        await asyncio.sleep(LATENCY_SECONDS)
        _raise_errors(speaker.errors())
    found = quantiles(latencies(made.ears.lines[pid], world, since))
    return [_row(f"latency to the plugs, {setting}, {key}", "s", value) for key, value in found.items()]


async def _family(made: Stage) -> Mapping[int, str]:
    status = await made.product.status()
    return family_of(made.product.name, [int(status["pid"]), int(status["domain_pid"])])


def _row(name: str, unit: str, value: float | None) -> dict[str, Any]:
    return {"name": name, "unit": unit, "nook": value}


def _beside(row: dict[str, Any], native: float | None) -> dict[str, Any]:
    """A row with the baseline's figure, where there is one, and the ratio."""
    if native is None:
        return row
    ratio = round(row["nook"] / native, 3) if native else None
    return row | {"baseline": BASELINE, "native": native, "ratio": ratio}


def _raise_errors(errors: list[str]) -> None:
    if errors:
        raise NooksError("; ".join(errors))
