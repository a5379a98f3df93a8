"""Frames on their way through failures: none lost or heard twice under *content*, none late under *clock*."""

from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sound_fakes import FRAME_BYTES, Applications, Card, Time

from nooks.shadow.flow import Flow
from nooks.shadow.frames import FrameLog
from nooks.shadow.playback import Flow as State
from nooks.shadow.playback import Playback, Policy
from nooks.shadow.whereabouts import OVERDUE_SECONDS, Sizes, Still
from nooks.xpc import audio
from nooks.xpc.errors import ProtocolError

RATE, PERIOD, WINDOW = 1000, 10, 40
SIZES = Sizes(RATE, PERIOD, WINDOW)


class Studio:
    """Applications, a shadow's playback and a card, in one time."""

    def __init__(self, policy: Policy = Policy.CONTENT, sizes: Sizes = SIZES) -> None:
        self.time = Time()
        self.log = FrameLog.create("nooks-test", FRAME_BYTES, RATE)
        self.applications = Applications()
        self.card = Card(RATE, sizes.period)
        self.incarnation = 0
        self.playback = Playback(self.log, sizes, policy)
        self.flow = Flow(self.playback, None, self.card, self.applications, self.time)

    def begin(self) -> None:
        self.incarnation += 1
        self.card.live()
        self.flow.begin(self.incarnation)

    def fail(self, *, still: Still = Still.NOTHING, stopped_at: float | None = None) -> None:
        self.card.die()
        self.flow.fail(still=still, stopped_at=stopped_at)

    def hear(self) -> None:
        while self.card.said:
            self.flow.heard(self.card.said.popleft())

    def run(self, seconds: float, *, ready: int = RATE, step: float = 0.002) -> None:
        """Let time pass with everybody awake; applications always have ``ready`` frames."""
        for _ in range(round(seconds / step)):
            self.applications.ready = max(self.applications.ready, ready)
            self.time.now += step
            self.card.pass_time(self.time.now, step)
            self.hear()
            self.flow.tick()

    def heard(self) -> list[int]:
        return [number for _, number in self.card.heard]

    def close(self) -> None:
        self.log.close()


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


def test_what_no_report_covers_is_heard_again_but_not_more(studio: Studio) -> None:
    studio.begin()
    studio.run(0.5)
    studio.time.now += 0.007
    studio.card.pass_time(studio.time.now, 0.007)
    before = studio.heard()[-1]
    studio.fail()
    studio.begin()
    studio.run(0.1)
    after = studio.heard()[len(range(1, before + 1)) :][0]
    assert 0 < before - after + 1 <= PERIOD


def test_a_card_that_plays_on_while_nobody_hears_of_it(studio: Studio) -> None:
    """Its processor hangs, its DMA goes on: what it had is not heard once more."""
    studio.begin()
    studio.run(0.5)
    studio.time.now += 0.03
    studio.card.pass_time(studio.time.now, 0.03)
    before = studio.heard()[-1]
    studio.fail()
    studio.begin()
    studio.run(0.1)
    again = before + 1 - studio.heard()[before]
    assert 0 <= again <= PERIOD + 1


def test_a_card_that_stood_still_while_nobody_hears_of_it(studio: Studio) -> None:
    """Its whole domain is frozen: however late that is noticed, what it had is not lost."""
    studio.begin()
    studio.run(0.5)
    before = studio.heard()[-1]
    studio.time.now += 0.3
    studio.fail(still=Still.MACHINE)
    studio.begin()
    studio.run(0.1)
    again = before + 1 - studio.heard()[before]
    assert 0 <= again <= PERIOD + 1


def test_a_card_that_plays_on_until_its_domain_is_stopped(studio: Studio) -> None:
    """A kernel that panics tells no position any more; its card plays until the domain is stopped, noticed later."""
    studio.begin()
    studio.run(0.5)
    studio.time.now += 0.03
    studio.card.pass_time(studio.time.now, 0.03)
    stopped_at = studio.time.now
    before = studio.heard()[-1]
    studio.time.now += 0.3
    studio.fail(still=Still.MACHINE, stopped_at=stopped_at)
    studio.begin()
    studio.run(0.1)
    again = before + 1 - studio.heard()[before]
    assert 0 <= again <= PERIOD + 1


def test_of_a_card_that_had_the_time_to_play_all_only_what_it_never_confirmed_is_heard_again(studio: Studio) -> None:
    """What it was given last, after its last report, may not have been put into it."""
    studio.begin()
    studio.run(0.5)
    studio.time.now += 0.3
    studio.card.pass_time(studio.time.now, 0.3)
    before = studio.heard()[-1]
    studio.fail()
    studio.begin()
    studio.run(0.1)
    assert 0 <= before + 1 - studio.heard()[before] <= PERIOD


def test_a_card_that_lost_its_interrupts_is_asked_and_repeats_nothing(studio: Studio) -> None:
    """It goes on playing, a little late; that it tells nothing by itself shows, so that it can be failed for it."""
    studio.begin()
    studio.run(0.5)
    studio.card.uninterrupted = True
    told, before = studio.playback.told, studio.heard()[-1]
    studio.run(0.5)
    assert told == studio.playback.told < studio.playback.position
    assert studio.heard()[-1] > before + 2 * WINDOW
    last = len(studio.heard())
    studio.fail(still=Still.CARD)
    studio.begin()
    studio.run(0.1)
    assert 0 <= last + 1 - studio.heard()[last] <= studio.card.rate * OVERDUE_SECONDS


def test_a_card_that_counts_its_interrupts_and_has_lost_them_repeats_little() -> None:
    """What it says when it is asked goes round within a period; that it moves at all says that it plays on."""
    period = 50
    made = Studio(sizes=Sizes(RATE, period, 20 * period))
    made.begin()
    made.run(0.5)
    told = made.playback.told
    made.card.uninterrupted = made.card.miscounts = True
    made.run(0.08)
    assert told == made.playback.told < made.playback.position < told + period
    before, last = made.heard()[-1], len(made.heard())
    made.fail(still=Still.CARD)
    made.begin()
    made.run(0.1)
    assert 0 <= before + 1 - made.heard()[last] <= period + 1
    made.close()


@pytest.mark.parametrize("asked_seconds", [0.02, 0.3])
def test_a_question_that_stops_a_card_loses_nothing(studio: Studio, asked_seconds: float) -> None:
    """What it says is taken for once round the whole buffer; if it had not the time to play all, it did not."""
    studio.begin()
    studio.run(0.5)
    studio.card.uninterrupted = studio.card.stops = True
    studio.time.now += asked_seconds
    studio.card.pass_time(studio.time.now, asked_seconds)
    studio.card.send(audio.header(audio.ASK, studio.card.tag))
    studio.hear()
    before, last = studio.heard()[-1], len(studio.heard())
    studio.run(0.1)
    assert len(studio.heard()) == last
    studio.fail(still=Still.CARD)
    studio.begin()
    studio.run(0.1)
    assert 0 <= before + 1 - studio.heard()[last] <= 2 * PERIOD


@pytest.mark.parametrize("rest", [0, 12])
def test_what_stays_in_a_card_that_stopped_is_played_again(rest: int) -> None:
    made = Studio(sizes=Sizes(RATE, PERIOD, WINDOW, card=15, rest=rest))
    made.begin()
    made.run(0.5)
    made.time.now += 0.5
    made.card.pass_time(made.time.now, 0.5)
    before, last = made.heard()[-1], len(made.heard())
    made.fail()
    made.begin()
    made.run(0.1)
    assert rest <= before + 1 - made.heard()[last] <= rest + PERIOD
    made.close()


def test_a_card_that_stands_still_and_says_so_loses_nothing(studio: Studio) -> None:
    studio.begin()
    studio.run(0.5)
    before = studio.heard()[-1]
    for _ in range(25):
        studio.time.now += 0.02
        studio.flow.tick()
        studio.hear()
    studio.fail(still=Still.CARD)
    studio.begin()
    studio.run(0.1)
    assert 0 <= before + 1 - studio.heard()[before] <= PERIOD


@pytest.fixture
def holding() -> Iterator[Studio]:
    """A card that takes 15 frames from memory before they can be heard."""
    made = Studio(sizes=Sizes(RATE, PERIOD, WINDOW, card=15))
    yield made
    made.close()


def test_what_a_card_itself_held_when_its_machine_stopped_is_played_again(holding: Studio) -> None:
    holding.begin()
    holding.run(0.5)
    before = holding.heard()[-1]
    holding.fail(still=Still.MACHINE)
    holding.begin()
    holding.run(0.1)
    assert 15 <= before + 1 - holding.heard()[before] <= 15 + PERIOD


def test_drivers_that_fail_at_once_one_after_the_other_repeat_no_more_than_one(holding: Studio) -> None:
    holding.begin()
    holding.run(0.5)
    before, last = holding.heard()[-1], len(holding.heard())
    for _ in range(4):
        holding.fail(still=Still.MACHINE)
        holding.begin()
        holding.hear()
        assert holding.playback.expecting
    holding.run(0.1)
    assert 15 <= before + 1 - holding.heard()[last] <= 15 + PERIOD


def test_what_a_card_held_is_out_when_its_machine_ran_on(holding: Studio) -> None:
    holding.begin()
    holding.run(0.5)
    holding.card.deaf = True
    before = holding.heard()[-1]
    holding.time.now += 0.02
    holding.fail(still=Still.CARD)
    holding.begin()
    holding.run(0.1)
    assert 0 <= before + 1 - holding.heard()[before] <= PERIOD


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


@pytest.mark.parametrize("unnoticed_seconds", [0.0, 0.1])
def test_the_clock_goes_on_under_the_policy_clock(by_clock: Studio, unnoticed_seconds: float) -> None:
    """From the failure on, not only from when it was noticed: applications had to wait before that already."""
    by_clock.begin()
    by_clock.run(1.0)
    steady = {round(when * RATE) - number for when, number in by_clock.card.heard[WINDOW:] if number}
    outage = by_clock.time.now
    by_clock.card.die()
    by_clock.run(unnoticed_seconds)
    by_clock.fail()
    by_clock.run(0.2 - unnoticed_seconds)
    by_clock.begin()
    by_clock.run(1.0)
    after = {round(when * RATE) - number for when, number in by_clock.card.heard if number and when > outage}
    assert max(after) - max(steady) <= 0.005 * RATE
    assert min(steady) - min(after) <= 0.005 * RATE
    assert 0.2 * RATE < by_clock.playback.dropped < 0.35 * RATE
    assert by_clock.playback.underruns == 0


@pytest.mark.parametrize(("unnoticed_seconds", "short_seconds"), [(0.7, 0.0), (0.1, 0.03), (0.7, 0.03)])
def test_who_had_to_wait_or_has_nothing_for_a_moment_catches_up(
    by_clock: Studio, unnoticed_seconds: float, short_seconds: float
) -> None:
    """A card that stops blocks applications until that is noticed; their server may need a moment for what is due."""
    by_clock.begin()
    by_clock.run(1.0)
    steady = {round(when * RATE) - number for when, number in by_clock.card.heard[WINDOW:] if number}
    by_clock.card.die()
    by_clock.run(unnoticed_seconds)
    by_clock.fail(still=Still.MACHINE)
    by_clock.applications.ready = 0
    by_clock.run(0.02, ready=0)
    by_clock.begin()
    by_clock.run(short_seconds, ready=0)
    by_clock.run(1.0)
    after = {round(when * RATE) - number for when, number in by_clock.card.heard[-RATE // 2 :] if number}
    assert max(after) - max(steady) <= 0.005 * RATE
    assert min(steady) - min(after) <= 0.005 * RATE


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
