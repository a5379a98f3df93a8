"""Workers that make trials: what one costs that dies, hangs, or is interrupted."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import pytest
from tests.unit.campaign_records import order
from tests.unit.fake_numbers import DIES, HANGS, LINGERS, TALKS

from nooks.lab import processes
from nooks.lab.campaign import hands as hands_module
from nooks.lab.campaign import sweep as sweep_module
from nooks.lab.campaign.hands import Hands
from nooks.lab.campaign.order import Order, Record
from nooks.lab.campaign.pools import LocalPool
from nooks.lab.processes import all_pids, command_line

FAKE = "tests.unit.fake_trial_worker"


@pytest.fixture
def hands() -> Iterator[Hands]:
    made = Hands(FAKE)
    yield made
    made.end()
    assert not running_workers()


def running_workers() -> list[int]:
    return [pid for pid in all_pids() if FAKE in command_line(pid) and _parent(pid) == os.getpid()]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1


def test_one_worker_makes_many_trials(hands: Hands) -> None:
    records = [hands.run(order(number)) for number in (1, 2, TALKS)]
    assert [record["trial"] for record in records] == [1, 2, TALKS]
    assert len({record["pid"] for record in records}) == 1


def test_a_worker_that_dies_costs_its_trial_alone(hands: Hands) -> None:
    first, lost, next_one = (hands.run(order(number)) for number in (1, DIES, 2))
    assert lost["verdict"] == "not-run"
    assert lost["why"] == "the worker died: boom"
    assert next_one["verdict"] == "recovered"
    assert next_one["pid"] != first["pid"]


def test_a_worker_that_hangs_is_given_up(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hands_module, "TRIAL_SECONDS", 0.5)
    monkeypatch.setattr(hands_module, "slowness", lambda: 1.0)
    assert hands.run(order(HANGS))["why"] == "the worker gave no answer in time"


def test_what_a_dead_worker_started_ends_with_it(hands: Hands) -> None:
    hands.run(order(LINGERS))
    deadline = time.monotonic() + 5
    while any(command_line(pid) == ["sleep", f"300.{os.getpid()}"] for pid in all_pids()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def marked() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A process with a token of its own in its environment."""
    token = token_hex(16)
    process = subprocess.Popen(["sleep", "300"], env={sweep_module.TOKEN: token})
    yield process, token
    process.kill()
    process.wait()


@pytest.mark.parametrize("seen_at", [2, 3])
@pytest.mark.parametrize("words_ahead", [0, 1])
def test_a_process_that_is_just_being_started_is_not_overlooked(
    marked: tuple[subprocess.Popen[bytes], str], monkeypatch: pytest.MonkeyPatch, seen_at: int, words_ahead: int
) -> None:
    """While execve(2) lays out a program's memory nobody sees its environment; that may end between any two looks."""
    process, token = marked
    looks = 0

    def environment(pid: int) -> bytes:
        nonlocal looks
        looks += pid == process.pid
        return b"" if pid == process.pid and looks < seen_at else processes.environment(pid)

    def words(pid: int) -> list[str]:
        return [] if pid == process.pid and looks + words_ahead < seen_at else processes.command_line(pid)

    monkeypatch.setattr(sweep_module, "environment", environment)
    monkeypatch.setattr(sweep_module, "command_line", words)
    sweep_module.sweep(token, {})
    assert process.wait(5) == -signal.SIGKILL


def test_a_process_that_was_handed_on_during_a_look_is_not_overlooked(
    marked: tuple[subprocess.Popen[bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    process, token = marked
    looks = iter(range(1000))

    def pids() -> list[int]:
        return all_pids() if next(looks) else [pid for pid in all_pids() if pid != process.pid]

    monkeypatch.setattr(sweep_module, "all_pids", pids)
    sweep_module.sweep(token, {})
    assert process.wait(5) == -signal.SIGKILL


def test_a_start_that_ends_after_the_environment_was_read_is_a_start(
    marked: tuple[subprocess.Popen[bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words: Iterator[list[str]] = iter([[], ["sleep", "300"]])

    def no_environment(pid: int) -> bytes:
        return b""

    def next_words(pid: int) -> list[str]:
        return next(words)

    monkeypatch.setattr(sweep_module, "environment", no_environment)
    monkeypatch.setattr(sweep_module, "command_line", next_words)
    assert sweep_module.look(marked[0].pid, b"mark") is sweep_module.Look.STARTS


def test_a_process_without_an_environment_holds_nothing_up() -> None:
    with subprocess.Popen(["sleep", "300"], env={}) as process:
        while not processes.command_line(process.pid):
            time.sleep(0.01)
        assert sweep_module.look(process.pid, b"mark") is sweep_module.Look.OTHER
        process.kill()


def collected(pool: LocalPool, orders: list[Order], stop_after: int | None = None) -> list[tuple[Order, Record]]:
    async def collect() -> list[tuple[Order, Record]]:
        found: list[tuple[Order, Record]] = []
        async with contextlib.aclosing(pool.run(orders)) as results:
            async for result in results:
                found.append(result)
                if len(found) == stop_after:
                    break
        return found

    return asyncio.run(collect())


def test_a_pool_makes_every_trial_once() -> None:
    orders = [order(number) for number in (*range(8), DIES)]
    results = collected(LocalPool(2, FAKE), orders)
    assert {made.trial for made, _ in results} == {made.trial for made in orders}
    assert all(made.trial == record["trial"] for made, record in results)
    assert sum(record["verdict"] == "not-run" for _, record in results) == 1
    assert len({record["pid"] for _, record in results if "pid" in record}) in (1, 2, 3)
    assert not running_workers()


def test_a_pool_that_is_left_early_ends_what_is_under_way() -> None:
    began = time.monotonic()
    results = collected(LocalPool(2, FAKE), [order(1), order(HANGS), order(2)], stop_after=2)
    assert len(results) == 2
    assert time.monotonic() - began < 60
    assert not running_workers()
