"""Sound cards as a driver drives them: buffers in memory, registers, WAV files at both ends."""

import array
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from vfio_client import MEMORY_BYTES, Bus, Client, bus

from nooks.hardware.ac97 import MASTER, PCM_OUT, RECORD_GAIN, VENDOR_ID1, Codec
from nooks.hardware.card import SOUND_CARDS
from nooks.hardware.emu10k1 import EMU10K1
from nooks.hardware.fx8010 import Processor
from nooks.hardware.wave import RATE, Resampler, WaveSink, WaveSource, mixed, scaled

HEADER_BYTES = 44
BUFFER, FRAMES = 0x10000, 2048


def ramp(frames: int) -> "array.array[int]":
    """Frames that tell where they belong."""
    return array.array("h", [value for number in range(frames) for value in (number % 30000, -(number % 30000))])


class Studio:
    """Makes cards of one kind, with files at their ends."""

    def __init__(self, name: str, folder: Path) -> None:
        self.played, self.source = folder / "played.wav", folder / "source.wav"
        sink = WaveSink(os.open(self.source, os.O_RDWR | os.O_CREAT))
        sink.write(ramp(30000))
        sink.close()
        self._card = SOUND_CARDS[name]

    def make(self, loop: Any, refused: Any) -> Any:  # noqa: ANN401 - as vfio_client has them
        """A card."""
        sink = WaveSink(os.open(self.played, os.O_RDWR | os.O_CREAT))
        return self._card(loop, refused, sink, WaveSource(os.open(self.source, os.O_RDONLY)))

    def samples(self) -> bytes:
        """What has been played."""
        return self.played.read_bytes()[HEADER_BYTES:]


@pytest.fixture
def es1371(tmp_path: Path) -> Iterator[tuple[Bus, Client, Studio]]:
    studio = Studio("es1371", tmp_path)
    with bus(tmp_path / "socket", studio.make) as card:
        client = card.connect()
        codec(lambda register, value: client.write(0, 0x14, 4, register << 16 | value))
        yield card, client, studio


def codec(write: Callable[[int, int], None]) -> None:
    """Let samples through as they are."""
    for register, value in ((MASTER, 0), (PCM_OUT, 0x0808), (RECORD_GAIN, 0), (0x1A, 0x0404)):
        write(register, value)


def wait(card: Bus, until: Callable[[], bool], seconds: float = 5.0) -> None:
    """Let time go on for the card."""
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline
        card.loop.turn(0.005)


def test_es1371_plays_a_loop_and_interrupts(es1371: tuple[Bus, Client, Studio]) -> None:
    card, client, studio = es1371
    card.memory[BUFFER : BUFFER + 4 * FRAMES] = ramp(FRAMES).tobytes()
    event = client.take_intx()
    client.write(0, 0x0C, 4, 0xC)
    client.write(0, 0x38, 4, BUFFER)
    client.write(0, 0x3C, 4, FRAMES - 1)
    for word, value in ((0x75, 16 << 10), (0x77, 0)):  # 48 kHz
        client.write(0, 0x10, 4, word << 25 | 1 << 24 | value)
    client.write(0, 0x20, 4, 1 << 9 | 3 << 2)
    client.write(0, 0x28, 4, FRAMES // 2 - 1)
    client.write(0, 0x00, 4, 1 << 5)
    wait(card, lambda: bool(client.read(0, 0x04, 4) & 2))
    assert os.eventfd_read(event) == 1
    assert client.read(0, 0x04, 4) >> 31
    client.write(0, 0x20, 4, 3 << 2)
    assert not client.read(0, 0x04, 4) & 2
    wait(card, lambda: len(studio.samples()) > 4 * 3 * FRAMES)
    client.write(0, 0x00, 4, 0)
    assert (ramp(FRAMES) * 3).tobytes() == studio.samples()[: 4 * 3 * FRAMES]
    os.close(event)


def test_es1371_records(es1371: tuple[Bus, Client, Studio]) -> None:
    card, client, _ = es1371
    client.write(0, 0x0C, 4, 0xD)
    client.write(0, 0x30, 4, BUFFER)
    client.write(0, 0x34, 4, FRAMES - 1)
    for word, value in ((0x78, 16 << 4), (0x79, 16 << 10), (0x7B, 0)):
        client.write(0, 0x10, 4, word << 25 | 1 << 24 | value)
    client.write(0, 0x20, 4, 1 << 10 | 3 << 4)
    client.write(0, 0x2C, 4, FRAMES - 1)
    client.write(0, 0x00, 4, 1 << 4)
    wait(card, lambda: bool(client.read(0, 0x04, 4) & 1))
    client.write(0, 0x00, 4, 0)
    found = array.array("h", card.memory[BUFFER + 4096 : BUFFER + 8192])
    steps = [after - before for before, after in zip(found[0::2], found[2::2], strict=False)]
    assert steps.count(1) >= 1022  # on a busy machine it has gone on for a while, and its end is in the midst


def test_es1371_stops_when_the_bus_refuses(es1371: tuple[Bus, Client, Studio]) -> None:
    card, client, _ = es1371
    client.write(0, 0x0C, 4, 0xC)
    client.write(0, 0x38, 4, MEMORY_BYTES)
    client.write(0, 0x3C, 4, FRAMES - 1)
    client.write(0, 0x20, 4, 3 << 2)
    client.write(0, 0x00, 4, 1 << 5)
    wait(card, lambda: bool(card.refused))
    assert not client.read(0, 0x00, 4) & 1 << 5


class Emu:
    """A little of what snd-emu10k1 does."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def write(self, register: int, channel: int, value: int) -> None:
        self.client.write(0, 0, 4, register << 16 | channel)
        self.client.write(0, 4, 4, value)

    def read(self, register: int, channel: int) -> int:
        self.client.write(0, 0, 4, register << 16 | channel)
        return self.client.read(0, 4, 4)

    def codec(self, register: int, value: int) -> None:
        self.client.write(0, 0x1E, 1, register)
        self.client.write(0, 0x1C, 2, value)

    def instruct(self, at: int, operation: int, result: int, a: int, x: int, y: int) -> None:
        self.write(0x400 + 2 * at, 0, x << 10 | y)
        self.write(0x400 + 2 * at + 1, 0, operation << 20 | result << 10 | a)


def test_emu10k1_plays_a_pair_of_voices_through_its_processor(tmp_path: Path) -> None:
    studio = Studio("sblive", tmp_path)
    with bus(tmp_path / "socket", studio.make) as card:
        emu = Emu(card.connect())
        codec(emu.codec)
        for channel in range(2):  # output = 4 * bus
            emu.instruct(channel, 4, 0x20 + channel, 0x40, channel, 0x44)
        card.memory[BUFFER : BUFFER + 4 * FRAMES] = ramp(FRAMES).tobytes()
        card.put(0x2000, *(((BUFFER + 4096 * page) << 1) | page for page in range(4)))
        emu.write(0x40, 0, 0x2000)
        emu.write(0x58, 0, 1 << 4)
        for voice in (4, 5):
            emu.write(0x00, voice, 0x8000)
            emu.write(0x06, voice, 0)
            emu.write(0x07, voice, FRAMES)
            emu.write(0x08, voice, 24)
            emu.write(0x09, voice, 24 << 25)
            emu.write(0x0B, voice, 0x32100000)
            emu.write(0x03, voice, 0xFFFFFFFF)
        for voice, amounts in ((5, 0x00FF), (4, 0xFF00)):  # the even one leads
            emu.write(0x01, voice, 0x40000000 | amounts)
        wait(card, lambda: len(studio.samples()) > 4 * 3 * FRAMES)
        assert emu.client.read(0, 0x08, 4) == 0x40 | 4
        emu.write(0x5A, 0, 1 << 4)
        for voice in (4, 5):
            emu.write(0x01, voice, 0)
        assert (ramp(FRAMES) * 3).tobytes() == studio.samples()[: 4 * 3 * FRAMES]
        assert emu.read(0x08, 4) & 0xFFFFFF < FRAMES


def test_a_silent_voice_keeps_time_at_any_rate(tmp_path: Path) -> None:
    """The driver takes its interrupts from such a one; it asks for positions all the time."""
    with bus(tmp_path / "socket", Studio("sblive", tmp_path).make) as card:
        emu = Emu(card.connect())
        emu.write(0x07, 4, 1 << 23)
        clock, rate = card.loop.clock, 0x3ACC / 0x4000 * RATE  # 44.1 kHz
        before = clock()
        emu.write(0x01, 4, 0x3ACC0000)
        began = clock()
        reads = position = 0
        asked = answered = began
        while answered < began + 0.4:
            asked = clock()
            position = emu.read(0x08, 4) & 0xFFFFFF
            answered = clock()
            reads += 1
        assert rate * (asked - began) - reads / 4 <= position <= rate * (answered - before) + 2


@pytest.mark.parametrize(
    ("name", "code", "bits", "recorded", "source", "zero", "enable"),
    [("sblive", 0x400, 10, 0x2A, 0x10, 0x40, 0x18), ("audigy", 0x600, 12, 0x76, 0x4A, 0xC0, 0x30)],
)
def test_emu10k1_records_by_halves(
    tmp_path: Path, name: str, code: int, bits: int, recorded: int, source: int, zero: int, enable: int
) -> None:
    studio = Studio(name, tmp_path)
    with bus(tmp_path / "socket", studio.make) as card:
        emu = Emu(card.connect())
        codec(emu.codec)
        for channel in range(2):  # recorded = source + 0 + 0
            emu.write(code + 2 * channel, 0, zero << bits | zero)
            operands = recorded + channel << bits | source + channel
            emu.write(code + 2 * channel + 1, 0, 6 << 2 * bits | operands)
        emu.client.write(0, 0x0C, 4, 0x40)
        emu.write(0x46, 0, BUFFER)
        emu.write(0x42, 0, enable)
        emu.write(0x4A, 0, 31)  # 65536 bytes
        wait(card, lambda: bool(emu.client.read(0, 0x08, 4) & 0x4000))
        emu.client.write(0, 0x08, 4, 0x4000)
        wait(card, lambda: bool(emu.client.read(0, 0x08, 4) & 0x8000))
        emu.write(0x4A, 0, 0)  # at once: it goes on with the first half
        found = array.array("h", card.memory[BUFFER + 32768 : BUFFER + 36864])
        assert [after - before for before, after in zip(found[0::2], found[2::2], strict=False)] == [1] * 1023


def test_the_processor_by_its_instructions() -> None:
    processor = Processor(EMU10K1.layout)

    def program(*instructions: tuple[int, int, int, int, int]) -> None:
        for at, (operation, result, a, x, y) in enumerate(instructions):
            processor.write_code(2 * at, x << 10 | y)
            processor.write_code(2 * at + 1, operation << 20 | result << 10 | a)

    processor.write_register(0, 0x40000000)  # a half
    program((0, 0x20, 0x40, 0x100, 0x00), (4, 0x21, 0x40, 0x00, 0x44))
    assert processor.gain(0x00, 0x20) == 0.5
    assert processor.gain(0x00, 0x21) == 4.0
    assert processor.gain(0x01, 0x20) == 0.0
    processor.write_register(0, 0x20000000)
    assert processor.gain(0x00, 0x20) == 0.25
    program(
        (6, 0x101, 0x40, 0x40, 0x40),  # zero ...
        (0xF, 0x57, 0x57, 0x45, 0x41),  # ... so the next one is skipped
        (6, 0x20, 0x00, 0x40, 0x40),
        (6, 0x21, 0x00, 0x00, 0x40),
    )
    assert processor.gain(0x00, 0x20) == 0.0
    assert processor.gain(0x00, 0x21) == 2.0


def test_codec_registers() -> None:
    one = Codec(0x83847609)
    assert one.read(VENDOR_ID1) == 0x8384
    assert one.output_gains == (0.0, 0.0)
    one.write(MASTER, 0xFFFF)
    assert one.read(MASTER) == 0x9F1F
    one.write(MASTER, 0x0004)
    one.write(PCM_OUT, 0x0808)
    left, right = one.output_gains
    assert (left, round(right, 3)) == (1.0, round(10 ** (-6 / 20), 3))
    one.write(0, 0)
    assert one.read(MASTER) == 0x8000


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    sink = WaveSink(os.open(path, os.O_RDWR | os.O_CREAT))
    sink.write(ramp(100))
    sink.settle()
    assert struct.unpack_from("<I", path.read_bytes(), 40)[0] == 400
    sink.close()
    source = WaveSource(os.open(path, os.O_RDONLY))
    assert source.read(150) == ramp(100) + ramp(50)
    assert WaveSource(-1).read(2).tolist() == [0, 0, 0, 0]
    for wrong in (b"RIFX", path.read_bytes()[:24] + b"\x44\xac\0\0" + path.read_bytes()[28:], path.read_bytes()[:36]):
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match="it "):
            WaveSource(os.open(path, os.O_RDONLY))


def test_samples() -> None:
    assert scaled(array.array("h", [1000, -32768]), 2.0, 2.0).tolist() == [2000, -32768]
    assert mixed([array.array("h", [30000, 1]), array.array("h", [30000, 2])]).tolist() == [32767, 3]
    one = Resampler()
    needed = one.needed(RATE, 0.5)
    out = one.run(ramp(needed), RATE, 0.5)
    assert needed == RATE // 2
    assert len(out) == 2 * RATE
    assert max(abs(after - before) for before, after in zip(out[0::2], out[2::2], strict=False)) <= 30000
