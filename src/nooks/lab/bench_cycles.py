"""``nooks bench cycles``: starts, fails and stops a nook many times, and says what was left behind.

A real card is attached and detached instead, and must have the host's own driver again each time.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from rich.console import Console

from nooks.lab import bed as beds
from nooks.lab import real_card
from nooks.lab.figures import quantiles
from nooks.lab.host_health import HostHealth
from nooks.lab.leaks import Picture
from nooks.lab.real_card import RealCard
from nooks.lab.running import run_lab
from nooks.lab.ways import CRASHES, fail

DRIVER = "e1000"
COUNT = 200
_REPORT_EVERY = 10

Cycle = Callable[[str | None], Awaitable[tuple[float | None, str]]]
"""Fails in the way that is given; seconds until it was ready, and what went wrong ("": nothing)."""


def run(
    driver: str | None = None,
    count: int = COUNT,
    json: bool = False,
    attach: str | None = None,
    peer: str | None = None,
) -> dict[str, Any]:
    """Start, fail once and stop a nook ``count`` times; ``left`` lists what is there that was not before.

    The ways of failing take turns. With ``attach`` a real card (whose cable ends at ``peer``) is attached and detached
    ``count`` times. ``ok`` is true if nothing went wrong (``unrecovered``) and nothing is left.
    """
    console = Console(stderr=True, quiet=json, highlight=False)
    if attach is None:
        named = driver or DRIVER
        return run_lab(_run(named, count, console, lambda way: _started(named, way), list(CRASHES)))
    card = real_card.find(attach)
    return run_lab(_run(card.driver, count, console, lambda _: _attached(card, peer or ""), []))


async def _run(driver: str, count: int, console: Console, cycle: Cycle, ways: list[str]) -> dict[str, Any]:
    await cycle(None)  # so that caches are filled, modules loaded and threads of ours running
    health, before = HostHealth.now(), Picture.now()
    ready: list[float | None] = []
    unrecovered: list[str] = []
    for number in range(count):
        seconds, wrong = await cycle(ways[number % len(ways)] if ways else None)
        ready.append(seconds)
        if wrong:
            unrecovered.append(f"cycle {number + 1}: {wrong}")
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


async def _started(driver: str, way: str | None) -> tuple[float | None, str]:
    bed = beds.plan()
    async with (
        beds.far_end(bed),
        beds.nook_on(bed, driver) as (product, started),
        product.following(),
    ):
        recovered = way is None or (await fail(product, way)).recovered
    return started.get("ready_seconds"), "" if recovered else str(way)


async def _attached(card: RealCard, peer: str) -> tuple[float | None, str]:
    bed = real_card.plan(card, peer)
    async with real_card.cabled(bed, card), real_card.attached(bed, card) as (_, started):
        pass
    now = real_card.find(card.device)
    return started.get("ready_seconds"), "" if now == card else f"the host has {now}, not {card}"
