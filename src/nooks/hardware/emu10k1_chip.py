"""The EMU10K1 and EMU10K2: their registers' names, what tells them apart, and how sound finds its way in them."""

from collections.abc import Callable
from dataclasses import dataclass, field

from nooks.hardware.fx8010 import Layout
from nooks.hardware.memory import GuestMemory
from nooks.hardware.wave import Resampler

PAGE_BYTES = 4096
_CAPTURE_RATES = (48000, 44100, 32000, 24000, 22050, 16000)


class Port:
    """Offsets of the ports."""

    PTR = 0x00
    DATA = 0x04
    IPR = 0x08
    INTE = 0x0C
    WC = 0x10
    HCFG = 0x14
    AC97DATA = 0x1C
    AC97ADDRESS = 0x1E


class Register:
    """What PTR selects for DATA."""

    CPF = 0x00
    PTRX = 0x01
    VTFT = 0x03
    PSST = 0x06
    DSL = 0x07
    CCCA = 0x08
    CCR = 0x09
    FXRT = 0x0B
    PTB = 0x40
    ADCCR = 0x42
    ADCBA = 0x46
    ADCBS = 0x4A
    CLIEL = 0x58
    CLIEH = 0x59
    CLIPL = 0x5A
    CLIPH = 0x5B
    A_FXRT2 = 0x7C
    A_SENDAMOUNTS = 0x7D
    A_FXRT1 = 0x7E


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


class PageTable:
    """The card's address space: pages of the domain's memory, by a table (at ``base``) that is there as well."""

    def __init__(self, memory: GuestMemory, base: int, *, expanded: bool) -> None:
        self._memory = memory
        self._base = base & ~0xFFF
        self._expanded = expanded

    def read(self, at: int, size: int) -> bytes:
        """Bytes of that space. Raises DmaRefused."""
        data = bytearray()
        while size > 0:
            entry = self._memory.read_words(self._base + 4 * (at // PAGE_BYTES), 1)[0]
            page = entry & ~0xFFF if self._expanded else (entry & ~0x1FFF) >> 1
            piece = min(size, PAGE_BYTES - at % PAGE_BYTES)
            data += self._memory.read(page + at % PAGE_BYTES, piece)
            at += piece
            size -= piece
        return bytes(data)


def sends(chip: Chip, of_voice: Callable[[int], int]) -> list[tuple[int, int]]:
    """(bus, amount) of each effects send of a voice, whose registers ``of_voice`` reads."""
    pitch = of_voice(Register.PTRX)
    amounts = [pitch >> 8 & 0xFF, pitch & 0xFF, of_voice(Register.PSST) >> 24, of_voice(Register.DSL) >> 24]
    if chip.sends == 4:
        routes = of_voice(Register.FXRT)
        return [(routes >> 16 + 4 * send & 0xF, amounts[send]) for send in range(4)]
    rest = of_voice(Register.A_SENDAMOUNTS)
    amounts += [rest >> 24, rest >> 16 & 0xFF, rest >> 8 & 0xFF, rest & 0xFF]
    first, second = of_voice(Register.A_FXRT1), of_voice(Register.A_FXRT2)
    buses = [word >> 8 * send & 0x3F for word in (first, second) for send in range(4)]
    return list(zip(buses, amounts, strict=True))
