"""The ring of write data: nothing is overwritten while it is needed, and a new supervisor finds what was kept."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nooks.shadow.requests import Request
from nooks.shadow.write_log import ALIGNMENT, ENTRIES, RESERVED_ENTRIES, WriteLog
from nooks.xpc.block import DISCARD, REQUEST_BYTES_MAX, WRITE

RING = 4 * REQUEST_BYTES_MAX


@pytest.fixture
def log() -> Iterator[WriteLog]:
    made = WriteLog.create(ring_bytes=RING)
    yield made
    made.close()


def put(log: WriteLog, number: int, length: int, *, acknowledged: bool = True) -> Request:
    assert not log.full
    log.space()[:length] = bytes([number % 251]) * length
    request = Request(WRITE, number * 4096, length, place=log.keep(length))
    request.number = number
    if acknowledged:
        log.acknowledge(request)
    return request


def is_whole(log: WriteLog, request: Request) -> bool:
    data, mark = log.data(request), request.number % 251
    return len(data) == request.length and all(byte == mark for byte in (*data[:16], *data[:: 1 << 14], *data[-16:]))


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.integers(1, REQUEST_BYTES_MAX),
            st.sampled_from([512, 4096, REQUEST_BYTES_MAX]),
            st.tuples(st.just("release"), st.integers(0, 100)),
        ),
        max_size=80,
    )
)
def test_data_stay_until_they_are_released(steps: list[int | tuple[str, int]]) -> None:
    log = WriteLog.create(ring_bytes=RING)
    held: list[Request] = []
    number = 0
    for step in steps:
        if isinstance(step, tuple):
            if held:
                log.release(held.pop(step[1] % len(held)))
        elif not log.full:
            number += 1
            held.append(put(log, number, step))
        assert all(is_whole(log, request) for request in held)
    while held:
        log.release(held.pop(0))
    assert not log.full
    log.close()


def test_full_is_said_before_anything_is_overwritten_and_room_comes_back(log: WriteLog) -> None:
    held: list[Request] = []
    while not log.full:
        held.append(put(log, len(held) + 1, REQUEST_BYTES_MAX))
    assert len(held) == RING // REQUEST_BYTES_MAX
    log.release(held.pop(1))
    assert log.full, "what lies before it is needed still"
    log.release(held.pop(0))
    assert not log.full


def test_the_table_is_never_exhausted_by_what_is_under_way(log: WriteLog) -> None:
    number = 0
    while not log.full:
        number += 1
        request = Request(DISCARD, 0, 8)
        request.number = number
        log.acknowledge(request)
    assert ENTRIES - number == RESERVED_ENTRIES - 1


def test_a_new_supervisor_finds_what_was_acknowledged(log: WriteLog) -> None:
    first = put(log, 1, 5000)
    put(log, 2, 4096, acknowledged=False)
    third = put(log, 3, 512)
    dropped = put(log, 4, REQUEST_BYTES_MAX)
    discard = Request(DISCARD, 8192, 1 << 33)
    discard.number = 5
    log.acknowledge(discard)
    log.release(dropped)
    adopted, kept = WriteLog.adopt(os.dup(log.fileno()))
    assert [(each.number, each.operation, each.offset, each.length) for each in kept] == [
        (1, WRITE, 4096, 5000),
        (3, WRITE, 3 * 4096, 512),
        (5, DISCARD, 8192, 1 << 33),
    ]
    assert all(is_whole(adopted, request) for request in kept[:2])
    later = put(adopted, 6, REQUEST_BYTES_MAX)
    assert later.place >= third.place + ALIGNMENT, "what was found is not overwritten"
    for request in (*kept, later):
        adopted.release(request)
    assert WriteLog.adopt(os.dup(log.fileno()))[1] == []
    assert is_whole(log, first)
    adopted.close()


def test_a_ring_that_had_begun_again_is_adopted_in_order(log: WriteLog) -> None:
    held = [put(log, number, REQUEST_BYTES_MAX) for number in range(1, 5)]
    for request in held[:3]:
        log.release(request)
    assert not log.full
    wrapped = put(log, 5, REQUEST_BYTES_MAX)
    assert wrapped.place == 0
    adopted, kept = WriteLog.adopt(os.dup(log.fileno()))
    assert [each.number for each in kept] == [4, 5]
    extra = put(adopted, 6, 4096)
    assert all(is_whole(adopted, request) for request in (*kept, extra))
    adopted.close()
