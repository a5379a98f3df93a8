"""What was heard at a card's plugs of what was played, over all domains of a nook: silences, losses, repetitions.

And what a recorder got of the world's sound: where silence is in it, and whether it is as long as what is missing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from nooks.lab.sound.card_line import Heard, Line
from nooks.lab.sound.listening import Stretch, stretches
from nooks.lab.sound.music import FRAME_BYTES
from nooks.lab.sound.world import world_frames, world_number

SLACK_FRAMES = 96000
"""How far a recording may be out of time and still be judged."""


@dataclass(frozen=True)
class Passage:
    """A stretch of the original that one domain's card played without a break: from frame ``of`` to before ``end``.

    It begins at frame ``at`` of what that card played. ``began`` and ``ended`` are in seconds of CLOCK_MONOTONIC; so is
    ``zero``, when the original's first frame was, or would have been, by the earliest piece of this passage.
    """

    pid: int
    at: int
    of: int
    end: int
    began: float
    ended: float
    zero: float = 0.0


@dataclass(frozen=True)
class Break:
    """Between two passages: the silence, and how many frames are missing (below 0: were heard twice).

    ``late_seconds``: so much later than it would have been the music goes on (below 0: earlier).

    ``changed``: another domain's card plays afterwards, so it is a recovery's; missing is then what was never heard,
    also if the card had gone on over its ring meanwhile. Else the card ran dry.
    """

    when: float
    silence_seconds: float
    lost: int
    changed: bool
    late_seconds: float = 0.0


def passages(lines: Iterable[tuple[int, Line]], original: bytes) -> list[Passage]:
    """All passages in the order in which they were heard."""
    found: list[Passage] = []
    expected = 0
    for pid, line in sorted(lines, key=lambda each: _first_time(each[1])):
        heard = [piece for piece in line.heard if piece.frame_bytes == FRAME_BYTES]
        samples = b"".join(piece.samples for piece in heard)
        if not samples.strip(b"\0"):
            continue
        times = _Times(heard, line.out.rate)
        for each in _joined(stretches(samples, original, FRAME_BYTES, expected)):
            expected = each.of + each.length
            ended = times.of(each.end - 1) + 1 / line.out.rate
            zero = times.earliest(each.at, each.end) - (each.of - each.at) / line.out.rate
            found.append(Passage(pid, each.at, each.of, expected, times.of(each.at), ended, zero))
    return found


def breaks(found: Sequence[Passage]) -> list[Break]:
    """What lies between passages."""
    between: list[Break] = []
    furthest = 0
    for before, after in pairwise(found):
        furthest = max(furthest, before.end)
        changed = before.pid != after.pid
        lost = after.of - (furthest if changed else before.end)
        silence = max(0.0, after.began - before.ended)
        between.append(Break(before.ended, silence, lost, changed, after.zero - before.zero))
    return between


def without_first(heard: Sequence[Heard], count: int) -> list[Heard]:
    """What was heard, but for the first ``count`` bytes."""
    left: list[Heard] = []
    for piece in heard:
        skipped = min(count, len(piece.samples))
        count -= skipped
        if skipped < len(piece.samples):
            left.append(replace(piece, samples=piece.samples[skipped:]))
    return left


@dataclass(frozen=True)
class Hole:
    """Where a recording of the world (see ``recorder``) is broken: at which frame, and how many frames are silence.

    ``drift``: so many more frames of silence than were missing (below 0: fewer); 0 if the recording stayed in time.
    """

    at: int
    frames: int
    drift: int


def holes(recording: bytes) -> list[Hole]:
    """All of them; what is before the world's first frame is none."""
    before = len(recording) - len(recording.lstrip(b"\0"))
    start = before // FRAME_BYTES
    first = world_number(recording[start * FRAME_BYTES :][:FRAME_BYTES].ljust(FRAME_BYTES, b"\0"))
    if first is None:
        return []
    heard = recording[start * FRAME_BYTES :]
    found = _joined(stretches(heard, world_frames(first, len(heard) // FRAME_BYTES + SLACK_FRAMES), FRAME_BYTES))
    return [
        Hole(start + one.end, next_one.at - one.end, next_one.at - one.at - (next_one.of - one.of))
        for one, next_one in pairwise(found)
    ]


def _joined(found: Sequence[Stretch]) -> list[Stretch]:
    """Without the seams at which nothing happened, and what is too short to be more than an accident."""
    kept: list[Stretch] = []
    for each in found:
        if kept and each.at == kept[-1].end and each.of == kept[-1].of + kept[-1].length:
            kept[-1] = Stretch(kept[-1].at, kept[-1].of, kept[-1].length + each.length)
        else:
            kept.append(each)
    return kept


def _first_time(line: Line) -> float:
    return next((piece.when for piece in line.heard if piece.samples.strip(b"\0")), 0.0)


class _Times:
    """When each frame of a line was heard: a piece is heard at the moment at which it ends."""

    def __init__(self, heard: Sequence[Heard], rate: int) -> None:
        self._rate = rate
        self._ends: list[tuple[int, float]] = []
        end = 0
        for piece in heard:
            end += len(piece.samples) // FRAME_BYTES
            self._ends.append((end, piece.when))

    def earliest(self, begin: int, end: int) -> float:
        """When the line's first frame was heard, by that piece of frames ``begin`` to ``end`` which was least late."""
        whole = [(at, when) for at, when in self._ends if begin < at <= end]
        return min(when - at / self._rate for at, when in whole or [(end, self.of(end - 1) + 1 / self._rate)])

    def of(self, frame: int) -> float:
        """Seconds of CLOCK_MONOTONIC."""
        low, high = 0, len(self._ends) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._ends[middle][0] > frame else (middle + 1, high)
        end, when = self._ends[low]
        return when - (end - frame) / self._rate
