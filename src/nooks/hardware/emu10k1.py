"""Creative Sound Blaster Live! (EMU10K1) and Audigy (EMU10K2): what is published of both, and the registers' names.

64 voices play from a memory of their own, whose pages a table in the domain's memory maps, each in a loop at a pitch
of its own and to up to four (eight) effects buses; the signal processor (``fx8010``) leads buses and inputs to outputs;
one of these is recorded. Time is the host's clock.

Left out: envelopes, filters and modulation (a voice plays at its volume target), microphone and effects recording,
MIDI, the timer, S/PDIF, tank memory, P16V; outputs other than the front. Interpolation is linear.
"""

import array
from typing import ClassVar

from nooks.hardware.emu10k1_chip import EMU10K1, EMU10K2, Chip, PageTable, Port, Register, Voice, sends
from nooks.hardware.fx8010 import Processor
from nooks.hardware.memory import DmaRefused
from nooks.hardware.pci import Bar, Identity
from nooks.hardware.sound import SoundCard
from nooks.hardware.wave import RATE, Resampler, led, mixed, snapped

VOICES = 64
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

_LONGEST_SECONDS = 0.01


class Emu10k1(SoundCard):
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
    power_management = 0xDC
    codec_vendor = CODEC_VENDOR

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

    # -- ports --------------------------------------------------------------------------------------------------

    def read(self, bar: int, offset: int, size: int) -> int:
        """Most are of 32 bits, the codec's of 16 and 8."""
        if offset == Port.AC97DATA:
            return self._codec.read(self._codec_address)
        if offset == Port.AC97ADDRESS:
            return self._codec_address | _CODEC_READY
        base = offset & ~3
        value = self._port(base)
        return value >> 8 * (offset - base) & (1 << 8 * size) - 1

    def _port(self, port: int) -> int:
        if port == Port.PTR:
            return self._pointer
        if port == Port.DATA:
            return self._read_indexed(self._pointer >> 16, self._pointer & VOICES - 1)
        if port == Port.IPR:
            self._advance()
            return self._pending_now()
        if port == Port.INTE:
            return self._enabled
        if port == Port.WC:
            self._advance()
            return (self._samples & 0xFFFFF) << 6
        return self._ports.get(port, 0)

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        """See ``read``."""
        if offset == Port.AC97DATA:
            self._codec.write(self._codec_address, value & 0xFFFF)
        elif offset == Port.AC97ADDRESS:
            self._codec_address = value & 0x7F
        elif offset == Port.PTR:
            self._pointer = value & 0x0FFF003F
        elif offset == Port.DATA:
            self._write_indexed(self._pointer >> 16, self._pointer & VOICES - 1, value)
        elif offset == Port.IPR:
            self._pending &= ~value
            self._update()
        elif offset == Port.INTE:
            self._enabled = value
            self._update()
        elif offset & ~3 not in (Port.WC, Port.PTR, Port.DATA, Port.IPR):
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
        if register == Register.CCCA:
            self._advance()
            return self._get(Register.CCCA, channel) & ~_ADDRESS_MASK | self._address(channel)
        if register in (Register.CLIPL, Register.CLIPH):
            self._advance()
            return self._loops[register - Register.CLIPL]
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
        if register in (Register.CLIPL, Register.CLIPH):
            self._loops[register - Register.CLIPL] &= ~value
            self._update()
            return
        self._advance()
        if register == Register.ADCBS and value and not self._get(Register.ADCBS, 0):
            self._recorded = 0
        self._indexed[register, channel if register < Register.PTB or register >= Register.A_FXRT2 else 0] = value
        self._voice_written(register, channel, value)
        self._schedule()
        self._update()

    def _voice_written(self, register: int, channel: int, value: int) -> None:
        voice = self._voices[channel]
        if register == Register.CCR:
            voice.lead = value >> 25
        elif register == Register.CCCA:
            voice.position = float(value & _ADDRESS_MASK)
            voice.resampler = Resampler()
        elif register == Register.PTRX:
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
        low, high = self._loops[0] & self._get(Register.CLIEL, 0), self._loops[1] & self._get(Register.CLIEH, 0)
        return high << 32 | low

    def _update(self) -> None:
        recording = self._pending & (_IPR_ADC_FULL | _IPR_ADC_HALF) and self._enabled & _INTE_ADC
        self.interrupts.set_level(bool(recording or self._looped()))

    # -- time ---------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Play and record what is due since the last time."""
        due = self._due()
        if not due:
            return
        self._samples += due
        if not self.memory.enabled:
            return
        try:
            self._play(due)
            self._record(due)
        except DmaRefused:
            for voice in self._voices:
                voice.running = False
            self._indexed[Register.ADCBS, 0] = 0
        self._update()

    def _schedule(self) -> None:
        """Look after the voices again when the first one that interrupts has come to its loop's end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waits = [self._until_loop(number) for number, voice in enumerate(self._voices) if voice.running]
        if self._get(Register.ADCBS, 0):
            waits.append(_LONGEST_SECONDS)
        if waits:
            self._timer = self.loop.call_at(self._since + min(*waits, _LONGEST_SECONDS) + 1 / RATE, self._tick)

    def _until_loop(self, number: int) -> float:
        left = (self._get(Register.DSL, number) & _ADDRESS_MASK) - self._voices[number].position
        return max(0.0, left / (self._step(number) * RATE))

    # -- voices -------------------------------------------------------------------------------------------------

    def _step(self, number: int) -> float:
        """Voice frames for each of the codec's; an odd voice of a pair goes with the even one."""
        if number & 1 and self._paired(number - 1):
            number -= 1
        return max(self._get(Register.PTRX, number) >> 16, 1) / _UNITY_PITCH

    def _paired(self, number: int) -> bool:
        return not number & 1 and bool(self._get(Register.CPF, number) & _STEREO)

    def _loop_bounds(self, number: int) -> tuple[int, int]:
        return self._get(Register.PSST, number) & _ADDRESS_MASK, self._get(Register.DSL, number) & _ADDRESS_MASK

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
                streams.append(led(voice.resampler.run(samples, frames, step), gains, paired=self._paired(number)))
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
        pages = PageTable(
            self.memory, self._get(Register.PTB, 0), expanded=bool(self._ports.get(Port.HCFG, 0) & _HCFG_EXPANDED)
        )
        eight, paired = self._get(Register.CCCA, number) & _EIGHT_BITS, self._paired(number)
        frame_bytes = (1 if eight else 2) * (2 if paired else 1)
        at = int(self._voices[number].position) - self._voices[number].lead
        if at < start:
            at += end - start if end > start else 0
        data = bytearray()
        while frames > 0:
            piece = min(frames, end - at) if end > at else frames
            data += pages.read(at * frame_bytes, piece * frame_bytes)
            frames -= piece
            at = start
        samples = array.array("h", [(byte - 128) << 8 for byte in data]) if eight else array.array("h", bytes(data))
        if paired:
            return samples
        doubled = array.array("h", bytes(4 * len(samples)))
        doubled[0::2] = doubled[1::2] = samples
        return doubled

    def _gains(self, number: int) -> tuple[float, float]:
        """From a voice to both outputs, by way of the buses that it is sent to."""
        volume = self._get(Register.VTFT, number) >> 16
        left = right = 0.0
        if volume:
            for bus, amount in sends(self.chip, lambda register: self._get(register, number)):
                if amount:
                    sent = amount / _UNITY_SEND * volume / _UNITY_VOLUME / self.chip.headroom
                    left += sent * self._processor.gain(bus, self.chip.outputs[0])
                    right += sent * self._processor.gain(bus, self.chip.outputs[1])
        if self.chip.codec_plays:
            codec_left, codec_right = self._codec.output_gains
            left, right = left * codec_left, right * codec_right
        return snapped(left), snapped(right)

    # -- recording ----------------------------------------------------------------------------------------------

    def _record(self, frames: int) -> None:
        chosen, control = self._get(Register.ADCBS, 0), self._get(Register.ADCCR, 0)
        if not 0 < chosen <= len(_SIZES) or not control & self.chip.adc_enable:
            return
        rates = self.chip.adc_rates
        selected = control & (0xF if self.chip.sends == 8 else 0x7)
        rate = rates[selected] if selected < len(rates) else RATE
        self._owed += frames * rate / RATE
        taken = int(self._owed)
        self._owed -= taken
        samples = led(self._source.read(taken), self._input_gains(), paired=True)
        data = samples.tobytes() if control & self.chip.adc_enable == self.chip.adc_enable else samples[0::2].tobytes()
        self._store(data, _SIZES[chosen - 1])

    def _input_gains(self) -> list[tuple[float, float]]:
        codec = self._codec.input_gains if self.chip.codec_plays else (1.0, 1.0)
        gains: list[tuple[float, float]] = []
        for number, source in enumerate(self.chip.inputs):
            left, right = (self._processor.gain(source, target) * codec[number] for target in self.chip.recorded)
            gains.append((snapped(left), snapped(right)))
        return gains

    def _store(self, data: bytes, size: int) -> None:
        base = self._get(Register.ADCBA, 0) & ~0xFFF
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
