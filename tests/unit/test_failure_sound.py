"""When a sound card has failed, and when it only looks so: paused, a busy host, a card that can't record."""

from dataclasses import replace

import pytest

from nooks.failure.report import FailureReport, Reason
from nooks.failure.sound import Glance, SoundDetector, SoundLimits

RATE = 48000
BEAT = SoundLimits().beat_seconds


class Scene:
    """A card that plays at ``speed``, a host on which beats take ``slowness`` times as long."""

    def __init__(self) -> None:
        self.now = 100.0
        self.glance = Glance(RATE, playing=True, position=0, told=0, underruns=0, recording=False, packets=0)
        self.reports: list[FailureReport] = []
        self.load = 1.0
        self.detector = SoundDetector(lambda: self.glance, self, self.reports.append, load=lambda: self.load)
        self.detector.begin(3)

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError

    def run(
        self,
        beats: int,
        *,
        speed: float = 1.0,
        slowness: float = 1.0,
        underruns: float = 0.0,
        packets: int = 0,
        interrupts: bool = True,
    ) -> None:
        """``underruns`` and ``packets`` are per beat."""
        dry = float(self.glance.underruns)
        for _ in range(beats):
            seconds = BEAT * slowness
            self.now += seconds
            dry += underruns
            position = self.glance.position + round(speed * seconds * RATE)
            self.glance = replace(
                self.glance,
                position=position,
                told=position if interrupts else self.glance.told,
                underruns=int(dry),
                packets=self.glance.packets + packets,
            )
            self.detector.beat()

    @property
    def verdict(self) -> str:
        assert len(self.reports) <= 1
        if not self.reports:
            return ""
        assert (self.reports[0].incarnation, self.reports[0].reason) == (3, Reason.NO_PROGRESS)
        return self.reports[0].detail["why"]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_card_that_plays(scene: Scene) -> None:
    scene.run(1000)
    assert not scene.verdict


def test_a_card_that_stops(scene: Scene) -> None:
    scene.run(20)
    scene.run(2, speed=0)
    assert scene.verdict == "the card does not play what it has"


def test_a_card_that_plays_and_has_lost_its_interrupts(scene: Scene) -> None:
    scene.run(20)
    scene.run(1, interrupts=False)
    scene.run(20)
    assert not scene.verdict
    scene.run(2, interrupts=False)
    assert scene.verdict == "the card plays and does not interrupt"


def test_a_card_that_never_plays(scene: Scene) -> None:
    scene.run(6, speed=0)
    assert scene.verdict


def test_a_stream_that_stands_still_because_nobody_plays(scene: Scene) -> None:
    scene.run(20)
    scene.glance = replace(scene.glance, playing=False)
    scene.run(100, speed=0)
    assert not scene.verdict


def test_one_beat_without_progress_proves_nothing(scene: Scene) -> None:
    for _ in range(20):
        scene.run(1, speed=0)
        scene.run(1, speed=2)
    assert not scene.verdict


@pytest.mark.parametrize(
    ("speed", "word"),
    [(0.4, "% of its rate"), (0.05, "% of its rate"), (2.0, "times as fast"), (40.0, "times as fast")],
)
def test_the_wrong_rate(scene: Scene, speed: float, word: str) -> None:
    scene.run(20)
    scene.run(14, speed=speed)
    assert word in scene.verdict


@pytest.mark.parametrize("speed", [0.8, 1.2])
def test_about_the_right_rate(scene: Scene, speed: float) -> None:
    scene.run(200, speed=speed)
    assert not scene.verdict


def test_a_busy_host_is_no_failure(scene: Scene) -> None:
    """Its domain gets a third of the time: beats come late, the card plays slowly and runs dry."""
    scene.run(20)
    scene.run(100, speed=0.3, slowness=3.0, underruns=1.0)
    assert not scene.verdict


def test_beats_that_were_held_up_come_at_once(scene: Scene) -> None:
    scene.run(20)
    scene.run(1, slowness=4.0)
    scene.run(4, slowness=0.0)
    scene.run(20)
    assert not scene.verdict


def test_a_host_with_too_much_to_do_is_no_failure_though_beats_come_in_time(scene: Scene) -> None:
    scene.run(20)
    scene.load = 5.0
    scene.run(100, speed=0.5, underruns=1.0)
    assert not scene.verdict
    scene.run(3, speed=0)
    assert scene.verdict == "the card does not play what it has"


def test_a_card_that_runs_dry_again_and_again(scene: Scene) -> None:
    scene.run(20)
    scene.run(14, underruns=0.5)
    assert "ran dry" in scene.verdict


def test_running_dry_now_and_then(scene: Scene) -> None:
    scene.run(500, underruns=0.1)
    assert not scene.verdict


def test_a_card_that_records_no_more(scene: Scene) -> None:
    scene.glance = replace(scene.glance, recording=True)
    scene.run(20, packets=10)
    scene.run(4)
    assert scene.verdict == "the card records no more"


def test_a_card_that_never_recorded_is_not_blamed(scene: Scene) -> None:
    scene.glance = replace(scene.glance, recording=True)
    scene.run(500)
    assert not scene.verdict


def test_a_restart_that_did_not_help_recording_is_not_repeated(scene: Scene) -> None:
    scene.glance = replace(scene.glance, recording=True)
    scene.run(20, packets=10)
    scene.run(4)
    scene.reports.clear()
    scene.detector.begin(3)
    scene.run(500)
    assert not scene.verdict


@pytest.mark.parametrize(("speed", "underruns"), [(0.4, 0.0), (1.0, 0.5)])
def test_a_restart_that_did_not_help_playing_is_not_repeated(scene: Scene, speed: float, underruns: float) -> None:
    scene.run(14, speed=speed, underruns=underruns)
    assert scene.verdict
    scene.reports.clear()
    scene.detector.begin(3)
    scene.run(100, speed=speed, underruns=underruns)
    scene.run(20, speed=0.7)  # neither slow nor well
    scene.run(100, speed=speed, underruns=underruns)
    assert not scene.verdict
    scene.run(14, speed=2.0)
    assert "times as fast" in scene.verdict


@pytest.mark.parametrize(("speed", "underruns"), [(0.4, 0.0), (1.0, 0.5)])
def test_a_restart_that_did_help_is_repeated(scene: Scene, speed: float, underruns: float) -> None:
    scene.run(14, speed=speed, underruns=underruns)
    scene.reports.clear()
    scene.detector.begin(3)
    scene.run(14)
    assert not scene.verdict
    scene.run(14, speed=speed, underruns=underruns)
    assert scene.verdict


def test_a_card_that_stops_after_each_restart_is_given_more_time(scene: Scene) -> None:
    limits, taken = SoundLimits(), list[int]()
    for _ in range(6):
        scene.detector.begin(3)
        scene.run(1)
        beats = 0
        while not scene.reports:
            scene.run(1, speed=0)
            beats += 1
        taken.append(beats)
        scene.reports.clear()
    assert taken == [2, 4, 8, limits.patient_beats, limits.patient_beats, limits.patient_beats]
    scene.detector.begin(3)
    scene.run(6, speed=0.7)
    scene.run(5, speed=0)
    assert not scene.verdict
    scene.detector.begin(3)
    scene.run(limits.well_beats + 2)
    scene.run(limits.stuck_beats, speed=0)
    assert scene.verdict


def test_nobody_records_any_more(scene: Scene) -> None:
    scene.glance = replace(scene.glance, recording=True)
    scene.run(20, packets=10)
    scene.glance = replace(scene.glance, recording=False)
    scene.run(100)
    assert not scene.verdict


def test_a_verdict_is_given_once_and_nothing_is_judged_while_nothing_serves(scene: Scene) -> None:
    scene.run(20)
    scene.run(20, speed=0)
    assert len(scene.reports) == 1
    scene.reports.clear()
    scene.detector.begin(3)
    scene.detector.end()
    scene.run(20, speed=0)
    assert not scene.reports
