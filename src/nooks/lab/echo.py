"""A request/response application over one TCP connection: ``serve`` answers, ``ask`` asks every few milliseconds.

Each answer is checked: sequence number, length, checksum, content. ``ask`` writes JSON lines to stdout, in the form
of ``meter`` (progress in answers), with the number of errors; a connection that breaks is an error and the end.
Standard library only.
"""

import argparse
import contextlib
import socket
import struct
import sys
import time
import zlib
from random import Random

from nooks.lab.meter import REPORT_SECONDS, Meter, say

HEADER = struct.Struct("!IHI")  # sequence number, length of the payload, its CRC-32
PAYLOAD_BYTES_MAX = 1200


def encode(sequence: int, payload: bytes) -> bytes:
    """One message: header and payload."""
    return HEADER.pack(sequence & 0xFFFFFFFF, len(payload), zlib.crc32(payload)) + payload


def receive(connection: socket.socket) -> tuple[int, bytes, bool]:
    """The next message: sequence number, payload, whether the checksum fits. Raises EOFError, OSError."""
    sequence, length, checksum = HEADER.unpack(_exactly(connection, HEADER.size))
    payload = _exactly(connection, length)
    return sequence, payload, zlib.crc32(payload) == checksum


def answer_to(payload: bytes) -> bytes:
    """What the server answers: the payload backwards."""
    return payload[::-1]


def answer_questions(connection: socket.socket) -> None:
    """Answer whatever is asked on a connection. Raises EOFError when it ends, OSError."""
    while True:
        sequence, payload, intact = receive(connection)
        connection.sendall(encode(sequence, answer_to(payload) if intact else b""))


def serve(address: str, port: int) -> None:
    """Answer one client after the other, for ever."""
    with socket.create_server((address, port)) as listener:
        say({"event": "ready"})
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with contextlib.suppress(EOFError, OSError):
                    answer_questions(connection)


def ask(address: str, port: int, interval_seconds: float, timeout_seconds: float, count: int) -> None:
    """Ask until the connection breaks or ``count`` answers came (0: no limit)."""
    random = Random(port)
    errors = sequence = 0
    latencies: list[float] = []
    with socket.create_connection((address, port), timeout=timeout_seconds) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reported = due = time.time()
        meter = Meter(reported)
        while not count or sequence < count:
            payload = random.randbytes(random.randint(1, PAYLOAD_BYTES_MAX))
            asked = time.time()
            try:
                connection.sendall(encode(sequence, payload))
                answered, answer, intact = receive(connection)
            except (EOFError, OSError) as error:
                say(meter.report(time.time()) | {"errors": errors + 1, "broken": str(error) or "closed"})
                return
            now = time.time()
            latencies.append(now - asked)
            if answered != sequence or not intact or answer != answer_to(payload):
                errors += 1
            sequence += 1
            meter.progressed(1, now)
            if now - reported >= REPORT_SECONDS:
                say(meter.report(now) | {"errors": errors})
                reported = now
            due = max(due + interval_seconds, now)
            time.sleep(max(0.0, due - time.time()))
    say(meter.report(time.time()) | {"errors": errors, "latencies": latencies if count else []})


def _exactly(connection: socket.socket, size_bytes: int) -> bytes:
    data = bytearray()
    while len(data) < size_bytes:
        piece = connection.recv(size_bytes - len(data))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


def main() -> int:
    """Run one side; returns the exit status."""
    parser = argparse.ArgumentParser(prog="nooks.lab.echo")
    parser.add_argument("side", choices=["serve", "ask"])
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, default=7)
    parser.add_argument("--interval-seconds", type=float, default=0.005)
    parser.add_argument("--timeout-seconds", type=float, default=30.0)
    parser.add_argument("--count", type=int, default=0)
    options = parser.parse_args()
    if options.side == "serve":
        serve(options.address, options.port)
    else:
        ask(options.address, options.port, options.interval_seconds, options.timeout_seconds, options.count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
