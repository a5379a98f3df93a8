"""The fault type ``text``: one random bit of an instruction is flipped.

It stands for corruption that no compiler would produce (section 5.1 of the Nooks paper, SOSP 2003).
"""

from collections.abc import Sequence
from random import Random

from iced_x86 import Instruction


def places(instructions: Sequence[Instruction]) -> list[int]:
    """Any instruction will do."""
    return list(range(len(instructions)))


def rewrite(instruction: Instruction, code: bytes, random: Random) -> bytes:
    """The instruction's bytes with one bit changed; the length stays."""
    bit = random.randrange(instruction.len * 8)
    changed = bytearray(code)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)
