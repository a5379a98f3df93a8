"""Parts that cards are made of: EEPROM, transceiver, checksums."""

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nooks.device import model
from nooks.hardware import mii
from nooks.hardware.card import NETWORK_CARDS, SOUND_CARDS
from nooks.hardware.checksum import fill_in
from nooks.hardware.eeprom import SerialEeprom
from nooks.hardware.loop import Loop
from nooks.hardware.misbehaviour import Kind


def test_the_tables_agree_with_the_code() -> None:
    assert set(model.table()) == set(NETWORK_CARDS) | set(SOUND_CARDS)
    assert set(model.MISBEHAVIOURS) == set(Kind)


def shift(eeprom: SerialEeprom, bits: str) -> None:
    for bit in bits:
        for clock in (False, True):
            eeprom.drive(select=True, clock=clock, data=bit == "1")


def read_word(eeprom: SerialEeprom, address: int) -> int:
    eeprom.drive(select=True, clock=False, data=False)
    shift(eeprom, f"0110{address:06b}")
    assert eeprom.data_out == 0
    value = 0
    for _ in range(16):
        shift(eeprom, "0")
        value = value << 1 | eeprom.data_out
    eeprom.drive(select=False, clock=False, data=False)
    return value


def instruct(eeprom: SerialEeprom, bits: str) -> None:
    eeprom.drive(select=True, clock=False, data=False)
    shift(eeprom, bits)
    eeprom.drive(select=False, clock=False, data=False)


def test_an_eeprom_is_read_and_written_bit_by_bit() -> None:
    eeprom = SerialEeprom([0x1234, 0xBEEF])
    assert [read_word(eeprom, address) for address in range(3)] == [0x1234, 0xBEEF, 0xFFFF]
    instruct(eeprom, f"101{1:06b}{0xAAAA:016b}")
    assert read_word(eeprom, 1) == 0xBEEF  # it has to be allowed first
    instruct(eeprom, "100110000")
    instruct(eeprom, f"101{1:06b}{0xAAAA:016b}")
    assert read_word(eeprom, 1) == 0xAAAA
    instruct(eeprom, f"111{1:06b}")
    assert read_word(eeprom, 1) == 0xFFFF


class Manager:
    """Clocks an MDIO interface as drivers do."""

    def __init__(self, interface: mii.ManagementInterface) -> None:
        self._interface = interface

    def _bit(self, bit: int | None) -> int:
        self._interface.drive(0, bit)
        seen = self._interface.data
        self._interface.drive(1, bit)
        return seen

    def read(self, address: int, register: int) -> int:
        for bit in f"{'1' * 32}0110{address:05b}{register:05b}":
            self._bit(int(bit))
        turnaround = [self._bit(None), self._bit(None)]
        value = 0
        for _ in range(16):
            value = value << 1 | self._bit(None)
        return value if turnaround == [1, 0] else mii.NOBODY

    def write(self, address: int, register: int, value: int) -> None:
        for bit in f"{'1' * 32}0101{address:05b}{register:05b}10{value:016b}":
            self._bit(int(bit))


def test_a_transceiver_is_managed_bit_by_bit() -> None:
    manager = Manager(mii.ManagementInterface(mii.Transceiver(0x20005C01), 24))
    assert manager.read(24, mii.PHY_ID1) == 0x2000
    assert manager.read(24, mii.PHY_ID2) == 0x5C01
    assert manager.read(24, mii.BMSR) & 0x24 == 0x24
    assert manager.read(5, mii.BMSR) == mii.NOBODY
    manager.write(24, mii.ANAR, 0x0101)
    manager.write(3, mii.ANAR, 0x0001)
    assert manager.read(24, mii.ANAR) == 0x0101
    manager.write(24, mii.BMCR, 0x8000)
    assert manager.read(24, mii.ANAR) != 0x0101


def one_by_one(data: bytes) -> int:
    """RFC 1071, word by word."""
    total = sum(
        struct.unpack(f">{len(data) // 2}H", data + b"\0" * (len(data) & 1))
        if not len(data) & 1
        else struct.unpack(f">{len(data) // 2 + 1}H", data + b"\0")
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@given(st.sampled_from([6, 17]), st.integers(20, 1460), st.integers(0, 2**32), st.booleans(), st.integers(0, 10))
def test_checksums(protocol: int, size: int, seed: int, tagged: bool, options: int) -> None:
    data = random.Random(seed).randbytes(size)
    addresses = random.Random(seed + 1).randbytes(8)
    header_bytes = 20 + 4 * options
    first = 0x40 | header_bytes // 4
    header = struct.pack(">BBHHHBBH", first, 0, header_bytes + size, 1, 0x4000, 64, protocol, 0) + addresses
    header += random.Random(seed + 2).randbytes(4 * options)
    tag = b"\x81\x00\x00\x05" if tagged else b""
    frame = bytearray(bytes(12) + tag + b"\x08\x00" + header + data + b"padding")
    fill_in(frame)
    segment = bytes(frame[len(tag) + 14 + header_bytes : -7])
    assert one_by_one(addresses + struct.pack(">HH", protocol, size) + segment) == 0xFFFF
    at = 16 if protocol == 6 else 6
    assert segment[:at] + segment[at + 2 :] == data[:at] + data[at + 2 :]


@pytest.mark.parametrize("length", [0, 13, 14, 20, 33, 34, 40])
def test_frames_that_have_no_checksum_stay_as_they_are(length: int) -> None:
    short = bytearray((bytes(12) + b"\x08\x00\x45" + bytes(8) + b"\x06" + bytes(40))[:length])
    before = bytes(short)
    fill_in(short)
    assert short == before


def test_a_timer_is_not_late_for_what_another_sets() -> None:
    loop = Loop()
    begin = loop.clock()
    done: dict[str, float] = {}

    def note(what: str) -> None:
        done[what] = loop.clock()

    def first() -> None:
        loop.call_at(begin + 0.2, lambda: note("third"))
        note("first")

    loop.call_at(begin + 0.02, lambda: note("second"))
    loop.call_at(begin + 0.01, first)
    while len(done) < 3:
        loop.turn(1.0)
    loop.close()
    assert list(done) == ["first", "second", "third"]
    assert done["second"] < begin + 0.15


def test_timers_keep_their_order() -> None:
    loop, called = Loop(), []
    now = loop.clock()
    loop.call_at(now + 0.02, lambda: called.append("late"))
    loop.call_at(now + 0.001, lambda: called.append("early"))
    loop.call_at(now + 0.002, lambda: called.append("never")).cancel()
    while "late" not in called:
        loop.turn(1.0)
    assert called == ["early", "late"]
    loop.close()
