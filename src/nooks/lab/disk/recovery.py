"""``nooks bench recovery`` of a block nook: it fails again and again while applications work on its file system.

They run throughout: a database whose every transaction is on the medium before the next begins, a program that packs
files, one that writes and reads past the page cache and compares, fio with verification, and a PostgreSQL server under
pgbench where one is installed. The outage is the longest pause of the third, which never has to wait for a journal:
last answer to next. At the end the file system is checked, by
the nook and on the medium by itself, and the applications check all that was ever acknowledged.
"""

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console

from nooks.host.errors import NooksError
from nooks.lab.bench_recovery import steps_of, times_of
from nooks.lab.demo_screen import milliseconds
from nooks.lab.disk import postgres
from nooks.lab.disk.stage import stage
from nooks.lab.figures import machine
from nooks.lab.gauge import Gauge
from nooks.lab.host_health import HostHealth
from nooks.lab.product import Product
from nooks.lab.running import run_lab
from nooks.lab.ways import CRASHES, SUPERVISOR, Failure, fail, settle
from nooks.lab.workers import Worker, python, worker

COUNT = 50
SPARE_SECONDS = 20.0
BREATH_SECONDS = (0.4, 0.9)
JUDGE_SECONDS = 300.0
READY_SECONDS = 180.0
RAW_BYTES = 256 << 20
APART = ("silent",)
"""What is no part of the mixture: a controller that does not hear its driver is a failure of the device."""

_SEED = 2003


@dataclass
class Application:
    """One of the applications: what it says of itself, and its process."""

    name: str
    gauge: Gauge
    worker: Worker
    judged: Any = None

    @property
    def error(self) -> str | None:
        """What went wrong for it so far."""
        if self.gauge.broken:
            return f"the {self.name} broke: {self.gauge.broken}"
        if self.gauge.errors:
            return f"{self.gauge.errors} errors of the {self.name}"
        return None

    async def finish(self) -> str | None:
        """Have it end and check everything; what is wrong."""
        self.worker.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(JUDGE_SECONDS):
                self.judged = (await self.worker.finished()).get("judged")
        except TimeoutError:
            return f"the {self.name} did not end"
        if isinstance(self.judged, dict) and (self.judged["lost"] or self.judged["integrity"] != "ok"):
            return f"{self.judged['lost']} transactions lost, integrity: {self.judged['integrity']}"
        return self.error


@dataclass
class Load:
    """The applications; the first one's pauses are the outages."""

    applications: list[Application]

    def errors(self) -> list[str]:
        """What went wrong so far, a line each."""
        return [application.error for application in self.applications if application.error]

    async def finish(self) -> list[str]:
        """End all of them; what was wrong with anything that they had done."""
        found = await asyncio.gather(*(application.finish() for application in self.applications))
        return [error for error in found if error]


@dataclass
class Trial:
    """One failure, and what else was noticed."""

    failure: Failure
    errors: list[str] = field(default_factory=list[str])


def run(
    driver: str,
    how: str | None = None,
    count: int = COUNT,
    json: bool = False,
    spare: bool = True,
    seed: int = _SEED,
    device: str | None = None,
) -> dict[str, Any]:
    """Fail a nook of ``driver`` (on ``device``, or its usual one) ``count`` times under load; CONTRACT's document.

    ``how`` is one way, or None for all of them mixed but APART, the death of the supervisor included. Without
    ``spare`` each spare is killed before the failure.
    """
    console = Console(stderr=True, quiet=json, highlight=False)
    every = [*(way for way in CRASHES if way not in APART), SUPERVISOR]
    ways = [how] * count if how else (every * (count // len(every) + 1))[:count]
    Random(seed).shuffle(ways)
    flags = ["--device", device] if device is not None else []
    return run_lab(_run(driver, how or "mixed", ways, spare, seed, console, *flags))


async def _run(
    driver: str, how: str, ways: Sequence[str], spare: bool, seed: int, console: Console, *flags: str
) -> dict[str, Any]:
    health = HostHealth.now()
    trials: list[Trial] = []
    random = Random(seed)
    async with stage(driver, "--intensity", "1000", *flags) as made, made.product.following():
        async with loaded(made.place, seed, more=True) as load:
            for number, way in enumerate(ways):
                trial = await _try(made.product, load, way, spare=spare, random=random)
                trials.append(trial)
                console.print(_line(number + 1, len(ways), trial), soft_wrap=True, markup=False)
                if trial.errors or not trial.failure.recovered:
                    break
            errors = await load.finish()
        judged = {application.name: application.judged for application in load.applications}
        progress = {application.name: application.gauge.received for application in load.applications}
        status = await made.product.status()
    return document(driver, how, trials, errors + made.checked + health.harm()) | {
        "wanted": len(ways),
        "applications": progress,
        "judged": judged,
        "nook": made.started,
        "status": status,
        "spare": spare,
        "host": "harmed" if health.harm() else "unharmed",
        "machine": machine(),
    }


@contextlib.asynccontextmanager
async def loaded(place: Path, seed: int, *, more: bool = False) -> AsyncGenerator[Load, None]:
    """The applications, at work below ``place``, for the block: the first three, or ``more`` of them."""
    raw = place / "raw"
    with raw.open("wb") as file:
        file.truncate(RAW_BYTES)
    commands = {
        "direct writer": python("nooks.lab.disk.raw", "--path", raw, "--seed", seed),
        "database": python("nooks.lab.disk.database", "--path", place / "database", "--seed", seed),
        "archiver": python("nooks.lab.disk.archive", "--folder", place / "archive", "--seed", seed),
    }
    if more:
        commands["fio"] = python("nooks.lab.disk.verified", "--path", place / "verified", "--seed", seed)
        if postgres.programs() is not None:
            commands["PostgreSQL"] = python("nooks.lab.disk.postgres", "--folder", place / "postgres")
    async with contextlib.AsyncExitStack() as stack:
        applications: list[Application] = []
        for name, command in commands.items():
            gauge = Gauge()
            running = await stack.enter_async_context(worker(name, command, gauge.add))
            await running.until_ready(READY_SECONDS)
            applications.append(Application(name, gauge, running))
        yield Load(applications)


async def _try(product: Product, load: Load, way: str, *, spare: bool, random: Random) -> Trial:
    await product.wait_for_spare(SPARE_SECONDS)
    await asyncio.sleep(random.uniform(*BREATH_SECONDS))
    if not spare:
        await product.kill_spare()
    try:
        failure = await fail(product, way)
    except NooksError as error:
        return Trial(Failure(way, time.time()), [error.message])
    await settle(failure, *(application.gauge for application in load.applications[:2]))
    return Trial(failure, load.errors())


def document(driver: str, how: str, trials: Sequence[Trial], errors: Sequence[str]) -> dict[str, Any]:
    """CONTRACT's document; a supervisor's death is told under ``ways`` alone, since its recovery starts a program."""
    failures = [trial.failure for trial in trials]
    of_drivers = [failure for failure in failures if failure.way != SUPERVISOR]
    found = list(dict.fromkeys([error for trial in trials for error in trial.errors] + list(errors)))
    unrecovered = sum(not failure.recovered for failure in failures)
    return {
        "driver": driver,
        "how": how,
        "count": len(trials),
        **times_of(of_drivers),
        "application_errors": len(found) + unrecovered,
        "errors": found,
        "unrecovered": unrecovered,
        "steps_seconds": steps_of(of_drivers),
        "means": dict(Counter(failure.means for failure in failures if failure.means)),
        "ways": {
            way: {
                "count": sum(failure.way == way for failure in failures),
                "reasons": dict(Counter(failure.reason or "not noticed" for failure in failures if failure.way == way)),
                **times_of([failure for failure in failures if failure.way == way]),
            }
            for way in dict.fromkeys(failure.way for failure in failures)
        },
        "failures": [failure.record() for failure in failures],
    }


def _line(number: int, count: int, trial: Trial) -> str:
    failure = trial.failure
    times = (failure.detection_seconds, failure.recovery_seconds, failure.outage_seconds)
    shown = " ".join(f"{milliseconds(seconds):>9}" for seconds in times)
    what = failure.reason or "not noticed"
    return f"{number:4}/{count} {failure.way:10} {what:12} {shown} {failure.means:8} {'; '.join(trial.errors)}"
