"""The sound agent in real domains: all cards that QEMU emulates and a Debian kernel drives, 64 and 32 bits."""

import asyncio
import os
import shutil
import socket
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nooks.host.pace import slowness
from nooks.image import initramfs, kernel
from nooks.xpc import audio, messages
from nooks.xpc.states import SoundState, StreamState

from .bare_domain import BOOT_SECONDS, BareDomain, bare_domain

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs QEMU"),
]

PERIOD, WINDOW = 1024, 4
PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Card:
    """A card as QEMU and its driver know it; ``records``: QEMU's model of it can record."""

    flavour: str
    modules: dict[str, str]
    hardware: tuple[str, ...]
    rate: int
    records: bool = True


CARDS = {
    "ac97": Card("amd64", {"snd-intel8x0": ""}, ("-device", "AC97,audiodev=line"), 48000),
    "es1370": Card("amd64", {"snd-ens1370": ""}, ("-device", "ES1370,audiodev=line"), 44100),
    "hda": Card(
        "amd64",
        {"snd-hda-codec-generic": "", "snd-hda-intel": ""},
        ("-device", "ich9-intel-hda", "-device", "hda-duplex,audiodev=line"),
        48000,
    ),
    "usb": Card(
        "amd64",
        {"xhci_pci": "", "snd-usb-audio": ""},
        ("-device", "qemu-xhci", "-device", "usb-audio,audiodev=line"),
        48000,
        records=False,
    ),
    "sb16": Card(
        "686",
        {"snd-sb16": "isapnp=0 port=0x220 irq=5 dma8=1 dma16=5"},
        ("-device", "sb16,audiodev=line"),
        44100,
        records=False,
    ),
    "cs4231a": Card(
        "686",
        {"snd-cs4236": "isapnp=0 port=0x534 cport=0x120 irq=11 dma1=3 dma2=-1"},
        ("-device", "cs4231a,iobase=0x534,irq=11,dma=3,audiodev=line"),
        48000,
        records=False,
    ),
}


@dataclass
class Player:
    """The host's end of the data port, with all that came out of it."""

    domain: BareDomain
    port: socket.socket
    decoder: audio.Decoder = field(default_factory=audio.Decoder)
    reports: list[tuple[float, audio.Packet]] = field(default_factory=list[tuple[float, audio.Packet]])
    recorded: list[audio.Packet] = field(default_factory=list[audio.Packet])
    tag: int = 0
    sent: int = 0

    async def send(self, head: bytes, samples: bytes = b"") -> None:
        await asyncio.get_running_loop().sock_sendall(self.port, head + samples)

    async def begin(self) -> None:
        """A new life of the stream."""
        self.tag += 1
        self.sent = 0
        await self.send(audio.header(audio.FLUSH, self.tag))
        await self.until(lambda: bool(self.reports) and self.last.tag == self.tag)

    @property
    def last(self) -> audio.Packet:
        return self.reports[-1][1]

    async def hear(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            data = await asyncio.get_running_loop().sock_recv(self.port, 65536)
        for packet in self.decoder.feed(data):
            if packet.kind == audio.PLAYED:
                self.reports.append((time.monotonic(), packet))
            else:
                self.recorded.append(packet)

    async def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self.hear()

    async def play(self, frames: int, frame_bytes: int) -> None:
        """Send ``frames`` as the position allows it."""
        end = self.sent + frames
        while self.sent < end:
            while self.sent < end and self.sent - self.last.position < WINDOW * PERIOD:
                samples = bytes(PERIOD * frame_bytes)
                self.sent += PERIOD
                full = self.sent - self.last.position >= WINDOW * PERIOD or self.sent >= end
                head = audio.header(
                    audio.PLAY, self.tag, self.sent - PERIOD, flags=audio.GO if full else 0, length=len(samples)
                )
                await self.send(head, samples)
            if self.sent < end:
                await self.hear()

    async def quiet(self, seconds: float) -> bool:
        """Whether nothing is heard for so long."""
        try:
            async with asyncio.timeout(seconds):
                await self.hear()
        except TimeoutError:
            return True
        return False


@asynccontextmanager
async def player(name: str, folder: Path) -> AsyncGenerator[tuple[Player, messages.BringUpReply]]:
    card = CARDS[name]
    image = initramfs.build(kernel.resolve("debian", card.flavour), list(card.modules))
    parameters = {f"{module.replace('-', '_')}.ko": text for module, text in card.modules.items()}
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    hardware = (
        *("-audiodev", "none,id=line", *card.hardware),
        *("-chardev", f"socket,id=sound,fd={theirs.fileno()}"),
        *("-device", "virtserialport,chardev=sound,name=nooks.sound"),
    )
    with ours, theirs:
        async with bare_domain(image, folder, hardware, fds=[theirs.fileno()]) as domain:
            await domain.event(messages.Hello, BOOT_SECONDS)
            modules = tuple(messages.Module(each, parameters.get(each, "")) for each in image.load_order)
            reply = await domain.channel.request(messages.BringUp("sound", modules), BOOT_SECONDS)
            yield Player(domain, ours), reply


@pytest.mark.parametrize("name", CARDS)
def test_life_of_a_card(tmp_path: Path, name: str) -> None:
    async def body() -> None:
        async with player(name, tmp_path) as (host, reply):
            assert isinstance(reply.state, SoundState)
            assert reply.state.elements
            playback = reply.state.playback
            assert playback is not None
            assert (playback.rate, playback.channels, playback.format) == (CARDS[name].rate, 2, "s16")
            assert playback.buffer >= 8 * playback.period
            assert reply.refused == {}
            await host.domain.resume(1, {})
            await check_playing(host, playback)
            await check_running_dry(host, playback)
            await check_flushing(host, playback)
            if CARDS[name].records:
                assert reply.state.capture is not None
                await check_recording(host, reply.state.capture)
            await check_mixer(host, reply.state)
            await check_counter(host, playback)
            await check_silence(host, playback)

    asyncio.run(body())


async def check_playing(host: Player, playback: StreamState) -> None:
    """Positions grow with the card's rate, and say each frame once."""
    await host.begin()
    await host.play(2 * playback.rate // PERIOD * PERIOD, playback.frame_bytes)
    running = [(when, packet) for when, packet in host.reports if packet.tag == host.tag and packet.position > 0]
    positions = [packet.position for _, packet in running]
    assert positions == sorted(positions), positions
    seconds = running[-1][0] - running[0][0]
    assert abs((positions[-1] - positions[0]) / seconds / playback.rate - 1) < 0.15 * slowness()


async def check_running_dry(host: Player, playback: StreamState) -> None:
    """A card without samples stops, says that all was played, and goes on when it gets more."""
    before = host.last.second
    await host.until(lambda: host.last.position == host.sent and not host.last.flags & audio.RUNNING)
    assert host.last.second == before + 1
    await host.play(8 * PERIOD, playback.frame_bytes)
    await host.until(lambda: host.last.position == host.sent)


async def check_flushing(host: Player, playback: StreamState) -> None:
    """What was sent under an earlier tag is not played."""
    await host.play(WINDOW * PERIOD, playback.frame_bytes)
    old = host.tag
    await host.begin()
    await host.send(audio.header(audio.PLAY, old, 0, flags=audio.GO, length=4 * PERIOD), bytes(4 * PERIOD))
    assert await host.quiet(0.3)
    assert (host.last.position, host.last.first) == (0, 0)


async def check_recording(host: Player, capture: StreamState) -> None:
    """Every frame once and in order, at the card's rate; nothing any more when it was ended."""
    await host.send(audio.header(audio.RECORD, 7, flags=audio.GO))
    began = time.monotonic()
    await host.until(lambda: sum(len(each.samples) for each in host.recorded) >= capture.rate * capture.frame_bytes)
    assert 0.7 < time.monotonic() - began < 2 * slowness()
    position = 0
    for packet in host.recorded:
        assert (packet.tag, packet.position, packet.second) == (7, position, 0)
        assert len(packet.samples) % capture.frame_bytes == 0
        position += len(packet.samples) // capture.frame_bytes
    await host.send(audio.header(audio.RECORD, 8))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await host.quiet(0.3):
            pass


async def check_mixer(host: Player, state: SoundState) -> None:
    assert state.elements is not None
    key = next(key for key in state.elements if key.endswith("playback-volume"))
    element = state.elements[key]
    name = key.replace(".", "__")
    applied = await host.domain.apply(**{name: (element.low + 1,)})
    assert applied.refused == {}
    assert applied.readback[key] == (element.low + 1,) * element.count
    refused = (await host.domain.apply(**{name: (element.high + 1,), "mixer__nothing": (1,)})).refused
    assert refused == {key: f"it is {element.low} to {element.high}", "mixer.nothing": "the card has no such element"}
    read = await host.domain.channel.request(messages.Read(), 10)
    assert read.readback[key] == (element.low + 1,) * element.count


async def check_counter(host: Player, playback: StreamState) -> None:
    """Heartbeats carry the card's interrupts."""
    await host.play(playback.rate, playback.frame_bytes)
    counts = [counters["interrupts"] for _, _, counters, _ in host.domain.beats if counters]
    assert counts[-1] > counts[0]


async def check_silence(host: Player, playback: StreamState) -> None:
    """The card makes no progress any more, although its domain lives and it has samples."""
    await host.begin()
    playing = asyncio.create_task(host.play(60 * playback.rate, playback.frame_bytes))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not host.last.position:
            await asyncio.sleep(0.1)
    await host.domain.channel.request(messages.Crash("silent"), 5)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while time.monotonic() - host.reports[-1][0] < 0.5:
            await asyncio.sleep(0.1)
    beats = len(host.domain.beats)
    await asyncio.sleep(0.5)
    assert len(host.domain.beats) > beats
    assert not playing.done()
    playing.cancel()
    await asyncio.gather(playing, return_exceptions=True)
    assert host.last.position < host.sent
