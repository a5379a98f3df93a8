"""x86 code, 32 and 64 bits: decoding functions, and changing an instruction within its own place and length."""

import struct
from collections.abc import Iterator
from typing import cast

from iced_x86 import (
    Code,
    CodeSize,
    Decoder,
    Encoder,
    Formatter,
    FormatterSyntax,
    Instruction,
    InstructionInfoFactory,
    Mnemonic,
    OpAccess,
    OpKind,
    Register,
    Register_,
    RegisterExt,
)

NOP = b"\x90"
LONGEST_BYTES = 15
"""Of an instruction (Intel SDM volume 2, section 2.3.11)."""
CALL_BYTES = 5


def _registers(first: int, last: int) -> tuple[Register_, ...]:
    return cast("tuple[Register_, ...]", tuple(range(first, last + 1)))


_BITS = {CodeSize.CODE32: 32, CodeSize.CODE64: 64}
_INFO = InstructionInfoFactory()
_SHORT_JUMP_BYTES, _NEAR_JUMP_BYTES = 2, 5

_GPR: dict[int, tuple[Register_, ...]] = {
    8: _registers(Register.AL, Register.R15L),
    16: _registers(Register.AX, Register.R15W),
    32: _registers(Register.EAX, Register.R15D),
    64: _registers(Register.RAX, Register.R15),
}
"""General-purpose registers by their bits; which of them a given instruction can have is for the encoder to say."""


def decode(code: bytes, address: int, bits: int) -> Iterator[Instruction]:
    """The instructions of ``code``, which lies at ``address``; invalid ones included."""
    return iter(Decoder(bits, code, ip=address))


def bits_of(instruction: Instruction) -> int:
    """32 or 64: the code that the instruction was decoded as part of."""
    return _BITS[instruction.code_size]


def is_padding(instruction: Instruction) -> bool:
    """Whether it does nothing, wherever it comes from: NOPs of any length, and what fills gaps between functions."""
    return instruction.is_invalid or instruction.mnemonic in (Mnemonic.NOP, Mnemonic.INT3)


def accesses(instruction: Instruction) -> list[int]:
    """How each operand is used (iced's OpAccess)."""
    info = _INFO.info(instruction)
    return [info.op_access(operand) for operand in range(instruction.op_count)]


def written(instruction: Instruction) -> set[int]:
    """The whole registers that its operands write."""
    return {
        whole(instruction.op_register(operand))
        for operand, access in enumerate(accesses(instruction))
        if access not in (OpAccess.NONE, OpAccess.READ, OpAccess.COND_READ, OpAccess.NO_MEM_ACCESS)
        and instruction.op_kind(operand) == OpKind.REGISTER
    }


def whole(register: Register_) -> int:
    """The whole register that ``register`` is a part of (RDI of DIL, also for EDI)."""
    return RegisterExt.full_register(register)


def other_registers(register: Register_) -> tuple[Register_, ...]:
    """The other general-purpose registers of the same size; empty for a register of another kind."""
    for registers in _GPR.values():
        if register in registers:
            return tuple(other for other in registers if other != register)
    return ()


def is_pointer_sized(register: Register_, bits: int) -> bool:
    """Whether it is a general-purpose register that can hold an address."""
    return register in _GPR[bits]


def memory_operand(instruction: Instruction) -> int | None:
    """The number of the operand that has an address which can be changed; None if there is none."""
    kinds = [instruction.op_kind(operand) for operand in range(instruction.op_count)]
    return kinds.index(OpKind.MEMORY) if OpKind.MEMORY in kinds else None


def branch_target(instruction: Instruction) -> int | None:
    """Where a direct jump or call within the segment leads to; None for everything else."""
    direct = instruction.op_count == 1 and instruction.op_kind(0) in (OpKind.NEAR_BRANCH32, OpKind.NEAR_BRANCH64)
    return instruction.near_branch_target if direct else None


def in_place(changed: Instruction, original: Instruction) -> bytes | None:
    """``changed`` as bytes that take the place of ``original``, filled up with NOPs.

    None if it can't be encoded, would be longer, or would be read as another instruction.
    """
    bits = bits_of(original)
    encoder = Encoder(bits)
    try:
        length = encoder.encode(changed, original.ip)
    except ValueError:
        return None
    if length > original.len:
        return None
    code = encoder.take_buffer()
    again = next(decode(code, original.ip, bits))
    if again != changed or again.len != length:
        return None
    return code + nops(original.len - length)


def nops(length: int) -> bytes:
    """``length`` bytes of instructions that do nothing."""
    return NOP * length


def call(address: int, target: int) -> bytes:
    """A call of ``target`` that lies at ``address``."""
    return b"\xe8" + _distance(address + CALL_BYTES, target)


def jump(address: int, target: int, length: int) -> bytes | None:
    """A jump to ``target`` that lies at ``address`` and takes ``length`` bytes; None if that is too little."""
    distance = target - (address + _SHORT_JUMP_BYTES)
    if length >= _SHORT_JUMP_BYTES and -128 <= distance <= 127:
        return b"\xeb" + struct.pack("<b", distance) + nops(length - _SHORT_JUMP_BYTES)
    if length >= _NEAR_JUMP_BYTES:
        return b"\xe9" + _distance(address + _NEAR_JUMP_BYTES, target) + nops(length - _NEAR_JUMP_BYTES)
    return None


def zeroed(register: Register_, original: Instruction) -> bytes | None:
    """Bytes that make the register 0 and take the place of ``original``; None if there is no room."""
    bits = bits_of(original)
    word = _GPR[32][_GPR[bits].index(register)]
    changed = Instruction.create_reg_reg(Code.XOR_RM32_R32, word, word)
    return in_place(changed, original)


def text_of(code: bytes, address: int, bits: int, following: bytes = b"") -> str:
    """The instructions that begin in ``code``, in AT&T syntax, as the kernel's own tools print them.

    ``following`` is what comes after it: the last instruction may reach into that. A run of NOPs is said once.
    """
    formatter = Formatter(FormatterSyntax.GAS)
    words: list[str] = []
    for each in decode(code + following, address, bits):
        if each.ip >= address + len(code):
            break
        word = "(bad)" if each.is_invalid else formatter.format(each)
        if word != "nop" or words[-1:] != ["nop"]:
            words.append(word)
    return "; ".join(words)


def _distance(start: int, target: int) -> bytes:
    return struct.pack("<I", (target - start) & 0xFFFFFFFF)
