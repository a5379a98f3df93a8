"""The application: fetches a file, sends a file, and asks questions all the while, until it is told to finish.

Every byte is compared, both files have checksums, every answer is checked. An error is what an ordinary program would
have to tell its user: a connection that broke, nothing for PATIENCE_SECONDS, or something wrong in what came.

Standard library only; it also runs in a guest.
"""

import argparse
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from random import Random
from typing import Any

from nooks.lab.echo import PAYLOAD_BYTES_MAX, answer_to, encode, receive
from nooks.lab.exchange.frames import ASK, GET, PUT, REQUEST, RIGHT, Receiver, Sender, exactly
from nooks.lab.meter import REPORT_SECONDS, Meter, say

PATIENCE_SECONDS = 20.0
ASK_SECONDS = 0.005
RATE_BYTES = 2_000_000
FINISH = b"finish"


class Exchange:
    """One use of the network. ``report`` gets a line (as of ``meter``, progress in answers) every 50 ms."""

    def __init__(self, address: str, port: int, seed: int, report: Callable[[dict[str, Any]], None]) -> None:
        self._far_end = address, port
        self._seed = seed
        self._report = report
        self._enough = threading.Event()
        self._errors: list[str] = []
        self._meter = Meter(time.time())
        self._lock = threading.Lock()
        self._received = self._sent = 0

    def run(self, control: int) -> None:
        """Until ``finish`` comes on the descriptor ``control``, or its other end is closed; then come to an end."""
        parts = {"download": self._download, "upload": self._upload, "questions": self._ask}
        threads = [
            threading.Thread(target=self._guarded, args=(name, part), daemon=True) for name, part in parts.items()
        ]
        for each in threads:
            each.start()
        orders = select.poll()
        orders.register(control, select.POLLIN)
        while any(each.is_alive() for each in threads):
            if self._enough.is_set():
                time.sleep(REPORT_SECONDS)
            elif orders.poll(REPORT_SECONDS * 1000):
                os.read(control, 4096)
                self._enough.set()
            self._report(self._line())
        self._report(self._line() | {"finished": True})

    def _line(self) -> dict[str, Any]:
        with self._lock:
            line = self._meter.report(time.time())
        counts = {"received_blocks": self._received, "sent_blocks": self._sent}
        return line | counts | {"errors": len(self._errors), "wrong": list(self._errors)}

    def _guarded(self, name: str, part: Callable[[socket.socket], None]) -> None:
        """An error of one part ends the others as well: the user is told, and starts again."""
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:  # a guest can't resolve names
                connection.settimeout(PATIENCE_SECONDS)
                connection.connect(self._far_end)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                part(connection)
        except (EOFError, OSError, ValueError) as error:
            self._errors.append(f"{name}: {error}")
            self._enough.set()

    def _download(self, connection: socket.socket) -> None:
        connection.sendall(REQUEST.pack(GET, self._seed))
        receiver = Receiver(connection, self._seed)
        told = False
        while receiver.receive():
            self._received = receiver.blocks
            if self._enough.is_set() and not told:
                connection.shutdown(socket.SHUT_WR)
                told = True
        _expect_right(receiver.wrong_blocks == 0, "a file came with wrong content")

    def _upload(self, connection: socket.socket) -> None:
        connection.sendall(REQUEST.pack(PUT, self._seed))
        sender = Sender(connection, self._seed, RATE_BYTES)
        while not self._enough.is_set():
            sender.send_block()
            self._sent += 1
        sender.finish()
        _expect_right(exactly(connection, len(RIGHT)) == RIGHT, "the far end got a file with wrong content")

    def _ask(self, connection: socket.socket) -> None:
        connection.sendall(REQUEST.pack(ASK, self._seed))
        random = Random(self._seed)
        sequence = 0
        due = time.time()
        while not self._enough.is_set():
            payload = random.randbytes(random.randint(1, PAYLOAD_BYTES_MAX))
            connection.sendall(encode(sequence, payload))
            answered, answer, intact = receive(connection)
            _expect_right(intact and answered == sequence and answer == answer_to(payload), "an answer was wrong")
            sequence += 1
            now = time.time()
            with self._lock:
                self._meter.progressed(1, now)
            due = max(due + ASK_SECONDS, now)
            time.sleep(max(0.0, due - time.time()))


def _expect_right(right: bool, otherwise: str) -> None:
    if not right:
        raise ValueError(otherwise)


def main() -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="nooks.lab.exchange.client")
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--control-fd", type=int, required=True)
    options = parser.parse_args()
    Exchange(options.address, options.port, options.seed, say).run(options.control_fd)
    return 0


if __name__ == "__main__":
    sys.exit(main())
