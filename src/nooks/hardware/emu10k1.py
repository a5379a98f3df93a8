"""Creative Sound Blaster Live! (EMU10K1) and Audigy (EMU10K2): what is published of both, and the registers' names.

64 voices play from a memory of their own, whose pages a table in the domain's memory maps, each in a loop at a pitch
of its own and to up to four (eight) effects buses; the signal processor (``fx8010``) leads buses and inputs to outputs;
one of these is recorded. Time is the host's clock.

Left out: envelopes, filters and modulation (a voice plays at its volume target), microphone and effects recording,
MIDI, the timer, S/PDIF, tank memory, P16V; outputs other than the front. Interpolation is linear.
"""

import array
from dataclasses import dataclass, field
from typing import ClassVar

from nooks.hardware.ac97 import Codec
from nooks.hardware.fx8010 import Layout, Processor
from nooks.hardware.loop import Loop, Timer
from nooks.hardware.memory import DmaRefused, Refused
from nooks.hardware.pci import Bar, Identity, PciFunction
from nooks.hardware.wave import RATE, Resampler, WaveSink, WaveSource, mixed

PTR, DATA, IPR, INTE, WC, HCFG, IOCFG, TIMER, AC97DATA, AC97ADDRESS = (
    *(0x00, 0x04, 0x08, 0x0C, 0x10, 0x14, 0x18, 0x1A, 0x1C, 0x1E),
)
CPF, PTRX, CVCF, VTFT, PSST, DSL, CCCA, CCR, FXRT = 0x00, 0x01, 0x02, 0x03, 0x06, 0x07, 0x08, 0x09, 0x0B
PTB, ADCCR, ADCBA, ADCBS = 0x40, 0x42, 0x46, 0x4A
CLIEL, CLIEH, CLIPL, CLIPH = 0x58, 0x59, 0x5A, 0x5B
A_FXRT2, A_SENDAMOUNTS, A_FXRT1 = 0x7C, 0x7D, 0x7E

VOICES = 64
PAGE_BYTES = 4096
CODEC_VENDOR = 0x83847609  # SigmaTel STAC9721

_IPR_CHANNEL_LOOP, _IPR_ADC_FULL, _IPR_ADC_HALF = 0x40, 0x8000, 0x4000
_INTE_ADC = 0x40
_HCFG_EXPANDED = 0x00040000
_STEREO, _EIGHT_BITS = 0x8000, 0x01000000
_ADDRESS_MASK = 0x00FFFFFF
_UNITY_PITCH, _UNITY_SEND, _UNITY_VOLUME = 0x4000, 0xFF, 0xFFFF
_CODEC_READY = 0x80
_SIZES = tuple(base << shift for shift in range(8) for base in (384, 448, 512, 640))[:31]
"""Of the recording buffer in bytes, by ADCBS less one."""
_CAPTURE_RATES = (48000, 44100, 32000, 24000, 22050, 16000)
_ALMOST = 1e-3

_LONGEST_SECONDS = 0.01
_BEHIND_SECONDS = 0.5


@dataclass(frozen=True)
class Chip:
    """What tells the two chips apart."""

    layout: Layout
    registers: int
    code: int
    adc_index: int
    adc_enable: int
    adc_rates: tuple[int, ...]
    outputs: tuple[int, int]
    recorded: tuple[int, int]
    inputs: tuple[int, int]
    codec_plays: bool
    """Whether what is heard and what is recorded goes through the codec, or past it by converters of the card's own."""
    sends: int
    headroom: int
    """What part of full scale a sample is on a bus, for several voices to fit: the programs make up for it."""


EMU10K1 = Chip(
    Layout(10, 512, 0x10, 0x20, 0x40, 0x100, 256),
    *(0x100, 0x400, 0x64, 0x18, (*_CAPTURE_RATES, 11025, 8000)),
    *((0x20, 0x21), (0x2A, 0x2B), (0x10, 0x11)),
    codec_plays=True,
    sends=4,
    headroom=4,
)
EMU10K2 = Chip(
    Layout(12, 1024, 0x40, 0x60, 0xC0, 0x400, 512),
    *(0x400, 0x600, 0x63, 0x30, (*_CAPTURE_RATES, 12000, 11025, 8000)),
    *((0x68, 0x69), (0x76, 0x77), (0x4A, 0x4B)),
    codec_plays=False,
    sends=8,
    headroom=1,
)


@dataclass
class Voice:
    """What of a voice moves. ``lead`` is how far its address is ahead of what is heard: a cache lies between."""

    running: bool = False
    position: float = 0.0
    lead: int = 0
    resampler: Resampler = field(default_factory=Resampler)


class Emu10k1(PciFunction):
    """Sound Blaster Live!, found by its stock driver ``snd-emu10k1``."""

    chip: ClassVar[Chip] = EMU10K1
    identity = Identity(
        vendor=0x1102,
        device=0x0002,
        class_code=0x040100,
        revision=0x07,
        subsystem_vendor=0x1102,
        subsystem=0x8027,
        min_grant=2,
        max_latency=20,
    )
    bars = {0: Bar(32, io=True)}

    def __init__(self, loop: Loop, refused: Refused, sink: WaveSink, source: WaveSource) -> None:
        super().__init__(loop, refused)
        self._sink = sink
        self._source = source
        self._codec = Codec(CODEC_VENDOR)
        self._timer: Timer | None = None
        self.reset()

    def reset(self) -> None:
        """As after power-on."""
        self._codec.reset()
        self._processor = Processor(self.chip.layout)
        self._indexed: dict[tuple[int, int], int] = {}
        self._ports: dict[int, int] = {}
        self._pointer = self._pending = self._enabled = self._codec_address = 0
        self._loops = [0, 0]
        self._voices = [Voice() for _ in range(VOICES)]
        self._recorded = 0
        self._owed = 0.0
        self._since = self.loop.clock()
        self._samples = 0
        self._update()

    def close(self) -> None:
        """The last samples are in the file."""
        self._sink.close()

    # -- ports --------------------------------------------------------------------------------------------------

    def read(self, bar: int, offset: int, size: int) -> int:
        """Most are of 32 bits, the codec's of 16 and 8."""
        if offset == AC97DATA:
            return self._codec.read(self._codec_address)
        if offset == AC97ADDRESS:
            return self._codec_address | _CODEC_READY
        base = offset & ~3
        value = self._port(base)
        return value >> 8 * (offset - base) & (1 << 8 * size) - 1

    def _port(self, port: int) -> int:
        if port == PTR:
            return self._pointer
        if port == DATA:
            return self._read_indexed(self._pointer >> 16, self._pointer & VOICES - 1)
        if port == IPR:
            self._advance()
            return self._pending_now()
        if port == INTE:
            return self._enabled
        if port == WC:
            self._advance()
            return (self._samples & 0xFFFFF) << 6
        return self._ports.get(port, 0)

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        """See ``read``."""
        if offset == AC97DATA:
            self._codec.write(self._codec_address, value & 0xFFFF)
        elif offset == AC97ADDRESS:
            self._codec_address = value & 0x7F
        elif offset == PTR:
            self._pointer = value & 0x0FFF003F
        elif offset == DATA:
            self._write_indexed(self._pointer >> 16, self._pointer & VOICES - 1, value)
        elif offset == IPR:
            self._pending &= ~value
            self._update()
        elif offset == INTE:
            self._enabled = value
            self._update()
        elif offset & ~3 not in (WC, PTR, DATA, IPR):
            base, shift = offset & ~3, 8 * (offset & 3)
            mask = (1 << 8 * size) - 1 << shift
            self._ports[base] = self._ports.get(base, 0) & ~mask | value << shift & mask

    # -- indexed registers --------------------------------------------------------------------------------------

    def _read_indexed(self, register: int, channel: int) -> int:
        chip = self.chip
        if register >= chip.code:
            return self._processor.read_code(register - chip.code)
        if chip.registers <= register < chip.registers + chip.layout.register_count:
            return self._processor.read_register(register - chip.registers)
        if register == CCCA:
            self._advance()
            return self._get(CCCA, channel) & ~_ADDRESS_MASK | self._address(channel)
        if register in (CLIPL, CLIPH):
            self._advance()
            return self._loops[register - CLIPL]
        if register == chip.adc_index:
            self._advance()
            return self._recorded
        return self._get(register, channel)

    def _write_indexed(self, register: int, channel: int, value: int) -> None:
        chip = self.chip
        if register >= chip.code:
            self._processor.write_code(register - chip.code, value)
            return
        if chip.registers <= register < chip.registers + chip.layout.register_count:
            self._processor.write_register(register - chip.registers, value)
            return
        if register in (CLIPL, CLIPH):
            self._loops[register - CLIPL] &= ~value
            self._update()
            return
        self._advance()
        if register == ADCBS and value and not self._get(ADCBS, 0):
            self._recorded = 0
        self._indexed[register, channel if register < PTB or register >= A_FXRT2 else 0] = value
        self._voice_written(register, channel, value)
        self._schedule()
        self._update()

    def _voice_written(self, register: int, channel: int, value: int) -> None:
        voice = self._voices[channel]
        if register == CCR:
            voice.lead = value >> 25
        elif register == CCCA:
            voice.position = float(value & _ADDRESS_MASK)
            voice.resampler = Resampler()
        elif register == PTRX:
            running = bool(value >> 16)
            if running and not voice.running:
                voice.resampler = Resampler()
            voice.running = running
            if not any(each.running for each in self._voices):
                self._sink.settle()

    def _get(self, register: int, channel: int) -> int:
        return self._indexed.get((register, channel), 0)

    # -- interrupts ---------------------------------------------------------------------------------------------

    def _pending_now(self) -> int:
        looped = self._looped()
        channel = looped.bit_length() - 1
        return self._pending | (_IPR_CHANNEL_LOOP | channel if looped else 0)

    def _looped(self) -> int:
        low, high = self._loops[0] & self._get(CLIEL, 0), self._loops[1] & self._get(CLIEH, 0)
        return high << 32 | low

    def _update(self) -> None:
        recording = self._pending & (_IPR_ADC_FULL | _IPR_ADC_HALF) and self._enabled & _INTE_ADC
        self.interrupts.set_level(bool(recording or self._looped()))

    # -- time ---------------------------------------------------------------------------------------------------

    def mastering_changed(self, enabled: bool) -> None:
        """Without the bus nothing is fetched, and the clock goes on."""
        self._advance()
        self._sink.settle()

    def _advance(self) -> None:
        """Play and record what is due since the last time."""
        now = self.loop.clock()
        if now - self._since > _BEHIND_SECONDS:
            self._since = now - _BEHIND_SECONDS
        due = int((now - self._since) * RATE)
        if due <= 0:
            return
        self._since += due / RATE
        self._samples += due
        if not self.memory.enabled:
            return
        try:
            self._play(due)
            self._record(due)
        except DmaRefused:
            for voice in self._voices:
                voice.running = False
            self._indexed[ADCBS, 0] = 0
        self._update()

    def _schedule(self) -> None:
        """Look after the voices again when the first one that interrupts has come to its loop's end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waits = [self._until_loop(number) for number, voice in enumerate(self._voices) if voice.running]
        if self._get(ADCBS, 0):
            waits.append(_LONGEST_SECONDS)
        if waits:
            self._timer = self.loop.call_at(self._since + min(*waits, _LONGEST_SECONDS) + 1 / RATE, self._tick)

    def _until_loop(self, number: int) -> float:
        left = (self._get(DSL, number) & _ADDRESS_MASK) - self._voices[number].position
        return max(0.0, left / (self._step(number) * RATE))

    def _tick(self) -> None:
        self._timer = None
        self._advance()
        self._schedule()

    # -- voices -------------------------------------------------------------------------------------------------

    def _step(self, number: int) -> float:
        """Voice frames for each of the codec's; an odd voice of a pair goes with the even one."""
        if number & 1 and self._paired(number - 1):
            number -= 1
        return max(self._get(PTRX, number) >> 16, 1) / _UNITY_PITCH

    def _paired(self, number: int) -> bool:
        return not number & 1 and bool(self._get(CPF, number) & _STEREO)

    def _loop_bounds(self, number: int) -> tuple[int, int]:
        return self._get(PSST, number) & _ADDRESS_MASK, self._get(DSL, number) & _ADDRESS_MASK

    def _address(self, number: int) -> int:
        return int(self._voices[number].position) & _ADDRESS_MASK

    def _play(self, frames: int) -> None:
        streams: list[array.array[int]] = []
        heard = False
        for number, voice in enumerate(self._voices):
            if not voice.running or (number & 1 and self._paired(number - 1)):  # the even one of a pair leads
                continue
            gains = [self._gains(number), self._gains(number + 1 if self._paired(number) else number)]
            step = self._step(number)
            needed = voice.resampler.needed(frames, step)
            if any(gain for pair in gains for gain in pair):
                samples = self._fetch(number, needed)
                streams.append(_led(voice.resampler.run(samples, frames, step), gains, paired=self._paired(number)))
                heard = True
            else:
                voice.resampler.skip(frames, step)
            self._move(number, needed)
        if heard:
            self._sink.write(mixed(streams))

    def _move(self, number: int, frames: int) -> None:
        """On by so many frames; the loop's end interrupts."""
        start, end = self._loop_bounds(number)
        voices = [number, number + 1] if self._paired(number) else [number]
        for each in voices:
            voice = self._voices[each]
            voice.position += frames
            if end > start and voice.position >= end:
                voice.position = start + (voice.position - end) % (end - start)
                self._loops[each >> 5] |= 1 << (each & 31)

    def _fetch(self, number: int, frames: int) -> "array.array[int]":
        """The next frames as two channels of 16 bits: those that are ``lead`` behind the voice's address."""
        start, end = self._loop_bounds(number)
        eight, paired = self._get(CCCA, number) & _EIGHT_BITS, self._paired(number)
        frame_bytes = (1 if eight else 2) * (2 if paired else 1)
        at = int(self._voices[number].position) - self._voices[number].lead
        if at < start:
            at += end - start if end > start else 0
        data = bytearray()
        while frames > 0:
            piece = min(frames, end - at) if end > at else frames
            data += self._sound_memory(at * frame_bytes, piece * frame_bytes)
            frames -= piece
            at = start
        samples = array.array("h", [(byte - 128) << 8 for byte in data]) if eight else array.array("h", bytes(data))
        if paired:
            return samples
        doubled = array.array("h", bytes(4 * len(samples)))
        doubled[0::2] = doubled[1::2] = samples
        return doubled

    def _sound_memory(self, at: int, size: int) -> bytes:
        """Of the card's address space, through the page table. Raises DmaRefused."""
        expanded = self._ports.get(HCFG, 0) & _HCFG_EXPANDED
        table = self._get(PTB, 0) & ~0xFFF
        data = bytearray()
        while size > 0:
            entry = self.memory.read_words(table + 4 * (at // PAGE_BYTES), 1)[0]
            page = entry & ~0xFFF if expanded else (entry & ~0x1FFF) >> 1
            piece = min(size, PAGE_BYTES - at % PAGE_BYTES)
            data += self.memory.read(page + at % PAGE_BYTES, piece)
            at += piece
            size -= piece
        return bytes(data)

    def _gains(self, number: int) -> tuple[float, float]:
        """From a voice to both outputs, by way of the buses that it is sent to."""
        volume = self._get(VTFT, number) >> 16
        left = right = 0.0
        if volume:
            for bus, amount in self._sends(number):
                if amount:
                    sent = amount / _UNITY_SEND * volume / _UNITY_VOLUME / self.chip.headroom
                    left += sent * self._processor.gain(bus, self.chip.outputs[0])
                    right += sent * self._processor.gain(bus, self.chip.outputs[1])
        if self.chip.codec_plays:
            codec_left, codec_right = self._codec.output_gains
            left, right = left * codec_left, right * codec_right
        return _snapped(left), _snapped(right)

    def _sends(self, number: int) -> list[tuple[int, int]]:
        """(bus, amount) of each effects send."""
        pitch = self._get(PTRX, number)
        amounts = [pitch >> 8 & 0xFF, pitch & 0xFF, self._get(PSST, number) >> 24, self._get(DSL, number) >> 24]
        if self.chip.sends == 4:
            routes = self._get(FXRT, number)
            return [(routes >> 16 + 4 * send & 0xF, amounts[send]) for send in range(4)]
        rest = self._get(A_SENDAMOUNTS, number)
        amounts += [rest >> 24, rest >> 16 & 0xFF, rest >> 8 & 0xFF, rest & 0xFF]
        first, second = self._get(A_FXRT1, number), self._get(A_FXRT2, number)
        buses = [word >> 8 * send & 0x3F for word in (first, second) for send in range(4)]
        return list(zip(buses, amounts, strict=True))

    # -- recording ----------------------------------------------------------------------------------------------

    def _record(self, frames: int) -> None:
        chosen, control = self._get(ADCBS, 0), self._get(ADCCR, 0)
        if not 0 < chosen <= len(_SIZES) or not control & self.chip.adc_enable:
            return
        rates = self.chip.adc_rates
        selected = control & (0xF if self.chip.sends == 8 else 0x7)
        rate = rates[selected] if selected < len(rates) else RATE
        self._owed += frames * rate / RATE
        taken = int(self._owed)
        self._owed -= taken
        samples = _led(self._source.read(taken), self._input_gains(), paired=True)
        data = samples.tobytes() if control & self.chip.adc_enable == self.chip.adc_enable else samples[0::2].tobytes()
        self._store(data, _SIZES[chosen - 1])

    def _input_gains(self) -> list[tuple[float, float]]:
        codec = self._codec.input_gains if self.chip.codec_plays else (1.0, 1.0)
        gains: list[tuple[float, float]] = []
        for number, source in enumerate(self.chip.inputs):
            left, right = (self._processor.gain(source, target) * codec[number] for target in self.chip.recorded)
            gains.append((_snapped(left), _snapped(right)))
        return gains

    def _store(self, data: bytes, size: int) -> None:
        base = self._get(ADCBA, 0) & ~0xFFF
        while data:
            half = size // 2 if self._recorded < size // 2 else size
            piece = min(len(data), half - self._recorded)
            self.memory.write(base + self._recorded, data[:piece])
            self._recorded += piece
            data = data[piece:]
            if self._recorded == half:
                self._pending |= _IPR_ADC_FULL if half == size else _IPR_ADC_HALF
                self._recorded %= size


class Audigy(Emu10k1):
    """Sound Blaster Audigy, found by the same driver."""

    chip = EMU10K2
    identity = Identity(
        vendor=0x1102,
        device=0x0004,
        class_code=0x040100,
        revision=0x03,
        subsystem_vendor=0x1102,
        subsystem=0x0051,
        min_grant=2,
        max_latency=20,
    )
    bars = {0: Bar(64, io=True)}


def _led(samples: "array.array[int]", gains: list[tuple[float, float]], *, paired: bool) -> "array.array[int]":
    """Two channels led to two outputs: ``gains`` are each channel's to both. Both are the same if it is one voice's."""
    (left_left, left_right), (right_left, right_right) = gains
    if not paired:
        right_left = left_right = 0.0
        right_right = gains[0][1]
    if not left_right and not right_left and left_left == right_right == 1.0:
        return samples
    left, right = samples[0::2], samples[1::2]
    out = array.array("h", bytes(2 * len(samples)))
    out[0::2] = array.array("h", [_clip(a * left_left + b * right_left) for a, b in zip(left, right, strict=True)])
    out[1::2] = array.array("h", [_clip(a * left_right + b * right_right) for a, b in zip(left, right, strict=True)])
    return out


def _clip(value: float) -> int:
    return max(-32768, min(32767, round(value)))


def _snapped(gain: float) -> float:
    """A converter has no more than so many bits: what differs from one by less is one."""
    return 1.0 if abs(gain - 1.0) < _ALMOST else gain
