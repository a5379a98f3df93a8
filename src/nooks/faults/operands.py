"""The fault types that change one operand: ``source``, ``destination`` and ``pointer``.

The first two stand for wrong assignments, the third for wrong address arithmetic (table III of "Improving the
Reliability of Commodity Operating Systems", TOCS 23(1), 2005; after Ng and Chen, "The Systematic Improvement of Fault
Tolerance in the Rio File Cache", FTCS 1999).
"""

from collections.abc import Callable, Sequence
from functools import partial
from random import Random

from iced_x86 import Instruction, OpAccess, OpKind

from nooks.faults import x86

_READ = frozenset({OpAccess.READ, OpAccess.COND_READ})
_WRITTEN = frozenset({OpAccess.WRITE, OpAccess.COND_WRITE, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE})
_FULL_DISPLACEMENT_BITS = 32

Change = Callable[[Instruction], object]
"""Changes the instruction that it is given."""


def source_places(instructions: Sequence[Instruction]) -> list[int]:
    """Instructions that only read one of their registers."""
    return [index for index, each in enumerate(instructions) if _registers(each, _READ)]


def rewrite_source(instruction: Instruction, code: bytes, random: Random) -> bytes | None:
    """Another register is read; None if none fits."""
    del code
    return _another_register(instruction, _registers(instruction, _READ), random)


def destination_places(instructions: Sequence[Instruction]) -> list[int]:
    """Instructions that write one of their registers."""
    return [index for index, each in enumerate(instructions) if _registers(each, _WRITTEN)]


def rewrite_destination(instruction: Instruction, code: bytes, random: Random) -> bytes | None:
    """Another register is written; None if none fits."""
    del code
    return _another_register(instruction, _registers(instruction, _WRITTEN), random)


def pointer_places(instructions: Sequence[Instruction]) -> list[int]:
    """Instructions with an address in them, one that is only calculated (LEA) included."""
    return [index for index, each in enumerate(instructions) if x86.memory_operand(each) is not None]


def rewrite_pointer(instruction: Instruction, code: bytes, random: Random) -> bytes | None:
    """Another base, another index or another displacement; None if nothing fits."""
    del code
    ways = [_bases(instruction), _indexes(instruction), _displacements(instruction)]
    random.shuffle(ways)
    return next((found for way in ways if (found := _first_that_fits(way, instruction, random)) is not None), None)


def _registers(instruction: Instruction, accesses: frozenset[int]) -> list[int]:
    """The numbers of the operands that are general-purpose registers used in one of these ways."""
    return [
        operand
        for operand, access in enumerate(x86.accesses(instruction))
        if access in accesses
        and instruction.op_kind(operand) == OpKind.REGISTER
        and x86.other_registers(instruction.op_register(operand))
    ]


def _another_register(instruction: Instruction, operands: list[int], random: Random) -> bytes | None:
    changes: list[Change] = [
        partial(Instruction.set_op_register, operand=operand, new_value=register)
        for operand in operands
        for register in x86.other_registers(instruction.op_register(operand))
    ]
    return _first_that_fits(changes, instruction, random)


def _bases(instruction: Instruction) -> list[Change]:
    return [partial(_set, "memory_base", register) for register in x86.other_registers(instruction.memory_base)]


def _indexes(instruction: Instruction) -> list[Change]:
    others = x86.other_registers(instruction.memory_index)
    return [partial(_set, "memory_index", register) for register in others]


def _displacements(instruction: Instruction) -> list[Change]:
    """One bit of the displacement flipped, any of them."""
    if instruction.memory_displ_size == 0:
        return []
    bits = 8 if instruction.memory_displ_size == 1 else _FULL_DISPLACEMENT_BITS
    relative = instruction.next_ip if instruction.is_ip_rel_memory_operand else 0
    distance = (instruction.memory_displacement - relative) % (1 << bits)
    changes: list[Change] = []
    for bit in range(bits):
        flipped = distance ^ (1 << bit)
        signed = flipped - (1 << bits) if flipped >> (bits - 1) else flipped
        changes.append(partial(_set, "memory_displacement", (relative + signed) % (1 << x86.bits_of(instruction))))
    return changes


def _set(name: str, value: int, instruction: Instruction) -> None:
    setattr(instruction, name, value)


def _first_that_fits(changes: list[Change], instruction: Instruction, random: Random) -> bytes | None:
    """The first of the changes, in random order, that can be made within the instruction's place."""
    random.shuffle(changes)
    for change in changes:
        copy = instruction.copy()
        change(copy)
        code = x86.in_place(copy, instruction)
        if code is not None:
            return code
    return None
