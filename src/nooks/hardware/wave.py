"""The analogue side of a sound card: what it plays goes into a WAV file, what it records comes from one.

Inside it is 48,000 frames a second of two 16-bit samples, the codec's own rate. A file of another rate or form is
refused as a source. The sizes in the header of what is being written are kept right all the while, since a card may be
unplugged at any moment.
"""

import array
import os
import struct
import sys
from collections.abc import Sequence

RATE = 48000
CHANNELS = 2
_ALMOST_ONE = 1e-3
FRAME_BYTES = 4

_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
HEADER_BYTES = _HEADER.size
"""Of a file as it is written here, before its samples."""

_PCM = 1
_SIZES_AFTER_BYTES = RATE * FRAME_BYTES // 2
_DATA_BYTES_MAX = 0xFFFFFFFF - _HEADER.size


class WaveSink:
    """Writes to a descriptor, which becomes its own; without one what is played is lost."""

    def __init__(self, descriptor: int) -> None:
        self.frames = 0
        self._descriptor = descriptor
        self._written = 0
        self._told = 0
        if descriptor >= 0:
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            self._tell_sizes()
            os.lseek(descriptor, _HEADER.size, os.SEEK_SET)

    def write(self, samples: "array.array[int]") -> None:
        """Frames that were played. A disk that is full loses them."""
        self.frames += len(samples) // CHANNELS
        if self._descriptor < 0 or self._written >= _DATA_BYTES_MAX:
            return
        if sys.byteorder == "big":
            samples = array.array("h", samples)
            samples.byteswap()
        try:
            self._written += os.write(self._descriptor, samples.tobytes())
        except OSError:
            return
        if self._written - self._told >= _SIZES_AFTER_BYTES:
            self._tell_sizes()

    def settle(self) -> None:
        """Nothing more comes for the moment: have the header say so."""
        if self._descriptor >= 0 and self._told != self._written:
            self._tell_sizes()

    def close(self) -> None:
        """The last sizes."""
        if self._descriptor >= 0:
            self.settle()
            os.close(self._descriptor)
            self._descriptor = -1

    def _tell_sizes(self) -> None:
        self._told = self._written
        rate_bytes = RATE * FRAME_BYTES
        form = (16, _PCM, CHANNELS, RATE, rate_bytes, FRAME_BYTES, 16)
        size = self._written + _HEADER.size - 8
        header = _HEADER.pack(b"RIFF", size, b"WAVE", b"fmt ", *form, b"data", self._written)
        try:
            os.pwrite(self._descriptor, header, 0)
        except OSError:
            return


class WaveSource:
    """Reads a WAV file over and over; without a descriptor there is silence. Raises ValueError for another form."""

    def __init__(self, descriptor: int) -> None:
        self._samples = array.array("h")
        self._at = 0
        if descriptor >= 0:
            with os.fdopen(descriptor, "rb") as file:
                self._samples.frombytes(_data_of(file.read()))
            if sys.byteorder == "big":
                self._samples.byteswap()

    def read(self, frames: int) -> "array.array[int]":
        """The next frames."""
        count = frames * CHANNELS
        if not self._samples:
            return array.array("h", bytes(2 * count))
        found = self._samples[self._at : self._at + count]
        self._at += len(found)
        while len(found) < count:
            more = self._samples[: count - len(found)]
            self._at = len(more)
            found.extend(more)
        return found


def _data_of(content: bytes) -> bytes:
    """The samples of a WAV file (RIFF chunks). Raises ValueError."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise ValueError("it is no WAV file")
    at, form = 12, b""
    while at + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, at)
        chunk = content[at + 8 : at + 8 + size]
        if name == b"fmt ":
            form = chunk[:16]
        elif name == b"data":
            wanted = struct.pack("<HHIIHH", _PCM, CHANNELS, RATE, RATE * FRAME_BYTES, FRAME_BYTES, 16)
            if form != wanted:
                raise ValueError(f"it is not of {RATE} Hz, stereo, 16 bits")
            return chunk[: len(chunk) // FRAME_BYTES * FRAME_BYTES]
        at += 8 + size + (size & 1)
    raise ValueError("it holds no samples")


class Resampler:
    """From one rate to another by linear interpolation; exact where both are the same."""

    def __init__(self) -> None:
        self._phase = 0.0
        self._last = (0, 0)

    def needed(self, frames: int, step: float) -> int:
        """How many source frames ``frames`` more take, at ``step`` source frames for each."""
        return frames if step == 1.0 else int(self._phase + frames * step)

    def skip(self, frames: int, step: float) -> None:
        """``frames`` that nobody hears, of as many source frames as ``needed`` says."""
        if step != 1.0:
            self._phase += frames * step - self.needed(frames, step)

    def run(self, source: Sequence[int], frames: int, step: float) -> "array.array[int]":
        """``frames`` out of as many source frames (interleaved) as ``needed`` says."""
        if step == 1.0:
            if source:
                self._last = source[-2], source[-1]
            return source if isinstance(source, array.array) else array.array("h", source)
        left = [self._last[0], *source[0::2]]
        right = [self._last[1], *source[1::2]]
        out = array.array("h", bytes(frames * FRAME_BYTES))
        position, end = self._phase, len(left) - 1
        for number in range(frames):
            position += step
            at = min(int(position), end)
            rest = position - int(position)
            before = max(at - 1, 0)
            out[2 * number] = int(left[before] + (left[at] - left[before]) * rest)
            out[2 * number + 1] = int(right[before] + (right[at] - right[before]) * rest)
        self._phase = position - end
        self._last = left[-1], right[-1]
        return out


def scaled(samples: "array.array[int]", left: float, right: float) -> "array.array[int]":
    """Samples under a gain for each channel, clipped."""
    if left == right == 1.0:
        return samples
    out = array.array("h", samples)
    for channel, gain in ((0, left), (1, right)):
        out[channel::2] = array.array("h", [_clipped(int(sample * gain)) for sample in samples[channel::2]])
    return out


def mixed(streams: "Sequence[array.array[int]]") -> "array.array[int]":
    """The sum of streams of equal length, clipped."""
    if len(streams) == 1:
        return streams[0]
    return array.array("h", [_clipped(sum(each)) for each in zip(*streams, strict=True)])


def _clipped(sample: int) -> int:
    return -32768 if sample < -32768 else 32767 if sample > 32767 else sample


def led(samples: "array.array[int]", gains: list[tuple[float, float]], *, paired: bool) -> "array.array[int]":
    """Two channels led to two outputs: ``gains`` are each channel's to both. Both are the same if it is one voice's."""
    (left_left, left_right), (right_left, right_right) = gains
    if not paired:
        right_left = left_right = 0.0
        right_right = gains[0][1]
    if not left_right and not right_left and left_left == right_right == 1.0:
        return samples
    left, right = samples[0::2], samples[1::2]
    out = array.array("h", bytes(2 * len(samples)))
    out[0::2] = array.array(
        "h", [_clipped(round(a * left_left + b * right_left)) for a, b in zip(left, right, strict=True)]
    )
    out[1::2] = array.array(
        "h", [_clipped(round(a * left_right + b * right_right)) for a, b in zip(left, right, strict=True)]
    )
    return out


def snapped(gain: float) -> float:
    """A converter has no more than so many bits: what differs from one by less is one."""
    return 1.0 if abs(gain - 1.0) < _ALMOST_ONE else gain
