"""3Com EtherLink XL 10/100 (3C905B-TX, "Cyclone"): 3C90xC and 3C90xB NICs Technical Reference, and its names.

Registers up to 0x0d come in eight windows. Frames go down (to the cable) by a list of download packet descriptors, and
up by a ring of upload packet descriptors; both are fragments of memory.

The driver's interrupt handler goes on as long as it is told of something new, and gives up for a second if that does
not end. On a card a frame takes its time; here the next is there at once, so for a moment after the driver has
acknowledged an interrupt there is no other. And since its acknowledgement takes long to get here, a frame that arrives
meanwhile, which it meant not, is told of once more.

Left out: the FIFO-only mode of older cards, early receive, priorities, multicast by hash filter, VLAN stripping,
wake-on-LAN, the expansion ROM, timers and the checking of received checksums (it says so in the descriptor). The
transceiver always has link. A frame is on the cable the moment that it is downloaded, so nothing underruns. It is
downloaded when the driver is done with the registers for the moment, or a few frames wait: the list's next frame then
needs no new pointer, and who receives them is woken once.

Bits are plain integers: an operation on an enumeration's members takes a microsecond, and a frame has dozens of them.
"""

import struct

from nooks.hardware.checksum import fill_in
from nooks.hardware.etherlink_fragments import gather, scatter
from nooks.hardware.etherlink_registers import EEPROM_WORDS, Command, Event, eeprom, wanted
from nooks.hardware.etherlink_statistics import UPPER_BYTES_OK, Statistics
from nooks.hardware.ethernet import card_address
from nooks.hardware.loop import Loop
from nooks.hardware.memory import DmaRefused, Refused
from nooks.hardware.mii import ManagementInterface, Transceiver
from nooks.hardware.network import NetworkCard
from nooks.hardware.pci import Bar, Identity

WINDOWED_BYTES, REGISTER_BYTES = 0x0E, 128

INT_STATUS, TX_STATUS, DMA_CTRL, DN_LIST_PTR, UP_PKT_STATUS, UP_LIST_PTR = 0x0E, 0x1B, 0x20, 0x24, 0x30, 0x38
"""Outside of the windows. Writing INT_STATUS gives a command."""

EEPROM_COMMAND, EEPROM_DATA = 0x0A, 0x0C  # window 0
INTERNAL_CONFIG, MEDIA_OPTIONS = 0x00, 0x08  # window 3
PHYSICAL_MGMT, MEDIA_STATUS, BAD_SSD = 0x08, 0x0A, 0x0C  # window 4
RX_FILTER, INTERRUPT_ENABLE, INDICATION_ENABLE = 0x08, 0x0A, 0x0C  # window 5

VENDOR_ADDRESS = bytes.fromhex("001050")
PHY_ADDRESS, PHY_IDENTIFIER = 24, 0x00180000
PACKETS_MAX = 4096
"""Downloaded at one go."""

_AUTONEGOTIATION = 8
_INTERNAL_CONFIG = 1 << 24 | _AUTONEGOTIATION << 20
_MEDIA_100BASE_TX_MII = 0x000A
_LINK_DETECTED, _LINK_BEAT = 0x0800, 0x0080


_ACKNOWLEDGED = Event.LATCH | Event.RX_EARLY | Event.INT_REQUESTED | Event.DN_COMPLETE | Event.UP_COMPLETE
"""What the acknowledge command takes back; the others go when their cause goes."""
_CAUSES = 0x7FE


_DN_INDICATE, _DN_COMPLETE = 0x80000000, 0x00010000
_CHECKSUMS = 0x0E000000
"""Of a download descriptor's frame start header: insert the IP, TCP, UDP checksum."""
_UP_COMPLETE, _UP_ERROR, _UP_OVERFLOW = 0x8000, 0x4000, 0x01000000
_MASTER_ABORT = 0x80000000

WAITING_MAX = 8
"""So many frames may wait in the list while the driver goes on; it has 16 descriptors."""
UNTOLD_MAX, UNTOLD_SECONDS = 12, 0.002
"""So many downloaded frames may wait for their interrupt, and so long: an interrupt costs more than a frame."""
QUIET_SECONDS = 0.0002
"""After an interrupt was acknowledged: what the longest frame takes at 100 Mbit/s, and then some."""


class EtherLink(NetworkCard):
    """The card, found by its stock driver ``3c59x``."""

    identity = Identity(
        vendor=0x10B7,
        device=0x9055,
        class_code=0x020000,
        revision=0x30,
        subsystem_vendor=0x10B7,
        subsystem=0x9055,
        min_grant=10,
        max_latency=10,
    )
    bars = {0: Bar(REGISTER_BYTES, io=True), 1: Bar(REGISTER_BYTES)}
    power_management = 0xDC

    def __init__(self, loop: Loop, refused: Refused, cable: int, serial: str) -> None:
        super().__init__(loop, refused, cable, serial)
        self.address = card_address(VENDOR_ADDRESS, serial)
        self._eeprom = eeprom(self.address)
        self._phy = Transceiver(PHY_IDENTIFIER)
        self._mdio = ManagementInterface(self._phy, PHY_ADDRESS)
        self.reset()

    def reset(self) -> None:
        """As after power-on, or a global reset."""
        self._window = 0
        self._windows = [bytearray(16) for _ in range(8)]
        struct.pack_into("<I", self._windows[3], INTERNAL_CONFIG, _INTERNAL_CONFIG)
        struct.pack_into("<H", self._windows[3], MEDIA_OPTIONS, _MEDIA_100BASE_TX_MII)
        struct.pack_into("<H", self._windows[4], MEDIA_STATUS, _LINK_DETECTED | _LINK_BEAT)
        self._others = bytearray(REGISTER_BYTES)
        self._status = 0
        self._quiet_until = 0.0
        self._waking = False
        self._untold = 0
        self._interrupt_enable = 0
        self._indication_enable = 0
        self._filter = 0
        self._counting = False
        self._statistics = Statistics(self._windows[6], self._windows[4])
        self._phy.reset()
        self._reset_transmitter()
        self._reset_receiver()
        self._update()

    def _reset_transmitter(self) -> None:
        self._transmitting = False
        self._down_stalled = False
        self._down_at = 0
        self._waiting = 0
        self._bus_errors = 0

    def _reset_receiver(self) -> None:
        self._receiving = False
        self._up_stalled = False
        self._up_at = 0
        self._last_up = 0
        self._received = False

    def mastering_changed(self, enabled: bool) -> None:
        """What waited for a domain that is gone is not looked for in the next one's memory."""
        self._waiting = 0

    # -- registers ----------------------------------------------------------------------------------------------

    def read(self, bar: int, offset: int, size: int) -> int:
        """Both regions show the same registers."""
        if offset == INT_STATUS:
            value = self._status | self._window << 13
        elif offset < WINDOWED_BYTES:
            value = self._read_windowed(offset, size)
        elif offset == DN_LIST_PTR:
            value = self._down_at
        elif offset == UP_LIST_PTR:
            value = self._up_at
        elif offset == DMA_CTRL:
            value = self._bus_errors | (0x4 if self._down_stalled else 0) | (0x2000 if self._up_stalled else 0)
        else:
            value = int.from_bytes(self._others[offset : offset + size], "little")
        return value & (1 << 8 * size) - 1

    def _read_windowed(self, offset: int, size: int) -> int:
        window = self._windows[self._window]
        if self._window == 4 and offset == PHYSICAL_MGMT:
            return self._mdio.data << 1
        value = int.from_bytes(window[offset : offset + size], "little")
        if self._window == 6 or (self._window == 4 and offset in (BAD_SSD, UPPER_BYTES_OK)):
            window[offset : offset + size] = bytes(size)  # statistics are cleared by being read
            self._check_statistics()
        elif self._window == 5:
            at = {RX_FILTER: self._filter, INTERRUPT_ENABLE: self._interrupt_enable}
            return at.get(offset, self._indication_enable if offset == INDICATION_ENABLE else value)
        return value

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        """The command register comes first: it is written twice for each frame."""
        if offset == INT_STATUS:
            self._command(value >> 11, value & 0x7FF)
        elif offset < WINDOWED_BYTES:
            self._write_windowed(offset, size, value)
        elif offset == DN_LIST_PTR:
            if not self._down_at or not value:
                self._down_at = value & ~7
                self._download_soon()
        elif offset == UP_LIST_PTR:
            self._up_at = value & ~7
            self.cable.go_on()
        elif offset == TX_STATUS:
            self._status &= ~Event.TX_COMPLETE
            self._update()
        else:
            self._others[offset : offset + size] = value.to_bytes(size, "little")

    def _write_windowed(self, offset: int, size: int, value: int) -> None:
        window = self._windows[self._window]
        if self._window == 0 and offset == EEPROM_COMMAND:
            if value >> 6 & 3 == 2:  # read register
                struct.pack_into("<H", window, EEPROM_DATA, self._eeprom[value & EEPROM_WORDS - 1])
            value &= 0x7FFF  # done: not busy
        elif self._window == 4 and offset == PHYSICAL_MGMT:
            self._mdio.drive(value & 1, value >> 1 & 1 if value & 4 else None)
            return
        elif self._window == 4 and offset == MEDIA_STATUS:
            value |= _LINK_DETECTED
        elif self._window == 6:
            return
        window[offset : offset + size] = value.to_bytes(size, "little")

    def _command(self, command: int, parameter: int) -> None:
        if command == Command.STALL:
            self._stall(parameter)
        elif command == Command.ACKNOWLEDGE:
            self._acknowledge(parameter & _ACKNOWLEDGED)
        elif command == Command.SELECT_WINDOW:
            self._window = parameter & 7
        elif command == Command.GLOBAL_RESET:
            self.reset()
            self.was_reset()
        elif command in (Command.RX_DISABLE, Command.RX_ENABLE):
            self._receiving = command == Command.RX_ENABLE
            self.cable.go_on()
        elif command == Command.RX_RESET:
            self._reset_receiver()
            self._filter = 0
            self.cable.go_on()
            self.was_reset()
        elif command in (Command.TX_ENABLE, Command.TX_DISABLE):
            self._transmitting = command == Command.TX_ENABLE
            self._download()
        elif command == Command.TX_RESET:
            self._reset_transmitter()
            self.was_reset()
        else:
            self._set(command, parameter)

    def _set(self, command: int, parameter: int) -> None:
        if command == Command.REQUEST_INTERRUPT:
            self._indicate(Event.INT_REQUESTED)
        elif command == Command.SET_INTERRUPT_ENABLE:
            self._interrupt_enable = parameter
            self._update()
        elif command == Command.SET_INDICATION_ENABLE:
            self._indication_enable = parameter
            self._status &= parameter | Event.LATCH
            self._update()
        elif command == Command.SET_RX_FILTER:
            self._filter = parameter
        elif command in (Command.STATISTICS_ENABLE, Command.STATISTICS_DISABLE):
            self._counting = command == Command.STATISTICS_ENABLE

    def _stall(self, parameter: int) -> None:
        if parameter & 2:
            self._down_stalled = not parameter & 1
            self._download_soon()
        else:
            self._up_stalled = not parameter & 1
            self.cable.go_on()

    # -- interrupts ---------------------------------------------------------------------------------------------

    def _indicate(self, events: int) -> None:
        self._status |= events & self._indication_enable
        self._update()

    def _update(self) -> None:
        """The latch is set by any enabled cause, and stays until it is acknowledged after its causes are gone."""
        status = self._status
        causes = _CAUSES & ~Event.DN_COMPLETE if self._untold else _CAUSES
        if status & self._interrupt_enable & causes and not status & Event.LATCH:
            if self._quiet_until and self.loop.clock() < self._quiet_until:
                if not self._waking:
                    self._waking = True
                    self.loop.call_at(self._quiet_until, self._wake)
                return
            self._status = status = status | Event.LATCH
        self.interrupts.set_level(bool(status & Event.LATCH))

    def _wake(self) -> None:
        self._waking = False
        self._quiet_until = 0.0
        self._update()

    def _acknowledge(self, events: int) -> None:
        self._status &= ~events
        if events & Event.LATCH:
            self._quiet_until = self.loop.clock() + QUIET_SECONDS
            self.interrupts.set_level(False)
            if self._last_up and self._untaken(self._last_up):
                self._status |= Event.UP_COMPLETE & self._indication_enable
        self._update()

    def _untaken(self, descriptor: int) -> bool:
        """Whether the driver has not yet taken what was uploaded last."""
        try:
            return bool(self.memory.read_words(descriptor + 4, 1)[0] & _UP_COMPLETE)
        except DmaRefused:
            return False

    def _bus_error(self) -> None:
        """The bus refused: nothing moves until the driver has reset both directions."""
        self._transmitting = self._receiving = False
        self._bus_errors = _MASTER_ABORT
        self._indicate(Event.HOST_ERROR)

    # -- down: to the cable -------------------------------------------------------------------------------------

    def idle(self) -> None:
        """The driver wants nothing at the moment."""
        if self._waiting:
            self._download()

    def _download_soon(self) -> None:
        if not self._down_stalled:
            self._waiting += 1
            if self._waiting >= WAITING_MAX:
                self._download()

    def _download(self) -> None:
        self._waiting = told = 0
        try:
            for _ in range(PACKETS_MAX):
                if not self._down_at or self._down_stalled or not self._transmitting:
                    break
                link, header = self.memory.read_words(self._down_at, 2)
                frame = gather(self.memory, self._down_at + 8)
                if header & _CHECKSUMS:
                    fill_in(frame)
                self.cable.send(frame)
                self.memory.write_word(self._down_at + 4, header | _DN_COMPLETE)
                self._down_at = link & ~7
                if self._counting:
                    self._statistics.sent(len(frame))
                    self._check_statistics()
                if header & _DN_INDICATE:
                    told += 1
        except DmaRefused:
            self._bus_error()
            return
        if told:
            self._downloaded(told)

    def _downloaded(self, frames: int) -> None:
        """The driver can see at once that frames are gone, and is interrupted for several at a time."""
        first = not self._untold
        self._untold += frames
        if self._untold >= UNTOLD_MAX:
            self._tell_downloaded()
        elif first:
            self.loop.call_at(self.loop.clock() + UNTOLD_SECONDS, self._tell_downloaded)
        self._indicate(Event.DN_COMPLETE)

    def _tell_downloaded(self) -> None:
        self._untold = 0
        self._update()

    # -- up: from the cable -------------------------------------------------------------------------------------

    def arrived(self, frame: bytes) -> bool:
        """Into the next upload descriptor; what is not for us, or comes while nobody receives, is gone."""
        if not self._receiving or not wanted(frame, self._filter, self._windows[2]):
            return True
        if not self.memory.enabled:
            self._statistics.overrun()
            self._check_statistics()
            return True
        if self._up_stalled or not self._up_at:
            return False
        try:
            link, status = self.memory.read_words(self._up_at, 2)
            if status & _UP_COMPLETE:
                self._up_stalled = True  # the driver has not taken it: wait until it says that it has
                return False
            status = _UP_COMPLETE | len(frame)
            if not scatter(self.memory, self._up_at + 8, frame):
                status |= _UP_ERROR | _UP_OVERFLOW
            self.memory.write_word(self._up_at + 4, status)
            self._last_up = self._up_at
            self._up_at = link & ~7
        except DmaRefused:
            self._bus_error()
            return True
        if self._counting:
            self._statistics.received(len(frame))
            self._check_statistics()
        self._received = True
        return True

    def settled(self) -> None:
        """Tell of what was uploaded."""
        if self._received:
            self._received = False
            self._indicate(Event.UP_COMPLETE)

    def _check_statistics(self) -> None:
        """updateStats as long as a counter is nearly full."""
        if self._statistics.full:
            self._indicate(Event.UPDATE_STATS)
        elif self._status & Event.UPDATE_STATS:
            self._status &= ~Event.UPDATE_STATS
            self._update()
