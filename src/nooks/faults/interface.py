"""The fault type ``interface``: a parameter that the caller passed is replaced by a register's old value.

At a function's entry the compiler moves parameters from where the calling convention has them to where the function
keeps them; without the move, that place keeps the value that it had. So one such move is removed (table III of
"Improving the Reliability of Commodity Operating Systems", TOCS 23(1), 2005: "interface: incorrect parameters").
"""

from collections.abc import Sequence

from iced_x86 import FlowControl, Instruction, Mnemonic, OpKind, Register

from nooks.faults import x86

_PARAMETERS = {
    # System V ABI for AMD64, 3.2.3; the 32-bit kernel is compiled with -mregparm=3 (arch/x86/Makefile)
    64: (Register.RDI, Register.RSI, Register.RDX, Register.RCX, Register.R8, Register.R9),
    32: (Register.EAX, Register.EDX, Register.ECX),
}
_ENTRY_INSTRUCTIONS = 40
_MOVES = (Mnemonic.MOV, Mnemonic.MOVZX, Mnemonic.MOVSX, Mnemonic.MOVSXD)
_FRAME_POINTER = Register.EBP
_FIRST_ON_STACK = 8
"""Above the saved frame pointer and the return address."""
_TRACER_CALL_BEFORE = 2
"""The call of the function tracer is the first instruction, or the second one after ENDBR."""


def places(instructions: Sequence[Instruction]) -> list[int]:
    """Moves of parameters that have not been overwritten yet, before the first call, jump or return."""
    if not instructions:
        return []
    parameters = _PARAMETERS[x86.bits_of(instructions[0])]
    fresh = {x86.whole(register) for register in parameters}
    found: list[int] = []
    for index, each in enumerate(instructions[:_ENTRY_INSTRUCTIONS]):
        if each.flow_control == FlowControl.CALL and index < _TRACER_CALL_BEFORE:
            continue
        if each.flow_control != FlowControl.NEXT:
            break
        if each.mnemonic in _MOVES and each.op_kind(0) == OpKind.REGISTER and _reads_parameter(each, fresh):
            found.append(index)
        fresh -= x86.written(each)
    return found


def _reads_parameter(instruction: Instruction, fresh: set[int]) -> bool:
    """Whether it moves a parameter from a register, or (32 bits) from the stack above the return address."""
    if instruction.op_kind(1) == OpKind.REGISTER:
        source, target = (x86.whole(instruction.op_register(operand)) for operand in (1, 0))
        return source in fresh and source != target
    in_frame = instruction.op_kind(1) == OpKind.MEMORY and instruction.memory_base == _FRAME_POINTER
    return in_frame and _FIRST_ON_STACK <= instruction.memory_displacement < 1 << 31
