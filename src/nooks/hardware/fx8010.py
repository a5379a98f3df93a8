"""FX8010, the signal processor of EMU10K1 and EMU10K2: its instructions, and what a program makes of its inputs.

Source: the processor's patents and the published "Programming the FX8010" (A. Rossum, E-mu), whose mnemonics are used.
A program runs once for each sample. Doing so here for 48,000 a second is beyond Python, so it is run for test values
whenever it or its registers changed, which gives the gain from each input to each output at rest; these gains are what
the card then applies. What depends on more than the present sample (tone controls that are switched on, tank memory) is
therefore not heard.
"""

from collections.abc import Sequence
from dataclasses import dataclass

_CONSTANTS = (
    *(0, 1, 2, 3, 4, 8, 0x10, 0x20, 0x100, 0x10000, 0x80000, 0x10000000, 0x20000000, 0x40000000, -0x80000000),
    *(0x7FFFFFFF, -1, -2, -0x40000000, 0x4F1BBCDC, 0x5A7EF9DB, 0x100000),
)
_ACCUMULATOR, _CONDITION = len(_CONSTANTS), len(_CONSTANTS) + 1
_SPECIALS = 0x20

_MIN, _MAX = -0x80000000, 0x7FFFFFFF
_MINUS, _ZERO, _SATURATED = 0x4, 0x8, 0x10
_ALWAYS = 0x7FFFFFFF
_TEST = 0x01000000
"""A sample far from the limits."""
_PASSES = 3


@dataclass(frozen=True)
class Layout:
    """Where a chip has what: operands' addresses, and the fields of an instruction."""

    operand_bits: int
    instructions: int
    inputs: int
    outputs: int
    constants: int
    registers: int
    register_count: int


class Processor:
    """Program and registers of one chip. ``gains`` is the gain from any input to any output."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._words = [0] * (2 * layout.instructions)
        self._memory: dict[int, int] = {}
        self._gains: dict[tuple[int, int], float] = {}
        self._program: list[tuple[int, int, int, int, int]] | None = None

    def write_register(self, number: int, value: int) -> None:
        """A general purpose register."""
        self._memory[self._layout.registers + number] = _signed(value)
        self._gains.clear()

    def read_register(self, number: int) -> int:
        """As 32 bits without sign."""
        return self._memory.get(self._layout.registers + number, 0) & 0xFFFFFFFF

    def write_code(self, number: int, value: int) -> None:
        """A word of the program: two make an instruction, the operands X and Y first."""
        if 0 <= number < len(self._words):
            self._words[number] = value
            self._program = None
            self._gains.clear()

    def read_code(self, number: int) -> int:
        """A word of the program."""
        return self._words[number] if 0 <= number < len(self._words) else 0

    def gain(self, source: int, target: int) -> float:
        """From the operand ``source`` (an effects bus or an external input) to the external output ``target``."""
        found = self._gains.get((source, target))
        if found is None:
            self._measure(source)
            found = self._gains.setdefault((source, target), 0.0)
        return found

    def _measure(self, source: int) -> None:
        memory = dict(self._memory)
        for _ in range(_PASSES):
            memory[source] = _TEST
            self._pass(memory)
        for target in range(self._layout.outputs, self._layout.outputs + 32):
            value = memory.get(target, 0)
            if value:
                self._gains[source, target] = value / _TEST

    def _decoded(self) -> list[tuple[int, int, int, int, int]]:
        bits = self._layout.operand_bits
        mask = (1 << bits) - 1
        program: list[tuple[int, int, int, int, int]] = []
        for low, high in zip(self._words[0::2], self._words[1::2], strict=True):
            program.append((high >> 2 * bits & 0xF, high >> bits & mask, high & mask, low >> bits & mask, low & mask))
        return program

    def _pass(self, memory: dict[int, int]) -> None:
        if self._program is None:
            self._program = self._decoded()
        base, condition, skip = self._layout.constants, 0, 0
        for operation, result, a, x, y in self._program:
            if skip:
                skip -= 1
                continue
            operands = [self._operand(memory, base, condition, each) for each in (a, x, y)]
            if operation == 0xF:
                if _holds(operands[0], operands[1]):
                    skip = operands[2]
                continue
            value = _execute(operation, *operands, memory)
            if not base <= result < base + _SPECIALS:
                memory[result] = value
            condition = (_MINUS if value < 0 else 0) | (_ZERO if value == 0 else 0)
            condition |= _SATURATED if value in (_MIN, _MAX) else 0

    @staticmethod
    def _operand(memory: dict[int, int], base: int, condition: int, address: int) -> int:
        number = address - base
        if 0 <= number < len(_CONSTANTS):
            return _CONSTANTS[number]
        if number == _CONDITION:
            return condition
        if number == _ACCUMULATOR:
            return memory.get(-1, 0)
        return memory.get(address, 0)


def _execute(operation: int, a: int, x: int, y: int, memory: dict[int, int]) -> int:
    """One instruction's result; the accumulator is kept under -1."""
    if operation <= 0x5:
        product = x * y if operation & 4 else x * y >> 31
        total = a - product if operation in (1, 3) else a + product
        value = _wrapped(total) if operation in (2, 3, 5) else _limited(total)
    elif operation == 0x6:  # ACC3
        value = _limited(a + x + y)
    elif operation == 0x7:  # MACMV
        memory[-1] = _limited(memory.get(-1, 0) + (x * y >> 31))
        return a
    elif operation == 0x8:  # ANDXOR
        return _signed((a & x ^ y) & 0xFFFFFFFF)
    elif operation == 0x9:  # TSTNEG
        return x if a >= y else ~x
    elif operation == 0xA:  # LIMIT
        return x if a >= y else y
    elif operation == 0xB:  # LIMIT1
        return x if a < y else y
    elif operation == 0xE:  # INTERP
        value = _limited(a + (x * (y - a) >> 31))
    else:  # LOG and EXP: of tank memory and meters alone
        return a
    memory[-1] = value
    return value


def _holds(condition: int, test: int) -> bool:
    """A test's lower five bits must be set in the condition, the next five not."""
    if test == _ALWAYS:
        return True
    return condition & test & 0x1F == test & 0x1F and not condition & test >> 5 & 0x1F


def _limited(value: int) -> int:
    return _MIN if value < _MIN else _MAX if value > _MAX else value


def _wrapped(value: int) -> int:
    return _signed(value & 0xFFFFFFFF)


def _signed(value: int) -> int:
    return value - (1 << 32) if value & 0x80000000 else value


def matrix(processor: Processor, sources: Sequence[int], targets: Sequence[int]) -> list[list[float]]:
    """Gains as rows of sources."""
    return [[processor.gain(source, target) for target in targets] for source in sources]
