"""Both network cards as a driver drives them: rings in memory, registers, frames on a cable."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ethernet_cable import Cables, frame
from vfio_client import MEMORY_BYTES, Bus, Client, bus

from nooks.hardware.epic100 import Epic100
from nooks.hardware.etherlink import UNTOLD_MAX, UNTOLD_SECONDS, EtherLink
from nooks.hardware.ethernet import BROADCAST
from nooks.hardware.protocol import ACCESS, NO_REPLY, Command

OWN, RING, BUFFERS = 0x8000, 0x1000, 0x4000
MULTICAST = bytes.fromhex("01005e000001")


class Epic:
    """A little of what epic100 does."""

    def __init__(self, card: Bus, cables: Cables) -> None:
        self.card, self.cables = card, cables
        self.client = card.connect()
        self.event = self.client.take_intx()
        self.write(0x0C, 0x4001)
        self.write(0x0C, 0x0512)
        address = [self.read(0x40 + 4 * number) & 0xFFFF for number in range(3)]
        self.address = b"".join(word.to_bytes(2, "little") for word in address)
        for number in range(4):
            following = RING + 16 * ((number + 1) % 4)
            card.put(RING + 16 * number, OWN, BUFFERS + 2048 * number, 1536, following)
            card.put(RING + 0x100 + 16 * number, 0, 0, 0, RING + 0x100 + 16 * ((number + 1) % 4))
        self.write(0x84, RING)
        self.write(0xC4, RING + 0x100)
        self.write(0x60, 0x04)
        self.write(0x00, 0x0A)
        self.write(0x08, 0xFFFF)

    def read(self, register: int) -> int:
        return self.client.read(0, register, 4)

    def write(self, register: int, value: int) -> None:
        self.client.write(0, register, 4, value)

    def rung(self) -> bool:
        self.card.turn()
        try:
            os.eventfd_read(self.event)
        except BlockingIOError:
            return False
        return True


@pytest.fixture
def epic(tmp_path: Path) -> Iterator[Epic]:
    cables = Cables(Epic100)
    with bus(tmp_path / "socket", cables.make) as card:
        driver = Epic(card, cables)
        yield driver
        os.close(driver.event)
        cables.far.close()


def test_epic_receives(epic: Epic) -> None:
    epic.cables.far.send(frame(epic.address, 100))
    assert epic.rung()
    status = epic.card.words(RING, 1)[0]
    assert (status >> 16, status & OWN, status & 1) == (104, 0, 1)
    assert epic.card.memory[BUFFERS : BUFFERS + 100] == frame(epic.address, 100)
    assert epic.read(0x04) & 0x10001 == 0x10001


def test_epic_tells_once_more_of_what_crossed_with_the_acknowledgement(epic: Epic) -> None:
    epic.cables.far.send(frame(epic.address))
    assert epic.rung()
    epic.write(0x04, 0x0001)
    assert epic.read(0x04) & 0x0001
    epic.card.put(RING, OWN)  # the driver has taken it
    epic.write(0x04, 0x0001)
    assert not epic.read(0x04) & 0x0001


@pytest.mark.parametrize(
    ("filters", "to", "wanted"),
    [
        (0x04, BROADCAST, True),
        (0x00, BROADCAST, False),
        (0x04, MULTICAST, False),
        (0x2C, b"\x02\x09\x09\x09\x09\x09", True),
        (0x04, b"\x02\x09\x09\x09\x09\x09", False),
    ],
)
def test_epic_filters(epic: Epic, filters: int, to: bytes, wanted: bool) -> None:
    epic.write(0x60, filters)
    epic.cables.far.send(frame(to))
    assert epic.rung() == wanted


def test_epic_hashes_multicast_addresses(epic: Epic) -> None:
    epic.write(0x60, 0x0C)
    epic.cables.far.send(frame(MULTICAST))
    assert not epic.rung()
    for number in range(4):
        epic.write(0x50 + 4 * number, 0xFFFF)
    epic.cables.far.send(frame(MULTICAST))
    assert epic.rung()


def test_epic_waits_when_its_ring_is_full_and_loses_nothing(epic: Epic) -> None:
    for number in range(6):
        epic.cables.far.send(frame(epic.address, 60 + number))
    assert epic.rung()
    assert epic.read(0x04) & 0x0004  # the queue is empty
    assert [word >> 16 for word in (epic.card.words(RING + 16 * each, 1)[0] for each in range(4))] == [64, 65, 66, 67]
    for number in range(4):
        epic.card.put(RING + 16 * number, OWN)
    epic.write(0x00, 0x08)
    epic.card.turn()
    assert [epic.card.words(RING + 16 * each, 1)[0] >> 16 for each in range(2)] == [68, 69]


def test_epic_transmits(epic: Epic) -> None:
    out = frame(b"\x02\0\0\0\0\x09", 80)
    epic.card.memory[BUFFERS : BUFFERS + 80] = out
    epic.card.put(RING + 0x100, 80 << 16 | OWN, BUFFERS, 0x140000 | 80)
    epic.card.put(RING + 0x110, 20 << 16 | OWN, BUFFERS, 0x100000 | 20)
    epic.write(0x00, 0x04)
    assert epic.cables.frames() == [out, out[:20] + bytes(40)]
    assert epic.rung()
    assert epic.read(0x04) & 0x00A0 == 0x00A0
    assert epic.card.words(RING + 0x100, 1)[0] & (OWN | 1) == 1


def test_epic_stops_when_the_bus_refuses(epic: Epic) -> None:
    epic.write(0xC4, MEMORY_BYTES)
    epic.write(0x00, 0x04)
    assert epic.rung()
    assert epic.read(0x04) & 0x1000
    assert epic.card.refused


class Vortex:
    """A little of what 3c59x does."""

    def __init__(self, card: Bus, cables: Cables) -> None:
        self.card, self.cables = card, cables
        self.client: Client = card.connect()
        self.event = self.client.take_intx()
        words = [self._eeprom(10 + number) for number in range(3)]
        self.address = b"".join(word.to_bytes(2, "big") for word in words)
        for command in (11 << 11, 5 << 11):
            self.command(command)
        self.command(1 << 11 | 2)
        for at, byte in enumerate(self.address):
            self.client.write(1, at, 1, byte)
        for number in range(4):
            following = RING + 16 * ((number + 1) % 4)
            card.put(RING + 16 * number, following, 0, BUFFERS + 2048 * number, 0x80000600)
        self.client.write(1, 0x38, 4, RING)
        for command in (16 << 11 | 5, 21 << 11, 4 << 11, 9 << 11, 15 << 11 | 0x6C6, 14 << 11 | 0x6CF):
            self.command(command)

    def _eeprom(self, address: int) -> int:
        self.command(1 << 11)
        self.client.write(1, 0x0A, 2, 0x80 | address)
        assert not self.client.read(1, 0x0A, 2) & 0x8000
        return self.client.read(1, 0x0C, 2)

    def command(self, value: int) -> None:
        self.client.write(1, 0x0E, 2, value)

    def status(self) -> int:
        return self.client.read(1, 0x0E, 2)

    def rung(self) -> bool:
        self.card.turn()
        try:
            os.eventfd_read(self.event)
        except BlockingIOError:
            return False
        return True


@pytest.fixture
def vortex(tmp_path: Path) -> Iterator[Vortex]:
    cables = Cables(EtherLink)
    with bus(tmp_path / "socket", cables.make) as card:
        driver = Vortex(card, cables)
        yield driver
        os.close(driver.event)
        cables.far.close()


def test_vortex_receives_and_is_told_of_what_it_has_not_taken(vortex: Vortex) -> None:
    vortex.cables.far.send(frame(vortex.address, 100))
    assert vortex.rung()
    assert vortex.status() & 0x401 == 0x401
    assert vortex.card.words(RING + 4, 1)[0] == 0x8000 | 100
    assert vortex.card.memory[BUFFERS : BUFFERS + 100] == frame(vortex.address, 100)
    vortex.command(13 << 11 | 0x400)
    vortex.command(13 << 11 | 0x41)
    assert vortex.status() & 0x400
    vortex.card.put(RING + 4, 0)
    vortex.command(13 << 11 | 0x400)
    vortex.command(13 << 11 | 0x41)
    assert not vortex.status() & 0x401


def test_vortex_holds_frames_back_until_there_is_room(vortex: Vortex) -> None:
    for number in range(6):
        vortex.cables.far.send(frame(vortex.address, 60 + number))
    vortex.card.turn()
    vortex.card.turn()
    assert vortex.card.words(RING + 4, 1)[0] == 0x8000 | 60
    for number in range(4):
        vortex.card.put(RING + 16 * number + 4, 0)
    vortex.command(6 << 11 | 1)
    vortex.card.turn()
    assert vortex.card.words(RING + 4, 1)[0] == 0x8000 | 64


@pytest.mark.parametrize(
    ("filters", "to", "wanted"), [(1, BROADCAST, False), (2, MULTICAST, True), (8, b"\2" * 6, True)]
)
def test_vortex_filters(vortex: Vortex, filters: int, to: bytes, wanted: bool) -> None:
    vortex.command(16 << 11 | filters)
    vortex.cables.far.send(frame(to))
    assert vortex.rung() == wanted


def test_vortex_drops_what_waited_when_its_domain_dies(vortex: Vortex) -> None:
    """The next domain's memory has no such list."""
    vortex.card.put(RING + 0x100, 0, 0x80000000 | 90, BUFFERS, 0x80000000 | 90)
    vortex.command(6 << 11 | 2)
    vortex.client.write(1, 0x24, 4, RING + 0x100)
    last = ACCESS.pack(0x0E, 1, 2) + (6 << 11 | 3).to_bytes(2, "little")
    vortex.client.send(Command.REGION_WRITE, last, flags=NO_REPLY)
    vortex.client.close()
    vortex.cables.frames()  # a card on a busy host takes one message a turn, so it sent the frame before it saw the end
    client = vortex.card.connect()
    assert not client.read(1, 0x0E, 2) & 0x0002
    assert vortex.cables.frames() == []


def test_vortex_transmits_fragments(vortex: Vortex) -> None:
    out = frame(b"\x02\0\0\0\0\x09", 90)
    vortex.card.memory[BUFFERS : BUFFERS + 90] = out
    descriptor = RING + 0x100
    vortex.card.put(descriptor, 0, 0x80000000 | 90, BUFFERS, 40, BUFFERS + 40, 0x80000000 | 50)
    vortex.command(6 << 11 | 2)
    vortex.client.write(1, 0x24, 4, descriptor)
    assert vortex.cables.frames() == []
    vortex.command(6 << 11 | 3)
    assert vortex.cables.frames() == [out]
    assert vortex.client.read(1, 0x24, 4) == 0
    assert vortex.status() & 0x200
    time.sleep(2 * UNTOLD_SECONDS)
    assert vortex.rung()
    vortex.command(1 << 11 | 6)
    assert vortex.client.read(1, 6, 1) == 1
    assert vortex.client.read(1, 12, 2) == 94
    assert vortex.client.read(1, 12, 2) == 0


def test_vortex_interrupts_once_for_several_frames(vortex: Vortex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nooks.hardware.etherlink.UNTOLD_SECONDS", 3600.0)
    for count in range(1, UNTOLD_MAX + 1):
        vortex.card.put(RING + 0x100, 0, 0x80000000 | 60, BUFFERS, 0x80000000 | 60)
        vortex.client.write(1, 0x24, 4, RING + 0x100)
        assert vortex.rung() == (count == UNTOLD_MAX)
        assert vortex.status() & 0x200


def test_vortex_fills_checksums_in(vortex: Vortex) -> None:
    header = bytes.fromhex("4500002c00004000401100000a0000010a000002")
    datagram = bytes.fromhex("1234567800180000") + b"sixteen bytes..."
    out = frame(b"\x02\0\0\0\0\x09", 14, b"\x08\x00") + header + datagram
    vortex.card.memory[BUFFERS : BUFFERS + len(out)] = out
    vortex.card.put(RING + 0x100, 0, 0x08000000 | len(out), BUFFERS, 0x80000000 | len(out))
    vortex.client.write(1, 0x24, 4, RING + 0x100)
    sent = vortex.cables.frames()[0]
    assert sent[40:42] != b"\0\0"
    assert sent[:40] == out[:40]


def test_vortex_statistics_ask_to_be_read(vortex: Vortex) -> None:
    for _ in range(800):
        vortex.cables.far.send(frame(vortex.address))
        vortex.card.turn()
        for number in range(4):
            vortex.card.put(RING + 16 * number + 4, 0)
        vortex.command(6 << 11 | 1)
    assert vortex.status() & 0x80
    vortex.command(1 << 11 | 6)
    low, upper = vortex.client.read(1, 7, 1), vortex.client.read(1, 9, 1) & 3
    assert upper << 8 | low == 800
    assert not vortex.status() & 0x80


def test_vortex_stops_when_the_bus_refuses(vortex: Vortex) -> None:
    vortex.client.write(1, 0x24, 4, MEMORY_BYTES)
    assert vortex.rung()
    assert vortex.status() & 0x2
    assert vortex.card.refused


def test_a_dead_drivers_receiver_reaches_nobodys_memory(vortex: Vortex) -> None:
    before = bytes(vortex.card.memory)
    vortex.client.close()
    vortex.cables.far.send(frame(vortex.address))
    vortex.card.turn()
    assert bytes(vortex.card.memory) == before
    assert not vortex.card.refused
    second = vortex.card.connect(master=False)
    assert second.read(1, 0x38, 4) == RING
