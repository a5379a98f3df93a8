"""``nooks demo sound``: a player plays a chirp and a recorder records while the card's driver is made to fail.

Then a synthesizer speaks, and the driver fails once more. What came out of the card was recorded outside of all domains
and is compared with what the player decodes by itself, to the frame.
"""

import asyncio
import tempfile
import time
import wave
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from nooks.host.errors import NooksError
from nooks.host.process import require, wait_readable
from nooks.host.process import run as run_program
from nooks.lab.demo_screen import milliseconds
from nooks.lab.host_health import HostHealth
from nooks.lab.running import run_lab
from nooks.lab.sound.card_line import Line
from nooks.lab.sound.hearing import Break, Passage, breaks, passages
from nooks.lab.sound.music import write_mp3
from nooks.lab.sound.stage import Client, Stage, stage
from nooks.lab.sound.waveform import draw
from nooks.lab.ways import DESCRIPTIONS, Failure, explain, fail

DRIVER = "intel8x0"
WAYS = ("panic", "hang", "freeze", "kill", "oops")
WORDS = "The driver of this sound card is about to die. You should hear nothing of it. Thank you for listening."
CHIRP_SECONDS = 45
PROGRAMS = {"mpg123": "mpg123", "ffmpeg": "ffmpeg", "espeak-ng": "espeak-ng", "parecord": "pulseaudio-utils"}
SPARE_SECONDS = 20.0
BREATH_SECONDS = 1.5
END_SECONDS = 90.0
TAIL_SECONDS = 1.0
"""What an application has played to its end is heard by then."""


@dataclass
class Scene:
    """All that the summary speaks of."""

    failures: list[Failure] = field(default_factory=list[Failure])
    heard: list[Passage] = field(default_factory=list[Passage])
    breaks: list[Break] = field(default_factory=list[Break])
    chirp_frames: int = 0
    spoken_seconds: float = 0.0
    errors: list[str] = field(default_factory=list[str])
    recorded_frames: int = 0
    picture: str = ""


def run(driver: str = DRIVER, picture: Path | None = None, json: bool = False) -> dict[str, Any]:
    """Run the demonstration; its summary, in which ``ok`` says whether everything held.

    ``picture`` is a file for the waveform around a failure, as PNG.
    """
    for program, package in PROGRAMS.items():
        require(program, package)
    return run_lab(_run(driver, picture, Console(quiet=json, highlight=False)))


async def _run(driver: str, picture: Path | None, console: Console) -> dict[str, Any]:
    health = HostHealth.now()
    scene = Scene()
    with tempfile.TemporaryDirectory(prefix="nooks-demo-") as folder:
        chirp, decoded = await asyncio.to_thread(_chirp, Path(folder))
        async with stage(driver, "--intensity", "100") as made, made.product.following():
            console.print(
                f"sink {made.sink} on {made.started['server']}, ready after {made.started['ready_seconds']} s"
            )
            lines = await _perform(made, chirp, scene, console)
    scene.chirp_frames = len(decoded) // 4
    scene.heard = passages(lines.items(), decoded)
    scene.breaks = breaks(scene.heard)
    scene.errors += health.harm()
    if picture is not None:
        around = next((each for each in scene.breaks if each.changed), None)
        if around is not None:
            await asyncio.to_thread(draw, lines, decoded, scene.heard, around, picture)
            scene.picture = str(picture)
    summary = summarize(scene)
    _tell(summary, console)
    return summary


def _chirp(folder: Path) -> tuple[Path, bytes]:
    """A chirp as MP3, and what mpg123 makes of it when it writes into a file."""
    mp3, decoded = folder / "chirp.mp3", folder / "chirp.wav"
    write_mp3(mp3, CHIRP_SECONDS)
    run_program(["mpg123", "-q", "-w", str(decoded), str(mp3)])
    with wave.open(str(decoded)) as file:
        return mp3, file.readframes(file.getnframes())


async def _perform(made: Stage, chirp: Path, scene: Scene, console: Console) -> dict[int, Line]:
    """Chirp and speech; what was heard of the chirp, by the domain's process."""
    async with made.recording() as (recorder, recording):
        async with made.client("mpg123", "mpg123", "-q", "-o", "pulse", "-a", made.sink, str(chirp)) as player:
            for way in WAYS:
                await asyncio.sleep(BREATH_SECONDS)
                scene.failures.append(await _fail(made, way, console))
            await _to_its_end(player, scene)
        await asyncio.sleep(TAIL_SECONDS)
        heard = {pid: replace(line, heard=list(line.heard)) for pid, line in made.ears.lines.items()}
        began = time.monotonic()
        async with made.client("espeak-ng", "espeak-ng", WORDS, PULSE_SINK=made.sink) as speaker:
            await asyncio.sleep(BREATH_SECONDS)
            scene.failures.append(await _fail(made, "kill", console))
            await _to_its_end(speaker, scene)
        scene.spoken_seconds = time.monotonic() - began
        scene.errors += recorder.errors()
    scene.recorded_frames = recording.stat().st_size // 4
    return heard


async def _fail(made: Stage, way: str, console: Console) -> Failure:
    await made.product.wait_for_spare(SPARE_SECONDS)
    failure = await fail(made.product, way)
    if not failure.recovered:
        raise NooksError(f"the nook did not recover from '{way}'", "see 'nooks events'")
    await explain(made.product, failure)
    noticed, recovered = milliseconds(failure.detection_seconds), milliseconds(failure.recovery_seconds)
    what = f"  {DESCRIPTIONS[way]:30} noticed after {noticed:>8}, recovered in {recovered:>7}  {failure.happened}"
    console.print(what, soft_wrap=True, markup=False)
    return failure


async def _to_its_end(client: Client, scene: Scene) -> None:
    if not await wait_readable(client.process.pidfd, END_SECONDS):
        raise NooksError(f"{client.name} has not ended within {END_SECONDS:.0f} s", "see 'nooks events'")
    scene.errors += client.errors(ended=True)


def summarize(scene: Scene) -> dict[str, Any]:
    """The summary document: what happened, and each claim with whether it held."""
    recoveries = [each for each in scene.breaks if each.changed]
    end = max((each.end for each in scene.heard), default=0)
    missing = sum(max(0, each.lost) for each in scene.breaks)
    checks = {
        "every failure was noticed and recovered from": all(each.recovered for each in scene.failures),
        "no application saw an error": not scene.errors,
        "the chirp was heard from its first frame to its last": bool(scene.heard)
        and scene.heard[0].of == 0
        and end == scene.chirp_frames,
        "not one frame of it was lost": missing == 0,
        "it was heard from as many cards as there were failures, and one": len(recoveries) == len(WAYS),
    }
    return {
        "ok": all(checks.values()),
        "checks": [{"claim": claim, "ok": held} for claim, held in checks.items()],
        "frames": scene.chirp_frames,
        "lost_frames": missing,
        "gaps": [
            {"silence_seconds": round(each.silence_seconds, 4), "lost_frames": each.lost, "recovery": each.changed}
            for each in scene.breaks
        ],
        "errors": scene.errors,
        "recorded_frames": scene.recorded_frames,
        "spoken_seconds": round(scene.spoken_seconds, 1),
        "picture": scene.picture or None,
        "failures": [failure.record() for failure in scene.failures],
    }


def _tell(summary: dict[str, Any], console: Console) -> None:
    for gap in summary["gaps"]:
        again = max(0, -gap["lost_frames"])
        lost = max(0, gap["lost_frames"])
        what = f"{milliseconds(gap['silence_seconds'])} of silence, {lost} frames lost, {again} heard again"
        console.print(f"  {what}{'' if gap['recovery'] else ' (no failure: the card ran dry)'}", markup=False)
    for check in summary["checks"]:
        console.print(f"  {'held' if check['ok'] else 'DID NOT HOLD'}: {check['claim']}", markup=False)
    for error in summary["errors"]:
        console.print(f"  {error}", markup=False)
    if summary["picture"]:
        console.print(f"  the waveform around a failure: {summary['picture']}", markup=False)
