"""Frames on their way through failures: none lost or heard twice under *content*, none late under *clock*."""

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sound_studio import PERIOD, RATE, SIZES, WINDOW, Studio

from nooks.shadow.flow import Flow
from nooks.shadow.playback import Flow as State
from nooks.shadow.playback import Playback, Policy
from nooks.shadow.whereabouts import Sizes, Still
from nooks.xpc import audio
from nooks.xpc.errors import ProtocolError


@pytest.fixture
def studio() -> Iterator[Studio]:
    made = Studio()
    yield made
    made.close()


@pytest.fixture
def by_clock() -> Iterator[Studio]:
    made = Studio(Policy.CLOCK)
    yield made
    made.close()


def test_every_frame_is_heard_once_and_no_more_are_under_way_than_may_be(studio: Studio) -> None:
    studio.begin()
    for _ in range(20):
        studio.run(0.05)
        assert studio.playback.under_way <= WINDOW
    heard = studio.heard()
    assert heard == list(range(1, len(heard) + 1))
    assert len(heard) > 0.95 * RATE
    assert studio.playback.underruns == 0


def test_a_short_sound_is_heard_to_its_end(studio: Studio) -> None:
    """Less than what starts a card by itself."""
    studio.begin()
    studio.applications.ready = 7
    studio.run(0.1, ready=0)
    assert studio.heard() == [1, 2, 3, 4, 5, 6, 7]
    assert not studio.playback.expecting
    studio.applications.ready = 3
    studio.run(0.1, ready=0)
    assert studio.heard()[7:] == [8, 9, 10]


def test_while_the_driver_is_away_the_applications_clock_stands_still(studio: Studio) -> None:
    studio.begin()
    studio.run(0.5)
    studio.fail()
    played = studio.applications.played
    studio.run(0.5)
    assert (studio.applications.played, studio.flow.open) == (played, False)
    studio.begin()
    studio.run(0.5)
    heard = studio.heard()
    assert sorted(set(heard)) == list(range(1, max(heard) + 1))


def test_a_stream_that_stood_still_repeats_nothing(studio: Studio) -> None:
    made = Studio(sizes=Sizes(RATE, PERIOD, WINDOW, card=15))
    made.begin()
    made.run(0.3)
    made.applications.ready = 0
    made.run(0.2, ready=0)
    heard = made.heard()
    made.fail()
    made.begin()
    made.run(0.2, ready=0)
    assert made.heard() == heard == list(range(1, len(heard) + 1))
    made.close()


def test_what_a_driver_was_given_and_has_not_put_into_its_card_is_not_taken_for_heard(studio: Studio) -> None:
    """It no longer takes anything, then it hangs, and its card plays on what it has."""
    studio.begin()
    studio.run(0.3)
    studio.card.deaf = True
    studio.run(0.02)
    studio.time.now += 0.2
    studio.card.pass_time(studio.time.now, 0.2)
    studio.card.said.clear()
    studio.fail()
    studio.begin()
    studio.run(0.2)
    heard = studio.heard()
    assert sorted(set(heard)) == list(range(1, max(heard) + 1))
    assert len(heard) - max(heard) <= 2 * PERIOD


def delays(heard: Iterable[tuple[float, int]]) -> set[int]:
    """By how much each frame was heard after its number's turn, in frames; silence has none."""
    return {round(when * RATE) - number for when, number in heard if number}


def assert_in_time(steady: set[int], after: set[int]) -> None:
    """To 5 ms, to either side."""
    assert max(after) - max(steady) <= 0.005 * RATE
    assert min(steady) - min(after) <= 0.005 * RATE


@pytest.mark.parametrize("unnoticed_seconds", [0.0, 0.1])
def test_the_clock_goes_on_under_the_policy_clock(by_clock: Studio, unnoticed_seconds: float) -> None:
    """From the failure on, not only from when it was noticed: applications had to wait before that already."""
    by_clock.begin()
    by_clock.run(1.0)
    steady = delays(by_clock.card.heard[WINDOW:])
    outage = by_clock.time.now
    by_clock.card.die()
    by_clock.run(unnoticed_seconds)
    by_clock.fail()
    by_clock.run(0.2 - unnoticed_seconds)
    by_clock.begin()
    by_clock.run(1.0)
    after = delays((when, number) for when, number in by_clock.card.heard if when > outage)
    assert_in_time(steady, after)
    assert 0.2 * RATE < by_clock.playback.dropped < 0.35 * RATE
    assert by_clock.playback.underruns == 0


@pytest.mark.parametrize(("unnoticed_seconds", "short_seconds"), [(0.7, 0.0), (0.1, 0.03), (0.7, 0.03)])
def test_who_had_to_wait_or_has_nothing_for_a_moment_catches_up(
    by_clock: Studio, unnoticed_seconds: float, short_seconds: float
) -> None:
    """A card that stops blocks applications until that is noticed; their server may need a moment for what is due."""
    by_clock.begin()
    by_clock.run(1.0)
    steady = delays(by_clock.card.heard[WINDOW:])
    by_clock.card.die()
    by_clock.run(unnoticed_seconds)
    by_clock.fail(still=Still.MACHINE)
    by_clock.applications.ready = 0
    by_clock.run(0.02, ready=0)
    by_clock.begin()
    by_clock.run(short_seconds, ready=0)
    by_clock.run(1.0)
    after = delays(by_clock.card.heard[-RATE // 2 :])
    assert_in_time(steady, after)


@pytest.mark.parametrize("after_seconds", [0.0, 0.6])
def test_a_driver_that_lets_its_card_run_dry_before_it_fails_costs_no_time(
    by_clock: Studio, after_seconds: float
) -> None:
    """As one that hears no interrupts: it says that all was played, gets more, and says nothing any more."""
    by_clock.begin()
    by_clock.run(1.0)
    steady = delays(by_clock.card.heard[WINDOW:])
    by_clock.card.die()
    by_clock.run(0.1)
    by_clock.playback.report(by_clock.playback.tag, by_clock.log.index, 0, by_clock.time.now, 0)
    by_clock.run(after_seconds)
    by_clock.fail()
    by_clock.begin()
    by_clock.run(1.0)
    after = delays(by_clock.card.heard[-RATE // 2 :])
    assert_in_time(steady, after)


@pytest.mark.parametrize("asked", [0, audio.ASKED | audio.STOPPED])
def test_a_driver_that_stops_and_starts_its_card_before_it_fails_costs_no_time(by_clock: Studio, asked: int) -> None:
    """Without interrupts it hears too late that all was played, perhaps by a question that stops it, and gets more."""
    by_clock.begin()
    by_clock.run(1.0)
    steady = delays(by_clock.card.heard[WINDOW:])
    by_clock.card.die()
    for _ in range(2):
        by_clock.run(0.15)
        played = by_clock.log.index
        for waiting, flags in ((0, asked), (0, 0), (WINDOW, audio.RUNNING)):
            by_clock.playback.report(by_clock.playback.tag, played, waiting, by_clock.time.now, flags)
            by_clock.flow.pump()
    by_clock.fail()
    by_clock.begin()
    by_clock.run(1.0)
    after = delays(by_clock.card.heard[-RATE // 2 :])
    assert_in_time(steady, after)


def test_a_new_cards_clock_is_known_though_its_reports_are_late(by_clock: Studio) -> None:
    """It is asked as well, and the earliest word counts."""
    by_clock.begin()
    by_clock.run(1.0)
    steady = delays(by_clock.card.heard[WINDOW:])
    by_clock.fail()
    by_clock.begin()
    said, begun = 0, by_clock.time.now
    while by_clock.playback.flow is State.JOINING:
        by_clock.time.now += 0.001
        by_clock.card.pass_time(by_clock.time.now, 0.001)
        while by_clock.card.said and by_clock.time.now > begun + 0.009:
            packet = by_clock.card.said.popleft()
            if not packet.flags & audio.ASKED:  # where it was 9 ms ago
                position = max(said, packet.position - 9)
                packet = audio.Packet(packet.kind, packet.tag, position, packet.flags, packet.first, packet.second)
            said = packet.position
            by_clock.flow.heard(packet)
        by_clock.flow.tick()
    by_clock.run(0.5)
    after = delays(by_clock.card.heard[-RATE // 4 :])
    assert_in_time(steady, after)


def test_a_pause_before_a_failure_is_not_made_up_for(by_clock: Studio) -> None:
    by_clock.begin()
    by_clock.run(1.0)
    by_clock.applications.ready = 0
    by_clock.run(2.0, ready=0)
    paused = by_clock.heard()
    by_clock.run(0.01)
    by_clock.fail()
    by_clock.begin()
    by_clock.run(0.5)
    heard = [number for number in by_clock.heard()[len(paused) :] if number]
    assert heard[0] - max(paused) < 0.1 * RATE


def test_a_stream_given_up_goes_on_unheard(studio: Studio) -> None:
    studio.begin()
    studio.run(0.5)
    studio.card.die()
    studio.flow.give_up()
    played = studio.applications.played
    studio.run(1.0)
    assert abs(studio.applications.played - played - RATE) < 0.1 * RATE
    last = studio.heard()[-1]
    studio.begin()
    studio.run(0.2)
    assert studio.heard()[last] > played


def test_an_application_that_paused_during_an_outage_is_not_hurried(by_clock: Studio) -> None:
    by_clock.begin()
    by_clock.run(0.5)
    by_clock.fail()
    by_clock.applications.ready = 0
    by_clock.run(2.0, ready=0)
    played = by_clock.applications.played
    by_clock.run(0.1)
    assert by_clock.applications.played - played < 0.1 * RATE + 2 * WINDOW


@pytest.mark.parametrize("beyond", [1, 10**9])
def test_a_position_that_cannot_be(studio: Studio, beyond: int) -> None:
    studio.begin()
    studio.run(0.02)
    with pytest.raises(ProtocolError):
        studio.playback.report(studio.playback.tag, studio.log.index + beyond, 0, studio.time.now, audio.RUNNING)


def test_a_position_that_goes_back(studio: Studio) -> None:
    studio.begin()
    studio.run(0.3)
    with pytest.raises(ProtocolError):
        studio.playback.report(studio.playback.tag, 1, 0, studio.time.now, audio.RUNNING)


def test_a_report_of_an_earlier_life_is_ignored(studio: Studio) -> None:
    studio.begin()
    studio.run(0.3)
    studio.playback.report(studio.playback.tag - 1, 10**9, 0, studio.time.now, audio.RUNNING)


@pytest.mark.parametrize("after_seconds", [0.0, 0.02, 0.5])
def test_another_supervisor_takes_the_stream_over(studio: Studio, after_seconds: float) -> None:
    """It has the log alone. Meanwhile the card has played what it had; nothing is lost or heard twice."""
    studio.begin()
    studio.run(0.5)
    for _ in range(round(after_seconds * RATE)):
        studio.time.now += 1 / RATE
        studio.card.pass_time(studio.time.now, 1 / RATE)
    studio.playback = Playback(studio.log, SIZES, Policy.CONTENT)
    studio.flow = Flow(studio.playback, None, studio.card, studio.applications, studio.time)
    studio.flow.begin(studio.incarnation)
    studio.run(0.5)
    heard = studio.heard()
    assert heard == list(range(1, len(heard) + 1))
    assert len(heard) > 0.9 * RATE


def test_a_card_that_ran_dry_while_it_was_given_more_did_not_play_on(studio: Studio) -> None:
    """The supervisor sleeps, then gives the card more before it reads that the card had stopped meanwhile."""
    studio.begin()
    studio.applications.ready = 2 * WINDOW + 1
    studio.flow.pump()
    studio.run(0.002, ready=0, step=0.001)
    studio.time.now += 0.049
    studio.card.pass_time(studio.time.now, 0.049)
    studio.run(0.001, ready=0, step=0.001)
    studio.fail()
    studio.begin()
    studio.run(0.2, ready=0)
    assert studio.heard() == list(range(1, 2 * WINDOW + 2))


class Lives(RuleBasedStateMachine):
    """Whatever happens when: no frame is skipped, and a failure repeats no more than was unreported and a period."""

    def __init__(self) -> None:
        super().__init__()
        self.studio = Studio()
        self.unreported = 0
        self.allowed = 0

    @initialize()
    def begins(self) -> None:
        self.studio.begin()

    @property
    def alive(self) -> bool:
        return not self.studio.card.dead

    @rule(frames=st.integers(0, 200))
    def applications_have_more(self, frames: int) -> None:
        self.studio.applications.ready += frames
        self.studio.flow.pump()

    @rule(milliseconds=st.integers(1, 60))
    def time_passes(self, milliseconds: int) -> None:
        """In which the supervisor gets nothing done."""
        self.studio.time.now += milliseconds / 1000
        self.studio.card.pass_time(self.studio.time.now, milliseconds / 1000)

    @rule()
    def the_supervisor_wakes(self) -> None:
        self.studio.hear()
        self.studio.flow.tick()

    @rule(milliseconds=st.integers(1, 300))
    def all_is_well(self, milliseconds: int) -> None:
        self.studio.run(milliseconds / 1000, ready=0, step=0.001)

    @precondition(lambda self: self.alive)
    @rule()
    def the_driver_fails(self) -> None:
        self.studio.fail()

    @precondition(lambda self: not self.alive)
    @rule()
    def the_next_serves(self) -> None:
        self.studio.begin()

    @precondition(lambda self: self.alive)
    @rule()
    def the_supervisor_is_replaced(self) -> None:
        studio = self.studio
        studio.playback = Playback(studio.log, SIZES, Policy.CONTENT)
        studio.flow = Flow(studio.playback, None, studio.card, studio.applications, studio.time)
        studio.flow.begin(studio.incarnation)

    @invariant()
    def no_frame_is_skipped(self) -> None:
        reached = 0
        for number in self.studio.heard():
            assert number <= reached + 1, f"{number} after {reached}"
            assert number > reached - WINDOW - PERIOD
            reached = max(reached, number)

    @invariant()
    def nothing_is_taken_that_could_not_be_kept(self) -> None:
        assert self.studio.playback.under_way + self.studio.playback.pending <= 2 * WINDOW + PERIOD

    @rule()
    def in_the_end_all_is_heard(self) -> None:
        if not self.alive:
            self.studio.begin()
        self.studio.run((self.studio.applications.ready + 4 * WINDOW) / RATE + 0.2, ready=0)
        if self.studio.applications.played:
            assert max(self.studio.heard()) == self.studio.applications.played
        assert self.studio.playback.flow is State.FLOWING
        assert not self.studio.playback.expecting

    def teardown(self) -> None:
        self.studio.close()


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=120, stateful_step_count=40)
