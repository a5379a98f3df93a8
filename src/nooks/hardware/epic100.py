"""SMC EPIC/100 (83C170), as on the EtherPower II: SMSC's data sheets of 83C170, 83C171 and 83C175 and their names.

Both directions are lists of descriptors of four words, which the chip walks by their links as long as it owns them.

The driver acknowledges what it has heard of long after it looked for frames, so a frame that arrived meanwhile, which
it meant not, is told of once more.

Left out: early transmit and early receive, header copies and fragment lists, wake-on-LAN, the expansion ROM, the GPIO
pins, PCI bursts, monitor mode and loopback. The transceiver always has link. A frame is sent the moment that its
descriptor is read, so there are no underruns.

Bits are plain integers: an operation on an enumeration's members takes a microsecond, and a frame has dozens of them.
"""

import struct

from nooks.hardware.eeprom import SerialEeprom
from nooks.hardware.ethernet import (
    BROADCAST,
    FCS_BYTES,
    card_address,
    frame_check_sequence,
    hash_bit,
    is_multicast,
)
from nooks.hardware.loop import Loop
from nooks.hardware.memory import DmaRefused, Refused
from nooks.hardware.mii import NOBODY, Transceiver
from nooks.hardware.network import NetworkCard
from nooks.hardware.pci import Bar, Identity

REGISTER_BYTES = 256

COMMAND, INTSTAT, INTMASK, GENCTL, NVCTL, EECTL, TEST = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x14, 0x1C
CRCCNT, ALICNT, MPCNT, MMCTL, MMDATA, MIICFG = 0x20, 0x24, 0x28, 0x30, 0x34, 0x38
LAN0, MC0, RXCON, TXCON = 0x40, 0x50, 0x60, 0x70
PRCDAR, PTCDAR = 0x84, 0xC4

VENDOR_ADDRESS = bytes.fromhex("00e029")
PHY_ADDRESS, PHY_IDENTIFIER = 3, 0x20005C01  # National Semiconductor DP83840A
DESCRIPTORS_MAX = 4096
"""Walked at one go: a list that leads back into itself must not hold everybody up."""
FRAME_BYTES_MAX = 1536

_COUNTER_MAX = 0xFF
_EEPROM_SIZE_64 = 0x40
_HASH_BITS = 6


class CommandBits:
    """COMMAND."""

    STOP_RX = 0x01
    START_RX = 0x02
    TXQUEUED = 0x04
    RXQUEUED = 0x08
    NEXTFRAME = 0x10
    STOP_TDMA = 0x20
    STOP_RDMA = 0x40
    TXUGO = 0x80


class Event:
    """INTSTAT and INTMASK; the last three are states and can't be cleared."""

    RCC = 0x0001  # receive copy complete
    RQE = 0x0004  # receive queue empty
    OVW = 0x0008  # receive overflow
    TXC = 0x0020  # transmit complete
    TQE = 0x0080  # transmit queue empty
    CNT = 0x0200  # a counter overflows
    FATAL = 0x1000  # of 83C171 and later: the bus refused
    PARITY = 0x2000
    TARGET_ABORT = 0x4000
    INT_ACTV = 0x10000
    RXIDLE = 0x20000
    TXIDLE = 0x40000


_CLEARABLE = 0x7FFF
_BUS_ERROR = Event.TARGET_ABORT | Event.FATAL


class Control:
    """GENCTL."""

    SOFT_RESET = 0x0001
    INT_ENABLE = 0x0002
    SOFTWARE_INT = 0x0004
    POWER_DOWN = 0x0008
    RESET_PHY = 0x4000


class Receive:
    """RXCON."""

    BROADCAST = 0x04
    MULTICAST = 0x08
    INVERSE = 0x10
    PROMISCUOUS = 0x20


class Eeprom:
    """EECTL."""

    ENABLE = 0x01
    SELECT = 0x02
    CLOCK = 0x04
    DATA_IN = 0x08
    DATA_OUT = 0x10


OWNER = 0x8000
"""Bit 15 of a descriptor's first word: the chip's."""
_SENT = 0x0001
_INTACT, _STATUS_VALID, _MULTICAST, _BROADCAST = 0x0001, 0x1000, 0x0010, 0x0020
_INTERRUPT_AFTER = 0x040000
_LENGTH_MASK = 0xFFFF


class Epic100(NetworkCard):
    """The card, found by its stock driver ``epic100``."""

    identity = Identity(
        vendor=0x10B8,
        device=0x0005,
        class_code=0x020000,
        revision=0x08,
        subsystem_vendor=0x10B8,
        subsystem=0xA011,
        min_grant=8,
        max_latency=28,
    )
    bars = {0: Bar(REGISTER_BYTES, io=True), 1: Bar(4096)}

    def __init__(self, loop: Loop, refused: Refused, cable: int, serial: str) -> None:
        super().__init__(loop, refused, cable, serial)
        self.address = card_address(VENDOR_ADDRESS, serial)
        self._eeprom = SerialEeprom(struct.unpack("<3H", self.address))
        self._phy = Transceiver(PHY_IDENTIFIER)
        self.reset()

    def reset(self) -> None:
        """As after power-on; the address comes from the EEPROM."""
        self._phy.reset()
        self._soft_reset()

    def _soft_reset(self) -> None:
        self._registers = bytearray(REGISTER_BYTES)
        self._events = 0
        self._mask = 0
        self._receiving = False
        self._counters = {CRCCNT: 0, ALICNT: 0, MPCNT: 0}
        self._new_events = 0
        for number, word in enumerate(struct.unpack("<3H", self.address)):
            self._put(LAN0 + 4 * number, word)
        self._station = self.address
        self._filters = 0
        self._hash = 0
        self._receive_at = 0
        self._last_received: tuple[int, int] | None = None
        self._transmit_at = 0
        self._update()

    # -- registers ----------------------------------------------------------------------------------------------

    def read(self, bar: int, offset: int, size: int) -> int:
        """Both regions show the same registers."""
        register = offset & 0xFC
        if register == INTSTAT:
            value = self._status()
        elif register in self._counters:
            value, self._counters[register] = self._counters[register], 0
        elif register == COMMAND:
            value = CommandBits.START_RX if self._receiving else 0
        elif register == INTMASK:
            value = self._mask
        elif register == PRCDAR:
            value = self._receive_at
        elif register == PTCDAR:
            value = self._transmit_at
        else:
            value = self._get(register)
        return value >> 8 * (offset & 3) & (1 << 8 * size) - 1

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        """Pieces of a register leave the rest as it is."""
        register, shift = offset & 0xFC, 8 * (offset & 3)
        if register == COMMAND:
            self._command(value << shift)
            return
        if register == INTSTAT:
            self._acknowledge(value << shift & _CLEARABLE)
            return
        mask = (1 << 8 * size) - 1 << shift
        value = self._get(register) & ~mask | value << shift & mask
        self._put(register, value)
        self._written(register, value)

    def _written(self, register: int, value: int) -> None:
        if register == INTMASK:
            self._mask = value & 0xFFFF
            self._update()
        elif register == PTCDAR:
            self._transmit_at = value & ~3
        elif register == PRCDAR:
            self._receive_at = value & ~3
        elif register == GENCTL:
            self._control(value)
        elif register == EECTL:
            self._drive_eeprom(value)
        elif register == MMCTL:
            self._manage(value)
        elif register == RXCON:
            self._filters = value
        elif LAN0 <= register < LAN0 + 12:
            words = (self._get(LAN0 + 4 * number) & 0xFFFF for number in range(3))
            self._station = struct.pack("<3H", *words)
        elif MC0 <= register < MC0 + 16:
            self._hash = sum((self._get(MC0 + 4 * number) & 0xFFFF) << 16 * number for number in range(4))

    def _get(self, register: int) -> int:
        return int.from_bytes(self._registers[register : register + 4], "little")

    def _put(self, register: int, value: int) -> None:
        self._registers[register : register + 4] = value.to_bytes(4, "little")

    def _control(self, value: int) -> None:
        if value & Control.SOFT_RESET:
            self._soft_reset()
            self._put(GENCTL, value & ~Control.SOFT_RESET)
            self.was_reset()
        if value & Control.RESET_PHY:
            self._phy.reset()
        self._update()

    def _drive_eeprom(self, value: int) -> None:
        enabled = bool(value & Eeprom.ENABLE)
        self._eeprom.drive(
            select=enabled and bool(value & Eeprom.SELECT),
            clock=bool(value & Eeprom.CLOCK),
            data=bool(value & Eeprom.DATA_IN),
        )
        shown = value & 0xF | _EEPROM_SIZE_64 | (Eeprom.DATA_OUT if self._eeprom.data_out else 0)
        self._put(EECTL, shown)

    def _manage(self, value: int) -> None:
        """MMCTL: bit 0 reads, bit 1 writes, and both are clear when that is done."""
        here, register = value >> 9 & 31 == PHY_ADDRESS, value >> 4 & 31
        if value & 1:
            self._put(MMDATA, self._phy.read(register) if here else NOBODY)
        elif value & 2 and here:
            self._phy.write(register, self._get(MMDATA) & 0xFFFF)
        self._put(MMCTL, value & ~3)

    # -- interrupts ---------------------------------------------------------------------------------------------

    def _status(self) -> int:
        value = self._events | (0 if self._receiving else Event.RXIDLE) | Event.TXIDLE
        return value | (Event.INT_ACTV if self._events & self._mask else 0)

    def _raise(self, events: int) -> None:
        self._events |= events
        self._update()

    def _update(self) -> None:
        enabled = self._registers[GENCTL] & Control.INT_ENABLE
        self.interrupts.set_level(bool(enabled and self._events & self._mask))

    def _acknowledge(self, events: int) -> None:
        if events & Event.RCC and self._last_received is not None:
            descriptor, status = self._last_received
            try:
                if self.memory.read_words(descriptor, 1)[0] == status:
                    events &= ~Event.RCC
            except DmaRefused:
                self._last_received = None
        self._events &= ~events
        self._update()

    def _bus_error(self) -> None:
        """The bus refused: both machines stop until the driver has reset the chip."""
        self._receiving = False
        self._raise(_BUS_ERROR)

    # -- frames -------------------------------------------------------------------------------------------------

    def _command(self, value: int) -> None:
        if value & CommandBits.STOP_RX or value & CommandBits.STOP_RDMA:
            self._receiving = False
        if value & CommandBits.START_RX:
            self._receiving = True
        if value & (CommandBits.TXQUEUED | CommandBits.TXUGO):
            self._transmit()
        if value & (CommandBits.START_RX | CommandBits.RXQUEUED):
            self.cable.go_on()

    def _transmit(self) -> None:
        memory, events = self.memory, Event.TQE
        try:
            for _ in range(DESCRIPTORS_MAX):
                status, buffer, control, link = memory.read_words(self._transmit_at, 4)
                if not status & OWNER:
                    break
                length = min(control & _LENGTH_MASK, FRAME_BYTES_MAX)
                self.cable.send(memory.read(buffer, length))
                memory.write_word(self._transmit_at, status & ~0xFFFF | _SENT)
                self._transmit_at = link & ~3
                if control & _INTERRUPT_AFTER:
                    events |= Event.TXC
        except DmaRefused:
            self._bus_error()
            return
        self._raise(events)

    def arrived(self, frame: bytes) -> bool:
        """Into the next descriptor's buffer; what is not for us, or comes while nobody receives, is gone."""
        if not self._receiving or not self._wanted(frame):
            return True
        if not self.memory.enabled:
            self._missed()
            return True
        try:
            status, buffer, control, link = self.memory.read_words(self._receive_at, 4)
            if not status & OWNER:
                self._new_events |= Event.RQE
                return False
            length = len(frame) + FCS_BYTES
            if length > control & _LENGTH_MASK:
                self._missed()
                return True
            self.memory.write(buffer, frame + frame_check_sequence(frame))
            kind = (_BROADCAST if frame[:6] == BROADCAST else _MULTICAST) if is_multicast(frame) else 0
            status = length << 16 | _STATUS_VALID | kind | _INTACT
            self.memory.write_word(self._receive_at, status)
            self._last_received = self._receive_at, status
            self._receive_at = link & ~3
        except DmaRefused:
            self._bus_error()
            return True
        self._new_events |= Event.RCC
        return True

    def settled(self) -> None:
        """Tell of what was received."""
        if self._new_events:
            events, self._new_events = self._new_events, 0
            self._raise(events)

    def _wanted(self, frame: bytes) -> bool:
        filters = self._filters
        if filters & Receive.PROMISCUOUS:
            return True
        to = frame[:6]
        if not to[0] & 1:
            return (to == self._station) != bool(filters & Receive.INVERSE)
        if to == BROADCAST:
            return bool(filters & Receive.BROADCAST)
        return bool(filters & Receive.MULTICAST and self._hash >> hash_bit(to, _HASH_BITS) & 1)

    def _missed(self) -> None:
        """MPCNT, which interrupts when it is half full and stays where it is when it is full."""
        self._counters[MPCNT] = min(self._counters[MPCNT] + 1, _COUNTER_MAX)
        if self._counters[MPCNT] & 0x80:
            self._new_events |= Event.CNT
