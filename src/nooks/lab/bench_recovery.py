"""``nooks bench recovery``: fails a nook again and again under load, and says what an application noticed of it.

Two applications run throughout, each on one TCP connection: one asks a question every 5 ms and checks the answer,
the other downloads and checks every block. The outage is the longest pause of the asking one: last answer to next.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from rich.console import Console

from nooks.host.errors import NooksError
from nooks.lab import bed as beds
from nooks.lab import real_card
from nooks.lab.demo_screen import milliseconds
from nooks.lab.download import Download, download
from nooks.lab.figures import machine, quantiles
from nooks.lab.gauge import Gauge
from nooks.lab.host_health import HostHealth
from nooks.lab.product import Product
from nooks.lab.real_card import RealCard
from nooks.lab.running import run_lab
from nooks.lab.ways import CRASHES, TEXT, Failure, fail, settle, unasked
from nooks.lab.workers import Worker, python, worker

COUNT = 50
DRIVER = "e1000"
LOAD_BYTES = 10_000_000
SPARE_SECONDS = 20.0
BREATH_SECONDS = (0.4, 0.9)
_ENDLESS_BYTES = 1 << 50
_SEED = 2003


@dataclass
class Load:
    """The applications on the bed."""

    asking: Gauge
    asker: Worker
    fetching: Download

    def errors(self) -> list[str]:
        """What went wrong for them so far, a line each."""
        found = [f"{gauge.errors} wrong {what}" for gauge, what in self._gauges() if gauge.errors]
        found += [f"the {what} connection broke: {gauge.broken}" for gauge, what in self._gauges() if gauge.broken]
        return found + ([] if self.fetching.running else ["the download ended"])

    def _gauges(self) -> list[tuple[Gauge, str]]:
        return [(self.asking, "answers"), (self.fetching.gauge, "blocks")]


@dataclass
class Trial:
    """One failure, with what else is worth recording."""

    failure: Failure
    download_pause_seconds: float | None = None
    spare_ready: bool = False
    errors: list[str] = field(default_factory=list[str])


@dataclass(frozen=True)
class Plan:
    """What is to fail, and how. ``card`` is a real one, whose cable ends at ``peer``; else it is ``device``, or the
    driver's own."""

    driver: str
    device: str | None
    how: str
    ways: Sequence[str]
    card: RealCard | None = None
    peer: str | None = None

    @contextlib.asynccontextmanager
    async def nook(self) -> AsyncGenerator[tuple[beds.Bed, Product, dict[str, Any]], None]:
        """The nook on its bed, for the block."""
        flags = ["--intensity", "1000", *(["--debug"] if TEXT in self.ways else [])]
        if self.card is None:
            flags += ["--device", self.device] if self.device is not None else []
            bed = beds.plan()
            async with beds.far_end(bed), beds.nook_on(bed, self.driver, *flags) as (product, started):
                yield bed, product, started
            return
        bed = real_card.plan(self.card, self.peer or "")
        async with (
            real_card.cabled(bed, self.card),
            real_card.attached(bed, self.card, *flags) as (product, started),
        ):
            yield bed, product, started


def run(
    driver: str | None = None,
    device: str | None = None,
    how: str | None = None,
    count: int = COUNT,
    json: bool = False,
    spare: bool = True,
    load_bytes: int = LOAD_BYTES,
    seed: int = _SEED,
    attach: str | None = None,
    peer: str | None = None,
) -> dict[str, Any]:
    """Fail a nook of ``driver`` ``count`` times under load and return CONTRACT's document.

    ``device`` is what the driver is to have instead of its usual one. ``attach`` names a real card to put into
    the nook, and ``peer`` the interface at its cable's other end.

    ``how`` is one way, or None for all of them mixed (changed code included; of that, detection is not counted,
    since a fault may sleep). A real card's code is left alone: on an emulated PC one injection takes half a minute.
    Without ``spare`` each spare is killed before the failure, so that a snapshot has to be restored. ``load_bytes`` is
    the download's rate per second.
    """
    console = Console(stderr=True, quiet=json, highlight=False)
    card = real_card.find(attach) if attach is not None else None
    named = card.driver if card is not None else driver or DRIVER
    plan = Plan(named, device, how or "mixed", _ways(how, count, seed, card), card, peer)
    return run_lab(_run(plan, spare, load_bytes, seed, console))


def _ways(how: str | None, count: int, seed: int, card: RealCard | None) -> list[str]:
    every = [*CRASHES, *([TEXT] if card is None else [])]
    ways = [how] * count if how else (every * (count // len(every) + 1))[:count]
    Random(seed).shuffle(ways)
    return ways


async def _run(plan: Plan, spare: bool, load_bytes: int, seed: int, console: Console) -> dict[str, Any]:
    ways = plan.ways
    health = HostHealth.now()
    trials: list[Trial] = []
    random = Random(seed)
    async with (
        plan.nook() as (bed, product, started),
        product.following(),
        loaded(bed, seed, load_bytes) as load,
    ):
        for number, way in enumerate(ways):
            trial = await _try(product, load, way, seed + number, spare=spare, random=random)
            trials.append(trial)
            console.print(_line(number + 1, len(ways), trial), soft_wrap=True, markup=False)
            if trial.errors or not trial.failure.recovered:
                break
        errors = load.errors()
        status = await product.status()
        besides = unasked(product)
        if besides:
            console.print(f"failures that nobody asked for: {', '.join(one['reason'] for one in besides)}")
    return _document(plan.driver, plan.how, ways, trials, errors + health.harm()) | {
        "nook": started,
        "status": status,
        "unasked_failures": besides,
        "spare": spare,
        "host": "harmed" if health.harm() else "unharmed",
        "machine": machine(),
    }


@contextlib.asynccontextmanager
async def loaded(bed: beds.Bed, seed: int, rate_bytes: int) -> AsyncGenerator[Load, None]:
    """Both applications and their servers, running for the block."""
    web = python("nooks.lab.web_server", "--address", bed.peer, "--seed", seed, "--rate-bytes", rate_bytes)
    echo = python("nooks.lab.echo", "serve", "--address", bed.peer, "--port", beds.ECHO_PORT)
    ask = python("nooks.lab.echo", "ask", "--address", bed.peer, "--port", beds.ECHO_PORT)
    asking = Gauge()
    async with (
        worker("web server", web, netns=bed.netns) as web_server,
        worker("echo server", echo, netns=bed.netns) as echo_server,
    ):
        await web_server.until_ready()
        await echo_server.until_ready()
        async with (
            worker("asker", ask, asking.add) as asker,
            download(f"http://{bed.peer}/{_ENDLESS_BYTES}", seed) as fetching,
        ):
            await asker.until_ready()
            yield Load(asking, asker, fetching)


async def _try(product: Product, load: Load, way: str, seed: int, *, spare: bool, random: Random) -> Trial:
    ready = await product.wait_for_spare(SPARE_SECONDS)
    await asyncio.sleep(random.uniform(*BREATH_SECONDS))
    if not spare:
        await product.kill_spare()
    try:
        failure = await fail(product, way, seed)
    except NooksError as error:
        return Trial(Failure(way, time.time()), errors=[error.message])
    await settle(failure, load.asking, load.fetching.gauge)
    pause = load.fetching.gauge.longest_pause(failure.started, time.time())
    return Trial(failure, pause, ready, load.errors())


def _document(driver: str, how: str, ways: Sequence[str], trials: Sequence[Trial], errors: list[str]) -> dict[str, Any]:
    failures = [trial.failure for trial in trials]
    per_way = {way: [failure for failure in failures if failure.way == way] for way in dict.fromkeys(sorted(ways))}
    found = list(dict.fromkeys([error for trial in trials for error in trial.errors] + errors))
    unrecovered = sum(not failure.recovered for failure in failures)
    return {
        "driver": driver,
        "how": how,
        "count": len(trials),
        "wanted": len(ways),
        **times_of(failures),
        "download_pause_seconds": quantiles(trial.download_pause_seconds for trial in trials),
        "application_errors": len(found) + unrecovered,
        "errors": found,
        "unrecovered": unrecovered,
        "steps_seconds": steps_of(failures),
        "means": dict(Counter(failure.means for failure in failures if failure.means)),
        "ways": {
            way: {
                "count": len(some),
                "reasons": dict(Counter(failure.reason or "not noticed" for failure in some)),
                **times_of(some),
            }
            for way, some in per_way.items()
        },
        "failures": [trial.failure.record() for trial in trials],
    }


def times_of(failures: Sequence[Failure]) -> dict[str, Any]:
    return {
        "detection_seconds": quantiles(f.detection_seconds for f in failures if f.way != TEXT),
        "recovery_seconds": quantiles(f.recovery_seconds for f in failures),
        "outage_seconds": quantiles(f.outage_seconds for f in failures),
    }


def steps_of(failures: Sequence[Failure]) -> dict[str, Any]:
    """Quantiles of each step of the outage."""
    names = dict.fromkeys(step for failure in failures for step in failure.steps)
    return {name: quantiles(failure.steps.get(name) for failure in failures if failure.recovered) for name in names}


def _line(number: int, count: int, trial: Trial) -> str:
    failure = trial.failure
    times = (failure.detection_seconds, failure.recovery_seconds, failure.outage_seconds)
    shown = " ".join(f"{milliseconds(seconds):>9}" for seconds in times)
    what = failure.reason or "not noticed"
    return f"{number:4}/{count} {failure.way:8} {what:12} {shown} {failure.means:8} {'; '.join(trial.errors)}"
