"""A domain's console: bounded, and its bad news is kept from the beginning."""

import socket
from collections.abc import Iterator

import pytest

from nooks.domain.console import KEPT_BYTES, Console


@pytest.fixture
def wire() -> Iterator[tuple[socket.socket, Console]]:
    """The domain's end, and what the product reads from the other."""
    domain, ours = socket.socketpair()
    console = Console(ours)
    yield domain, console
    console.close()
    domain.close()


def say(wire: tuple[socket.socket, Console], text: str) -> str:
    """Have the domain say it, piece by piece as a socket holds it; returns the console's text."""
    domain, console = wire
    data = text.encode()
    for start in range(0, len(data), 16384):
        domain.sendall(data[start : start + 16384])
        console.drain()
    return console.text()


def test_the_last_words_are_kept(wire: tuple[socket.socket, Console]) -> None:
    text = say(wire, "".join(f"line {number}\r\n" for number in range(20_000)))
    assert text.endswith("line 19998\nline 19999\n")
    assert len(text) <= KEPT_BYTES


def test_bad_news_is_kept_from_its_beginning_and_to_its_end(wire: tuple[socket.socket, Console]) -> None:
    say(wire, "all is well\n" * 20_000)
    say(wire, "[    4.1] BUG: IRQ stack guard page was hit\nRIP: 0010:e100_exec_cmd+0x0/0xc0 [e100]\n")
    say(wire, " e100_exec_cmd+0x5/0xc0 [e100]\n" * 20_000)
    text = say(wire, "---[ end Kernel panic\n")
    assert text.startswith("[    4.1] BUG: IRQ stack guard page was hit\nRIP: 0010:e100_exec_cmd")
    assert text.count("\n[...]\n") == 1
    assert text.endswith("---[ end Kernel panic\n")
    assert len(text) <= KEPT_BYTES
