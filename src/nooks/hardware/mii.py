"""A transceiver for 10 and 100 Mbit/s (IEEE 802.3, clause 22), as registers, and behind a bit-banged MDIO interface.

The partner is as able as the transceiver is, so negotiation ends at once and always in 100 Mbit/s full duplex.
"""

BMCR, BMSR, PHY_ID1, PHY_ID2, ANAR, ANLPAR, ANER = range(7)

RESET, LOOPBACK, SPEED_100, AUTONEGOTIATE, ISOLATE, RESTART, FULL_DUPLEX = (
    0x8000,
    0x4000,
    0x2000,
    0x1000,
    0x0400,
    0x0200,
    0x0100,
)
_BMCR_KEPT = 0x7D80
_BMSR_ABLE = 0x7849
"""100 and 10 Mbit/s in both duplexes, management frames without preamble, autonegotiation, extended registers."""
_NEGOTIATED, _LINK = 0x0020, 0x0004
_ABILITIES = 0x05E1
"""Pause, both speeds in both duplexes, IEEE 802.3."""
_ACKNOWLEDGE = 0x4000

NOBODY = 0xFFFF
"""What is read where no transceiver answers: the line is pulled up."""


class Transceiver:
    """One, by its registers. ``identifier`` is what both identification registers hold."""

    def __init__(self, identifier: int) -> None:
        self._identifier = identifier
        self.reset()

    def reset(self) -> None:
        """As after power-on."""
        self._control = SPEED_100 | AUTONEGOTIATE | FULL_DUPLEX
        self._advertised = _ABILITIES

    def read(self, register: int) -> int:
        """A register's value."""
        if register == BMCR:
            return self._control
        if register == BMSR:
            linked = 0 if self._control & ISOLATE else _LINK
            return _BMSR_ABLE | linked | (_NEGOTIATED if self._control & AUTONEGOTIATE else 0)
        if register in (PHY_ID1, PHY_ID2):
            return self._identifier >> (16 if register == PHY_ID1 else 0) & 0xFFFF
        if register == ANAR:
            return self._advertised
        if register == ANLPAR:
            return _ABILITIES | _ACKNOWLEDGE if self._control & AUTONEGOTIATE else 0
        if register == ANER:
            return 1  # the partner can negotiate
        return 0

    def write(self, register: int, value: int) -> None:
        """Write a register."""
        if register == BMCR:
            if value & RESET:
                self.reset()
            else:
                self._control = value & _BMCR_KEPT & ~RESTART
        elif register == ANAR:
            self._advertised = value & 0xFFFF


class ManagementInterface:
    """The serial interface to a transceiver, clocked bit by bit (IEEE 802.3, 22.2.4.5): preamble of ones, start 01,
    operation, address, register, turnaround, 16 bits of data."""

    def __init__(self, transceiver: Transceiver, address: int) -> None:
        self._transceiver = transceiver
        self._address = address
        self._clock = 0
        self._begin()

    def _begin(self) -> None:
        self._bits = 0
        self._count = -1  # in the preamble; from 0 on: bits since the start's zero
        self._answer: int | None = None

    def drive(self, clock: int, data: int | None) -> None:
        """Set the clock line, and the data line or None to let go of it. Bits count at the rising edge."""
        rising = clock and not self._clock
        self._clock = clock
        if not rising:
            return
        if self._answer is not None:
            self._count += 1
            if self._count >= 32:
                self._begin()
            return
        if self._count < 0:
            if data == 0:
                self._bits, self._count = 0, 1
            return
        self._bits = self._bits << 1 | (1 if data is None else data)
        self._count += 1
        if self._count == 14:
            self._addressed()
        elif self._count == 32:
            self._written()

    def _addressed(self) -> None:
        """The start's one, operation, address and register are in."""
        if not self._bits >> 12 & 1:
            self._begin()
        elif self._bits >> 10 & 3 == 2:
            here = self._bits >> 5 & 31 == self._address
            self._answer = self._transceiver.read(self._bits & 31) if here else -1

    def _written(self) -> None:
        head = self._bits >> 18
        if head >> 10 & 3 == 1 and head >> 5 & 31 == self._address:
            self._transceiver.write(head & 31, self._bits & 0xFFFF)
        self._begin()

    @property
    def data(self) -> int:
        """The data line as the host sees it."""
        if self._answer is None or self._answer < 0:
            return 1
        bit = self._count - 16  # before the first there is the turnaround, whose second bit is zero
        if bit < 0:
            return 0 if bit == -1 else 1
        return self._answer >> (15 - bit) & 1 if bit < 16 else 1
