"""The world's sound, which all cards record: each frame is the number of frames since the world began.

So a recording tells for each of its frames when that was.
"""

import array
import struct
import time
from dataclasses import dataclass, field

from nooks.lab.sound.card_line import Voice

MODULUS = 30000
_FRAME = struct.Struct("<hh")


def world_frames(first: int, count: int) -> bytes:
    """So many frames of the world, in 16 bits and stereo; none is silence."""
    samples = array.array("h", bytes(count * _FRAME.size))
    at = 0
    while at < count:
        high, low = divmod(first + at, MODULUS)
        frames = min(MODULUS - low, count - at)
        samples[2 * at : 2 * (at + frames) : 2] = array.array("h", range(low + 1, low + 1 + frames))
        samples[2 * at + 1 : 2 * (at + frames) : 2] = array.array("h", [high + 1]) * frames
        at += frames
    return samples.tobytes()


def world_number(frame: bytes) -> int | None:
    """Which frame of the world this is; None for silence."""
    low, high = _FRAME.unpack(frame)
    return (high - 1) * MODULUS + low - 1 if low > 0 and high > 0 else None


@dataclass
class World:
    """What all cards hear; ``rate`` frames a second since ``began``."""

    began: float = field(default_factory=time.monotonic)

    def source(self) -> "Ear":
        """One card's ear."""
        return Ear(self)


@dataclass
class Ear:
    """One card's recording input: gives what has sounded since it was asked last."""

    world: World
    given: int | None = None

    def __call__(self, size_bytes: int, now: float, voice: Voice) -> bytes:
        """Up to ``size_bytes`` of the world's sound, no more than there was."""
        due = int((now - self.world.began) * voice.rate)
        if self.given is None or due - self.given > voice.rate:
            self.given = due
        if voice.frame_bytes != _FRAME.size:
            return bytes(min(size_bytes, (due - self.given) * voice.frame_bytes))
        frames = max(0, min(size_bytes // _FRAME.size, due - self.given))
        samples = world_frames(self.given, frames)
        self.given += frames
        return samples
