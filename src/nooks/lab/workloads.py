"""What ``bench network`` measures on a side: the network workloads of the Nooks papers, and the delay of small things.

| figure | program | who sends most |
|---|---|---|
| receive stream, send stream | iperf3, one TCP connection | the far end; this side |
| request rate | ``transactions``: one byte each way, one connection, as netperf's TCP_RR | both |
| round trip | ``echo``: a question of up to 1200 bytes every 10 ms | both |
| simple pages, complex pages | ``web_site`` on this side, visited from the far end by ``web_load`` | this side |

It knows no nook and no driver: a side is addresses, a namespace, and a meter of processor time.
"""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from nooks.host.errors import NooksError
from nooks.host.process import run as run_program
from nooks.host.process import spawn
from nooks.lab.figures import ranked
from nooks.lab.processor import CpuSeconds, Window
from nooks.lab.workers import START_SECONDS, enter, python, worker

STREAM_SECONDS = 3
WARM_SECONDS = 1
LOAD_SECONDS = 3.0
LOAD_WARM_SECONDS = 0.5
CONNECTIONS = 4
RTT_COUNT = 200
RTT_INTERVAL_SECONDS = 0.0107
"""Out of step with the kernel's tick, at which it looks who is using a processor (/proc/stat)."""
ECHO_PORT = 7
IPERF_PORT = 5201
_LISTENING = "0A"
_LIMIT_SECONDS = 60.0


@dataclass(frozen=True)
class Side:
    """One way to reach a far end: the interface with the address ``host``, by which ``peer`` is reached, an address in
    the network namespace ``netns``. ``cpu`` gives the processor seconds that count as this side's (``processor``).
    """

    name: str
    host: str
    peer: str
    netns: str
    cpu: CpuSeconds


@dataclass(frozen=True)
class Figure:
    """One measurement: ``cpu`` is the number of cores that the side used meanwhile."""

    value: float
    unit: str
    cpu: float


async def measure(side: Side) -> dict[str, Figure]:
    """All figures of a side, one workload after the other (about 20 s).

    Raises NooksError if a workload fails or a single answer was wrong.
    """
    return {
        **await streams(side),
        **await request_rate(side),
        **await round_trips(side),
        **await pages(side),
    }


async def streams(side: Side) -> dict[str, Figure]:
    """Mbit/s that arrived over one TCP connection, each way."""
    figures: dict[str, Figure] = {}
    async with _iperf_server(side):
        for name, flags in (("receive stream", ["--reverse"]), ("send stream", [])):
            window = Window(side.cpu)
            rate = await _stream(side, flags, window)
            figures[name] = Figure(rate / 1e6, "Mbit/s", window.cores)
    return figures


async def request_rate(side: Side) -> dict[str, Figure]:
    """Transactions of one byte each way per second, one after the other, over one TCP connection."""
    serve = python("nooks.lab.transactions", "serve", "--address", side.peer)
    async with worker("transaction server", serve, netns=side.netns) as server:
        await server.until_ready()
        ask = python("nooks.lab.transactions", "ask", "--address", side.peer, "--port", server.last["port"])
        ask += ["--warm-seconds", str(LOAD_WARM_SECONDS), "--seconds", str(LOAD_SECONDS)]
        result, window = await _load("transactions", ask, side, netns=None)
    return {"request rate": Figure(result["rate"], "1/s", window.cores)}


async def round_trips(side: Side) -> dict[str, Figure]:
    """Milliseconds from question to answer over TCP, with pauses in between."""
    serve = python("nooks.lab.echo", "serve", "--address", side.peer, "--port", ECHO_PORT)
    ask = python("nooks.lab.echo", "ask", "--address", side.peer, "--port", ECHO_PORT)
    ask += ["--count", str(RTT_COUNT), "--interval-seconds", str(RTT_INTERVAL_SECONDS)]
    window, started = Window(side.cpu), False

    def progress(_: dict[str, Any]) -> None:
        nonlocal started
        if started:
            window.end()
        else:
            window.begin()
            started = True

    async with worker("echo server", serve, netns=side.netns) as server:
        await server.until_ready()
        async with worker("asker", ask, progress) as asker:
            last = await _finished("echo", asker.finished())
    latencies = sorted(float(latency) for latency in last.get("latencies", ()))
    if last.get("errors") or not latencies:
        why = last.get("broken") or ("an answer was wrong" if last.get("errors") else "nothing was answered")
        raise NooksError(f"the round trips failed: {why}")
    return {
        "round trip, median": Figure(median(latencies) * 1e3, "ms", window.cores),
        "round trip, 99th percentile": Figure(ranked(latencies, 0.99) * 1e3, "ms", window.cores),
    }


async def pages(side: Side) -> dict[str, Figure]:
    """Web pages per second, and how long one takes, with CONNECTIONS visitors at the far end."""
    seed = int.from_bytes(os.urandom(4), "big")
    figures: dict[str, Figure] = {}
    serve = python("nooks.lab.web_site", "--address", side.host, "--seed", seed)
    async with worker("web site", serve) as server:
        await server.until_ready()
        for page in ("simple", "complex"):
            visit = python("nooks.lab.web_load", "--address", side.host, "--port", server.last["port"])
            visit += ["--seed", str(seed), "--page", page, "--connections", str(CONNECTIONS)]
            visit += ["--warm-seconds", str(LOAD_WARM_SECONDS), "--seconds", str(LOAD_SECONDS)]
            result, window = await _load(f"{page} pages", visit, side, netns=side.netns)
            figures[f"{page} pages"] = Figure(result["rate"], "1/s", window.cores)
            figures[f"{page} page, median"] = Figure(result["p50"] * 1e3, "ms", window.cores)
            figures[f"{page} page, 99th percentile"] = Figure(result["p99"] * 1e3, "ms", window.cores)
    return figures


async def _load(name: str, argv: Sequence[str], side: Side, netns: str | None) -> tuple[dict[str, Any], Window]:
    """Run a program that says ``began``, ``ended`` and a result with a ``rate``; the window is between the two."""
    window = Window(side.cpu)

    def heard(line: dict[str, Any]) -> None:
        if line.get("event") == "began":
            window.begin()
        elif line.get("event") == "ended":
            window.end()

    async with worker(name, argv, heard, netns=netns) as running:
        result = await _finished(name, running.finished())
    if result.get("errors") or not result.get("rate"):
        raise NooksError(f"{name} failed: {result.get('error') or 'nothing was answered'}")
    return result, window


async def _finished(name: str, result: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    try:
        async with asyncio.timeout(_LIMIT_SECONDS):
            return await result
    except TimeoutError:
        raise NooksError(f"{name} did not end within {_LIMIT_SECONDS:.0f} s") from None


@contextlib.asynccontextmanager
async def _iperf_server(side: Side) -> AsyncGenerator[None, None]:
    server = spawn([*enter(side.netns), "iperf3", "--server", "--bind", side.peer, "--port", str(IPERF_PORT)])
    try:
        await _until_listening(server.pid, IPERF_PORT)
        yield
    finally:
        await server.terminate()
        server.close()


async def _until_listening(pid: int, port: int) -> None:
    """Wait until somebody listens on the port in the namespace of a process. Raises NooksError if nobody does."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if listens(Path(f"/proc/{pid}/net/tcp").read_text(), port):
                return
        await asyncio.sleep(0.02)
    raise NooksError("iperf3 does not listen", "see whether it is installed, and its port is free")


def listens(table: str, port: int) -> bool:
    """Whether there is a listener on the port in the text of a /proc/net/tcp (proc_pid_net(5))."""
    rows = (line.split() for line in table.splitlines()[1:])
    return any(row[1].endswith(f":{port:04X}") and row[3] == _LISTENING for row in rows if len(row) > 3)


async def _stream(side: Side, flags: Sequence[str], window: Window) -> float:
    """Bits per second that arrived. iperf3 doesn't say when it begins to count, so the window goes by the clock."""
    argv = ["iperf3", "--client", side.peer, "--port", str(IPERF_PORT), "--bind", side.host, "--json"]
    argv += ["--time", str(STREAM_SECONDS), "--omit", str(WARM_SECONDS), *flags]
    running = asyncio.create_task(asyncio.to_thread(run_program, argv, timeout_seconds=_LIMIT_SECONDS))
    await asyncio.sleep(WARM_SECONDS)
    window.begin()
    await asyncio.sleep(STREAM_SECONDS)
    window.end()
    return received_rate((await running).stdout)


def received_rate(output: str) -> float:
    """Bits per second at the receiver, from the output of ``iperf3 --json``. Raises NooksError if it failed."""
    try:
        document = json.loads(output)
        if "error" not in document:
            return float(document["end"]["sum_received"]["bits_per_second"])
    except (ValueError, KeyError, TypeError):
        raise NooksError("iperf3 said nothing that can be read", "try another version") from None
    raise NooksError(f"iperf3 failed: {document['error']}")
