"""Where a card was when its driver failed: what was surely heard is not heard again, what perhaps was not, is."""

from collections.abc import Iterator

import pytest
from sound_studio import PERIOD, RATE, WINDOW, Studio

from nooks.shadow.flow import TICK_SECONDS
from nooks.shadow.whereabouts import OVERDUE_SECONDS, Sizes, Still, Whereabouts
from nooks.xpc import audio


@pytest.fixture
def studio() -> Iterator[Studio]:
    made = Studio()
    yield made
    made.close()


def test_what_no_report_covers_is_heard_again_but_not_more(studio: Studio) -> None:
    studio.begin()
    studio.run(0.5)
    studio.unheard(0.007)
    assert 0 < studio.heard_again() <= PERIOD


def test_a_card_that_plays_on_while_nobody_hears_of_it(studio: Studio) -> None:
    """Its processor hangs, its DMA goes on: what it had is not heard once more."""
    studio.begin()
    studio.run(0.5)
    studio.unheard(0.03)
    assert 0 <= studio.heard_again() <= PERIOD + 1


def test_a_card_that_stood_still_while_nobody_hears_of_it(studio: Studio) -> None:
    """Its whole domain is frozen: however late that is noticed, what it had is not lost."""
    studio.begin()
    studio.run(0.5)
    studio.time.now += 0.3
    assert 0 <= studio.heard_again(still=Still.MACHINE) <= PERIOD + 1


def test_a_card_that_plays_on_until_its_domain_is_stopped(studio: Studio) -> None:
    """A kernel that panics tells no position any more; its card plays until the domain is stopped, noticed later."""
    studio.begin()
    studio.run(0.5)
    studio.unheard(0.03)
    stopped_at = studio.time.now
    studio.time.now += 0.3
    assert 0 <= studio.heard_again(still=Still.MACHINE, stopped_at=stopped_at) <= PERIOD + 1


def test_of_a_card_that_had_the_time_to_play_all_only_what_it_never_confirmed_is_heard_again(studio: Studio) -> None:
    """What it was given last, after its last report, may not have been put into it."""
    studio.begin()
    studio.run(0.5)
    studio.unheard(0.3)
    assert 0 <= studio.heard_again() <= PERIOD


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
    assert 0 <= made.heard_again(still=Still.CARD) <= period + 1
    made.close()


def test_a_card_is_asked_out_of_step_until_it_tells_something(studio: Studio) -> None:
    studio.begin()
    studio.run(0.5)
    assert studio.flow.tick_seconds == TICK_SECONDS
    studio.card.uninterrupted = True
    studio.run(0.1)
    assert len({studio.flow.tick_seconds for _ in range(10)}) > 1
    studio.card.uninterrupted = False
    studio.run(0.1)
    assert studio.flow.tick_seconds == TICK_SECONDS


@pytest.mark.parametrize("asked_seconds", [0.02, 0.3])
def test_a_question_that_stops_a_card_loses_nothing(studio: Studio, asked_seconds: float) -> None:
    """What it says is taken for once round the whole buffer; if it had not the time to play all, it did not."""
    studio.begin()
    studio.run(0.5)
    studio.card.uninterrupted = studio.card.stops = True
    studio.unheard(asked_seconds)
    studio.card.send(audio.header(audio.ASK, studio.card.tag))
    studio.hear()
    last = len(studio.heard())
    studio.run(0.1)
    assert len(studio.heard()) == last
    assert 0 <= studio.heard_again(still=Still.CARD) <= 2 * PERIOD


def test_what_a_card_got_after_a_question_had_stopped_it_is_not_heard_again(studio: Studio) -> None:
    """It is started with that, and plays it; none of its interrupts says so."""
    studio.begin()
    studio.run(0.5)
    studio.card.uninterrupted = studio.card.stops = True
    studio.unheard(0.1)
    studio.card.send(audio.header(audio.ASK, studio.card.tag))
    studio.hear()
    stopped = studio.heard()[-1]
    studio.card.stops = studio.card.uninterrupted = False
    studio.card.report()
    studio.hear()
    studio.card.uninterrupted = True
    studio.unheard(0.5)
    assert studio.heard()[-1] >= stopped + WINDOW
    assert 0 <= studio.heard_again(still=Still.CARD) <= PERIOD


@pytest.mark.parametrize("rest", [0, 12])
def test_what_stays_in_a_card_that_stopped_is_played_again(rest: int) -> None:
    made = Studio(sizes=Sizes(RATE, PERIOD, WINDOW, card=15, rest=rest))
    made.begin()
    made.run(0.5)
    made.unheard(0.5)
    assert rest <= made.heard_again() <= rest + PERIOD
    made.close()


def test_a_card_that_stands_still_and_says_so_loses_nothing(studio: Studio) -> None:
    studio.begin()
    studio.run(0.5)
    for _ in range(25):
        studio.time.now += 0.02
        studio.flow.tick()
        studio.hear()
    assert 0 <= studio.heard_again(still=Still.CARD) <= PERIOD


@pytest.fixture
def holding() -> Iterator[Studio]:
    """A card that takes 15 frames from memory before they can be heard."""
    made = Studio(sizes=Sizes(RATE, PERIOD, WINDOW, card=15))
    yield made
    made.close()


def test_what_a_card_itself_held_when_its_machine_stopped_is_played_again(holding: Studio) -> None:
    holding.begin()
    holding.run(0.5)
    assert 15 <= holding.heard_again(still=Still.MACHINE) <= 15 + PERIOD


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
    holding.time.now += 0.02
    assert 0 <= holding.heard_again(still=Still.CARD) <= PERIOD


@pytest.fixture
def apart() -> Iterator[Studio]:
    """A card that is not part of its domain."""
    made = Studio(sizes=Sizes(RATE, PERIOD, WINDOW, apart=True))
    made.begin()
    made.run(0.5)
    yield made
    made.close()


def fail_under(studio: Studio, seconds: float) -> None:
    """Its driver fails, of which the domain is made an end so much later; until then the card plays."""
    studio.flow.fail(still=Still.MACHINE, stopped_at=studio.time.now)
    studio.unheard(seconds)
    studio.card.die()
    studio.flow.ended()


def test_a_card_apart_plays_on_until_its_domain_lets_go_of_it(apart: Studio) -> None:
    fail_under(apart, 0.02)
    assert 0 <= apart.begin_again() <= PERIOD


def test_what_was_given_up_meanwhile_is_not_heard_for_all_that(apart: Studio) -> None:
    apart.flow.fail()
    apart.card.die()
    apart.flow.give_up()
    apart.run(0.3)
    given_up = apart.applications.played
    apart.flow.ended()
    apart.begin()
    last = len(apart.heard())
    apart.run(0.1)
    assert apart.heard()[last] > given_up


def test_the_end_of_a_domain_that_played_nothing_changes_nothing(apart: Studio) -> None:
    fail_under(apart, 0.02)
    apart.time.now += 0.5
    apart.flow.fail()  # a driver that was being brought up
    apart.flow.ended()
    assert 0 <= apart.begin_again() <= PERIOD


@pytest.mark.parametrize("timing", [True, False])
def test_answers_tell_the_clock_of_a_card_that_is_timed(timing: bool) -> None:
    """Of another a report by itself alone does: what it answers may be wrong by a period."""
    card = Whereabouts(Sizes(RATE, PERIOD, WINDOW))
    card.begin(timing=timing)
    card.report(RATE, 2 * RATE, 100.0, audio.RUNNING | audio.ASKED)
    assert card.at(100.5) == (RATE + RATE // 2 if timing else RATE)
    card.report(RATE + PERIOD, 2 * RATE, 100.0 + PERIOD / RATE, audio.RUNNING)
    assert card.at(100.5) == RATE + RATE // 2
