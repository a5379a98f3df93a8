"""What the sound cards here have in common: an AC'97 codec, files to play to and record from, the host's clock."""

from typing import ClassVar

from nooks.hardware.ac97 import Codec
from nooks.hardware.loop import Loop, Timer
from nooks.hardware.memory import Refused
from nooks.hardware.pci import PciFunction
from nooks.hardware.wave import RATE, WaveSink, WaveSource

_BEHIND_SECONDS = 0.5
"""If the process was held up for longer, that time is left out: it will not be made up for."""


class SoundCard(PciFunction):
    """A card whose samples move as time passes: ``_advance`` is called before anything that depends on them."""

    codec_vendor: ClassVar[int]

    def __init__(self, loop: Loop, refused: Refused, sink: WaveSink, source: WaveSource) -> None:
        super().__init__(loop, refused)
        self._sink = sink
        self._source = source
        self._codec = Codec(self.codec_vendor)
        self._timer: Timer | None = None
        self._since = loop.clock()
        self.reset()

    def close(self) -> None:
        """The last samples are in the file."""
        self._sink.close()

    def mastering_changed(self, enabled: bool) -> None:
        """Without the bus nothing is fetched, and the clock goes on."""
        self._advance()
        self._sink.settle()

    def _due(self) -> int:
        """How many frames of the codec's have become due since the last time."""
        now = self.loop.clock()
        if now - self._since > _BEHIND_SECONDS:
            self._since = now - _BEHIND_SECONDS
        due = max(0, int((now - self._since) * RATE))
        self._since += due / RATE
        return due

    def _tick(self) -> None:
        self._timer = None
        self._advance()
        self._schedule()

    def _advance(self) -> None:
        """Play and record what is due."""
        raise NotImplementedError

    def _schedule(self) -> None:
        """Have ``_tick`` called when something is due."""
        raise NotImplementedError
