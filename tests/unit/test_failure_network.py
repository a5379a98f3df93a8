"""Silent failures of a network driver, and everything that only looks like one."""

import itertools

import pytest
from fakes import run
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_link import Link, loaded, scenario

from nooks.failure.report import Reason


@pytest.mark.parametrize("phase", range(10))
@pytest.mark.parametrize("what", ["transmits", "receives", "both", "takes"])
def test_silence_under_load_is_noticed_within_two_seconds(phase: int, what: str) -> None:
    async def play(link: Link) -> None:
        await loaded(link)
        await link.play(phase * 0.05)
        began = link.clock.monotonic()
        link.transmits = what not in ("transmits", "both")
        link.receives = what not in ("receives", "both")
        link.takes = what != "takes"
        if what == "takes":
            link.receives = False
        await link.play(6)
        assert link.reports
        report = link.reports[0]
        assert report.reason is (Reason.NO_ANSWER if what == "receives" else Reason.NO_PROGRESS)
        assert report.noticed_at - began <= (2.0 if what != "takes" else 3.0)

    scenario(play)


def test_a_download_whose_receiver_has_nothing_to_send() -> None:
    async def play(link: Link) -> None:
        began = await loaded(link, out=1, inward=100)
        link.out = 0
        link.transmits = link.receives = False
        await link.play(6)
        assert link.reports
        assert link.reports[0].noticed_at - began <= 2.0

    scenario(play)


def test_an_idle_link() -> None:
    async def play(link: Link) -> None:
        await link.play(60)
        assert not link.reports
        assert link.asked == 0

    scenario(play)


def test_the_end_of_a_download_costs_one_question() -> None:
    async def play(link: Link) -> None:
        await loaded(link)
        link.out = link.inward = 0
        await link.play(60)
        assert not link.reports
        assert link.asked == 1

    scenario(play)


def test_an_unplugged_cable_and_plugging_it_in_again() -> None:
    async def play(link: Link) -> None:
        await loaded(link)
        link.transmits = link.receives = False
        link.detector.carrier(False, link.clock.monotonic())
        await link.play(30)
        assert not link.reports
        link.detector.carrier(True, link.clock.monotonic())
        await link.play(0.8)
        link.transmits = link.receives = True
        await link.play(30)
        assert not link.reports

    scenario(play)


def test_a_link_that_is_down_though_its_cable_cannot_be_pulled() -> None:
    async def play(link: Link) -> None:
        await loaded(link)
        link.transmits = False
        link.detector.carrier(False, link.clock.monotonic())
        await link.play(30)
        assert not link.reports
        link.plugged = True  # taken up by the user just now
        await link.play(2.5)
        assert not link.reports
        await link.play(2)
        assert [report.reason for report in link.reports] == [Reason.NO_PROGRESS]

    scenario(play)


def test_a_driver_that_resets_its_card_is_left_alone() -> None:
    async def play(link: Link) -> None:
        link.plugged = True
        await loaded(link)
        for _ in range(10):
            link.detector.carrier(False, link.clock.monotonic())
            await link.play(2)
            link.detector.carrier(True, link.clock.monotonic())
            await link.play(2)
        assert not link.reports

    scenario(play)


def test_a_driver_that_loses_large_frames_only() -> None:
    async def play(link: Link) -> None:
        link.echoes = True
        began = await loaded(link)
        link.whole = False
        await link.play(10)
        assert [report.reason for report in link.reports] == [Reason.NO_ANSWER]
        assert link.reports[0].noticed_at - began < 7
        link.restart()
        await link.play(30)
        assert len(link.reports) == 1  # who echoes no more is not held against the driver again

    scenario(play)


def test_a_peer_that_never_echoed() -> None:
    async def play(link: Link) -> None:
        link.whole = False
        await loaded(link)
        await link.play(60)
        assert not link.reports

    scenario(play)


def test_a_peer_that_vanishes_while_its_echo_is_awaited() -> None:
    async def play(link: Link) -> None:
        link.echoes = True
        await loaded(link)
        link.receives = False
        await link.play(10)
        assert [report.detail["why"] for report in link.reports] == ["no neighbour answers and nothing is received"]

    scenario(play)


def test_questions_for_echoes_keep_no_idle_link_awake() -> None:
    async def play(link: Link) -> None:
        link.echoes = True
        await loaded(link)
        link.out = link.inward = 0
        await link.play(10)
        before = link.counted["host_rx"]
        await link.play(60)
        assert link.counted["host_rx"] == before

    scenario(play)


def test_tcp_that_has_to_send_most_again() -> None:
    async def play(link: Link) -> None:
        began = await loaded(link)
        link.troubled = True
        await link.play(12)
        assert [report.reason for report in link.reports] == [Reason.NO_ANSWER]
        assert link.reports[0].noticed_at - began < 10
        link.restart()
        await link.play(300)
        assert len(link.reports) == 1  # it is not the driver
        link.troubled = False
        await link.play(10)
        link.troubled = True
        await link.play(20)
        assert len(link.reports) == 2

    scenario(play)


def test_a_moment_of_loss_is_no_failure() -> None:
    async def play(link: Link) -> None:
        await loaded(link)
        for _ in range(10):
            link.troubled = True
            await link.play(4)
            link.troubled = None
            await link.play(8)
        assert not link.reports

    scenario(play)


def test_a_driver_that_sends_nothing_and_still_receives_what_the_peer_repeats() -> None:
    async def play(link: Link) -> None:
        began = await loaded(link)
        link.deaf_peer = True
        link.out, link.inward = 1, 0
        for _ in range(20):
            link.move_in(1)
            await link.play(1)
        assert [report.reason for report in link.reports] == [Reason.NO_ANSWER]
        assert link.reports[0].noticed_at - began < 7

    scenario(play)


def test_a_neighbour_that_answers_late_once() -> None:
    async def play(link: Link) -> None:
        await loaded(link)
        link.out, link.inward = 1, 0
        link.deaf_peer = True
        await link.play(1)
        link.move_in(1)
        await link.play(0.7)
        link.deaf_peer = False
        link.inward = 1
        await link.play(30)
        assert not link.reports

    scenario(play)


def test_one_way_traffic_to_a_black_hole() -> None:
    async def play(link: Link) -> None:
        link.out = 80
        await link.play(120)
        assert not link.reports
        assert 5 < link.asked < 30

    scenario(play)


def test_one_way_traffic_does_not_hide_a_failure() -> None:
    async def play(link: Link) -> None:
        link.out = 80
        await link.play(60)
        link.receives = False
        began = link.clock.monotonic()
        await link.play(30)
        assert link.reports
        assert link.reports[0].noticed_at - began < 10

    scenario(play)


def test_nobody_to_ask_means_no_verdict_on_reception() -> None:
    async def play(link: Link) -> None:
        link.peer = None
        link.out = 80
        await link.play(60)
        assert not link.reports

    scenario(play)


def test_nobody_to_ask_but_transmission_stands_still() -> None:
    async def play(link: Link) -> None:
        link.peer = None
        began = await loaded(link, out=20, inward=0)
        link.transmits = False
        await link.play(30)
        assert [report.reason for report in link.reports] == [Reason.NO_PROGRESS]
        assert link.reports[0].noticed_at - began < 7

    scenario(play)


@pytest.mark.parametrize("peer", [True, None])
def test_drivers_that_count_late(peer: bool | None) -> None:
    async def play(link: Link) -> None:
        link.peer = peer
        link.lazy_tx_beats = 40
        link.out = 20
        link.inward = 20 if peer else 0
        await link.play(60)
        assert not link.reports

    scenario(play)


def test_a_driver_that_does_not_count_at_all() -> None:
    async def play(link: Link) -> None:
        link.lazy_tx_beats = 10**9
        link.out = 20
        link.peer = None
        await link.play(60)
        assert not link.reports

    scenario(play)


def test_a_peer_that_vanished_costs_one_restart_and_then_ever_longer_pauses() -> None:
    async def play(link: Link) -> None:
        await loaded(link)
        link.peer = False
        restarts: list[float] = []
        for _ in range(200):
            await link.play(20)
            if len(link.reports) >= link.incarnation:
                restarts.append(link.clock.monotonic())
                link.restart()
        pauses = [later - earlier for earlier, later in itertools.pairwise(restarts)]
        assert 1 <= len(restarts) <= 8
        assert all(pause >= 55 for pause in pauses)
        assert pauses == sorted(pauses)
        link.peer = True
        await link.play(20)
        link.receives = False
        began = link.clock.monotonic()
        await link.play(10)
        assert link.reports[-1].noticed_at - began <= 2.0

    scenario(play)


def test_repeated_silent_failures_are_each_noticed() -> None:
    async def play(link: Link) -> None:
        await loaded(link)
        for _ in range(20):
            link.receives = link.transmits = False
            began = link.clock.monotonic()
            await link.play(6)
            assert len(link.reports) == link.incarnation
            assert link.reports[-1].noticed_at - began <= 2.0
            link.restart()
            await link.play(2)

    scenario(play)


def test_counters_that_begin_anew_or_are_missing() -> None:
    async def play(link: Link) -> None:
        await loaded(link)
        link.detector.counters({}, link.clock.monotonic())
        link.counted.update(nic_rx=0, nic_tx=0)
        link._sent = 0  # pyright: ignore[reportPrivateUsage]
        await link.play(10)
        assert not link.reports

    scenario(play)


def test_a_starved_domain_that_tells_nothing_meanwhile() -> None:
    async def play(link: Link) -> None:
        await loaded(link)
        await link.clock.advance(5)  # no heartbeat at all: other detectors' business
        await link.play(10)
        assert not link.reports

    scenario(play)


def test_a_broken_prober_is_nobody_to_ask() -> None:
    async def play(link: Link) -> None:
        async def broken(timeout_seconds: float) -> bool | None:
            raise OSError("no such device")

        link.probe = broken  # type: ignore[method-assign]
        link.out = 80
        await link.play(20)
        assert not link.reports

    scenario(play)


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from([0, 1, 3, 30]), st.sampled_from([0, 1, 3, 30]), st.integers(1, 60)),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 10),
)
def test_whatever_the_traffic_a_working_link_raises_no_alarm(
    phases: list[tuple[int, int, int]], every_beats: int
) -> None:
    async def main() -> None:
        link = Link(every_beats)
        for link.out, link.inward, beats in phases:
            await link.play(beats * 0.05)
        assert not link.reports
        await link.detector.close()

    run(main)
