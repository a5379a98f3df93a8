"""Visitors of ``web_site``: each has one connection, asks for a page and what belongs to it, then for the next page.

Every response is compared with what it must be. Says when measuring begins and ends, then the result, as JSON lines:
``pages``, ``requests`` and ``bytes`` (bodies) in ``seconds``, the ``rate`` of pages, ``p50``, ``p95`` and ``p99`` of a
page's seconds from its first request to its last byte (None without pages), the number of ``errors`` and the first one
in words. A visitor sends its next request as soon as it can, so rate and latency depend on each other.
"""

import argparse
import asyncio
import itertools
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from nooks.lab.figures import ranked
from nooks.lab.meter import say
from nooks.lab.web_pages import CATEGORIES, COMPLEX, OBJECT, SIMPLE, Site

PAGES = ("simple", "complex")
_END = b"\r\n\r\n"
_HEAD_BYTES_MAX = 8192
_LAST_PAGE_SECONDS = 10.0

Visit = Sequence[tuple[str, bytes]]
"""The paths of one page and what each must be answered with."""


@dataclass
class Tally:
    """What all visitors found. Times are time.monotonic()."""

    began: float | None = None
    ended: float | None = None
    pages: list[float] = field(default_factory=list[float])
    requests: int = 0
    received_bytes: int = 0
    errors: int = 0
    first_error: str = ""

    @property
    def open(self) -> bool:
        """Whether it is being measured."""
        return self.began is not None and self.ended is None

    def response(self, size_bytes: int) -> None:
        """A right answer of this length came."""
        if self.open:
            self.requests += 1
            self.received_bytes += size_bytes

    def page(self, seconds: float) -> None:
        """A page is complete, and right."""
        if self.open:
            self.pages.append(seconds)

    def error(self, what: str) -> None:
        """Something was not as it must be, measured or not."""
        self.errors += 1
        self.first_error = self.first_error or what

    def result(self) -> dict[str, Any]:
        """The last line."""
        seconds = (self.ended or 0.0) - (self.began or 0.0)
        ordered = sorted(self.pages)
        return {
            "pages": len(ordered),
            "requests": self.requests,
            "bytes": self.received_bytes,
            "seconds": seconds,
            "rate": len(ordered) / seconds if seconds > 0 else 0.0,
            **{f"p{share}": ranked(ordered, share / 100) if ordered else None for share in (50, 95, 99)},
            "errors": self.errors,
            "error": self.first_error,
        }


def visits(site: Site, page: str) -> Iterator[Visit]:
    """One visit after the other, for ever; complex pages go through all categories."""
    objects = [(f"{OBJECT}{number}", content) for number, content in enumerate(site.objects)]
    for number in itertools.count():
        if page == "simple":
            yield [(SIMPLE, site.simple)]
        else:
            category = number % CATEGORIES
            first = (f"{COMPLEX}category={category}&visit={number}", site.complex_page(category, number))
            yield [first, *objects]


class Visitor(asyncio.Protocol):
    """One connection. ``gone`` is set when it has ended, which it does after the page during which ``leave`` came."""

    def __init__(self, plan: Iterator[Visit], tally: Tally) -> None:
        self.gone = asyncio.Event()
        self._plan = plan
        self._tally = tally
        self._leaving = False
        self._received = bytearray()
        self._size, self._body = -1, 0
        self._todo: deque[tuple[str, bytes]] = deque()
        self._since, self._right = 0.0, True
        self._transport: asyncio.Transport | None = None

    def leave(self) -> None:
        """No page after this one."""
        self._leaving = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._next_page()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._size < 0:
            self._size = self._head()
        if self._size < 0 or len(self._received) < self._size:
            return
        path, expected = self._todo.popleft()
        exact = len(self._received) == self._size == self._body + len(expected)
        if exact and self._received.endswith(expected):
            self._tally.response(len(expected))
        else:
            self._right = False
            self._tally.error(f"{path} was answered wrongly")
        self._received.clear()
        self._size = -1
        if self._todo:
            self._ask()
        else:
            if self._right:
                self._tally.page(time.monotonic() - self._since)
            self._next_page()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._todo:
            self._tally.error(f"a page was not completed: {exc or 'the connection ended'}")
        self.gone.set()

    def abort(self) -> None:
        """End at once; a page that is not complete is an error."""
        assert self._transport is not None
        self._transport.abort()

    def _next_page(self) -> None:
        assert self._transport is not None
        if self._leaving:
            self._transport.close()
            return
        self._todo.extend(next(self._plan))
        self._since, self._right = time.monotonic(), True
        self._ask()

    def _ask(self) -> None:
        assert self._transport is not None
        self._transport.write(f"GET {self._todo[0][0]} HTTP/1.1\r\nHost: lab\r\n\r\n".encode())

    def _head(self) -> int:
        """How long the response is, head and body; -1 as long as that is not known."""
        end = self._received.find(_END)
        if end < 0 and len(self._received) <= _HEAD_BYTES_MAX:
            return -1
        status, *fields = bytes(self._received[: max(end, 0)]).split(b"\r\n")
        lengths = [value for name, _, value in (one.partition(b":") for one in fields) if name == b"Content-Length"]
        if not status.startswith(b"HTTP/1.1 200 ") or len(lengths) != 1 or not lengths[0].strip().isdigit():
            said = status[:60].decode(errors="replace")
            self._tally.error(f"{self._todo[0][0]} was answered with {said!r}")
            self._todo.clear()
            self.abort()
            return -1
        self._body = end + len(_END)
        return self._body + int(lengths[0])


async def load(
    address: str, port: int, site: Site, page: str, connections: int, warm_seconds: float, seconds: float
) -> Tally:
    """Visit for ``warm_seconds``, then measure for ``seconds``. Raises OSError if no connection can be made."""
    loop, tally, plan = asyncio.get_running_loop(), Tally(), visits(site, page)
    made = [await loop.create_connection(lambda: Visitor(plan, tally), address, port) for _ in range(connections)]
    visitors = [visitor for _, visitor in made]
    try:
        await asyncio.sleep(warm_seconds)
        tally.began = time.monotonic()
        say({"event": "began"})
        await asyncio.sleep(seconds)
        tally.ended = time.monotonic()
        say({"event": "ended"})
        for visitor in visitors:
            visitor.leave()
        async with asyncio.timeout(_LAST_PAGE_SECONDS):
            for visitor in visitors:
                await visitor.gone.wait()
    except TimeoutError:
        pass  # those that are still waiting are errors
    finally:
        for visitor in visitors:
            visitor.abort()
        for visitor in visitors:
            await visitor.gone.wait()
    return tally


def main() -> None:
    """Load a site, and say how it went."""
    parser = argparse.ArgumentParser(prog="nooks.lab.web_load")
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--page", choices=PAGES, required=True)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--warm-seconds", type=float, default=0.5)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    site = Site(options.seed)
    wanted = (options.page, options.connections, options.warm_seconds, options.seconds)
    try:
        tally = asyncio.run(load(options.address, options.port, site, *wanted))
    except OSError as error:
        tally = Tally()
        tally.error(str(error))
    say(tally.result())


if __name__ == "__main__":
    main()
