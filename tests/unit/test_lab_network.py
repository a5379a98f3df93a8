"""The lab's network workloads: transactions, meters of the processor, sides in turn, and all of it over a cable."""

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from statistics import median

import pytest
from fakes import run
from rich.console import Console

from nooks.host.errors import NooksError
from nooks.lab import bench_network, processor, transactions, workloads
from nooks.lab.processor import Window, busy_seconds, of_machine, of_processes
from nooks.lab.workers import python, worker
from nooks.lab.workloads import Figure, Side, listens, measure, received_rate

LOOPBACK = "127.0.0.1"
TICKS = os.sysconf("SC_CLK_TCK")


def spin(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_a_machines_busy_time_has_interrupts_and_theft_in_it_and_guests_once() -> None:
    assert busy_seconds("cpu  100 20 300 4000 50 6 70 8 90 10\ncpu0 1 1 1 1\n") == (100 + 20 + 300 + 6 + 70 + 8) / TICKS
    assert busy_seconds("cpu 1 2 3 4\n") == 6 / TICKS
    for text in ("", "cpu0 1 2 3 4\n", "intr 5\n", "cpu\n", "cpu a b\n"):
        with pytest.raises(ValueError, match=r".+"):
            busy_seconds(text)


def test_work_shows_on_both_meters() -> None:
    machine, own = of_machine(), of_processes([os.getpid()])
    before = machine(), own()
    spin(0.1)
    assert machine() - before[0] >= 0.08
    assert 0.08 <= own() - before[1] < 1.0


def test_a_process_that_ends_takes_nothing_back() -> None:
    child = subprocess.Popen(["sh", "-c", "i=0; while test $i -lt 200000; do i=$((i + 1)); done; echo; exec cat"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        meter = of_processes([child.pid])
        used = meter()
        assert used > 0
        child.communicate()
    assert meter() == used


def test_a_window_is_from_its_beginning_to_its_last_end() -> None:
    moments, used = iter([10.0, 12.0, 14.0]), iter([5.0, 6.0, 11.0])
    window = Window(lambda: next(used), lambda: next(moments))
    assert window.cores == 0.0
    window.begin()
    assert window.cores == 0.0
    window.end()
    assert window.cores == 0.5
    window.end()
    assert window.cores == 1.5


def test_transactions_are_counted_and_checked() -> None:
    async def scenario() -> tuple[dict[str, object], list[object]]:
        events: list[object] = []
        serve = python("nooks.lab.transactions", "serve", "--address", LOOPBACK)
        async with worker("server", serve) as server:
            await server.until_ready()
            ask = python("nooks.lab.transactions", "ask", "--address", LOOPBACK, "--port", server.last["port"])
            ask += ["--warm-seconds", "0.01", "--seconds", "0.1"]
            async with worker("client", ask, lambda line: events.append(line.get("event"))) as client:
                return await client.finished(), events

    result, events = run(scenario)
    assert events == ["began", "ended", None]
    assert (result["errors"], result["error"]) == (0, "")
    assert isinstance(result["transactions"], int)
    assert result["transactions"] > 10


@pytest.mark.parametrize("way", ["lies", "hangs up"])
def test_wrong_and_missing_answers_are_noticed(way: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:

        def peer() -> None:
            for _ in range(10):
                theirs.recv(1)
                theirs.sendall(b"\x07")
            if way == "hangs up":
                theirs.shutdown(socket.SHUT_RDWR)
            else:
                transactions.answer(theirs)

        thread = threading.Thread(target=peer)
        thread.start()
        if way == "hangs up":
            with pytest.raises((EOFError, BrokenPipeError)):
                transactions.ask(ours, 5.0)
        else:
            done, wrong, took = transactions.ask(ours, 0.05)
            assert (done > 10, wrong) == (True, 10)
            assert took >= 0.05
        ours.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_listeners_are_found() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = int(listener.getsockname()[1])
        assert listens(Path("/proc/net/tcp").read_text(), port)
        with socket.create_connection((LOOPBACK, port)) as client:
            assert not listens(Path("/proc/net/tcp").read_text(), client.getsockname()[1])
    assert not listens(Path("/proc/net/tcp").read_text(), port)
    assert not listens("", port)


def test_iperfs_words_are_understood() -> None:
    assert received_rate('{"end": {"sum_received": {"bits_per_second": 5e9}}}') == 5e9
    with pytest.raises(NooksError, match="unable to connect"):
        received_rate('{"error": "unable to connect to server"}')
    for output in ("", "no JSON", "[]", "{}", '{"end": {}}', '{"end": {"sum_received": {"bits_per_second": null}}}'):
        with pytest.raises(NooksError, match="iperf3 said nothing"):
            received_rate(output)


def test_sides_are_measured_in_turn_and_either_order(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    async def fake(side: Side) -> dict[str, Figure]:
        order.append(side.name)
        return {"request rate": Figure(len(order), "1/s", 0.5)}

    monkeypatch.setattr(bench_network, "measure", fake)
    nook, host = (Side(name, "a", "b", "c", lambda: 0.0) for name in ("nook", "host"))
    passes = run(lambda: bench_network.in_turn(nook, host, 2, Console(quiet=True)))
    assert order == ["host", "nook", "nook", "host"] * 2
    told = bench_network.document("e1000", 2, *passes, baseline="host")
    (row,) = told["benchmarks"]
    assert (row["baseline"], row["nook"], row["native"]) == ("host", median([2, 3, 6, 7]), median([1, 4, 5, 8]))
    assert (told["driver"], told["rounds"]) == ("e1000", 2)


@pytest.fixture
def far_end() -> Iterator[Side]:
    """A cable to a namespace, without driver or domain."""
    suffix = os.urandom(3).hex()
    near, far, name = f"n{suffix}", f"f{suffix}", f"nooks-test-{suffix}"
    host, peer = f"198.19.{os.getpid() % 250}.1", f"198.19.{os.getpid() % 250}.2"

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    ip("netns", "add", name)
    try:
        ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", name)
        ip("address", "add", f"{host}/30", "dev", near)
        ip("-n", name, "address", "add", f"{peer}/30", "dev", far)
        ip("link", "set", near, "up")
        ip("-n", name, "link", "set", far, "up")
        yield Side("bare cable", host, peer, name, processor.of_machine())
    finally:
        ip("netns", "delete", name)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("iperf3") is None, reason="needs root and iperf3")
def test_all_workloads_run_over_a_cable(far_end: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("STREAM_SECONDS", 1), ("WARM_SECONDS", 0), ("LOAD_SECONDS", 0.4), ("LOAD_WARM_SECONDS", 0.05)):
        monkeypatch.setattr(workloads, name, value)
    # The kernel counts processor time at its ticks: asking in step with them, one is never seen at work.
    monkeypatch.setattr(workloads, "RTT_INTERVAL_SECONDS", 0.0037)
    figures = run(lambda: measure(far_end))
    units = {name: figure.unit for name, figure in figures.items()}
    assert list(units) == [
        *("receive stream", "send stream", "request rate", "round trip, median", "round trip, 99th percentile"),
        *("simple pages", "simple page, median", "simple page, 99th percentile"),
        *("complex pages", "complex page, median", "complex page, 99th percentile"),
    ]
    assert set(units.values()) == {"Mbit/s", "1/s", "ms"}
    cores = os.cpu_count() or 1
    assert all(figure.value > 0 and 0 < figure.cpu <= cores + 0.5 for figure in figures.values())
    assert figures["simple pages"].value > figures["complex pages"].value


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize(
    ("workload", "why"),
    [
        (workloads.request_rate, "transactions failed: .*No route to host"),
        (workloads.pages, "simple pages failed: .*113"),
        (workloads.round_trips, "the round trips failed: nothing was answered"),
    ],
)
def test_a_cable_that_is_cut_fails_the_benchmark(
    far_end: Side, workload: Callable[[Side], Awaitable[object]], why: str
) -> None:
    here = ["ip", "route", "add", "unreachable", far_end.peer]
    there = ["ip", "-n", far_end.netns, "route", "add", "unreachable", far_end.host]
    try:
        for command in (here, there):
            subprocess.run(command, check=True, capture_output=True)
        with pytest.raises(NooksError, match=why):
            run(lambda: workload(far_end))
    finally:
        subprocess.run(["ip", "route", "del", "unreachable", far_end.peer], check=False, capture_output=True)
