"""One PCM stream of a card: parameters, samples, position. Never blocks; knows nothing of who sends or wants samples.

Source: the kernel's Documentation/sound/kernel-api/writing-an-alsa-driver.rst and include/uapi/sound/asound.h.
"""

import os
from struct import Struct

from nooks.agent import alsa
from nooks.agent.system import Unable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

FORMATS = {"s16": (2, 2), "s32": (10, 4), "s24-3": (32, 3), "u8": (1, 1)}
"""Sample formats by name: ALSA's number and bytes a sample; the preferred one first."""

RATES = (48000, 44100, 96000, 32000, 24000, 22050, 16000, 11025, 8000)
PERIODS_MAX = 32
RECORDING_PERIODS = 4
"""A card that has fewer gets longer ones: with two of 21 ms each an agent that waits for a processor so long loses."""

_WORDS = Struct("@I")
_INTERVAL = Struct("@3I")
_MASK = Struct(f"@{alsa.MASK_WORDS}I")
_MASKS_AT = _WORDS.size
_INTERVALS_AT = _MASKS_AT + (alsa.MASKS + alsa.RESERVED_MASKS) * _MASK.size
_REQUESTED_AT = _INTERVALS_AT + (alsa.INTERVALS + alsa.RESERVED_INTERVALS) * _INTERVAL.size
_FRACTION = Struct("@2I")
_FRACTION_AT = _REQUESTED_AT + 4 * _WORDS.size
_EPIPE, _ESTRPIPE, _EAGAIN = 32, 86, 11


class Space:
    """What a stream could still be: the parameters that its card and the choices so far allow."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._content = bytearray(alsa.HW_PARAMS.size)
        for mask in range(alsa.MASKS):
            _MASK.pack_into(self._content, _MASKS_AT + mask * _MASK.size, *[2**32 - 1] * alsa.MASK_WORDS)
        for interval in range(alsa.INTERVALS):
            _INTERVAL.pack_into(self._content, _INTERVALS_AT + interval * _INTERVAL.size, 0, 2**32 - 1, 0)
        self._refine()

    def range(self, parameter: int) -> "tuple[int, int]":
        """The least and the greatest value that is still possible."""
        low, high, _ = _INTERVAL.unpack_from(self._content, self._interval_at(parameter))
        return low, high

    def allows(self, parameter: int, bit: int) -> bool:
        """Whether a mask still has ``bit``."""
        words = _MASK.unpack_from(self._content, _MASKS_AT + parameter * _MASK.size)
        return bool(words[bit >> 5] >> (bit & 31) & 1)

    def choose_bit(self, parameter: int, bit: int) -> None:
        """Narrow a mask to one bit. Raises OSError if the card can't."""
        words = [0] * alsa.MASK_WORDS
        words[bit >> 5] = 1 << (bit & 31)
        _MASK.pack_into(self._content, _MASKS_AT + parameter * _MASK.size, *words)
        self._refine()

    def choose_rate(self, candidates: "Iterable[int]") -> bool:
        """Narrow the rate to the first candidate that the card's clock divides into exactly, or to the first it can."""
        before = bytes(self._content)
        inexact = b""
        for rate in candidates:
            self._content[:] = before
            if self.choose(alsa.RATE, (rate,)) is None:
                continue
            numerator, denominator = _FRACTION.unpack_from(self._content, _FRACTION_AT)
            if numerator == rate * denominator:
                return True
            inexact = inexact or bytes(self._content)
        self._content[:] = inexact or before
        return bool(inexact)

    def choose(self, parameter: int, candidates: "Iterable[int]") -> "int | None":
        """Narrow an interval to the first of ``candidates`` that the card can; None if it can none."""
        at = self._interval_at(parameter)
        low, high = self.range(parameter)
        for value in candidates:
            if not low <= value <= high:
                continue
            before = bytes(self._content)
            _INTERVAL.pack_into(self._content, at, value, value, alsa.INTEGER)
            try:
                self._refine()
            except OSError:
                self._content[:] = before
            else:
                return value
        return None

    def commit(self) -> None:
        """Have the card take what is left; the ranges are single values then. Raises OSError."""
        self._content = alsa.hw_params(self._descriptor, self._content)

    def _interval_at(self, parameter: int) -> int:
        return _INTERVALS_AT + (parameter - alsa.FIRST_INTERVAL) * _INTERVAL.size

    def _refine(self) -> None:
        _WORDS.pack_into(self._content, _REQUESTED_AT, 2**32 - 1)
        self._content = alsa.hw_refine(self._descriptor, self._content)


class Parameters:
    """What a stream was configured as; periods and buffer in frames."""

    __slots__ = ("buffer", "channels", "format", "frame_bytes", "period", "rate", "rate_max", "rate_min")

    def __init__(self, space: Space, sample_format: str, rates: "tuple[int, int]") -> None:
        self.format = sample_format
        self.rate_min, self.rate_max = rates
        self.rate = space.range(alsa.RATE)[0]
        self.channels = space.range(alsa.CHANNELS)[0]
        self.period = space.range(alsa.PERIOD_SIZE)[0]
        self.buffer = space.range(alsa.BUFFER_SIZE)[0]
        self.frame_bytes = FORMATS[sample_format][1] * self.channels

    def describe(self) -> "dict[str, Any]":
        """As the host is told."""
        return {
            "format": self.format,
            "channels": self.channels,
            "rate": self.rate,
            "rate_min": self.rate_min,
            "rate_max": self.rate_max,
            "period": self.period,
            "buffer": self.buffer,
        }


class Stream:
    """A stream that is open: ``descriptor`` can be waited on, edge-triggered, for the card's interrupts."""

    def __init__(self, path: str, playback: bool) -> None:
        """Raises OSError if the device node can't be opened."""
        self._playback = playback
        self.descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self.parameters: Parameters
        self.when_started: Callable[[], None] | None = None
        self._boundary = 0

    def configure(self, wanted: "dict[str, Any]") -> None:
        """Choose parameters, ``wanted`` where the card can. Raises Unable or OSError."""
        if self._boundary:
            alsa.drop(self.descriptor)
            alsa.hw_free(self.descriptor)
        space = Space(self.descriptor)
        space.choose_bit(alsa.ACCESS, alsa.ACCESS_INTERLEAVED)
        sample_format = self._choose_format(space, wanted.get("format"))
        channels_min, channels_max = space.range(alsa.CHANNELS)
        space.choose(alsa.CHANNELS, (wanted.get("channels", 2), 2, channels_max, channels_min))
        rates = space.range(alsa.RATE)
        if not space.choose_rate((wanted.get("rate", RATES[0]), *RATES, rates[1], rates[0])):
            raise Unable("the card has no sample rate that could be used")
        period = wanted.get("period", 1024)
        most = space.range(alsa.PERIODS)[1]
        if not self._playback and most < RECORDING_PERIODS:
            period *= RECORDING_PERIODS // max(most, 1)
        low, high = space.range(alsa.PERIOD_SIZE)
        near = sorted((1 << power for power in range(5, 16)), key=lambda frames: abs(frames - period))
        space.choose(alsa.PERIOD_SIZE, (period, *near, low, high))
        low, high = space.range(alsa.PERIODS)
        space.choose(alsa.PERIODS, range(min(high, PERIODS_MAX), max(low, 2) - 1, -1))
        space.commit()
        self.parameters = Parameters(space, sample_format, rates)
        self._set_software_parameters()
        self.prepare()

    def prepare(self) -> None:
        """Make the stream ready to be filled and started, whatever state it is in."""
        alsa.drop(self.descriptor)
        alsa.prepare(self.descriptor)

    def start(self) -> None:
        """Let the card run, then call ``when_started`` if that is set."""
        alsa.start(self.descriptor)
        if self.when_started is not None:
            self.when_started()

    def write(self, samples: "bytes | memoryview") -> int:
        """Give the card samples, whole frames; how many bytes it took. Raises BrokenPipeError after an underrun."""
        try:
            return os.write(self.descriptor, samples)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise _as_xrun(error) from None

    def read(self, size_bytes: int) -> bytes:
        """What the card has recorded, whole frames; empty if nothing. Raises BrokenPipeError after an overrun."""
        try:
            return os.read(self.descriptor, size_bytes)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise _as_xrun(error) from None

    def waiting(self, *, ask: bool = False) -> int:
        """Frames between our end and the card's: not yet played, or recorded and not yet read.

        As of the card's last interrupt, unless the driver is to ``ask`` the card itself, which wakes us once more.
        Raises BrokenPipeError after an underrun or overrun.
        """
        flags = alsa.SYNC_KEEP_APPLICATION | alsa.SYNC_KEEP_AVAIL_MIN | (alsa.SYNC_ASK_CARD if ask else 0)
        try:
            content = alsa.sync_pointers(self.descriptor, _WORDS.pack(flags))
        except OSError as error:
            raise _as_xrun(error) from None
        _, state, _, hardware, _, ours, _ = alsa.SYNC_POINTERS.unpack(content)
        if state == alsa.XRUN:
            raise BrokenPipeError
        ahead = ours - hardware if self._playback else hardware - ours
        return ahead % self._boundary

    def delay(self) -> int:
        """As ``waiting``, with what the card itself holds where its driver knows that; 0 when the card stands still."""
        try:
            return alsa.LONG.unpack(alsa.delay(self.descriptor))[0]
        except OSError:
            return 0

    def close(self) -> None:
        """Give the stream up."""
        os.close(self.descriptor)

    def _choose_format(self, space: Space, wanted: "str | None") -> str:
        for name in (wanted, *FORMATS):
            if name in FORMATS and space.allows(alsa.FORMAT, FORMATS[name][0]):
                space.choose_bit(alsa.FORMAT, FORMATS[name][0])
                return name
        raise Unable("the card has no sample format that could be used")

    def _set_software_parameters(self) -> None:
        """The card starts when it is told to, stops when it has nothing, and wakes us at each of its interrupts.

        What was played is overwritten with silence, so that a card that nobody feeds any more repeats nothing.
        """
        buffer = self.parameters.buffer
        boundary = buffer
        while boundary * 2 <= alsa.LONG_MAX - buffer:
            boundary *= 2
        self._boundary = boundary
        silence = boundary if self._playback else 0
        values = (0, 1, 0, 1, 1, boundary, buffer, 0, silence, boundary, 0, 0)
        alsa.sw_params(self.descriptor, alsa.SW_PARAMS.pack(*values))


def _as_xrun(error: OSError) -> OSError:
    """A suspended card has lost its samples as well."""
    return BrokenPipeError(error.errno, error.strerror) if error.errno in (_EPIPE, _ESTRPIPE) else error
