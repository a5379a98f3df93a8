"""The journal: order, rotation, damage, full disks, followers."""

import asyncio
import datetime
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeClock, run

from nooks.failure.report import Reason
from nooks.host import journal as module
from nooks.host.journal import EVENTS, REASONS, Event, Journal, follow, journal_path, read

Make = Callable[..., Journal]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A journal with a wall clock that ticks one second per event."""

    def build(nook: str = "nic0", rotate_bytes: int = 1 << 20) -> Journal:
        time = [datetime.datetime(2030, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)]

        def now() -> datetime.datetime:
            time[0] += datetime.timedelta(seconds=1)
            return time[0]

        return Journal(nook, tmp_path, now=now, rotate_bytes=rotate_bytes)

    return build


def test_reasons_are_those_of_failure_reports() -> None:
    assert set(Reason) == REASONS


def test_a_line_has_the_keys_of_the_contract(make: Make, tmp_path: Path) -> None:
    make()("failed", incarnation=3, reason=Reason.PANIC, detail={"oops": "x"})
    line = json.loads(journal_path("nic0", tmp_path).read_text())
    assert line == {
        "time": "2030-01-02T03:04:06.000006+00:00",
        "nook": "nic0",
        "incarnation": 3,
        "event": "failed",
        "reason": "panic",
        "detail": {"oops": "x"},
    }


def test_read_gives_back_what_was_written(make: Make, tmp_path: Path) -> None:
    journal = make()
    for number in range(1, 6):
        journal("restarted", incarnation=number)
    assert [event.incarnation for event in read("nic0", directory=tmp_path)] == [1, 2, 3, 4, 5]
    assert [event.incarnation for event in read("nic0", 2, tmp_path)] == [4, 5]
    assert read("nic0", 0, tmp_path) == []
    assert read("other", directory=tmp_path) == []


def test_all_nooks_in_order_of_time(make: Make, tmp_path: Path) -> None:
    first, second = make("a"), make("b")
    first("started", incarnation=1)
    second("started", incarnation=1)
    first("stopped", incarnation=1)
    assert [(event.nook, event.event) for event in read(None, directory=tmp_path)] == [
        ("a", "started"),
        ("b", "started"),
        ("a", "stopped"),
    ]


@pytest.mark.parametrize(("event", "reason"), [("exploded", ""), ("failed", ""), ("failed", "because"), ("", "panic")])
def test_other_words_are_refused_and_counted(make: Make, tmp_path: Path, event: str, reason: str) -> None:
    journal = make()
    journal(event, incarnation=1, reason=reason)
    assert journal.lost == 1
    assert not journal_path("nic0", tmp_path).exists()
    with pytest.raises(ValueError, match=r"event|reason"):
        Event("now", "nic0", 1, event, reason)


def test_every_word_of_the_contract_is_known() -> None:
    for event in EVENTS:
        Event("now", "nic0", 1, event, "panic")


@pytest.mark.parametrize(
    "detail", [{"x": object()}, {"x": "\ud800"}, {"x": "a" * 100_000}, {"x": float("nan")}, {1: {2: b"\xff"}}]
)
def test_a_strange_detail_does_not_cost_the_event(make: Make, tmp_path: Path, detail: dict[str, Any]) -> None:
    journal = make()
    journal("failed", incarnation=1, reason="protocol", detail=detail)
    journal("fenced", incarnation=1)
    assert [event.event for event in read("nic0", directory=tmp_path)] == ["failed", "fenced"]
    assert journal.lost == 0
    assert journal_path("nic0", tmp_path).stat().st_size < 70_000


def test_rotation_keeps_one_old_file(make: Make, tmp_path: Path) -> None:
    journal = make(rotate_bytes=2000)
    for number in range(100):
        journal("restarted", incarnation=number)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nic0.jsonl", "nic0.jsonl.1"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 4200
    numbers = [event.incarnation for event in read("nic0", directory=tmp_path)]
    assert numbers == list(range(numbers[0], 100))
    assert len(numbers) > 10


def test_damaged_lines_are_left_out(make: Make, tmp_path: Path) -> None:
    journal = make()
    journal("started", incarnation=1)
    with journal_path("nic0", tmp_path).open("ab") as file:
        file.write(b'{"time":"x"}\nrubbish \xff\xfe\n{"time":"t","nook":"n","incarnation":1,"event":"what"}\n')
    journal("stopped", incarnation=1)
    assert [event.event for event in read("nic0", directory=tmp_path)] == ["started", "stopped"]


def test_a_full_disk_is_counted_not_fatal(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = make()
    journal("started", incarnation=1)
    real = os.write

    def half(descriptor: int, data: bytes) -> int:
        return real(descriptor, data[: len(data) // 2])

    monkeypatch.setattr(module.os, "write", half)
    journal("failed", incarnation=1, reason="panic")
    monkeypatch.setattr(module.os, "write", real)
    journal("fenced", incarnation=1)
    assert journal.lost == 1
    assert [event.event for event in read("nic0", directory=tmp_path)] == ["started", "fenced"]


def test_an_unwritable_directory_is_counted_not_fatal(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    journal = Journal("nic0", tmp_path / "file" / "deeper")
    journal("started", incarnation=1)
    assert journal.lost == 1


def collect(tmp_path: Path, nook: str | None, last: int | None, write: Callable[[int], None]) -> list[Event]:
    """Follow while ``write(step)`` adds events in three steps."""

    async def main() -> list[Event]:
        clock, seen = FakeClock(), list[Event]()

        async def reader() -> None:
            async for event in follow(nook, clock, last=last, directory=tmp_path):
                seen.append(event)

        task = asyncio.create_task(reader())
        for step in range(3):
            await clock.advance(1)
            write(step)
        await clock.advance(1)
        task.cancel()
        await asyncio.wait({task})
        return seen

    return run(main)


def test_follow_sees_history_and_what_comes(make: Make, tmp_path: Path) -> None:
    journal = make()
    for number in range(5):
        journal("restarted", incarnation=number)

    def write(step: int) -> None:
        journal("restarted", incarnation=10 + step)

    seen = collect(tmp_path, "nic0", 2, write)
    assert [event.incarnation for event in seen] == [3, 4, 10, 11, 12]


def test_follow_goes_on_across_rotation(make: Make, tmp_path: Path) -> None:
    journal = make(rotate_bytes=1500)
    count = [0]

    def write(_step: int) -> None:
        for _ in range(9):
            journal("restarted", incarnation=count[0])
            count[0] += 1

    seen = collect(tmp_path, "nic0", None, write)
    assert [event.incarnation for event in seen] == list(range(27))
    assert (tmp_path / "nic0.jsonl.1").exists()


def test_follow_all_notices_new_nooks_and_half_lines(make: Make, tmp_path: Path) -> None:
    first, second = make("a"), make("b")

    def write(step: int) -> None:
        if step == 0:
            first("started", incarnation=1)
        elif step == 1:
            second("started", incarnation=1)
            with journal_path("a", tmp_path).open("ab") as file:
                file.write(b'{"time":"2030","nook":"a","incarnation":1,')
        else:
            with journal_path("a", tmp_path).open("ab") as file:
                file.write(b'"event":"stopped"}\n')

    seen = collect(tmp_path, None, None, write)
    assert [(event.nook, event.event) for event in seen] == [("a", "started"), ("b", "started"), ("a", "stopped")]


def test_follow_leaves_no_descriptor(make: Make, tmp_path: Path) -> None:
    make()("started", incarnation=1)
    before = len(list(Path("/proc/self/fd").iterdir()))
    collect(tmp_path, "nic0", None, print)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
