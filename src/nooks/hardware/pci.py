"""A PCI function: its configuration space, its regions, its way to memory and interrupts. Cards derive from it.

Source: PCI Local Bus Specification 2.2, chapter 6. Registers are read and written in naturally aligned pieces of 1, 2
or 4 bytes, as on the bus; whoever asks for more gets it piece by piece.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntFlag
from typing import ClassVar

from nooks.hardware.interrupts import Interrupts
from nooks.hardware.loop import Loop
from nooks.hardware.memory import GuestMemory, Refused

CONFIG_BYTES = 256

VENDOR, DEVICE, COMMAND, STATUS, REVISION, CLASS, CACHE_LINE, LATENCY = 0x00, 0x02, 0x04, 0x06, 0x08, 0x09, 0x0C, 0x0D
BARS, SUBSYSTEM_VENDOR, SUBSYSTEM, CAPABILITIES, IRQ_LINE, IRQ_PIN = 0x10, 0x2C, 0x2E, 0x34, 0x3C, 0x3D
MIN_GRANT, MAX_LATENCY = 0x3E, 0x3F

_STATUS_CAPABILITIES = 0x0010
_CAPABILITY_POWER = 0x01
_POWER_STATE_MASK = 0x3


class CommandBits(IntFlag):
    """Of the Command register. Bit 10, which forbids INTx, is of PCI 2.3 and read-only zero on cards of this age; a
    VFIO client finds that out by writing it, and masks the interrupt by itself then."""

    IO = 1
    MEMORY = 2
    MASTER = 4
    WRITE_AND_INVALIDATE = 0x10
    PARITY = 0x40
    SYSTEM_ERROR = 0x100


_COMMAND_WRITABLE = 0x157


@dataclass(frozen=True)
class Identity:
    """The read-only part of a function's header; ``class_code`` with the programming interface in its low byte."""

    vendor: int
    device: int
    class_code: int
    revision: int
    subsystem_vendor: int
    subsystem: int
    min_grant: int = 0
    max_latency: int = 0


@dataclass(frozen=True)
class Bar:
    """A region of ``size`` bytes, a power of two."""

    size: int
    io: bool = False


class PciFunction:
    """One function without multifunction friends. A card defines identity and regions, and what its registers do."""

    identity: ClassVar[Identity]
    bars: ClassVar[Mapping[int, Bar]] = {}
    resettable: ClassVar[bool] = False
    """Whether the function can be reset through its client. Cards of this age can't: the next driver finds them as
    the last one left them."""
    yields: ClassVar[bool] = False
    """Whether it lets others run and looks for the next access before it sleeps. Nothing for what keeps a clock."""
    power_management: ClassVar[int | None] = None
    """Where its power management capability is, if it has one (PCI Power Management 1.0)."""

    def __init__(self, loop: Loop, refused: Refused) -> None:
        self.loop = loop
        self.memory = GuestMemory(refused)
        self.interrupts = Interrupts(loop)
        self.read_register: Callable[[int, int, int], int] = self.read
        """What a client's reading a register leads to; misbehaviour may put something else here."""
        self.was_reset: Callable[[], None] = lambda: None
        """Called when a driver, or power management, has reset the card."""
        self.config = bytearray(CONFIG_BYTES)
        self._writable = bytearray(CONFIG_BYTES)
        self._lay_out()
        self._initial = bytes(self.config)

    # -- what a card defines ------------------------------------------------------------------------------------

    def read(self, bar: int, offset: int, size: int) -> int:
        """A register's value."""
        raise NotImplementedError

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        """Write a register."""
        raise NotImplementedError

    def reset(self) -> None:
        """The state after power-on."""
        raise NotImplementedError

    def idle(self) -> None:
        """Its client wants nothing at the moment."""

    def mastering_changed(self, enabled: bool) -> None:
        """The function may reach memory from now on, or no longer."""

    def close(self) -> None:
        """The machine's power goes."""

    # -- configuration space ------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        one, config = self.identity, self.config
        struct.pack_into("<HH", config, VENDOR, one.vendor, one.device)
        struct.pack_into("<H", config, STATUS, 0x0280)  # medium DEVSEL timing, fast back-to-back
        config[REVISION] = one.revision
        config[CLASS : CLASS + 3] = one.class_code.to_bytes(3, "little")
        struct.pack_into("<HH", config, SUBSYSTEM_VENDOR, one.subsystem_vendor, one.subsystem)
        config[IRQ_PIN], config[MIN_GRANT], config[MAX_LATENCY] = 1, one.min_grant, one.max_latency
        struct.pack_into("<H", self._writable, COMMAND, _COMMAND_WRITABLE)
        self._writable[CACHE_LINE] = self._writable[LATENCY] = self._writable[IRQ_LINE] = 0xFF
        for number, bar in self.bars.items():
            struct.pack_into("<I", config, BARS + 4 * number, int(bar.io))
            struct.pack_into("<I", self._writable, BARS + 4 * number, ~(bar.size - 1) & 0xFFFFFFFF)
        if self.power_management is not None:
            at = self.power_management
            config[STATUS] |= _STATUS_CAPABILITIES
            config[CAPABILITIES] = at
            config[at : at + 4] = bytes([_CAPABILITY_POWER, 0, 0x01, 0x00])
            self._writable[at + 4] = _POWER_STATE_MASK

    def read_config(self, offset: int, size: int) -> bytes:
        """A piece of the configuration space."""
        return bytes(self.config[offset : offset + size])

    def write_config(self, offset: int, data: bytes) -> None:
        """Write a piece of it: what is read-only stays."""
        before = self._power_state()
        for at, byte in enumerate(data, start=offset):
            mask = self._writable[at]
            self.config[at] = self.config[at] & ~mask | byte & mask
        self._set_mastering(bool(self.config[COMMAND] & CommandBits.MASTER))
        if before == 3 and self._power_state() == 0:  # D3hot to D0 is a reset (PCI Power Management 1.0, 5.4)
            self.reset_function()

    def _power_state(self) -> int:
        at = self.power_management
        return self.config[at + 4] & _POWER_STATE_MASK if at is not None else 0

    def _set_mastering(self, enabled: bool) -> None:
        if enabled != self.memory.enabled:
            self.memory.enabled = enabled
            self.mastering_changed(enabled)

    def reset_function(self) -> None:
        """Registers and configuration as after power-on; what the client granted stays."""
        self.config[:] = self._initial
        self._set_mastering(False)
        self.interrupts.set_level(False)
        self.reset()
        self.was_reset()

    # -- the client ---------------------------------------------------------------------------------------------

    def reset_from_outside(self) -> str:
        """Reset by the best method that the function has, as whoever hands a real one on does; says which it was."""
        if self.power_management is None:
            return "none"
        self.reset_function()
        return "pm"

    def disconnect(self) -> None:
        """The client is gone. The card stays as it is, but it is no bus master any more: there is nobody's memory."""
        self.config[COMMAND] &= ~CommandBits.MASTER & 0xFF
        self._set_mastering(False)
        self.memory.withdraw_all()
        self.interrupts.disconnect()
