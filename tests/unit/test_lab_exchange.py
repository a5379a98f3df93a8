"""The network workload: right when all is well, wrong when a single byte is."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from json import loads
from typing import Any

import pytest

from nooks.lab.exchange import client
from nooks.lab.exchange.client import Exchange
from nooks.lab.exchange.frames import Receiver, Sender

LOOPBACK = "127.0.0.1"
SEED = 5


@pytest.fixture
def port() -> Iterator[int]:
    """Of an exchange's server."""
    argv = [sys.executable, "-m", "nooks.lab.exchange.server", "--address", LOOPBACK, "--rate-bytes", "20000000"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        yield int(loads(server.stdout.readline())["port"])
        server.kill()


def exchanged(port: int, seconds: float = 0.6) -> list[dict[str, Any]]:
    """All lines of a client that is told to finish after a while."""
    lines: list[dict[str, Any]] = []
    control, finish = os.pipe()
    running = threading.Thread(target=Exchange(LOOPBACK, port, SEED, lines.append).run, args=(control,))
    running.start()
    try:
        running.join(seconds)
        os.write(finish, b"finish")
        running.join(30)
        assert not running.is_alive()
    finally:
        os.close(finish)
        os.close(control)
    return lines


class Tamperer:
    """Stands between client and server; from byte ``at`` of a direction on it does what ``harm`` says, once.

    Connections come in any order, so the harm is to whatever has so many bytes first: only files have.
    """

    def __init__(self, server: int, *, upstream: bool, at: int = 300_000, cut: bool = False) -> None:
        self._server = server
        self._upstream = upstream
        self._at = at
        self._cut = cut
        self._done = False
        self._listener = socket.create_server((LOOPBACK, 0))
        self._sockets = [self._listener]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self.port = int(self._listener.getsockname()[1])

    def close(self) -> None:
        """End and close everything."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for each in self._threads:
            each.join()
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._sockets.append(near)
                far = socket.create_connection((LOOPBACK, self._server))
                self._sockets.append(far)
                for source, target, upstream in ((near, far, True), (far, near, False)):
                    self._threads.append(threading.Thread(target=self._pump, args=(source, target, upstream)))
                    self._threads[-1].start()

    def _pump(self, source: socket.socket, target: socket.socket, upstream: bool) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := bytearray(source.recv(65536)):
                passed += len(data)
                if upstream == self._upstream and passed > self._at and not self._done:
                    self._done = True
                    if self._cut:
                        source.shutdown(socket.SHUT_RDWR)
                        break
                    data[-1] ^= 1
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@pytest.fixture
def tampering(port: int, request: pytest.FixtureRequest) -> Iterator[int]:
    made = Tamperer(port, **request.param)
    yield made.port
    made.close()


def test_a_sound_network_has_no_errors(port: int) -> None:
    lines = exchanged(port)
    last = lines[-1]
    assert last["finished"]
    assert last["wrong"] == []
    assert last["bytes"] > 10
    assert last["received_blocks"] > 5
    assert last["sent_blocks"] > 5
    assert not any("finished" in line for line in lines[:-1])


@pytest.mark.parametrize("tampering", [{"upstream": True}], indirect=True)
def test_one_wrong_bit_in_what_was_sent_is_noticed(tampering: int) -> None:
    assert exchanged(tampering)[-1]["wrong"] == ["upload: the far end got a file with wrong content"]


@pytest.mark.parametrize("tampering", [{"upstream": False}], indirect=True)
def test_one_wrong_bit_in_what_was_received_is_noticed(tampering: int) -> None:
    (error,) = exchanged(tampering)[-1]["wrong"]
    assert error in ("download: a file came with wrong content", "download: the checksum of the file is wrong")


@pytest.mark.parametrize("tampering", [{"upstream": False, "cut": True}], indirect=True)
def test_a_connection_that_breaks_is_an_error_and_the_end(tampering: int) -> None:
    began = time.monotonic()
    last = exchanged(tampering, seconds=20)[-1]
    assert time.monotonic() - began < 15
    assert len(last["wrong"]) == last["errors"] >= 1
    assert last["wrong"][0].startswith("download: ")


@pytest.mark.parametrize("tampering", [{"upstream": False, "at": 0}], indirect=True)
def test_a_wrong_answer_is_an_error(tampering: int) -> None:
    assert exchanged(tampering)[-1]["errors"] >= 1


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PATIENCE_SECONDS", 0.5)
    with socket.create_server((LOOPBACK, 0)) as closed:
        unused = int(closed.getsockname()[1])
    wrong = exchanged(unused)[-1]["wrong"]
    assert sorted(error.partition(":")[0] for error in wrong) == ["download", "questions", "upload"]


def test_silence_is_an_error_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PATIENCE_SECONDS", 0.5)
    with socket.create_server((LOOPBACK, 0)) as silent:
        wrong = exchanged(int(silent.getsockname()[1]), seconds=5)[-1]["wrong"]
    assert "questions: timed out" in wrong
    assert "download: timed out" in wrong


def test_a_file_has_its_checksum_and_its_content() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender, receiver = Sender(ours, SEED, 1 << 30), Receiver(theirs, SEED)
        sending = threading.Thread(target=lambda: (sender.send_block(), sender.send_block(), sender.finish()))
        sending.start()
        assert [receiver.receive(), receiver.receive(), receiver.receive()] == [True, True, False]
        sending.join()
        assert (receiver.blocks, receiver.wrong_blocks) == (2, 0)


def test_a_file_of_another_seed_is_wrong() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender, receiver = Sender(ours, SEED, 1 << 30), Receiver(theirs, SEED + 1)
        sending = threading.Thread(target=lambda: (sender.send_block(), sender.finish()))
        sending.start()
        assert receiver.receive()
        assert not receiver.receive()
        sending.join()
        assert receiver.wrong_blocks == 1
