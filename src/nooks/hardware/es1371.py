"""Ensoniq AudioPCI 97 (ES1371): Ensoniq's data sheet of ES1371 and its names.

Two channels play and one records, each a circular buffer in memory with a sample counter that interrupts; a sample rate
converter brings them to the codec's 48 kHz. Time is the host's clock.

Left out: the UART, the joystick, the legacy (Sound Blaster) registers, S/PDIF and the phantom frame.
"""

import array
from dataclasses import dataclass, field
from enum import IntFlag

from nooks.hardware.memory import DmaRefused
from nooks.hardware.pci import Bar, Identity
from nooks.hardware.sound import SoundCard
from nooks.hardware.wave import CHANNELS, RATE, Resampler, mixed, scaled

CONTROL, STATUS, UART, MEMORY_PAGE, SRC, CODEC, LEGACY, SERIAL = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x14, 0x18, 0x20
COUNTS = {0x24: 0, 0x28: 1, 0x2C: 2}
"""Sample count registers, and whose they are."""
PAGE_DAC, PAGE_ADC = 0xC, 0xD
FRAME_REGISTERS = {(PAGE_DAC, 0x30): 0, (PAGE_DAC, 0x38): 1, (PAGE_ADC, 0x30): 2}
SIZE_REGISTERS = {(PAGE_DAC, 0x34): 0, (PAGE_DAC, 0x3C): 1, (PAGE_ADC, 0x34): 2}

CODEC_VENDOR = 0x414B4D00  # Asahi Kasei AK4540

_SYNC_RESET = 1 << 14
_INTERRUPT = 1 << 31
_CODEC_READY, _CODEC_READ = 1 << 31, 1 << 23
_SRC_WRITE, _SRC_BUSY_MASK, _SRC_STATE, _SRC_KEPT = 1 << 24, 0x00870000, 1 << 16, 0x00780000
_SRC_WORDS = 128
_INTEGER, _FRACTION = 1, 3
"""Words of a channel in the converter's memory: the rate's integer and fractional parts."""

_LONGEST_SECONDS = 0.01
"""A channel is looked after at least this often, so that its position is near the truth."""


class Mode(IntFlag):
    """A channel's two bits in SERIAL."""

    STEREO = 1
    SIXTEEN = 2


@dataclass
class Channel:
    """One of DAC1, DAC2, ADC: where its bits are, and its state; positions in bytes."""

    enable: int
    pause: int
    interrupt_enable: int
    status: int
    mode_shift: int
    rate_at: int
    address: int = 0
    size: int = 4
    position: int = 0
    count: int = 0
    left: int = 0
    running: bool = False
    resampler: Resampler = field(default_factory=Resampler)
    done: float = 0.0


def _channels() -> list[Channel]:
    return [
        Channel(1 << 6, 1 << 11, 1 << 8, 1 << 2, 0, 0x70),
        Channel(1 << 5, 1 << 12, 1 << 9, 1 << 1, 2, 0x74),
        Channel(1 << 4, 0, 1 << 10, 1 << 0, 4, 0x78),
    ]


class Es1371(SoundCard):
    """The card, found by its stock driver ``snd-ens1371``."""

    identity = Identity(
        vendor=0x1274,
        device=0x1371,
        class_code=0x040100,
        revision=0x09,
        subsystem_vendor=0x1274,
        subsystem=0x1371,
        min_grant=12,
        max_latency=128,
    )
    bars = {0: Bar(64, io=True)}
    power_management = 0xDC
    codec_vendor = CODEC_VENDOR

    def reset(self) -> None:
        """As after power-on."""
        self._codec.reset()
        self._control = self._serial = self._pending = self._page = self._src = self._legacy = 0
        self._src_state = False
        self._src_memory = [0] * _SRC_WORDS
        self._codec_answer = 0
        self._channels = _channels()
        self._since = self.loop.clock()
        self._played = 0
        self._update()

    # -- registers ----------------------------------------------------------------------------------------------

    def read(self, bar: int, offset: int, size: int) -> int:
        """Registers are of 32 bits; smaller pieces are cut out."""
        return self._read(offset & 0x3C) >> 8 * (offset & 3) & (1 << 8 * size) - 1

    def _read(self, register: int) -> int:
        if register == CONTROL:
            return self._control
        if register == STATUS:
            return self._pending | (_INTERRUPT if self._pending & self._wanted() else 0)
        if register == UART:
            return 0x0200  # the transmitter is ready
        if register == MEMORY_PAGE:
            return self._page
        if register == SRC:
            return self._read_src()
        if register == CODEC:
            return self._codec_answer | _CODEC_READY
        if register == LEGACY:
            return self._legacy
        if register == SERIAL:
            return self._serial
        return self._read_channel(register)

    def _read_channel(self, register: int) -> int:
        self._advance()
        if register in COUNTS:
            channel = self._channels[COUNTS[register]]
            return channel.left << 16 | channel.count
        if (self._page, register) in FRAME_REGISTERS:
            return self._channels[FRAME_REGISTERS[self._page, register]].address
        if (self._page, register) in SIZE_REGISTERS:
            channel = self._channels[SIZE_REGISTERS[self._page, register]]
            return (channel.position >> 2) << 16 | (channel.size >> 2) - 1
        return 0

    def _read_src(self) -> int:
        """With bit 16 set the converter shows in which of its states it is, which change all the time."""
        value = self._src & ~_SRC_BUSY_MASK & ~0xFFFF | self._src_memory[self._src >> 25]
        if self._src & _SRC_STATE:
            self._src_state = not self._src_state
            value |= 0 if self._src_state else _SRC_STATE
        return value

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        """Pieces of a register leave the rest as it is."""
        register = offset & 0x3C
        if size < 4 and register in (CONTROL, SERIAL, MEMORY_PAGE):
            shift = 8 * (offset & 3)
            mask = (1 << 8 * size) - 1 << shift
            value = self._read(register) & ~mask | value << shift & mask
        self._write(register, value)

    def _write(self, register: int, value: int) -> None:
        if register == CONTROL:
            self._set_control(value)
        elif register == MEMORY_PAGE:
            self._page = value & 0xF
        elif register == SRC:
            self._src = value
            if value & _SRC_WRITE:
                self._src_memory[value >> 25] = value & 0xFFFF
        elif register == CODEC:
            self._talk_to_codec(value)
        elif register == LEGACY:
            self._legacy = value
        elif register == SERIAL:
            self._advance()
            self._serial = value
            self._pending &= self._wanted()  # an interrupt goes when its enable bit does
            self._schedule()
            self._update()
        else:
            self._write_channel(register, value)

    def _write_channel(self, register: int, value: int) -> None:
        self._advance()
        if register in COUNTS:
            channel = self._channels[COUNTS[register]]
            channel.count = channel.left = value & 0xFFFF
        elif (self._page, register) in FRAME_REGISTERS:
            self._channels[FRAME_REGISTERS[self._page, register]].address = value & ~3
        elif (self._page, register) in SIZE_REGISTERS:
            channel = self._channels[SIZE_REGISTERS[self._page, register]]
            channel.size = ((value & 0xFFFF) + 1) << 2
            channel.position = (value >> 16) << 2
        self._schedule()

    def _set_control(self, value: int) -> None:
        self._advance()
        if value & _SYNC_RESET and not self._control & _SYNC_RESET:
            self.was_reset()
        self._control = value
        for channel in self._channels:
            enabled = bool(value & channel.enable)
            if enabled and not channel.running:
                channel.left = channel.count
                channel.resampler = Resampler()
            channel.running = enabled
        if not any(channel.running for channel in self._channels):
            self._sink.settle()
        self._schedule()

    def _talk_to_codec(self, value: int) -> None:
        register = value >> 16 & 0x7F
        if value & _CODEC_READ:
            self._codec_answer = register << 16 | self._codec.read(register)
        else:
            self._codec.write(register, value & 0xFFFF)

    # -- interrupts ---------------------------------------------------------------------------------------------

    def _wanted(self) -> int:
        return sum(each.status for each in self._channels if self._serial & each.interrupt_enable)

    def _update(self) -> None:
        self.interrupts.set_level(bool(self._pending & self._wanted()))

    # -- samples ------------------------------------------------------------------------------------------------

    def _active(self) -> list[Channel]:
        return [each for each in self._channels if each.running and not self._serial & each.pause]

    def _step(self, channel: Channel) -> float:
        """Channel frames for each of the codec's."""
        integer = self._src_memory[channel.rate_at + _INTEGER] >> 10
        frequency = integer << 15 | self._src_memory[channel.rate_at + _FRACTION] & 0x7FFF
        if channel is not self._channels[2]:
            rate = round(3000 * frequency / 32768)
        else:
            ratio = self._src_memory[channel.rate_at] >> 4 & 31
            rate = round((RATE << 15) * ratio / frequency) if frequency else RATE
        return min(max(rate, 1000), RATE) / RATE

    def _advance(self) -> None:
        """Play and record what is due since the last time."""
        due = self._due()
        if not due:
            return
        active = self._active()
        if not active or not self.memory.enabled:
            return
        try:
            self._play([each for each in active if each is not self._channels[2]], due)
            if self._channels[2] in active:
                self._record(self._channels[2], due)
        except DmaRefused:
            for channel in active:
                channel.running = False
                self._control &= ~channel.enable
        self._update()

    def _play(self, channels: list[Channel], frames: int) -> None:
        if not channels:
            return
        streams = [self._fetch(channel, frames) for channel in channels]
        self._sink.write(scaled(mixed(streams), *self._codec.output_gains))

    def _fetch(self, channel: Channel, frames: int) -> "array.array[int]":
        step = self._step(channel)
        needed = channel.resampler.needed(frames, step)
        mode = self._serial >> channel.mode_shift & 3
        data = b"".join(self._ring(channel, needed * _frame_bytes(mode)))
        self._count(channel, needed)
        return channel.resampler.run(_widened(data, mode), frames, step)

    def _ring(self, channel: Channel, size: int) -> list[memoryview]:
        """The next bytes of a channel's buffer, piece by piece."""
        pieces: list[memoryview] = []
        while size:
            piece = min(size, channel.size - channel.position)
            if piece <= 0:
                channel.position, piece = 0, min(size, channel.size)
            pieces.append(self.memory.read(channel.address + channel.position, piece))
            channel.position = (channel.position + piece) % channel.size
            size -= piece
        return pieces

    def _record(self, channel: Channel, frames: int) -> None:
        step = self._step(channel)
        channel.done += frames * step
        taken = int(channel.done)
        channel.done -= taken
        samples = scaled(self._source.read(taken), *self._codec.input_gains)
        data = _narrowed(samples, self._serial >> channel.mode_shift & 3)
        while data:
            piece = min(len(data), channel.size - channel.position)
            self.memory.write(channel.address + channel.position, data[:piece])
            channel.position = (channel.position + piece) % channel.size
            data = data[piece:]
        self._count(channel, taken)

    def _count(self, channel: Channel, frames: int) -> None:
        """The sample counter, which interrupts when it has run out and begins anew."""
        left = channel.left - frames
        if left < 0:
            left = channel.count - (-left - 1) % (channel.count + 1)
            if self._serial & channel.interrupt_enable:
                self._pending |= channel.status
        channel.left = left

    def _schedule(self) -> None:
        """Look after the channels again when the first counter has run out."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waits = [(each.left + 1) / (self._step(each) * RATE) for each in self._active()]
        if waits:
            wait = min(min(waits), _LONGEST_SECONDS)
            self._timer = self.loop.call_at(self._since + wait + 1 / RATE, self._tick)


def _frame_bytes(mode: int) -> int:
    return (2 if mode & Mode.SIXTEEN else 1) * (2 if mode & Mode.STEREO else 1)


def _widened(data: bytes, mode: int) -> "array.array[int]":
    """Samples as two channels of 16 bits; eight bits are unsigned."""
    if mode & Mode.SIXTEEN:
        samples = array.array("h", data[: len(data) & ~1])
    else:
        samples = array.array("h", [(byte - 128) << 8 for byte in data])
    if mode & Mode.STEREO:
        return samples
    doubled = array.array("h", bytes(2 * CHANNELS * len(samples)))
    doubled[0::2] = doubled[1::2] = samples
    return doubled


def _narrowed(samples: "array.array[int]", mode: int) -> bytes:
    """The reverse; one channel is the left one."""
    if not mode & Mode.STEREO:
        samples = samples[0::2]
    if mode & Mode.SIXTEEN:
        return samples.tobytes()
    return bytes((sample >> 8) + 128 for sample in samples)
