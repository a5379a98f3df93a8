"""A serial EEPROM of 64 words of 16 bits (93C46, National Semiconductor's data sheet): instructions come bit by bit."""

from collections.abc import Sequence

WORDS = 64

_READ, _WRITE, _ERASE, _OTHER = 2, 1, 3, 0
_ENABLE, _DISABLE = 3, 0
_INSTRUCTION_BITS = 9
"""A start bit, two of operation, six of address."""


class SerialEeprom:
    """Select, clock and data in; data out. A rising clock shifts."""

    def __init__(self, words: Sequence[int]) -> None:
        self.words = [*words, *([0xFFFF] * (WORDS - len(words)))]
        self.data_out = 1
        self._writable = False
        self._clock = False
        self._select = False
        self._begin()

    def _begin(self) -> None:
        self._shifted = 0
        self._count = 0
        self._reading: int | None = None

    def drive(self, *, select: bool, clock: bool, data: bool) -> None:
        """Set the three lines."""
        if not select:
            self.data_out = 1  # ready
            self._begin()
        elif clock and not self._clock and self._select:
            self._shift(int(data))
        self._select, self._clock = select, clock

    def _shift(self, bit: int) -> None:
        if self._reading is not None:
            self._count += 1
            self.data_out = self._reading >> max(0, 16 - self._count) & 1
            return
        if not self._count and not bit:
            return  # zeros before the start bit
        self._shifted = self._shifted << 1 | bit
        self._count += 1
        if self._count == _INSTRUCTION_BITS:
            self._instruct(self._shifted >> 6 & 3, self._shifted & 63)
        elif self._count == _INSTRUCTION_BITS + 16:
            self._store(self._shifted >> 22 & 3, self._shifted >> 16 & 63, self._shifted & 0xFFFF)

    def _instruct(self, operation: int, address: int) -> None:
        if operation == _READ:
            self._reading, self._count, self.data_out = self.words[address], 0, 0
        elif operation == _OTHER and address >> 4 in (_ENABLE, _DISABLE):
            self._writable = address >> 4 == _ENABLE
            self._begin()
        elif operation == _ERASE:
            if self._writable:
                self.words[address] = 0xFFFF
            self._begin()

    def _store(self, operation: int, address: int, value: int) -> None:
        if operation == _WRITE and self._writable:
            self.words[address] = value
        self._begin()
