"""``nooks bench recovery`` of a sound nook: it fails again and again while one application plays and another records.

What came out of the card is recorded outside of all domains, and compared with what was played, to the frame. The
outage is the silence at the card's plugs around a failure; *loss* is what the next card left out of the music, below 0
what it played a second time.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console

from nooks.lab.demo_screen import milliseconds
from nooks.lab.figures import machine, quantiles
from nooks.lab.host_health import HostHealth
from nooks.lab.running import run_lab
from nooks.lab.sound.hearing import Break, breaks, holes, passages
from nooks.lab.sound.stage import CLIENT_LATENCY_MSEC, Client, Stage, stage
from nooks.lab.ways import CRASHES, Failure, fail, unasked
from nooks.shadow.playback import Policy

COUNT = 50
SPARE_SECONDS = 20.0
BREATH_SECONDS = (0.6, 1.2)
SETTLE_SECONDS = 0.8
POLL_SECONDS = 0.05
SECONDS_EACH = 12.0
"""So much music is there for each failure; what is too much is not played."""

DROPPABLE_MSEC = 2000
"""So much music a player lets wait at the server under the policy clock, where an outage's worth is dropped at once."""

_SEED = 2003


@dataclass
class Trial:
    """One failure, and what was heard of it: silence in seconds, loss in frames, how much later the music went on than
    after the failure before (that a card had run dry meanwhile is made up for under the policy clock).

    ``stuttered``: what the card played twice by itself, because its driver left it to go on over its ring.
    """

    failure: Failure
    silence_seconds: float | None = None
    lost: int | None = None
    stuttered: int = 0
    late_seconds: float | None = None
    errors: list[str] = field(default_factory=list[str])

    def record(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            **self.failure.record(),
            "silence_seconds": self.silence_seconds,
            "lost_frames": self.lost,
            "stuttered_frames": self.stuttered,
            "late_seconds": self.late_seconds,
        }


@dataclass
class Heard:
    """All trials, and what happened beside them: how often the card ran dry, and how the recording went."""

    trials: list[Trial]
    dry: list[Break]
    recording: dict[str, Any]
    errors: list[str]


def run(
    driver: str,
    device: str | None = None,
    how: str | None = None,
    count: int = COUNT,
    json: bool = False,
    spare: bool = True,
    seed: int = _SEED,
    policy: str = Policy.CONTENT,
) -> dict[str, Any]:
    """Fail a nook of ``driver`` (with ``device``) ``count`` times while it plays and records; CONTRACT's document.

    ``how`` is one way, or None for all of them mixed. Without ``spare`` each spare is killed before the failure.
    """
    console = Console(stderr=True, quiet=json, highlight=False)
    ways = [how] * count if how else (list(CRASHES) * (count // len(CRASHES) + 1))[:count]
    Random(seed).shuffle(ways)
    flags = ["--policy", policy, *(["--device", device] if device is not None else [])]
    latency = DROPPABLE_MSEC if policy == Policy.CLOCK else CLIENT_LATENCY_MSEC
    return run_lab(_run(driver, flags, how or "mixed", ways, spare, seed, console, latency))


async def _run(
    driver: str,
    flags: Sequence[str],
    how: str,
    ways: Sequence[str],
    spare: bool,
    seed: int,
    console: Console,
    latency: int,
) -> dict[str, Any]:
    health = HostHealth.now()
    async with stage(driver, *flags, "--intensity", "1000") as made, made.product.following():
        heard = await fail_while_playing(made, ways, spare=spare, seed=seed, console=console, latency_msec=latency)
        status = await made.product.status()
        besides = unasked(made.product)
        started, rate = made.started, made.rate
    heard.errors.extend(health.harm())
    return document(driver, how, heard) | {
        "flags": flags,
        "rate": rate,
        "wanted": len(ways),
        "unasked_failures": besides,
        "nook": started,
        "status": status,
        "spare": spare,
        "host": "harmed" if health.harm() else "unharmed",
        "machine": machine(),
    }


async def fail_while_playing(
    made: Stage,
    ways: Sequence[str],
    *,
    spare: bool = True,
    seed: int = _SEED,
    console: Console | None = None,
    latency_msec: int = CLIENT_LATENCY_MSEC,
) -> Heard:
    """Fail the nook in these ways, one after the other, while it plays and, if its card can, records.

    Raises NooksError if a fault could not be brought about.
    """
    random = Random(seed)
    trials: list[Trial] = []
    async with contextlib.AsyncExitStack() as stack:
        player, music = await stack.enter_async_context(made.player(SECONDS_EACH * (len(ways) + 1), seed, latency_msec))
        clients = [player]
        recording: Path | None = None
        if made.source is not None:
            recorder, recording = await stack.enter_async_context(made.recording())
            clients.append(recorder)
        await asyncio.sleep(BREATH_SECONDS[1])
        for number, way in enumerate(ways):
            trial = await _try(made, way, spare=spare, random=random)
            trial.errors = _errors(clients)
            trials.append(trial)
            if console is not None:
                console.print(_line(number + 1, len(ways), trial), soft_wrap=True, markup=False)
            if trial.errors or not trial.failure.recovered:
                break
        errors = _errors(clients)
    return await asyncio.to_thread(_judge, made, trials, music, recording, errors)


async def _try(made: Stage, way: str, *, spare: bool, random: Random) -> Trial:
    await made.product.wait_for_spare(SPARE_SECONDS)
    await asyncio.sleep(random.uniform(*BREATH_SECONDS))
    if not spare:
        await made.product.kill_spare()
    while (await made.product.status())["state"] == "recovering":  # from a failure that nobody asked for
        await asyncio.sleep(POLL_SECONDS)
    failure = await fail(made.product, way)
    await asyncio.sleep(SETTLE_SECONDS)
    return Trial(failure)


def _errors(clients: Sequence[Client]) -> list[str]:
    return [error for client in clients for error in client.errors()]


def _judge(made: Stage, trials: list[Trial], music: Path, recording: Path | None, errors: list[str]) -> Heard:
    heard = breaks(passages(made.ears.lines.items(), music.read_bytes()))
    dry, unheard = attribute(heard, trials, time.time() - time.monotonic())
    errors.extend(f"nothing was heard of the music after failure {trial.failure.incarnation}" for trial in unheard)
    return Heard(trials, dry, _recorded(recording, made.rate), errors)


def attribute(heard: Sequence[Break], trials: Sequence[Trial], epoch: float) -> tuple[list[Break], list[Trial]]:
    """Tell each failure what was heard of it; ``epoch``: what the breaks' clock lacks of the failures'.

    Returns the breaks that belong to no failure, and the recovered failures after which no music went on.
    """
    dry: list[Break] = []
    mine: list[list[Break]] = [[] for _ in trials]
    late = [0.0 for _ in trials]
    waiting = 0.0
    for each in heard:
        owner = owner_of(each.when + epoch, each.silence_seconds, trials)
        waiting += each.late_seconds
        if owner is None:
            dry.append(each)
        else:
            mine[owner].append(each)
            late[owner] += waiting
            waiting = 0.0
    unheard: list[Trial] = []
    for trial, found, seconds in zip(trials, mine, late, strict=True):
        if any(each.changed for each in found):
            trial.silence_seconds = round(sum(each.silence_seconds for each in found), 6)
            trial.lost = sum(each.lost for each in found if each.changed)
            trial.late_seconds = round(seconds, 6)
            trial.stuttered = -sum(each.lost for each in found if not each.changed)
        elif trial.failure.recovered:
            unheard.append(trial)
    return dry, unheard


def owner_of(when: float, seconds: float, trials: Sequence[Trial]) -> int | None:
    """Which failure a break belongs to: one that was under way, or just over, during it; None: to none."""
    for number, trial in enumerate(trials):
        until = (trial.failure.resumed or trial.failure.started) + SETTLE_SECONDS
        if trial.failure.started <= when + seconds and when <= until:
            return number
    return None


def _recorded(recording: Path | None, rate: int) -> dict[str, Any]:
    """How a recording went: its silences, and how far it was out of time after each."""
    if recording is None:
        return {}
    found = holes(recording.read_bytes())
    drift = total = 0
    for hole in found:
        total += hole.drift
        drift = max(drift, abs(total))
    return {
        "frames": recording.stat().st_size // 4,
        "holes": len(found),
        "hole_drift_seconds": quantiles(abs(hole.drift) / rate for hole in found),
        "most_out_of_time_seconds": round(drift / rate, 6),
    }


def document(driver: str, how: str, heard: Heard) -> dict[str, Any]:
    """CONTRACT's document, with what was heard."""
    failures = [trial.failure for trial in heard.trials]
    unrecovered = sum(not failure.recovered for failure in failures)
    errors = list(dict.fromkeys(heard.errors))
    per_way = {way: [each for each in heard.trials if each.failure.way == way] for way in CRASHES}
    return {
        "driver": driver,
        "how": how,
        "count": len(failures),
        **_figures(heard.trials),
        "application_errors": len(errors) + unrecovered,
        "errors": errors,
        "unrecovered": unrecovered,
        "dry": [asdict(each) for each in heard.dry],
        "recording": heard.recording,
        "steps_seconds": {},
        "means": dict(Counter(failure.means for failure in failures if failure.means)),
        "ways": {
            way: {
                "count": len(some),
                "reasons": dict(Counter(each.failure.reason or "not noticed" for each in some)),
                **_figures(some),
            }
            for way, some in per_way.items()
            if some
        },
        "failures": [trial.record() for trial in heard.trials],
    }


def _figures(trials: Sequence[Trial]) -> dict[str, Any]:
    lost = [trial.lost for trial in trials if trial.lost is not None]
    return {
        "detection_seconds": quantiles(trial.failure.detection_seconds for trial in trials),
        "recovery_seconds": quantiles(trial.failure.recovery_seconds for trial in trials),
        "outage_seconds": quantiles(trial.silence_seconds for trial in trials),
        "lost_frames": quantiles(max(0, frames) for frames in lost),
        "repeated_frames": quantiles(max(0, -frames) for frames in lost),
        "stuttered_frames": quantiles(trial.stuttered for trial in trials),
        "drift_seconds": quantiles(abs(trial.late_seconds) for trial in trials if trial.late_seconds is not None),
    }


def _line(number: int, count: int, trial: Trial) -> str:
    failure = trial.failure
    shown = " ".join(f"{milliseconds(each):>9}" for each in (failure.detection_seconds, failure.recovery_seconds))
    what = failure.reason or "not noticed"
    return f"{number:4}/{count} {failure.way:8} {what:12} {shown} {failure.means:8} {'; '.join(trial.errors)}"
