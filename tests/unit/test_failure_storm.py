"""Interrupts without end, and what looks like them."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from fakes import FakeClock

from nooks.failure.report import FailureReport, Reason
from nooks.failure.storm import StormDetector

SAMPLE_SECONDS = 0.225


class World:
    """Samples of counters, as heartbeats bring them."""

    def __init__(self) -> None:
        self.reports: list[FailureReport] = []
        self.detector = StormDetector(FakeClock(), self.reports.append)
        self.now = 0.0
        self.counters = {"nic_rx": 0, "nic_tx": 0, "interrupts": 0}

    def play(self, seconds: float, interrupts: Callable[[], float], frames: float = 0.0) -> None:
        """Rates per second."""
        end = self.now + seconds
        while self.now < end:
            self.now += SAMPLE_SECONDS
            self.counters["interrupts"] += round(interrupts() * SAMPLE_SECONDS)
            self.counters["nic_rx"] += round(frames * SAMPLE_SECONDS)
            self.detector.counters(self.counters, self.now)


@pytest.fixture
def world() -> World:
    world = World()
    world.detector.begin(1)
    return world


def test_interrupts_without_end(world: World) -> None:
    world.play(2, lambda: 800)
    assert not world.reports
    world.play(2, lambda: 800)
    assert [(report.incarnation, report.reason) for report in world.reports] == [(1, Reason.NO_PROGRESS)]
    assert world.reports[0].detail["interrupts_per_second"] == 800


@pytest.mark.parametrize(("interrupts", "frames"), [(5000, 5000), (900, 120), (50, 0), (0, 0)])
def test_a_card_at_work_and_one_at_rest(world: World, interrupts: float, frames: float) -> None:
    world.play(60, lambda: interrupts, frames)
    assert not world.reports


def test_a_burst_is_no_storm(world: World) -> None:
    rates = [800.0] * 11 + [10.0]
    world.play(60, lambda: rates[round(world.now / SAMPLE_SECONDS) % 12])
    assert not world.reports


def test_a_restart_that_does_not_help_is_not_repeated_at_once(world: World) -> None:
    for incarnation in range(1, 200):
        world.detector.begin(incarnation)
        world.play(4, lambda: 800)
    times = [report.incarnation * 4 for report in world.reports]
    pauses = [after - before for before, after in pairwise(times)]
    assert 3 <= len(times) <= 5
    assert pauses == sorted(pauses)
    assert pauses[0] >= 56


def test_a_domain_that_counts_no_interrupts(world: World) -> None:
    del world.counters["interrupts"]
    for now in range(100):
        world.detector.counters(world.counters, now * SAMPLE_SECONDS)
    world.detector.end()
    world.detector.counters({"interrupts": 1}, 100.0)
    assert not world.reports
