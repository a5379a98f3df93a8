"""Transactions of one byte each way over one TCP connection, as many as go: netperf's TCP_RR.

``serve`` answers each byte with its complement, ``ask`` checks that. ``ask`` says when measuring begins and ends, then
the result, as JSON lines: ``transactions`` in ``seconds``, their ``rate``, and ``errors``. Standard library only.
"""

import argparse
import socket
import time

from nooks.lab.meter import say

TIMEOUT_SECONDS = 30.0


def serve(address: str, port: int) -> None:
    """Answer one client after the other, for ever; says ``{"event": "ready", "port": N}``."""
    with socket.create_server((address, port)) as listener:
        say({"event": "ready", "port": listener.getsockname()[1]})
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                answer(connection)


def answer(connection: socket.socket) -> None:
    """Until the client is gone."""
    try:
        while question := connection.recv(1):
            connection.sendall(bytes([255 - question[0]]))
    except OSError:
        return


def ask(connection: socket.socket, seconds: float) -> tuple[int, int, float]:
    """Ask for ``seconds``; how many transactions, how many wrong answers, and the seconds that it really took.

    Raises OSError, EOFError if the connection breaks.
    """
    done = wrong = 0
    began = now = time.monotonic()
    while now - began < seconds:
        question = done & 0xFF
        connection.sendall(bytes([question]))
        said = connection.recv(1)
        if not said:
            raise EOFError("closed by the server")
        wrong += said[0] != 255 - question
        done += 1
        now = time.monotonic()
    return done, wrong, now - began


def measure(address: str, port: int, warm_seconds: float, seconds: float) -> None:
    """Connect, warm up, measure, and say how it went."""
    try:
        with socket.create_connection((address, port), timeout=TIMEOUT_SECONDS) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _, errors, _ = ask(connection, warm_seconds)
            say({"event": "began"})
            done, wrong, took = ask(connection, seconds)
            say({"event": "ended"})
    except (EOFError, OSError) as error:
        say({"transactions": 0, "seconds": 0.0, "rate": 0.0, "errors": 1, "error": str(error)})
        return
    errors += wrong
    result = {"transactions": done, "seconds": took, "rate": done / took, "errors": errors}
    say(result | {"error": f"{errors} wrong answers" if errors else ""})


def main() -> None:
    """Run one side."""
    parser = argparse.ArgumentParser(prog="nooks.lab.transactions")
    parser.add_argument("side", choices=["serve", "ask"])
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--warm-seconds", type=float, default=0.5)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    if options.side == "serve":
        serve(options.address, options.port)
    else:
        measure(options.address, options.port, options.warm_seconds, options.seconds)


if __name__ == "__main__":
    main()
