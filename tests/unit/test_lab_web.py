"""The lab's web site and its visitors: what is served is what is expected, and whatever else comes is noticed."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Generator

import pytest
from fakes import run
from hypothesis import given
from hypothesis import strategies as st

from nooks.lab import web_load
from nooks.lab.figures import ranked
from nooks.lab.web_load import Tally, Visitor, load, visits
from nooks.lab.web_pages import CATEGORIES, COMPLEX, OBJECT_KIB, SIMPLE, Site
from nooks.lab.web_site import Connection, Pages

LOOPBACK = "127.0.0.1"
SITE = Site(7)


def test_the_server_makes_what_the_visitor_computes() -> None:
    pages = Pages(SITE)
    plan = visits(SITE, "complex")
    for _ in range(CATEGORIES + 1):
        visit = next(plan)
        assert len(visit) == 1 + len(OBJECT_KIB)
        for path, expected in visit:
            head, _, body = pages.answer(path).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert f"Content-Length: {len(expected)}".encode() in head
            assert body == expected
        assert 28_000 < len(visit[0][1]) < 34_000
    assert pages.answer(SIMPLE).endswith(SITE.simple)
    assert len(SITE.simple) == 4096
    for path in ("/", "/object/10", "/object/-1", f"{SIMPLE}/"):
        assert pages.answer(path).startswith(b"HTTP/1.1 404 ")
    for path in (COMPLEX, f"{COMPLEX}category=1", f"{COMPLEX}category=x&visit=1"):
        assert pages.answer(path).startswith(b"HTTP/1.1 400 ")
    pages.close()


def test_each_visit_and_each_site_differs() -> None:
    assert SITE.complex_page(1, 1) != SITE.complex_page(1, 2)
    assert SITE.complex_page(1, 1) != SITE.complex_page(2, 1)
    assert Site(8).simple != SITE.simple


@contextlib.asynccontextmanager
async def served(make: Callable[[], asyncio.Protocol]) -> AsyncGenerator[int]:
    """A server on the loopback interface; its port."""
    server = await asyncio.get_running_loop().create_server(make, LOOPBACK, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@contextlib.contextmanager
def pages_of(site: Site) -> Generator[Pages]:
    pages = Pages(site)
    yield pages
    pages.close()


async def loaded(make: Callable[[], asyncio.Protocol], page: str, connections: int = 2) -> Tally:
    async with served(make) as port:
        return await load(LOOPBACK, port, SITE, page, connections, 0.02, 0.15)


@pytest.mark.parametrize(("page", "requests"), [("simple", 1), ("complex", 11)])
def test_visitors_get_pages(page: str, requests: int) -> None:
    with pages_of(SITE) as pages:
        tally = run(lambda: loaded(lambda: Connection(pages), page))
    result = tally.result()
    assert (result["errors"], result["error"]) == (0, "")
    assert result["pages"] >= 1
    assert abs(result["requests"] - requests * result["pages"]) <= 2 * requests
    assert 0 < result["p50"] <= result["p95"] <= result["p99"] < 20
    assert result["rate"] == pytest.approx(result["pages"] / result["seconds"])
    assert 0.14 < result["seconds"] < 20


@pytest.mark.parametrize("page", ["simple", "complex"])
def test_wrong_pages_are_errors_and_no_pages(page: str) -> None:
    with pages_of(Site(8)) as pages:
        tally = run(lambda: loaded(lambda: Connection(pages), page))
    assert tally.errors > 0
    assert "was answered wrongly" in tally.first_error
    assert tally.pages == []


class Liar(asyncio.Protocol):
    """A server that says the same to every request, and may then hang up."""

    def __init__(self, said: bytes, hangs_up: bool) -> None:
        self.said, self.hangs_up = said, hangs_up

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(self.said)
        if self.hangs_up:
            self.transport.close()


GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 4096\r\n\r\n" + SITE.simple
LIES = {
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n": "/simple was answered with 'HTTP/1.1 404 Not Found'",
    b"HTTP/1.1 200 OK\r\n\r\n": "/simple was answered with 'HTTP/1.1 200 OK'",
    b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n": "/simple was answered with 'HTTP/1.1 200 OK'",
    b"x" * 9000: "/simple was answered with ''",
    GOOD[:-1]: "a page was not completed",
    GOOD[:20]: "a page was not completed",
    GOOD[:-1] + b"~": "/simple was answered wrongly",
    GOOD + b"more": "/simple was answered wrongly",
    GOOD.replace(b"4096", b"4090"): "/simple was answered wrongly",
    GOOD.replace(b"4096\r\n\r\n", b"4100\r\n\r\nmore"): "/simple was answered wrongly",
    b"": "a page was not completed",
}


@pytest.mark.parametrize("hangs_up", [False, True])
@pytest.mark.parametrize(("said", "error"), LIES.items())
def test_no_lie_goes_unnoticed(said: bytes, error: str, hangs_up: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_load, "_LAST_PAGE_SECONDS", 0.05)
    tally = run(lambda: loaded(lambda: Liar(said, hangs_up), "simple", 1))
    assert tally.errors >= 1
    assert tally.first_error.startswith(error)
    assert tally.pages == []


class Wire(asyncio.Transport):
    """Where a visitor's requests go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.asked.append(bytes(data))

    def close(self) -> None:
        self.asked.append(b"")

    abort = close


@given(st.lists(st.integers(1, 9000), max_size=8))
def test_answers_may_come_in_any_pieces(cuts: list[int]) -> None:
    tally = Tally(began=0.0)
    visitor, wire = Visitor(visits(SITE, "simple"), tally), Wire()
    visitor.connection_made(wire)
    stream = GOOD * 3
    answered = 0
    for cut in [*cuts, *[4096] * 4]:
        piece = stream[:cut][: len(GOOD) - answered % len(GOOD)]
        stream = stream[len(piece) :]
        answered += len(piece)
        if piece:
            visitor.data_received(piece)
        assert len(tally.pages) == answered // len(GOOD)
        assert len(wire.asked) == 1 + len(tally.pages)
    assert (tally.errors, tally.requests) == (0, len(tally.pages))


@given(st.lists(st.floats(0.0001, 10.0), min_size=1), st.integers(0, 5))
def test_statistics_are_of_what_ended_in_the_window(seconds: list[float], outside: int) -> None:
    tally = Tally()
    for _ in range(outside):
        tally.page(99.0)
    tally.began = 100.0
    for one in seconds:
        tally.page(one)
        tally.response(10)
    tally.ended = 102.0
    for _ in range(outside):
        tally.page(99.0)
        tally.response(10)
    result = tally.result()
    assert result["pages"] == result["requests"] == len(seconds)
    assert (result["rate"], result["bytes"]) == (len(seconds) / 2.0, 10 * len(seconds))
    assert result["p99"] == ranked(sorted(seconds), 0.99)
    assert min(seconds) <= result["p50"] <= result["p95"] <= max(seconds)
    assert Tally(began=1.0, ended=2.0).result()["p50"] is None


def test_the_site_answers_what_is_asked_piecemeal_and_at_once_and_hangs_up_on_nonsense() -> None:
    async def talk(port: int, *pieces: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.01)
        writer.write_eof()
        async with asyncio.timeout(5):
            answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    async def scenario(pages: Pages) -> None:
        simple = pages.answer(SIMPLE)
        async with served(lambda: Connection(pages)) as port:
            assert await talk(port, b"GET /sim", b"ple HTTP/1.1\r\nHost: x\r\n", b"\r\n") == simple
            assert await talk(port, b"GET /simple HTTP/1.1\r\n\r\n" * 2) == simple * 2
            assert await talk(port, b"POST /simple HTTP/1.1\r\n\r\n") == b""
            with contextlib.suppress(ConnectionResetError):
                assert await talk(port, b"x" * 10_000) == b""

    with pages_of(SITE) as pages:
        run(lambda: scenario(pages))
