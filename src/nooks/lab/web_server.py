"""A web server for the far end of a cable: ``GET /SIZE`` answers with SIZE bytes of known content.

Its access log is JSON lines on stdout. The kernel paces each connection (SO_MAX_PACING_RATE, socket(7)), as a
slower network would. Standard library only, since it runs as a process of its own in a network namespace.
"""

import argparse
import json
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from nooks.lab.content import Content

SO_MAX_PACING_RATE = 47
_lock = threading.Lock()


def log(record: dict[str, Any]) -> None:
    """Write one line of the access log."""
    with _lock:
        sys.stdout.write(json.dumps({"time": time.time(), **record}) + "\n")
        sys.stdout.flush()


class Server(ThreadingHTTPServer):
    """One thread per connection; ``rate_bytes`` per second each, 0 for as fast as it goes."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], content: Content, rate_bytes: int) -> None:
        super().__init__(address, Handler)
        self.content = content
        self.rate_bytes = rate_bytes

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection, pace it, log it."""
        connection, client = super().get_request()
        if self.rate_bytes:
            connection.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, self.rate_bytes)
        log({"event": "connection", "client": f"{client[0]}:{client[1]}"})
        return connection, client


class Handler(BaseHTTPRequestHandler):
    """Answers ``GET /SIZE``."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        size = self.path.removeprefix("/")
        if not size.isdecimal():
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", size)
        self.end_headers()
        sent = 0
        server = cast("Server", self.server)
        try:
            for block in server.content.blocks(int(size)):
                self.wfile.write(block)
                sent += len(block)
        except OSError as error:
            self.close_connection = True
            self._log_response(sent, str(error))
        else:
            self._log_response(sent, "")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the log is ours."""

    def _log_response(self, sent: int, error: str) -> None:
        client = f"{self.client_address[0]}:{self.client_address[1]}"
        log({"event": "response", "client": client, "request": self.requestline, "bytes": sent, "error": error})


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="nooks.lab.web_server")
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, default=80)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--rate-bytes", type=int, default=0)
    options = parser.parse_args()
    with Server((options.address, options.port), Content(options.seed), options.rate_bytes) as server:
        log({"event": "ready"})
        server.serve_forever()


if __name__ == "__main__":
    main()
