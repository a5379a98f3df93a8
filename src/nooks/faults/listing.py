"""A module's functions as instructions, from its file. Addresses are offsets in the section."""

from collections.abc import Iterator

from iced_x86 import FlowControl, Instruction, Mnemonic

from nooks.faults import x86
from nooks.faults.candidate import Span
from nooks.faults.symbols import Function, ModuleCode

MAIN_SECTION = ".text"
_FILLED_IN = 0x40  # in each byte of a relocated field: no jump with such a target stays within its function
_OPERAND_AT = 1  # in a direct call, behind the operation


def instructions_of(module: ModuleCode, function: Function) -> list[Instruction]:
    """All instructions of the function. What the kernel will fill in leads far away meanwhile."""
    section = module.sections[function.section]
    code = bytes(
        _FILLED_IN if function.offset + index in section.filled else byte
        for index, byte in enumerate(module.bytes_of(function))
    )
    return list(x86.decode(code, function.offset, module.bits))


def is_patched(module: ModuleCode, function: Function, instruction: Instruction) -> bool:
    """Whether the kernel may change the instruction when it loads the module, or later."""
    patched = module.sections[function.section].patched
    return not patched.isdisjoint(range(instruction.ip, instruction.ip + instruction.len))


def calls(module: ModuleCode, function: Function) -> Iterator[tuple[Instruction, str]]:
    """The direct calls in a function, each with the name of what it calls if that lies outside the module."""
    references = module.sections[function.section].references
    for each in instructions_of(module, function):
        if each.flow_control == FlowControl.CALL and not is_patched(module, function, each):
            yield each, references.get(each.ip + _OPERAND_AT, "")


def entry(module: ModuleCode, function: Function, size_bytes: int) -> Span | None:
    """The first whole instructions of a function that have ``size_bytes``, from the place of the tracer's call on.

    None if the function has no such call, or is too short. That place holds a NOP unless somebody traces.
    """
    instructions = instructions_of(module, function)
    first = 1 if instructions and instructions[0].mnemonic in (Mnemonic.ENDBR32, Mnemonic.ENDBR64) else 0
    if len(instructions) <= first or instructions[first].ip not in module.sections[function.section].patched:
        return None
    length = 0
    for each in instructions[first:]:
        length += each.len
        if length >= size_bytes:
            return Span(function, instructions[first].ip, length)
    return None
