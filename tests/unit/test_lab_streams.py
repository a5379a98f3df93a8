"""The lab's own applications: known content, meter, echo, web server and download, over the loopback interface."""

import asyncio
import contextlib
import hashlib
import socket
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nooks.host.errors import NooksError
from nooks.lab import echo
from nooks.lab.content import BLOCK_BYTES, Checker, Content
from nooks.lab.download import download
from nooks.lab.gauge import Gauge
from nooks.lab.meter import Meter
from nooks.lab.sockets import local_ports
from nooks.lab.workers import python, worker

CONTENT = Content(11)
LOOPBACK = "127.0.0.1"


def free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as listener:
        return listener.getsockname()[1]


def test_blocks_differ_and_their_sum_is_known() -> None:
    size = 3 * BLOCK_BYTES + 100
    whole = b"".join(CONTENT.blocks(size))
    assert len(whole) == size
    assert CONTENT.block(0) != CONTENT.block(1)
    assert CONTENT.sha256(size) == hashlib.sha256(whole).hexdigest()
    assert Content(12).block(0) != CONTENT.block(0)
    assert list(CONTENT.blocks(0)) == []


@given(st.integers(0, 3 * BLOCK_BYTES + 7), st.lists(st.integers(1, 100_000), max_size=6))
def test_checker_accepts_the_stream_in_any_pieces(size: int, cuts: list[int]) -> None:
    whole = b"".join(CONTENT.blocks(size))
    checker = Checker(CONTENT)
    for cut in cuts:
        checker.feed(whole[:cut])
        whole = whole[cut:]
    checker.feed(whole)
    checker.finish()
    assert checker.wrong_blocks == 0


@given(st.integers(0, 2 * BLOCK_BYTES + 99), st.integers(1, 255))
def test_checker_notices_every_wrong_byte(position: int, change: int) -> None:
    whole = bytearray(b"".join(CONTENT.blocks(2 * BLOCK_BYTES + 100)))
    whole[position] ^= change
    checker = Checker(CONTENT)
    checker.feed(bytes(whole))
    checker.finish()
    assert checker.wrong_blocks == 1


def test_checker_notices_a_repeated_block() -> None:
    checker = Checker(CONTENT)
    checker.feed(CONTENT.block(0) + CONTENT.block(0))
    assert checker.wrong_blocks == 1


def test_meter_reports_the_longest_pause_since_the_last_report() -> None:
    meter = Meter(100.0)
    for moment in (100.1, 100.5, 100.6):
        meter.progressed(10, moment)
    assert meter.report(100.7) == {"time": 100.7, "bytes": 30, "pause": (100.1, 100.5)}
    meter.progressed(5, 101.6)
    assert meter.report(101.7)["pause"] == (100.6, 101.6)
    assert meter.report(101.8)["pause"] == (101.7, 101.7)


def test_gauge_finds_the_pause_that_touches_a_failure() -> None:
    gauge = Gauge()
    gauge.add({"time": 10.0, "bytes": 1000, "pause": (9.0, 9.5)})
    gauge.add({"time": 11.0, "bytes": 3000, "pause": (10.2, 10.25)})
    gauge.add({"time": 11.5, "bytes": 3000, "pause": (11.5, 11.5), "wrong_blocks": 2})
    assert gauge.longest_pause(10.0, 11.0) == pytest.approx(0.05)
    assert gauge.longest_pause(9.2, 11.0) == pytest.approx(0.5)
    assert gauge.longest_pause(12.0, 13.0) is None
    assert gauge.rate_at(11.0, 1.0) == pytest.approx(2000)
    assert gauge.errors == 2


def test_connections_are_found_in_the_kernels_table() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        port: int = listener.getsockname()[1]
        assert local_ports(LOOPBACK, port) == set()
        with socket.create_connection((LOOPBACK, port)) as client:
            assert local_ports(LOOPBACK, port) == {client.getsockname()[1]}


@contextlib.asynccontextmanager
async def web_server(port: int, log: list[dict[str, Any]]) -> AsyncGenerator[None, None]:
    argv = python("nooks.lab.web_server", "--address", LOOPBACK, "--port", port, "--seed", 11)
    async with worker("web server", [*argv, "--rate-bytes", "40000000"], log.append) as server:
        await server.until_ready()
        yield


async def _download() -> None:
    size, port, log = 5_000_000, free_port(), list[dict[str, Any]]()
    async with web_server(port, log), download(f"http://{LOOPBACK}:{port}/{size}", 11) as fetching:
        result = await fetching.result()
    assert result["sha256"] == CONTENT.sha256(size)
    assert result["wrong_blocks"] == 0
    assert result["exit"] == 0
    assert fetching.gauge.received == size
    assert [line["event"] for line in log] == ["ready", "connection", "response"]
    assert log[2]["bytes"] == size
    assert log[1]["client"] == f"{LOOPBACK}:{result['curl']['local_port']}"


def test_a_download_is_measured_and_checked() -> None:
    asyncio.run(_download())


async def _failed_download() -> None:
    port = free_port()
    async with web_server(port, []):
        async with download(f"http://{LOOPBACK}:{port}/nothing", 11) as fetching:
            refused = await fetching.result()
        async with download(f"http://{LOOPBACK}:{port}/5000", 12) as fetching:
            wrong = await fetching.result()
    assert (refused["exit"], refused["bytes"]) == (22, 0)
    assert "404" in refused["said"]
    assert wrong["wrong_blocks"] == 1


def test_a_download_that_fails_says_so() -> None:
    asyncio.run(_failed_download())


async def _abandoned_download() -> None:
    port = free_port()
    async with web_server(port, []), download(f"http://{LOOPBACK}:{port}/{1 << 40}", 11):
        await asyncio.sleep(0.2)
        raise RuntimeError("enough")


def test_an_abandoned_download_leaves_nothing_behind() -> None:
    def descriptors() -> set[str]:
        return {entry.name for entry in Path("/proc/self/fd").iterdir()}

    before = descriptors()
    with pytest.raises(RuntimeError, match="enough"):
        asyncio.run(_abandoned_download())
    assert descriptors() == before


async def _echo(count: int) -> dict[str, Any]:
    port = free_port()
    serve = python("nooks.lab.echo", "serve", "--address", LOOPBACK, "--port", port)
    ask = python("nooks.lab.echo", "ask", "--address", LOOPBACK, "--port", port, "--count", count)
    async with worker("echo server", serve) as server:
        await server.until_ready()
        async with worker("asker", ask) as asker:
            return await asker.finished()


def test_questions_are_answered() -> None:
    last = asyncio.run(_echo(20))
    assert (last["bytes"], last["errors"], len(last["latencies"])) == (20, 0, 20)


def _lie(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        sequence, payload, _ = echo.receive(connection)
        connection.sendall(echo.encode(sequence, payload))  # not backwards


def test_a_wrong_answer_and_a_broken_connection_are_errors() -> None:
    async def ask(port: int) -> dict[str, Any]:
        argv = python("nooks.lab.echo", "ask", "--address", LOOPBACK, "--port", port)
        async with worker("asker", argv) as asker:
            return await asker.finished()

    with socket.create_server((LOOPBACK, 0)) as listener:
        liar = threading.Thread(target=_lie, args=(listener,))
        liar.start()
        last = asyncio.run(ask(listener.getsockname()[1]))
        liar.join()
    assert last["errors"] == 2
    assert last["broken"]


async def _no_worker() -> None:
    async with worker("broken thing", ["sh", "-c", "echo it is broken >&2"]) as broken:
        await broken.until_ready()


def test_a_worker_that_does_not_start_is_an_error_with_its_own_words() -> None:
    with pytest.raises(NooksError, match="broken thing did not start: it is broken"):
        asyncio.run(_no_worker())
