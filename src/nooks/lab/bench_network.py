"""``nooks bench network``: a nook beside the same card wired by hand, in turn, so that a busy host harms both alike.

The baseline ``wired-by-hand`` has the same QEMU, kernel, driver, card and TAPs, and none of our code (``by_hand``).
"""

import asyncio
import contextlib
import json as jsons
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.console import Console

from nooks.host.errors import NooksError
from nooks.host.process import run as run_program
from nooks.host.process import spawn
from nooks.lab import bed as beds
from nooks.lab.by_hand import arguments_of, wired_by_hand
from nooks.lab.figures import machine, ranked
from nooks.lab.processes import cpu_seconds, family_of
from nooks.lab.running import run_lab
from nooks.lab.workers import enter, python, worker

DRIVER = "e1000"
BASELINE = "wired-by-hand"
STREAM_SECONDS = 3
WARM_SECONDS = 1
RTT_COUNT = 200
RTT_INTERVAL_SECONDS = 0.01
SETTLE_SECONDS = 2.0
SPARE_SECONDS = 20.0
_LIMIT_SECONDS = 60.0


@dataclass(frozen=True)
class Figure:
    """One measurement: ``cpu`` is the number of cores that the side's own processes used meanwhile."""

    value: float
    unit: str
    cpu: float


def run(driver: str = DRIVER, rounds: int = 3, json: bool = False) -> dict[str, Any]:
    """Measure both sides in turn, twice a round in either order, and return CONTRACT's document with medians.

    Both are up all the time; the one that is not measured is idle.
    """
    console = Console(stderr=True, quiet=json, highlight=False)
    return run_lab(_run(driver, rounds, console))


async def _run(driver: str, rounds: int, console: Console) -> dict[str, Any]:
    ours, theirs = beds.plan(), beds.plan()
    nook: list[dict[str, Figure]] = []
    native: list[dict[str, Figure]] = []
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(beds.far_end(ours))
        product, started = await stack.enter_async_context(beds.nook_on(ours, driver))
        await product.wait_for_spare(SPARE_SECONDS)
        pid = int(started["domain_pid"])
        family = list(family_of(product.name, [int(started["pid"]), pid]))
        await stack.enter_async_context(beds.far_end(theirs))
        guest = await stack.enter_async_context(wired_by_hand(theirs, driver, arguments_of(pid)))
        await asyncio.sleep(SETTLE_SECONDS)
        sides = [(ours, family, nook, "nook"), (theirs, [guest.process.pid], native, BASELINE)]
        for number in range(2 * rounds):
            for bed, pids, figures, name in sides if number % 2 else reversed(sides):
                figures.append(await _measure(bed, pids))
                console.print(f"pass {number + 1} of {2 * rounds}, {name}: {_line(figures[-1])}", soft_wrap=True)
    return {
        "driver": driver,
        "rounds": rounds,
        "benchmarks": compare(nook, native),
        "machine": machine(),
    }


def compare(nook: Sequence[Mapping[str, Figure]], native: Sequence[Mapping[str, Figure]]) -> list[dict[str, Any]]:
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
                "baseline": BASELINE,
                "native": round(theirs, 3),
                "nook": round(ours, 3),
                "ratio": round(median(ratios), 3),
                "cpu_native": round(cpu_theirs, 3),
                "cpu_nook": round(cpu_ours, 3),
            }
        )
    return rows


async def _measure(bed: beds.Bed, pids: Sequence[int]) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    async with _iperf_server(bed):
        for name, flags in (("TCP towards the peer", ()), ("TCP from the peer", ("--reverse",))):
            with _Cpu(pids) as cpu:
                rate = await _stream(bed, flags)
            figures[name] = Figure(rate / 1e6, "Mbit/s", cpu.cores)
    with _Cpu(pids) as cpu:
        latencies = sorted(await _round_trips(bed))
    figures["round trip, median"] = Figure(median(latencies) * 1e3, "ms", cpu.cores)
    figures["round trip, 99th percentile"] = Figure(ranked(latencies, 0.99) * 1e3, "ms", cpu.cores)
    return figures


class _Cpu:
    """How many cores a set of processes used inside a ``with`` block."""

    cores = 0.0

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids

    def __enter__(self) -> "_Cpu":
        self._began = time.monotonic()
        self._before = {pid: cpu_seconds(pid) for pid in self._pids}
        return self

    def __exit__(self, *_: object) -> None:
        used = sum(cpu_seconds(pid) - self._before.get(pid, 0.0) for pid in self._pids)
        self.cores = used / (time.monotonic() - self._began)


@contextlib.asynccontextmanager
async def _iperf_server(bed: beds.Bed) -> AsyncGenerator[None, None]:
    server = spawn([*enter(bed.netns), "iperf3", "--server", "--bind", bed.peer])
    try:
        await asyncio.sleep(0.5)
        yield
    finally:
        await server.terminate()
        server.close()


async def _stream(bed: beds.Bed, flags: Sequence[str]) -> float:
    """Bits per second that arrived over one TCP connection."""
    argv = ["iperf3", "--client", bed.peer, "--time", str(STREAM_SECONDS), "--omit", str(WARM_SECONDS), "--json"]
    done = await asyncio.to_thread(run_program, [*argv, *flags], timeout_seconds=_LIMIT_SECONDS)
    document = jsons.loads(done.stdout)
    if "error" in document:
        raise NooksError(f"iperf3 failed: {document['error']}")
    return float(document["end"]["sum_received"]["bits_per_second"])


async def _round_trips(bed: beds.Bed) -> list[float]:
    """Seconds of each of RTT_COUNT questions over TCP, a pause between two."""
    serve = python("nooks.lab.echo", "serve", "--address", bed.peer, "--port", beds.ECHO_PORT)
    ask = python("nooks.lab.echo", "ask", "--address", bed.peer, "--port", beds.ECHO_PORT)
    ask += ["--count", str(RTT_COUNT), "--interval-seconds", str(RTT_INTERVAL_SECONDS)]
    async with worker("echo server", serve, netns=bed.netns) as server:
        await server.until_ready()
        async with worker("asker", ask) as asker:
            return [float(latency) for latency in (await asker.finished())["latencies"]]


def _line(figures: Mapping[str, Figure]) -> str:
    return ", ".join(f"{name} {figure.value:.2f} {figure.unit}" for name, figure in figures.items())
