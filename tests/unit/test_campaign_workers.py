"""Workers that make trials: what one costs that dies, hangs, or is interrupted."""

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator

import pytest
from tests.unit.campaign_records import order
from tests.unit.fake_numbers import DIES, HANGS, LINGERS, TALKS

from nooks.host import marks
from nooks.host.proc import all_pids, command_line, parent_of
from nooks.lab.campaign import hands as hands_module
from nooks.lab.campaign import sweep as sweep_module
from nooks.lab.campaign.hands import Hands
from nooks.lab.campaign.order import Order, Record
from nooks.lab.campaign.pools import LocalPool

FAKE = "tests.unit.fake_trial_worker"


@pytest.fixture
def hands() -> Iterator[Hands]:
    made = Hands(FAKE)
    yield made
    made.end()
    assert not running_workers()


def running_workers() -> list[int]:
    return [pid for pid in all_pids() if FAKE in command_line(pid) and parent_of(pid) == os.getpid()]


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


def lingering() -> bool:
    return any(command_line(pid) == ["sleep", f"300.{os.getpid()}"] for pid in all_pids())


def test_what_a_dead_worker_started_ends_with_it(hands: Hands) -> None:
    hands.run(order(LINGERS))
    deadline = time.monotonic() + 5
    while lingering():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_was_handed_on_during_a_look_ends_too(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    """A descendant may start another and end, after the processes were listed and before it is looked at."""
    looks = 0

    def carriers(mark: str) -> list[int]:
        nonlocal looks
        looks += 1
        return [] if looks == 1 else marks.carriers(mark)

    monkeypatch.setattr(sweep_module, "carriers", carriers)
    test_what_a_dead_worker_started_ends_with_it(hands)


def test_who_is_interrupted_before_it_began_begins_nothing(hands: Hands) -> None:
    """As when a campaign is interrupted while a worker is about to be started: it would make its trial to the end."""
    hands.interrupt()
    assert hands.run(order(HANGS))["why"] == "the worker was interrupted"


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
