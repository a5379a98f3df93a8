"""The far end of an exchange: sends a file, takes a file, answers questions, over as many connections as anybody wants.

Says ``{"event": "ready"}`` when it listens. Standard library only.
"""

import argparse
import select
import socket
import sys
import threading

from nooks.lab.echo import answer_questions
from nooks.lab.exchange.frames import ASK, GET, PUT, REQUEST, RIGHT, WRONG, Receiver, Sender, exactly
from nooks.lab.meter import say

_PATIENCE_SECONDS = 60.0


def serve(address: str, port: int, rate_bytes: int) -> None:
    """Serve for ever."""
    with socket.create_server((address, port), backlog=64) as listener:
        say({"event": "ready", "port": listener.getsockname()[1]})
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve_one, args=(connection, rate_bytes), daemon=True).start()


def _serve_one(connection: socket.socket, rate_bytes: int) -> None:
    with connection:
        connection.settimeout(_PATIENCE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            wanted, seed = REQUEST.unpack(exactly(connection, REQUEST.size))
            if wanted == GET:
                _send(connection, seed, rate_bytes)
            elif wanted == PUT:
                _take(connection, seed)
            elif wanted == ASK:
                answer_questions(connection)
        except (EOFError, OSError, ValueError):
            return  # the client knows what became of it


def _send(connection: socket.socket, seed: int, rate_bytes: int) -> None:
    """Until the client has enough, which it says by closing its direction."""
    sender = Sender(connection, seed, rate_bytes)
    enough = select.poll()
    enough.register(connection, select.POLLIN)
    while not enough.poll(0):
        sender.send_block()
    sender.finish()


def _take(connection: socket.socket, seed: int) -> None:
    receiver = Receiver(connection, seed)
    try:
        while receiver.receive():
            pass
    except ValueError:
        connection.sendall(WRONG)
        return
    connection.sendall(WRONG if receiver.wrong_blocks else RIGHT)


def main() -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="nooks.lab.exchange.server")
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--rate-bytes", type=int, required=True)
    options = parser.parse_args()
    serve(options.address, options.port, options.rate_bytes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
