"""The fault types that change where a driver's code goes on: ``branch``, ``loop`` and ``nop``.

A branch is deleted, the end condition of a loop is inverted, an instruction is removed (table III of "Improving the
Reliability of Commodity Operating Systems", TOCS 23(1), 2005).
"""

from collections.abc import Sequence
from random import Random

from iced_x86 import FlowControl, Instruction

from nooks.faults import x86

_BRANCHES = (FlowControl.CONDITIONAL_BRANCH, FlowControl.UNCONDITIONAL_BRANCH)


def branch_places(instructions: Sequence[Instruction]) -> list[int]:
    """Direct jumps within the function; those out of it are calls and returns in disguise."""
    return [index for index, each in enumerate(instructions) if _jumps_within(each, instructions)]


def delete(instruction: Instruction, code: bytes, random: Random) -> bytes:
    """NOPs instead of the instruction."""
    del code, random
    return x86.nops(instruction.len)


def loop_places(instructions: Sequence[Instruction]) -> list[int]:
    """Conditional jumps backwards within the function."""
    return [
        index
        for index, each in enumerate(instructions)
        if each.flow_control == FlowControl.CONDITIONAL_BRANCH
        and _jumps_within(each, instructions)
        and each.near_branch_target <= each.ip
    ]


def invert(instruction: Instruction, code: bytes, random: Random) -> bytes | None:
    """The jump on the opposite condition; None for one that has no opposite (JRCXZ, LOOP)."""
    del code, random
    opposite = instruction.copy()
    opposite.negate_condition_code()
    if opposite.code == instruction.code:
        return None
    return x86.in_place(opposite, instruction)


def nop_places(instructions: Sequence[Instruction]) -> list[int]:
    """Any instruction will do."""
    return list(range(len(instructions)))


def _jumps_within(instruction: Instruction, instructions: Sequence[Instruction]) -> bool:
    target = x86.branch_target(instruction)
    if target is None or instruction.flow_control not in _BRANCHES:
        return False
    return instructions[0].ip <= target < instructions[-1].next_ip
