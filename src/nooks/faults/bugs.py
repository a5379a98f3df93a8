"""Deliberate bugs: the mistakes of programmers that the Nooks evaluation put in by hand, written into a driver's code.

| bug | how it is made |
|---|---|
| missing-check | a pointer is NULL when it comes to its check, and the check is gone |
| uninitialised | a variable's first value is not assigned |
| double-free, use-after-free, memory-leak | a function begins by allocating memory and mistreating it (``payloads``) |
| lock-held | a call that gives a lock back is gone |
| endless-loop, endless-loop-irqs-off | a function begins with a loop that never ends |
| stack-overflow | a function begins by calling itself |
| interrupt-storm | the interrupt handler says that it has dealt with the device, and has not |

Section 5.1 of "Improving the Reliability of Commodity Operating Systems" (TOCS 23(1), 2005) names missing checks for
NULL, uninitialised variables and resources freed twice; the rest is what its sections 2 and 6 speak of.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from random import Random

from iced_x86 import FlowControl, Instruction, Mnemonic, OpKind, Register, Register_

from nooks.faults import listing, payloads, x86
from nooks.faults.busy import busy_functions
from nooks.faults.candidate import Candidate, Kernel, Rewrite, Span
from nooks.faults.symbols import Function, ModuleCode
from nooks.host.errors import InputError

Finder = Callable[[ModuleCode, Function], Iterator[tuple[Span, Rewrite]]]
"""The places for a bug in one function, and what to do there."""

_LOOP = bytes.fromhex("ebfe")  # jmp to itself
_STI, _CLI = b"\xfb", b"\xfa"
_CALL_SELF = bytes.fromhex("e8fbffffff")
_HANDLED = bytes.fromhex("b801000000 c3")  # mov $IRQ_HANDLED,%eax; ret (include/linux/irqreturn.h)

_HANDLER = re.compile(r"(^|_)(intr|interrupt|isr|irq_handler)(\.|$)")
_SPENT = re.compile(r"probe|init_one|attach|create|found")
_UNLOCK = re.compile(r"^_raw_(spin|read|write)_unlock|^mutex_unlock$")
_STACK = (Register.RSP, Register.ESP, Register.RBP, Register.EBP)
_IMMEDIATES = frozenset({OpKind.IMMEDIATE8, OpKind.IMMEDIATE16, OpKind.IMMEDIATE32, OpKind.IMMEDIATE32TO64})
_TRUSTED_INSTRUCTIONS = 8
"""So soon after its check a register has to be used as a pointer, to be taken for one."""


def find(name: str, module: ModuleCode, random: Random) -> Iterator[Candidate]:
    """Places for the bug ``name``, by chance, in code that runs all the time if there is one there.

    Raises InputError if the module has no place for it.
    """
    busy = busy_functions(module)
    rest = tuple(each for each in module.functions if each not in busy)
    for functions in (busy, rest):
        found = list(_in_functions(name, module, functions))
        if found:
            random.shuffle(found)
            return iter(found) if name not in _PAYLOADS else _with_room(found, module)
    raise InputError(f"{module.name} has no place for the bug {name!r}", "choose another type")


def _in_functions(name: str, module: ModuleCode, functions: Sequence[Function]) -> Iterator[Candidate]:
    for function in functions:
        if function.section == listing.MAIN_SECTION:
            for span, rewrite in _FINDERS[name](module, function):
                yield Candidate(name, (span,), rewrite)


# -- checks and first values -----------------------------------------------------------------------------------


def _missing_checks(module: ModuleCode, function: Function) -> Iterator[tuple[Span, Rewrite]]:
    instructions = listing.instructions_of(module, function)
    for test, jump in pairwise(instructions):
        pointer = _tested(test)
        if pointer is None or jump.mnemonic not in (Mnemonic.JE, Mnemonic.JNE):
            continue
        goes_on = jump.next_ip if jump.mnemonic == Mnemonic.JE else x86.branch_target(jump)
        if goes_on is not None and _is_used(pointer, goes_on, instructions):
            yield Span(function, test.ip, test.len + jump.len), _without_check


def _without_check(live: Sequence[bytes], addresses: Sequence[int], kernel: Kernel) -> list[bytes] | None:
    """``xor`` makes the pointer NULL where ``test`` looked whether it is; the way of good pointers is taken."""
    test, jump = islice(x86.decode(live[0], addresses[0], kernel.bits), 2)
    zeroing = x86.zeroed(test.op_register(0), test)
    if zeroing is None:
        return None
    if jump.mnemonic == Mnemonic.JE:
        return [zeroing + x86.nops(jump.len)]
    always = x86.jump(jump.ip, jump.near_branch_target, jump.len)
    return [zeroing + always] if always is not None else None


def _tested(instruction: Instruction) -> Register_ | None:
    """The register of ``test r,r`` that may hold an address."""
    if instruction.mnemonic != Mnemonic.TEST or not _same_registers(instruction):
        return None
    register = instruction.op_register(0)
    return register if x86.is_pointer_sized(register, x86.bits_of(instruction)) else None


def _is_used(pointer: Register_, start: int, instructions: Sequence[Instruction]) -> bool:
    """Whether memory at ``pointer`` is touched from ``start`` on, before the register gets another value."""
    for each in [each for each in instructions if each.ip >= start][:_TRUSTED_INSTRUCTIONS]:
        if x86.memory_operand(each) is not None and each.memory_base == pointer and each.mnemonic != Mnemonic.LEA:
            return True
        if each.flow_control != FlowControl.NEXT or x86.whole(pointer) in x86.written(each):
            return False
    return False


def _uninitialised(module: ModuleCode, function: Function) -> Iterator[tuple[Span, Rewrite]]:
    for each in listing.instructions_of(module, function):
        if _initialises(each) and not listing.is_patched(module, function, each):
            yield Span(function, each.ip, each.len), _nothing


def _initialises(instruction: Instruction) -> bool:
    """Whether it assigns a constant to a register or to a variable on the stack."""
    if instruction.mnemonic == Mnemonic.XOR:
        return _same_registers(instruction)
    if instruction.mnemonic != Mnemonic.MOV or instruction.op_kind(1) not in _IMMEDIATES:
        return False
    on_stack = instruction.op_kind(0) == OpKind.MEMORY and instruction.memory_base in _STACK
    return on_stack or instruction.op_kind(0) == OpKind.REGISTER


def _same_registers(instruction: Instruction) -> bool:
    kinds = instruction.op_kind(0), instruction.op_kind(1)
    both = kinds == (OpKind.REGISTER, OpKind.REGISTER)
    return both and instruction.op_register(0) == instruction.op_register(1)


# -- locks, loops, interrupts ----------------------------------------------------------------------------------


def _held_locks(module: ModuleCode, function: Function) -> Iterator[tuple[Span, Rewrite]]:
    for call, callee in listing.calls(module, function):
        if _UNLOCK.search(callee):
            yield Span(function, call.ip, call.len), _nothing


def _nothing(live: Sequence[bytes], addresses: Sequence[int], kernel: Kernel) -> list[bytes]:
    del addresses, kernel
    return [x86.nops(len(each)) for each in live]


def _beginning_with(code: bytes, *, handlers: bool | None = None) -> Finder:
    """Functions that begin with ``code`` instead of their own: interrupt handlers only, all others only, or any."""

    def rewrite(live: Sequence[bytes], addresses: Sequence[int], kernel: Kernel) -> list[bytes]:
        del addresses, kernel
        return [code + x86.nops(len(live[0]) - len(code))]

    def finder(module: ModuleCode, function: Function) -> Iterator[tuple[Span, Rewrite]]:
        if handlers is None or handlers == bool(_HANDLER.search(function.name)):
            span = listing.entry(module, function, len(code))
            if span is not None:
                yield span, rewrite

    return finder


# -- memory ----------------------------------------------------------------------------------------------------


def _calling(payload: payloads.Payload) -> Finder:
    def finder(module: ModuleCode, function: Function) -> Iterator[tuple[Span, Rewrite]]:
        span = listing.entry(module, function, x86.CALL_BYTES)
        if span is not None:
            yield span, payloads.detour(payload)

    return finder


def _with_room(found: Sequence[Candidate], module: ModuleCode) -> Iterator[Candidate]:
    """Each candidate with a place for its payload, as long as there are such places."""
    for candidate, room in zip(found, _rooms(module), strict=False):
        yield Candidate(candidate.type, (room, *candidate.spans), candidate.rewrite)


def _rooms(module: ModuleCode) -> Iterator[Span]:
    """Pieces of functions that have done their work when the device was found, the largest function first."""
    busy = busy_functions(module)
    spent = [each for each in module.functions if _SPENT.search(each.name) and each not in busy]
    for function in sorted(spent, key=lambda each: each.size, reverse=True):
        if function.section == listing.MAIN_SECTION:
            for start in range(0, function.size - payloads.ROOM_BYTES + 1, payloads.ROOM_BYTES):
                yield Span(function, function.offset + start, payloads.ROOM_BYTES)


_PAYLOADS: Mapping[str, payloads.Payload] = {
    "double-free": payloads.double_free,
    "use-after-free": payloads.use_after_free,
    "memory-leak": payloads.memory_leak,
}

_FINDERS: Mapping[str, Finder] = {
    "missing-check": _missing_checks,
    "uninitialised": _uninitialised,
    "lock-held": _held_locks,
    "endless-loop": _beginning_with(_STI + _LOOP, handlers=False),
    "endless-loop-irqs-off": _beginning_with(_CLI + _LOOP),
    "stack-overflow": _beginning_with(_CALL_SELF),
    "interrupt-storm": _beginning_with(_HANDLED, handlers=True),
    **{name: _calling(payload) for name, payload in _PAYLOADS.items()},
}
