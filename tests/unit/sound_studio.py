"""Applications, a sound shadow's playback and a card, in one time that is moved by hand."""

from sound_fakes import FRAME_BYTES, Applications, Card, Time

from nooks.shadow.flow import Flow
from nooks.shadow.frames import FrameLog
from nooks.shadow.playback import Playback, Policy
from nooks.shadow.whereabouts import Sizes, Still

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

    def unheard(self, seconds: float) -> None:
        """Let time pass in which nobody hears what the card says."""
        self.time.now += seconds
        self.card.pass_time(self.time.now, seconds)

    def heard_again(self, *, still: Still = Still.NOTHING, stopped_at: float | None = None) -> int:
        """Fail, and begin anew: how many frames the next card repeats (below 0: leaves out)."""
        self.fail(still=still, stopped_at=stopped_at)
        return self.begin_again()

    def begin_again(self) -> int:
        """Begin anew: how many frames the next card repeats (below 0: leaves out)."""
        before, last = self.heard()[-1], len(self.heard())
        self.begin()
        self.run(0.1)
        return before + 1 - self.heard()[last]

    def heard(self) -> list[int]:
        return [number for _, number in self.card.heard]

    def close(self) -> None:
        self.log.close()
