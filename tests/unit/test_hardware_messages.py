"""Messages off the socket, by the library and in Python: the same comes of the same bytes, whatever they are."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from vfio_client import library

from nooks.hardware.messages import (
    GONE,
    MALFORMED,
    MESSAGE,
    NOTHING,
    READ,
    TOO_MANY_DESCRIPTORS,
    UNREAD,
    WRITE,
    Messages,
    Next,
    by_library,
)
from nooks.hardware.protocol import ACCESS, DESCRIPTORS_MAX, HEADER, MESSAGE_BYTES_MAX, NO_REPLY, Command
from nooks.host import native

SIZES = {0: 64, 2: 4096, 3: 6}
WAYS: list[Callable[[], Next | None]] = [library, lambda: None]
both = pytest.mark.parametrize("way", WAYS, ids=["library", "python"])


def message(command: int, body: bytes, flags: int = 0, size: int | None = None) -> bytes:
    return HEADER.pack(7, command, HEADER.size + len(body) if size is None else size, flags, 0) + body


def access(command: int, region: int, offset: int, count: int, data: bytes = b"", flags: int = 0) -> bytes:
    return message(command, ACCESS.pack(offset, region, count) + data, flags)


def open_descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


class Ends:
    """A client's socket, and what the card makes of what it sends."""

    def __init__(self, way: Callable[[], Next | None]) -> None:
        self.client, self.card = socket.socketpair()
        self.messages = Messages(self.card, way())
        self.messages.open(SIZES)
        self.client.setblocking(False)

    def __enter__(self) -> "Ends":
        return self

    def __exit__(self, *_: object) -> None:
        self.messages.close()
        self.client.close()
        self.card.close()

    def turn(self, value: int = 0x11223344) -> list[tuple[Any, ...]]:
        """All that comes of what is there; reads are answered by ``value``, as far as it goes."""
        told: list[tuple[Any, ...]] = []
        state = self.messages.state
        self.messages.begin(0)
        kind = self.messages.next(0)
        while kind in (READ, WRITE, MESSAGE):
            answer = 0
            if kind == MESSAGE:
                one = self.messages.take()
                told.append((kind, *one[:3], bytes(one.payload), one.last))
            else:
                told.append((kind, state.region, state.offset, state.size, state.value if kind == WRITE else 0))
                answer = value & (1 << 8 * state.size) - 1
            kind = self.messages.next(answer)
        return [*told, (kind,)]

    def answers(self) -> bytes:
        try:
            return self.client.recv(1 << 16)
        except BlockingIOError:
            return b""


def an_access(offset: int, region: int, count: int, data: bytes) -> bytes:
    return ACCESS.pack(offset, region, count) + data


bodies = st.one_of(
    st.binary(max_size=40),
    st.builds(
        an_access,
        st.one_of(st.integers(0, 70), st.integers(4090, 4100), st.integers(0, 2**64 - 1)),
        st.one_of(st.sampled_from([0, 2]), st.integers(0, 12), st.integers(0, 2**32 - 1)),
        st.one_of(st.sampled_from([1, 2, 4]), st.integers(0, 9), st.integers(0, 2**32 - 1)),
        st.binary(max_size=5),
    ),
)
one_message = st.builds(
    message,
    st.one_of(st.sampled_from([9, 10]), st.integers(0, 2**16 - 1)),
    bodies,
    st.sampled_from([0, 0, 0, NO_REPLY, 1, 0x21]),
    st.one_of(st.none(), st.none(), st.none(), st.integers(0, 60), st.integers(0, 2**32 - 1)),
)


@given(stream=st.lists(one_message, max_size=12).map(b"".join), cuts=st.lists(st.integers(1, 60), max_size=12))
@example(stream=access(10, 0, 62, 2, b"ab") + access(9, 2, 4092, 4) + access(9, 2, 4093, 4), cuts=[])
@example(stream=access(9, 0, 2**63, 4) + access(9, 0, 64, 1) + access(10, 0, 0, 4, b"abc"), cuts=[3, 20, 40])
def test_the_library_makes_the_same_of_it(stream: bytes, cuts: list[int]) -> None:
    """Messages of all kinds, in pieces as they may arrive."""
    made: list[list[Any]] = []
    for way in WAYS:
        with Ends(way) as ends:
            seen: list[Any] = []
            rest = stream
            for cut in [*cuts, len(stream)]:
                if not rest:
                    break
                ends.client.send(rest[:cut])
                rest = rest[cut:]
                told = ends.turn()
                seen += [told, ends.answers()]
                if told[-1] != (NOTHING,):
                    break
            made.append(seen)
    assert made[0] == made[1]


@both
def test_accesses_are_told_and_answered(way: Callable[[], Next | None]) -> None:
    with Ends(way) as ends:
        ends.client.send(
            access(Command.REGION_WRITE, 2, 8, 4, b"\1\2\3\4", NO_REPLY)
            + access(Command.REGION_WRITE, 0, 62, 2, b"\5\6")
            + access(Command.REGION_READ, 2, 4094, 2)
        )
        assert ends.turn() == [
            (WRITE, 2, 8, 4, 0x04030201),
            (WRITE, 0, 62, 2, 0x0605),
            (READ, 2, 4094, 2, 0),
            (NOTHING,),
        ]
        assert ends.answers() == access(Command.REGION_WRITE, 0, 62, 2, flags=1) + access(
            Command.REGION_READ, 2, 4094, 2, b"\x44\x33", flags=1
        )


@both
@pytest.mark.parametrize(
    ("region", "offset", "count"),
    [(2, 6, 4), (2, 1, 2), (2, 8, 3), (2, 8, 8), (2, 4096, 4), (3, 4, 4), (1, 0, 4), (9, 0, 4), (2**32 - 1, 0, 4)],
)
def test_what_is_no_access_to_a_register_is_left_as_it_is(
    way: Callable[[], Next | None], region: int, offset: int, count: int
) -> None:
    """Not aligned, of no natural size, outside of its region, or of none that was opened."""
    with Ends(way) as ends:
        ends.client.send(access(Command.REGION_READ, region, offset, count))
        assert ends.turn() == [
            (MESSAGE, 7, Command.REGION_READ, 0, ACCESS.pack(offset, region, count), True),
            (NOTHING,),
        ]
        assert ends.answers() == b""


@both
@pytest.mark.parametrize("size", [0, HEADER.size - 1, MESSAGE_BYTES_MAX + 1, 2**32 - 1])
def test_impossible_sizes(way: Callable[[], Next | None], size: int) -> None:
    with Ends(way) as ends:
        ends.client.send(message(1, b"", size=size))
        assert ends.turn() == [(MALFORMED,)]


@both
def test_long_messages_one_after_the_other(way: Callable[[], Next | None]) -> None:
    """More than the buffer holds, in pieces that end anywhere."""
    body = bytes(range(256)) * 63
    stream = message(1, body) * 12 + access(Command.REGION_READ, 0, 0, 4)
    told: list[tuple[Any, ...]] = []
    with Ends(way) as ends:
        while stream:
            stream = stream[ends.client.send(stream[:30011]) :]
            told += [one for one in ends.turn() if one != (NOTHING,)]
    assert [one[0] for one in told] == [MESSAGE] * 12 + [READ]
    assert {one[4] for one in told[:12]} == {body}


@both
def test_a_client_that_hangs_up(way: Callable[[], Next | None]) -> None:
    with Ends(way) as ends:
        ends.client.send(access(Command.REGION_READ, 0, 0, 4)[:-1])
        assert ends.turn() == [(NOTHING,)]
        ends.client.close()
        assert ends.turn() == [(GONE,)]


@both
def test_what_is_closed_is_not_read_from(way: Callable[[], Next | None]) -> None:
    """Its descriptor's number may be another's by then."""
    with Ends(way) as ends:
        ends.messages.close()
        number = ends.card.fileno()
        ends.card.close()
        others = socket.socketpair()
        with others[0], others[1]:
            assert number in (one.fileno() for one in others)
            for one in others:
                one.send(access(Command.REGION_READ, 0, 0, 4))
            assert ends.turn() == [(GONE,)]


@both
def test_a_client_that_does_not_read(way: Callable[[], Next | None]) -> None:
    with Ends(way) as ends:
        ends.card.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        told = [(NOTHING,)]
        for _ in range(1000):
            ends.client.send(access(Command.REGION_READ, 0, 0, 4))
            told = ends.turn()
            if told[-1] != (NOTHING,):
                break
        assert told[-1] == (UNREAD,)


@both
def test_descriptors_are_kept_for_their_message_and_never_too_many(way: Callable[[], Next | None]) -> None:
    before = open_descriptors()
    with Ends(way) as ends, open(os.devnull) as file:
        few = [file.fileno()] * (DESCRIPTORS_MAX - 2)
        socket.send_fds(ends.client, [access(Command.REGION_READ, 0, 0, 4)], few)
        assert ends.turn()[-1] == (NOTHING,)
        taken = ends.messages.take_descriptors()
        assert [os.fstat(one).st_rdev for one in taken] == [os.fstat(file.fileno()).st_rdev] * len(few)
        assert not any(os.get_inheritable(one) for one in taken)
        for one in taken:
            os.close(one)
        for wanted in (NOTHING, TOO_MANY_DESCRIPTORS):
            socket.send_fds(ends.client, [access(Command.REGION_READ, 0, 0, 4)], few)
            assert ends.turn()[-1] == (wanted,)
        assert ends.messages.state.descriptor_count == DESCRIPTORS_MAX
    with Ends(way) as ends, open(os.devnull) as file:
        socket.send_fds(ends.client, [b"x"], [file.fileno()] * 3 * DESCRIPTORS_MAX)
        assert ends.turn() == [(TOO_MANY_DESCRIPTORS,)]
    assert open_descriptors() == before


_OTHER = """
import socket, sys
client = socket.socket(fileno=int(sys.argv[1]))
request = client.recv(4096)
client.send(request)
"""


@both
def test_others_are_let_run_and_it_is_looked_again(way: Callable[[], Next | None]) -> None:
    """The client, another process, sends an access when it has the answer to the one before."""
    with Ends(way) as ends:
        ends.client.setblocking(True)
        ends.client.send(access(Command.REGION_READ, 0, 8, 4))
        messages, state = ends.messages, ends.messages.state
        messages.begin(2)
        assert state.looks > state.yields == state.left == 2
        argv = [sys.executable, "-S", "-c", _OTHER, str(ends.client.fileno())]
        with subprocess.Popen(argv, pass_fds=[ends.client.fileno()]):
            state.looks = state.yields = 1 << 30
            assert messages.next(0) == READ
            assert messages.next(5) == MESSAGE  # its own answer comes back, which is no access
            state.looks, state.left = 3, 9
            messages.take()
            assert messages.next(0) in (NOTHING, GONE)


def test_another_versions_library_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    other = tmp_path / "other.c"
    other.write_text("int nooks_state_bytes(void) { return 1; }\n")
    path = native.library(other, pytest.fail)
    assert path is not None
    with pytest.raises(OSError, match="version"):
        by_library(path)
    with pytest.raises(OSError, match="nowhere"):
        by_library(tmp_path / "nowhere")
