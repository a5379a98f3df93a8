"""What recorders get: all that was recorded, and silence exactly as long as what is missing."""

from hypothesis import given, settings
from hypothesis import strategies as st

from nooks.shadow.capture import CLOCK_PACKETS, Capture
from nooks.xpc.errors import ProtocolError

RATE, PERIOD = 1000, 20
FRAME = 2
SILENCE = bytes(FRAME)
TICK = 0.02


class Recorder:
    """A card that records the number of milliseconds since the beginning, and what an application gets of it."""

    def __init__(self) -> None:
        self.capture = Capture(RATE, PERIOD, SILENCE)
        self.now = 1000.0
        self.got = b""
        self.tag: int | None = None
        self.position = 0
        self.since = 0.0
        self.late = 0.0
        self.began = self.now

    def want(self) -> None:
        self.began = self.now
        self.start(self.capture.want(self.now))

    def begin(self) -> None:
        self.start(self.capture.begin())

    def start(self, tag: int | None) -> None:
        self.tag, self.position, self.since = tag, 0, self.now

    def fail(self) -> None:
        self.capture.fail()
        self.tag = None

    def run(self, seconds: float, *, late: float = 0.0) -> None:
        """The card delivers each period, ``late`` seconds after it was recorded; the shadow ticks."""
        for _ in range(round(seconds / TICK)):
            self.now += TICK
            if self.tag is not None:
                self.deliver(late)
            self.got += self.capture.due(self.now + late)

    def deliver(self, late: float = 0.0, overruns: int = 0, skip: int = 0) -> None:
        """What the card has recorded by now."""
        assert self.tag is not None
        frames = round((self.now - self.since) * RATE) - self.position
        first = round((self.since - 1000.0) * RATE) + self.position
        samples = b"".join((first + 1 + number).to_bytes(FRAME, "little") for number in range(skip, frames))
        position, self.position = self.position + skip, self.position + frames
        packets = self.capture.recorded(self.tag, position, samples, since=0, overruns=overruns, now=self.now + late)
        self.got += b"".join(packets)

    def heard(self) -> list[int]:
        return [int.from_bytes(self.got[at : at + FRAME], "little") for at in range(0, len(self.got), FRAME)]

    def off_by(self) -> set[int]:
        """By how many frames what was recorded is not where its time is, in what the application got."""
        began = round((self.began - 1000.0) * RATE)
        return {place - (number - 1 - began) for place, number in enumerate(self.heard()) if number}


def recorder() -> Recorder:
    made = Recorder()
    made.begin()
    return made


def test_nobody_gets_anything_unasked() -> None:
    made = recorder()
    made.run(1.0)
    assert (made.got, made.capture.expecting) == (b"", False)


def test_all_is_passed_on() -> None:
    made = recorder()
    made.want()
    made.run(2.0)
    assert made.heard() == list(range(1, 2001))


def test_an_outage_is_silence_of_its_length() -> None:
    made = recorder()
    made.want()
    made.run(1.0)
    made.fail()
    made.run(0.34)
    during = len(made.got) // FRAME
    made.begin()
    made.run(1.0)
    assert 1300 <= during <= 1340
    assert made.off_by() == {0}
    assert made.heard()[1000:1340] == [0] * 340
    assert len(made.got) // FRAME == 2340


@settings(max_examples=60)
@given(
    outages=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 40), st.integers(0, 4)), min_size=1, max_size=12),
)
def test_many_outages_do_not_add_up(outages: list[tuple[int, int, int]]) -> None:
    """Packets that are late by some milliseconds after a restart shift what follows by that, but not for ever."""
    made = recorder()
    made.want()
    made.run(1.0)
    for ticks, running, late in outages:
        made.fail()
        made.run(ticks * TICK)
        made.begin()
        made.now += TICK
        made.deliver(late / 1000)
        made.run(running * TICK)
        made.run(CLOCK_PACKETS * TICK)
        latest = {place - number for place, number in enumerate(made.heard()[-PERIOD * 4 :]) if number}
        assert len(latest) == 1
        place = len(made.heard()) - PERIOD
        assert 0 <= place + 1 - made.heard()[place] <= late


def test_what_the_card_lost_is_silence_too() -> None:
    made = recorder()
    made.want()
    made.run(1.0)
    made.now += 0.06
    made.deliver(overruns=1, skip=40)
    made.run(0.5)
    assert made.off_by() == {0}
    assert made.heard()[1000:1040] == [0] * 40


def test_a_card_that_never_records_gives_silence_at_its_rate() -> None:
    made = recorder()
    made.want()
    made.tag = None
    made.run(3.0)
    assert 2950 <= len(made.heard()) <= 3000
    assert set(made.heard()) == {0}
    assert (made.capture.heard_packets, made.capture.expecting) == (0, True)


def test_a_card_that_stops_is_replaced_by_silence_and_joined_again() -> None:
    """Its packets come half a second late, all at once: silence has their place by then."""
    made = recorder()
    made.want()
    made.run(1.0)
    tag, made.tag = made.tag, None
    made.run(0.5)
    made.tag = tag
    made.run(1.0)
    assert made.off_by() <= {0, -1, 1}
    assert 2450 <= len(made.heard()) <= 2500


def test_who_leaves_gets_nothing_any_more_and_begins_anew() -> None:
    made = recorder()
    made.want()
    made.run(1.0)
    made.capture.leave()
    length = len(made.got)
    made.run(5.0)
    assert len(made.got) == length
    made.got = b""
    made.want()
    made.run(0.5)
    assert made.off_by() == {0}
    assert len(made.heard()) == 500


def test_a_supervisor_that_slept_sends_no_hour_of_silence() -> None:
    made = recorder()
    made.want()
    made.run(1.0)
    made.fail()
    made.now += 3600
    assert len(made.capture.due(made.now)) == RATE * FRAME
    assert made.capture.due(made.now) == b""


def test_packets_that_cannot_be() -> None:
    made = recorder()
    made.want()
    made.run(0.1)
    assert made.tag is not None
    for position, samples in ((200, b"odd"), (5, bytes(4))):
        try:
            list(made.capture.recorded(made.tag, position, samples, since=0, overruns=0, now=made.now))
        except ProtocolError:
            continue
        raise AssertionError(position)
    assert list(made.capture.recorded(made.tag - 1, 0, b"odd", since=0, overruns=0, now=made.now)) == []
