"""The rules of the outstanding requests, one by one; their interplay is tested by random lives (…_stateful)."""

from errno import EIO

import pytest

from nooks.shadow.requests import DEATHS, Bounds, Request, RequestLog
from nooks.xpc.block import FLUSH, READ, WRITE


class Store:
    def __init__(self) -> None:
        self.kept: list[int] = []
        self.released: list[int] = []

    def acknowledge(self, request: Request) -> None:
        self.kept.append(request.number)

    def release(self, request: Request) -> None:
        self.released.append(request.number)


def serving(bounds: Bounds | None = None) -> tuple[RequestLog, Store]:
    store = Store()
    log = RequestLog(store, bounds=bounds)
    log.replay()
    return log, store


def ask(log: RequestLog, operation: int, offset: int = 0, length: int = 0, *, fua: bool = False) -> Request:
    request = Request(operation, offset, length, handle=f"{operation}@{offset}", fua=fua, place=offset)
    log.add(request)
    return request


def taken(log: RequestLog) -> list[Request]:
    found: list[Request] = []
    while (request := log.take()) is not None:
        found.append(request)
    return found


def test_what_touches_the_same_bytes_waits_and_the_rest_passes() -> None:
    log, _ = serving()
    first, second, third = ask(log, WRITE, 0, 8), ask(log, WRITE, 4, 8), ask(log, WRITE, 8, 8)
    apart, reading = ask(log, WRITE, 100, 8), ask(log, READ, 101, 1)
    assert taken(log) == [first, apart]
    log.finish(first.number)
    assert taken(log) == [second], "the third waits for the second, although nobody touches its bytes yet"
    log.finish(apart.number)
    assert taken(log) == [reading]
    log.finish(second.number)
    assert taken(log) == [third]


def test_reads_don_t_hold_each_other_up() -> None:
    log, _ = serving()
    reads = [ask(log, READ, 0, 8), ask(log, READ, 0, 8)]
    assert taken(log) == reads


def test_an_answer_is_given_once() -> None:
    log, _ = serving()
    request = ask(log, READ, 0, 8)
    taken(log)
    assert log.finish(request.number) == (request, "0@0", 0)
    with pytest.raises(KeyError):
        log.finish(request.number)


def test_a_flush_releases_what_was_acknowledged_before_it_was_issued() -> None:
    log, store = serving()
    early, late = ask(log, WRITE, 0, 8), ask(log, WRITE, 8, 8)
    flush = ask(log, FLUSH)
    assert taken(log) == [early, late, flush]
    log.finish(early.number)
    log.finish(late.number)
    log.finish(flush.number)
    assert store.released == [], "the flush was issued before either was acknowledged"
    second = ask(log, FLUSH)
    taken(log)
    log.finish(second.number, EIO)
    assert store.released == [], "a failed flush releases nothing"
    third = ask(log, FLUSH)
    taken(log)
    log.finish(third.number)
    assert store.released == [early.number, late.number]


def test_what_goes_through_the_cache_is_not_kept() -> None:
    log, store = serving()
    through = ask(log, WRITE, 0, 8, fua=True)
    taken(log)
    log.finish(through.number)
    assert (store.kept, store.released) == ([], [through.number])


def test_what_goes_through_the_cache_over_something_kept_is_kept_as_well() -> None:
    """Else a replay would bring the older data back."""
    log, store = serving()
    older = ask(log, WRITE, 0, 8)
    taken(log)
    log.finish(older.number)
    newer = ask(log, WRITE, 4, 8, fua=True)
    taken(log)
    log.finish(newer.number)
    assert store.kept == [older.number, newer.number]


def test_replay_goes_kept_writes_unanswered_ones_a_flush_and_then_the_rest() -> None:
    log, _ = serving()
    kept, unanswered = ask(log, WRITE, 0, 8), ask(log, WRITE, 8, 8)
    taken(log)
    log.finish(kept.number)
    reading, fresh = ask(log, READ, 64, 8), ask(log, WRITE, 32, 8)
    log.take()
    log.lose(counts=False)
    assert log.take() is None, "there is no driver"
    log.replay()
    assert taken(log) == [kept]
    log.finish(kept.number)
    assert taken(log) == [unanswered]
    assert not log.replayed
    answer = log.finish(unanswered.number)
    assert answer.handle == "1@8"
    [flush] = taken(log)
    assert (flush.operation, flush.handle) == (FLUSH, None)
    log.finish(flush.number)
    assert log.replayed
    assert taken(log) == [reading, fresh]


def test_a_request_that_kills_fails_alone_and_the_rest_goes_on() -> None:
    log, store = serving()
    innocent, killer = ask(log, WRITE, 0, 8), ask(log, WRITE, 8, 8)
    taken(log)
    for _ in range(10):  # by command: that counts for nothing
        assert log.lose(counts=False) == []
        log.replay()
        assert taken(log) == [innocent, killer]
    assert log.lose(counts=True) == [], "two were outstanding: nobody knows which it was"
    for _ in range(DEATHS - 1):
        log.replay()
        if innocent.acknowledged == 0:
            assert taken(log) == [innocent], "suspects go alone"
            log.finish(innocent.number)
        while killer not in (got := taken(log)):
            assert len(got) == 1
            log.finish(got[0].number)
        assert got == [killer]
        assert log.lose(counts=True) == []
    log.replay()
    while killer not in (got := taken(log)):
        log.finish(got[0].number)
    [answer] = log.lose(counts=True)
    assert (answer.request, answer.handle, answer.error) == (killer, "1@8", EIO)
    assert killer.number in store.released
    log.replay()
    rest = ask(log, READ, 0, 8)
    seen: list[Request] = []
    while got := taken(log):
        seen += got
        for each in got:
            log.finish(each.number)
    assert rest in seen
    assert killer not in seen


def test_a_killing_read_is_found_too_and_others_wait_for_it() -> None:
    log, _ = serving()
    killer = ask(log, READ, 0, 8)
    taken(log)
    for deaths in range(1, DEATHS + 1):
        other = ask(log, READ, 64, 8)
        failed = log.lose(counts=True)
        log.replay()
        if deaths < DEATHS:
            assert failed == []
            assert taken(log) == [killer]
        else:
            assert [answer.request for answer in failed] == [killer]
            assert other in taken(log)


def test_a_flush_of_our_own_that_kills_is_given_up() -> None:
    log, _ = serving()
    kept = ask(log, WRITE, 0, 8)
    taken(log)
    log.finish(kept.number)
    for _ in range(DEATHS):
        log.lose(counts=True)
        log.replay()
        assert taken(log) == [kept]
        log.finish(kept.number)
        assert [each.operation for each in taken(log)] == [FLUSH]
    log.lose(counts=True)
    log.replay()
    taken(log)
    log.finish(kept.number)
    assert log.replayed
    assert log.kept == 1


def test_much_that_is_kept_forces_a_flush() -> None:
    log, _ = serving(Bounds(kept_bytes=15, kept_requests=100))
    for offset in (0, 8):
        request = ask(log, WRITE, offset, 8)
        assert taken(log) == [request]
        log.finish(request.number)
    [flush] = taken(log)
    assert (flush.operation, flush.handle) == (FLUSH, None)
    assert taken(log) == [], "one at a time"
    log.finish(flush.number)
    assert log.kept_bytes == 0


def test_a_store_without_room_forces_a_flush_however_little_is_kept() -> None:
    log, _ = serving()
    request = ask(log, WRITE, 0, 8)
    taken(log)
    log.finish(request.number)
    assert taken(log) == []
    log.press()
    [flush] = taken(log)
    log.finish(flush.number)
    assert (log.kept, taken(log)) == (0, [])


def test_an_acknowledged_write_that_is_refused_later_fails_the_next_flush() -> None:
    log, _ = serving()
    request = ask(log, WRITE, 0, 8)
    taken(log)
    log.finish(request.number)
    log.lose(counts=False)
    log.replay()
    assert taken(log) == [request]
    log.finish(request.number, EIO)
    assert log.lost == [request]
    assert log.replayed
    for expected in (EIO, 0):
        flush = ask(log, FLUSH)
        taken(log)
        assert log.finish(flush.number).error == expected
