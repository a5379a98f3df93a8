"""``nooks bench cycles``: starts, fails and stops a nook many times, and says what was left behind."""

from typing import Any

from rich.console import Console

from nooks.lab import bed as beds
from nooks.lab.figures import quantiles
from nooks.lab.host_health import HostHealth
from nooks.lab.leaks import Picture
from nooks.lab.running import run_lab
from nooks.lab.ways import CRASHES, fail

DRIVER = "e1000"
COUNT = 200
_REPORT_EVERY = 10


def run(driver: str = DRIVER, count: int = COUNT, json: bool = False) -> dict[str, Any]:
    """Start, fail once and stop a nook ``count`` times; ``left`` lists what is there that was not before.

    The ways of failing take turns; ``ok`` is true if every failure was recovered and nothing is left.
    """
    return run_lab(_run(driver, count, Console(stderr=True, quiet=json, highlight=False)))


async def _run(driver: str, count: int, console: Console) -> dict[str, Any]:
    await _cycle(driver, None)  # so that caches are filled, modules loaded and threads of ours running
    health, before = HostHealth.now(), Picture.now()
    ways = list(CRASHES)
    ready: list[float | None] = []
    unrecovered: list[str] = []
    for number in range(count):
        way = ways[number % len(ways)]
        seconds, recovered = await _cycle(driver, way)
        ready.append(seconds)
        if not recovered:
            unrecovered.append(f"cycle {number + 1}: {way}")
        if (number + 1) % _REPORT_EVERY == 0:
            console.print(f"{number + 1} cycles, left behind so far: {Picture.now().left_since(before) or 'nothing'}")
    left = Picture.now().left_since(before)
    return {
        "ok": not left and not unrecovered and not health.harm(),
        "driver": driver,
        "count": count,
        "unrecovered": unrecovered,
        "left": left,
        "host": health.harm() or "unharmed",
        "ready_seconds": quantiles(ready),
    }


async def _cycle(driver: str, way: str | None) -> tuple[float | None, bool]:
    bed = beds.plan()
    async with (
        beds.far_end(bed),
        beds.nook_on(bed, driver) as (product, started),
        product.following(),
    ):
        recovered = way is None or (await fail(product, way)).recovered
    return started.get("ready_seconds"), recovered
