"""What each fault type does to an instruction: it keeps place and length, and differs in exactly what the type says."""

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from iced_x86 import Instruction, Mnemonic, OpAccess, OpKind

from nooks.faults import names, x86
from nooks.faults.types import TYPES

ADDRESS = {64: 0xFFFFFFFFC0123000, 32: 0xF8123000}
READ = {OpAccess.READ, OpAccess.COND_READ}
WRITTEN = {OpAccess.WRITE, OpAccess.COND_WRITE, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE}

# Of a driver's interrupt handler and receive function, as gcc compiles them
COMPILED = {
    64: (
        "0f1f440000 4157 4889f8 4989f7 4156 4155 4154 55 53 4883ec58 488b6f18 48897c2410 0fb75f1a 89542408 48895c2420 "
        "85d2 0f84aa000000 83c001 39c3 0f44c2 48c1e004 4c01e8 f6400c01 74dd 0fb7480e 6683f901 8b4308 488b1425c0ff0100 "
        "66890c25000000c0 488b05ff0f0000 75b2 4883c458 5b 5d 415c c3"
    ),
    32: (
        "55 89e5 57 89c7 56 89d6 53 83ec14 8b5d08 8b4708 894de4 85db 7418 0fb64304 83c001 3b4608 8945f0 75ee 8d0480 "
        "c1e004 0345e4 f6400c01 74dd e8fcffffff 8d65f4 5b 5e 5f 5d c3"
    ),
}


def function(code: bytes, bits: int) -> list[Instruction]:
    """The instructions of some bytes up to the first that is none."""
    found: list[Instruction] = []
    for each in x86.decode(code, ADDRESS[bits], bits):
        if each.is_invalid:
            break
        found.append(each)
    return found


def bytes_of(instruction: Instruction, code: bytes, bits: int) -> bytes:
    start = instruction.ip - ADDRESS[bits]
    return code[start : start + instruction.len]


def rewritten(name: str, code: bytes, bits: int, seed: int) -> list[tuple[Instruction, bytes, bytes]]:
    """Every instruction of the code that the type changes, with its bytes before and after."""
    instructions = function(code, bits)
    if not instructions:
        return []
    found: list[tuple[Instruction, bytes, bytes]] = []
    for index in TYPES[name].places(instructions):
        if x86.is_padding(instructions[index]):  # never drawn
            continue
        before = bytes_of(instructions[index], code, bits)
        after = TYPES[name].rewrite(instructions[index], before, Random(seed))
        if after is not None:
            found.append((instructions[index], before, after))
    return found


def read_back(after: bytes, instruction: Instruction, bits: int) -> Instruction:
    """The changed instruction; behind it nothing but NOPs up to where the old one ended."""
    first, *rest = x86.decode(after, instruction.ip, bits)
    assert not first.is_invalid
    assert all(each.mnemonic == Mnemonic.NOP for each in rest)
    assert first.len + sum(each.len for each in rest) == instruction.len == len(after)
    return first


def operands(instruction: Instruction) -> list[tuple[str, object]]:
    """All that an instruction says, part by part."""
    said: list[tuple[str, object]] = [("operation", instruction.code), ("condition", instruction.condition_code)]
    for number in range(instruction.op_count):
        kind = instruction.op_kind(number)
        said.append((f"kind {number}", kind))
        if kind == OpKind.REGISTER:
            said.append((f"register {number}", instruction.op_register(number)))
        elif kind in (OpKind.NEAR_BRANCH16, OpKind.NEAR_BRANCH32, OpKind.NEAR_BRANCH64):
            said.append(("target", instruction.near_branch_target))
        elif kind == OpKind.MEMORY:
            base, index = instruction.memory_base, instruction.memory_index
            said += [("base", base), ("index", index), ("scale", instruction.memory_index_scale)]
            said += [("displacement", instruction.memory_displacement)]
    prefixes = ("has_lock_prefix", "has_rep_prefix", "has_repne_prefix", "segment_prefix")
    said += [(prefix, getattr(instruction, prefix)) for prefix in prefixes]
    return said


def differences(one: Instruction, other: Instruction) -> list[str]:
    before, after = operands(one), operands(other)
    assert [part for part, _ in before] == [part for part, _ in after]
    return [part for (part, old), (_, new) in zip(before, after, strict=True) if old != new]


def check(name: str, instruction: Instruction, before: bytes, after: bytes, bits: int) -> None:
    """That the change is the type's and nothing else."""
    assert len(after) == len(before)
    assert after != before
    if name == "text":
        assert sum((a ^ b).bit_count() for a, b in zip(before, after, strict=True)) == 1
        return
    if name in ("interface", "branch", "nop"):
        assert after == b"\x90" * len(before)
        return
    changed = read_back(after, instruction, bits)
    different = differences(instruction, changed)
    if name == "loop":
        assert set(different) == {"operation", "condition"}
        assert changed.near_branch_target == instruction.near_branch_target
        opposite = changed.copy()
        opposite.negate_condition_code()
        assert opposite.code == instruction.code
    elif name == "pointer":
        assert len(different) == 1
        assert different[0] in ("base", "index", "displacement")
    else:
        assert len(different) == 1
        kind, _, number = different[0].partition(" ")
        assert kind == "register"
        access = x86.accesses(instruction)[int(number)]
        assert access in (READ if name == "source" else WRITTEN)


def test_there_are_the_eight_types_of_the_evaluation() -> None:
    assert tuple(TYPES) == names.FAULTS
    assert len(names.FAULTS) == 8


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("name", names.FAULTS)
@given(seed=st.integers(0, 1 << 20))
def test_compiled_code_is_changed_as_the_type_says(name: str, bits: int, seed: int) -> None:
    found = rewritten(name, bytes.fromhex(COMPILED[bits]), bits, seed)
    assert found
    for instruction, before, after in found:
        check(name, instruction, before, after, bits)


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("name", names.FAULTS)
@given(code=st.binary(min_size=15, max_size=90), seed=st.integers(0, 1 << 20))
def test_any_code_is_changed_as_the_type_says(name: str, bits: int, code: bytes, seed: int) -> None:
    for instruction, before, after in rewritten(name, code, bits, seed):
        check(name, instruction, before, after, bits)


@pytest.mark.parametrize("name", names.FAULTS)
def test_the_same_chance_makes_the_same_change(name: str) -> None:
    code = bytes.fromhex(COMPILED[64])
    changes = [[after for _, _, after in rewritten(name, code, 64, seed)] for seed in (1, 1, *range(2, 12))]
    assert changes[0] == changes[1]
    if name in ("source", "destination", "pointer", "text"):
        assert any(change != changes[0] for change in changes)


def mnemonics(name: str, code: str, bits: int = 64) -> list[str]:
    """The instructions that a type applies to, as text."""
    raw = bytes.fromhex(code)
    instructions: Sequence[Instruction] = function(raw, bits)
    chosen = [instructions[index] for index in TYPES[name].places(instructions)]
    return [x86.text_of(bytes_of(each, raw, bits), each.ip, bits) for each in chosen]


def test_source_needs_a_register_that_is_only_read() -> None:
    assert mnemonics("source", "4889f8 83c001 01d8 f7d8") == ["mov %rdi,%rax", "add %ebx,%eax"]


def test_destination_needs_a_register_that_is_written() -> None:
    assert mnemonics("destination", "4889f8 39c3 894708 5b") == ["mov %rdi,%rax", "pop %rbx"]


def test_pointer_needs_an_address() -> None:
    code = "4889f8 8b4708 488d0480 0f1f4000 c3"
    assert mnemonics("pointer", code) == ["mov 8(%rdi),%eax", "lea (%rax,%rax,4),%rax", "nopl (%rax)"]


def test_interface_takes_moves_of_parameters_that_are_still_there() -> None:
    #                call       push  mov %rdi,%rbp  mov %esi,%esi  xor %edx,%edx  mov %edx,%ecx  call  mov %rdi,%rax
    code = "e840404040 55 4889fd 89f6 31d2 89d1 e800000000 4889f8"
    assert mnemonics("interface", code) == ["mov %rdi,%rbp"]
    #       push %ebp  mov %esp,%ebp  mov %eax,%edi  mov 8(%ebp),%ebx  mov -8(%ebp),%ecx
    assert mnemonics("interface", "55 89e5 89c7 8b5d08 8b4df8", 32) == ["mov %eax,%edi", "mov 8(%ebp),%ebx"]


def test_branches_and_loops_stay_within_the_function() -> None:
    #       inc %eax  jne back  je on  je out of it  jmp on  jmp out of it  ret
    code = "ffc0 75fc 7400 0f8440404040 eb00 e940404040 c3"
    base = f"0x{ADDRESS[64]:X}"
    jumps = mnemonics("branch", code)
    assert [jump.partition(" ")[0] for jump in jumps] == ["jne", "je", "jmp"]
    assert jumps[0] == f"jne {base}"
    assert mnemonics("loop", code) == [f"jne {base}"]


def test_a_loop_without_an_opposite_is_not_used() -> None:
    assert rewritten("loop", bytes.fromhex("90 e3fd c3"), 64, 1) == []
