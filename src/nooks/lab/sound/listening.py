"""What was heard of what was played: compares a recording with its original, to the sample.

A path that changes no sample leaves a recording that is made of stretches of the original; where one ends and the next
begins is what was lost, heard twice, or silence.
"""

from dataclasses import dataclass

WINDOW_FRAMES = 48
"""So many frames tell where in the original a recording is: no two places of it are alike for so long."""

STEP_FRAMES = 256
"""Of what is from nowhere in the original, so much is passed over at a time."""

NEAR_FRAMES = 96000
"""How far from where it is expected a stretch is looked for first."""


@dataclass(frozen=True)
class Stretch:
    """Frames ``at`` of the recording are those from ``of`` on of the original, ``length`` of them."""

    at: int
    of: int
    length: int

    @property
    def end(self) -> int:
        """Where it ends in the recording."""
        return self.at + self.length


def stretches(recording: bytes, original: bytes, frame_bytes: int, expected: int = 0) -> list[Stretch]:
    """The stretches of the original that the recording is made of, in its order.

    The first one is looked for near frame ``expected`` of the original.
    """
    found: list[Stretch] = []
    at = 0
    frames = len(recording) // frame_bytes
    while at < frames:
        of = _find(recording, original, frame_bytes, at, expected)
        if of is None:
            at = _next_change(recording, frame_bytes, at)
            continue
        if not found or at > found[-1].end:
            back = _common_before(recording, original, frame_bytes, at, of, found[-1].end if found else 0)
            at, of = at - back, of - back
        length = _common(recording, original, at * frame_bytes, of * frame_bytes) // frame_bytes
        found.append(Stretch(at, of, length))
        at, expected = at + length, of + length
    return found


def _find(recording: bytes, original: bytes, frame_bytes: int, at: int, expected: int) -> int | None:
    """Where in the original the recording is at this frame, nearest to where it should be; None for silence."""
    window = recording[at * frame_bytes : (at + WINDOW_FRAMES) * frame_bytes]
    if len(window) < WINDOW_FRAMES * frame_bytes or not window.strip(b"\0") or not window[:frame_bytes].strip(b"\0"):
        return None
    if original.startswith(window, expected * frame_bytes):
        return expected
    low = max(0, expected - NEAR_FRAMES) * frame_bytes
    for start, end in ((low, (expected + NEAR_FRAMES) * frame_bytes), (0, len(original))):
        place = original.find(window, start, end)
        while place >= 0 and place % frame_bytes:
            place = original.find(window, place + 1, end)
        if place >= 0:
            return place // frame_bytes
    return None


def _common(recording: bytes, original: bytes, at: int, of: int) -> int:
    """How many bytes are alike from these places on."""
    limit = min(len(recording) - at, len(original) - of)
    low, high = 0, limit
    step = 1 << 16
    while low < limit and recording[at + low : at + low + step] == original[of + low : of + low + step]:
        low = min(limit, low + step)
    high = min(limit, low + step)
    while low < high:
        middle = (low + high + 1) // 2
        if recording[at + low : at + middle] == original[of + low : of + middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _common_before(recording: bytes, original: bytes, frame_bytes: int, at: int, of: int, since: int) -> int:
    """How many frames before these places are alike as well, none of them silence."""
    back = 0
    while at - back > since and of > back:
        theirs, ours = (at - back - 1) * frame_bytes, (of - back - 1) * frame_bytes
        frame = recording[theirs : theirs + frame_bytes]
        if not frame.strip(b"\0") or frame != original[ours : ours + frame_bytes]:
            break
        back += 1
    return back


def _next_change(recording: bytes, frame_bytes: int, at: int) -> int:
    """A frame at which something new may have begun: after silence, else some frames later."""
    start = at * frame_bytes
    if recording[start : start + frame_bytes].strip(b"\0"):
        return at + STEP_FRAMES
    block = 4096 * frame_bytes
    while start < len(recording) and not recording[start : start + block].strip(b"\0"):
        start += block
    rest = recording[start : start + block]
    return start // frame_bytes + (len(rest) - len(rest.lstrip(b"\0"))) // frame_bytes if rest else len(recording)
