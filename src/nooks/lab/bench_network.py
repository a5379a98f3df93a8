"""``nooks bench network``: a nook beside what it is to be compared with, in turn, so that a busy host harms both alike.

The baseline ``wired-by-hand`` has the same QEMU, kernel, driver, card and TAPs, and none of our code (``by_hand``). The
baseline ``host`` is for a real card: the host's own driver has it, then a nook, by turns; the processor time of either
side is then the whole machine's. What is measured on a side is in ``workloads``.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rich.console import Console

from nooks.lab import bed as beds
from nooks.lab import processor, real_card
from nooks.lab.by_hand import arguments_of, wired_by_hand
from nooks.lab.figures import machine
from nooks.lab.processes import family_of
from nooks.lab.real_card import RealCard
from nooks.lab.running import run_lab
from nooks.lab.workloads import Figure, Side, measure

DRIVER = "e1000"
BASELINE = "wired-by-hand"
HOST = "host"
SETTLE_SECONDS = 2.0
SPARE_SECONDS = 20.0

Passes = Sequence[Mapping[str, Figure]]
"""The figures of one side, a mapping for each time that it was measured."""


def run(
    driver: str = DRIVER, rounds: int = 3, json: bool = False, attach: str | None = None, peer: str | None = None
) -> dict[str, Any]:
    """Measure both sides in turn, twice a round in either order, and return CONTRACT's document with medians.

    Both are up all the time; the one that is not measured is idle. A real card, ``attach``, whose cable ends at the
    interface ``peer``, can be on one side only, and is attached and detached once a round.
    """
    console = Console(stderr=True, quiet=json, highlight=False)
    if attach is not None:
        return run_lab(_run_real(real_card.find(attach), peer or "", rounds, console))
    return run_lab(_run(driver, rounds, console))


async def _run_real(card: RealCard, peer: str, rounds: int, console: Console) -> dict[str, Any]:
    bed = real_card.plan(card, peer)
    nook, native = (side_of(bed, name, processor.of_machine()) for name in ("nook", HOST))
    passes: dict[str, list[Mapping[str, Figure]]] = {nook.name: [], native.name: []}

    async def once(side: Side, number: int) -> None:
        figures = await measure(side)
        passes[side.name].append(figures)
        console.print(f"round {number + 1} of {rounds}, {side.name}: {_line(figures)}", soft_wrap=True)

    async with real_card.cabled(bed, card):
        for number in range(rounds):
            await once(native, number)
            async with real_card.attached(bed, card) as (product, _):
                await product.wait_for_spare(SPARE_SECONDS)
                await asyncio.sleep(SETTLE_SECONDS)
                await once(nook, number)
                await once(nook, number)
            await once(native, number)
    return document(card.driver, rounds, passes[nook.name], passes[native.name], HOST)


async def _run(driver: str, rounds: int, console: Console) -> dict[str, Any]:
    ours, theirs = beds.plan(), beds.plan()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(beds.far_end(ours))
        product, started = await stack.enter_async_context(beds.nook_on(ours, driver))
        await product.wait_for_spare(SPARE_SECONDS)
        pid = int(started["domain_pid"])
        family = family_of(product.name, [int(started["pid"]), pid])
        await stack.enter_async_context(beds.far_end(theirs))
        _, processes = await stack.enter_async_context(wired_by_hand(theirs, driver, arguments_of(pid)))
        await asyncio.sleep(SETTLE_SECONDS)
        nook = side_of(ours, "nook", processor.of_processes(family))
        native = side_of(theirs, BASELINE, processor.of_processes(processes))
        figures = await in_turn(nook, native, rounds, console)
    return document(driver, rounds, *figures)


def side_of(bed: beds.Bed, name: str, cpu: processor.CpuSeconds) -> Side:
    """A bed's nook, or what stands in its place, as a side to measure."""
    return Side(name, bed.host, bed.peer, bed.netns, cpu)


async def in_turn(nook: Side, native: Side, rounds: int, console: Console) -> tuple[Passes, Passes]:
    """Measure both sides twice a round, in either order; the figures of the nook, and of the baseline."""
    passes: dict[str, list[Mapping[str, Figure]]] = {nook.name: [], native.name: []}
    for number in range(2 * rounds):
        for side in (nook, native) if number % 2 else (native, nook):
            figures = await measure(side)
            passes[side.name].append(figures)
            console.print(f"pass {number + 1} of {2 * rounds}, {side.name}: {_line(figures)}", soft_wrap=True)
    return passes[nook.name], passes[native.name]


def document(driver: str, rounds: int, nook: Passes, native: Passes, baseline: str = BASELINE) -> dict[str, Any]:
    """CONTRACT's document."""
    return {
        "driver": driver,
        "rounds": rounds,
        "benchmarks": compare(nook, native, baseline),
        "machine": machine(),
    }


def compare(nook: Passes, native: Passes, baseline: str = BASELINE) -> list[dict[str, Any]]:
    """CONTRACT's rows: the medians of both sides, and the median ratio, nook to native, of passes side by side."""
    rows: list[dict[str, Any]] = []
    for name, figure in nook[0].items():
        ours, theirs = (median(one[name].value for one in side) for side in (nook, native))
        ratios = [one[name].value / other[name].value for one, other in zip(nook, native, strict=True)]
        cpu_ours, cpu_theirs = (median(one[name].cpu for one in side) for side in (nook, native))
        rows.append(
            {
                "name": name,
                "unit": figure.unit,
                "baseline": baseline,
                "native": round(theirs, 3),
                "nook": round(ours, 3),
                "ratio": round(median(ratios), 3),
                "cpu_native": round(cpu_theirs, 3),
                "cpu_nook": round(cpu_ours, 3),
            }
        )
    return rows


def _line(figures: Mapping[str, Figure]) -> str:
    return ", ".join(f"{name} {figure.value:.2f} {figure.unit}" for name, figure in figures.items())
