"""A web server for ``web_pages``, on the measured side: HTTP/1.1 with connections that stay open, one process.

The complex page is made for each request, from an SQLite database in memory, so that no disk is measured. Standard
library only. Says ``{"event": "ready", "port": N}`` on stdout.
"""

import argparse
import asyncio
import sqlite3
from urllib.parse import parse_qs

from nooks.lab.meter import say
from nooks.lab.web_pages import COMPLEX, LISTED, OBJECT, SIMPLE, Site, render

_REQUEST_BYTES_MAX = 8192
_END = b"\r\n\r\n"


class Pages:
    """Answers to paths."""

    def __init__(self, site: Site) -> None:
        self._static = {SIMPLE: _response("200 OK", "text/html", site.simple)}
        for number, content in enumerate(site.objects):
            self._static[f"{OBJECT}{number}"] = _response("200 OK", "application/octet-stream", content)
        self._database = sqlite3.connect(":memory:")
        self._database.execute("CREATE TABLE item (number INTEGER PRIMARY KEY, category, cents, name, description)")
        self._database.execute("CREATE INDEX by_category ON item (category)")
        self._database.executemany(
            "INSERT INTO item VALUES (?, ?, ?, ?, ?)",
            ((item.number, item.category, item.cents, item.name, item.description) for item in site.items),
        )

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def answer(self, path: str) -> bytes:
        """The whole response to ``GET path``."""
        if path in self._static:
            return self._static[path]
        if not path.startswith(COMPLEX):
            return _response("404 Not Found", "text/plain", b"no such page\n")
        asked = parse_qs(path.removeprefix(COMPLEX))
        try:
            category, visit = int(asked["category"][0]), int(asked["visit"][0])
        except (KeyError, ValueError):
            return _response("400 Bad Request", "text/plain", b"a category and a visit are needed\n")
        rows = self._database.execute(
            "SELECT cents, name, description FROM item WHERE category = ? ORDER BY cents, number LIMIT ?",
            (category, LISTED),
        ).fetchall()
        return _response("200 OK", "text/html", render(category, visit, rows))


class Connection(asyncio.Protocol):
    """One client's; a request that is none ends it."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        assert transport is not None
        self._received += data
        while (end := self._received.find(_END)) >= 0:
            request = bytes(self._received[:end])
            del self._received[: end + len(_END)]
            method, _, rest = request.partition(b"\r\n")[0].decode("latin-1").partition(" ")
            if method != "GET":
                transport.close()
                return
            transport.write(self._pages.answer(rest.partition(" ")[0]))
        if len(self._received) > _REQUEST_BYTES_MAX:
            transport.close()


async def serve(address: str, port: int, seed: int) -> None:
    """Serve until cancelled."""
    pages = Pages(Site(seed))
    try:
        server = await asyncio.get_running_loop().create_server(lambda: Connection(pages), address, port)
        async with server:
            say({"event": "ready", "port": server.sockets[0].getsockname()[1]})
            await server.serve_forever()
    finally:
        pages.close()


def _response(status: str, kind: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="nooks.lab.web_site")
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    asyncio.run(serve(options.address, options.port, options.seed))


if __name__ == "__main__":
    main()
