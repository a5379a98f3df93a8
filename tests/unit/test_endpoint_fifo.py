"""Pipes between a sound server and a nook: whole frames, converted to the bit, and nobody who reads is missed."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from nooks.endpoint import fifo
from nooks.endpoint.fifo import PlayedPipe, RecordedPipe
from nooks.host.errors import MachineError

SILENCE = bytes(4)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[int]:
    descriptor = fifo.make(tmp_path / "pipe", os.geteuid())
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize(
    ("sample_format", "expected"),
    [
        ("s16", struct.pack("<4h", 0x1234, -1, -0x8000, 0)),
        ("s32", struct.pack("<4i", 0x12345678, -2, -0x80000000, 0x7F)),
        ("s24-3", bytes.fromhex("563412 ffffff 000080 000000")),
        ("u8", bytes([0x92, 0x7F, 0x00, 0x80])),
    ],
)
def test_frames_as_a_card_wants_them(pipe: int, sample_format: str, expected: bytes) -> None:
    played = PlayedPipe(pipe, sample_format, 2)
    os.write(pipe, struct.pack("<4i", 0x12345678, -2, -0x80000000, 0x7F))
    space = memoryview(bytearray(100))
    assert played.take(space, 10) == 2
    assert bytes(space[: len(expected)]) == expected
    assert played.take(space, 10) == 0


def test_a_part_of_a_frame_waits_for_the_rest(pipe: int) -> None:
    """Six channels of 24 bytes don't fill a page evenly: the server's last write before it waits is cut."""
    played = PlayedPipe(pipe, "s16", 6)
    space = memoryview(bytearray(100))
    os.write(pipe, bytes(24 + 10))
    assert played.take(space, 10) == 1
    assert played.take(space, 10) == 0
    os.write(pipe, bytes(14))
    assert played.take(space, 10) == 1


def test_no_more_than_is_asked_for(pipe: int) -> None:
    played = PlayedPipe(pipe, "s16", 2)
    os.write(pipe, bytes(80))
    space = memoryview(bytearray(100))
    assert [played.take(space, 3) for _ in range(5)] == [3, 3, 3, 1, 0]


def test_little_waits_in_a_pipe(pipe: int) -> None:
    for _ in range(4):
        os.write(pipe, bytes(1024))
    with pytest.raises(BlockingIOError):
        os.write(pipe, bytes(4))
    assert len(os.read(pipe, 1 << 20)) == 4096


def test_who_reads_is_noticed(pipe: int) -> None:
    recorded = RecordedPipe(pipe, 48000, SILENCE)
    recorded.stuff()
    assert not recorded.listening
    assert set(os.read(pipe, 4096)) == {0}
    assert recorded.listening


def test_what_is_recorded_waits_for_its_reader_and_keeps_its_order(pipe: int) -> None:
    recorded = RecordedPipe(pipe, 48000, SILENCE)
    samples = b"".join(number.to_bytes(4, "little") for number in range(3000))
    assert recorded.deliver(samples)
    read = bytearray()
    while len(read) < len(samples):
        read += os.read(pipe, 4096)
        recorded.deliver(b"")
    assert bytes(read) == samples


def test_what_nobody_reads_is_lost_after_a_while(pipe: int) -> None:
    recorded = RecordedPipe(pipe, 1000, SILENCE)
    recorded.stuff()
    taken = [recorded.deliver(bytes([number]) * 4000) for number in range(1, 4)]
    assert taken == [False, False, False]
    os.read(pipe, 4096)
    assert recorded.deliver(b"")
    assert set(os.read(pipe, 4096)) == {3}


def test_a_pipe_that_lost_its_name(tmp_path: Path, pipe: int) -> None:
    path = tmp_path / "pipe"
    assert fifo.is_there(path, pipe)
    path.unlink()
    assert not fifo.is_there(path, pipe)
    path.touch()
    assert not fifo.is_there(path, pipe)


def test_a_pipe_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="can't be made"):
        fifo.make(tmp_path / "missing" / "pipe", os.geteuid())
