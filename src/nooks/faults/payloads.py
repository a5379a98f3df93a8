"""Code that a bug brings along: it allocates memory with the kernel's own functions and mistreats it.

A function gets a call of it in the place of the tracer's at its beginning, where nothing else has to be kept.
"""

import struct
from collections.abc import Callable, Sequence

from nooks.faults import x86
from nooks.faults.candidate import Kernel, Rewrite

ROOM_BYTES = 96
"""Room for the longest payload."""

_ALLOCATE = ("__kmalloc", "__kmalloc_noprof")
_FREE = ("kfree",)
_GFP_ATOMIC = 0x820  # __GFP_HIGH | __GFP_KSWAPD_RECLAIM (include/linux/gfp_types.h): it may not sleep
_FREED_BYTES = 256
_REUSED_BYTES = 512
_LEAKED_BYTES = 16384
_SCRIBBLE = 0x5A5A5A5A

Piece = bytes | tuple[str, ...]
"""Instructions, or a call of the exported function that has one of these names."""

Payload = Callable[[int], list[Piece]]
"""The pieces for 32 or 64 bits; they may change the registers that the calling convention lets any call change."""

# push and pop of what a function's caller and its parameters may be in; the last one returns
_SAVE = {64: bytes.fromhex("50 51 52 56 57 4150 4151 4152 4153"), 32: bytes.fromhex("50 51 52 57")}
_RESTORE = {64: bytes.fromhex("415b 415a 4159 4158 5f 5e 5a 59 58 c3"), 32: bytes.fromhex("5f 5a 59 58 c3")}

_KEEP = bytes.fromhex("50")  # push (r|e)ax
_AS_ARGUMENT = {64: bytes.fromhex("4889c7"), 32: b""}  # mov %rax,%rdi; in 32 bits it is where it has to be
_KEPT_AS_ARGUMENT = {64: bytes.fromhex("5f"), 32: bytes.fromhex("58")}  # pop
_KEPT_TO_EDI = bytes.fromhex("5f")  # pop (r|e)di
_IS_NULL = {64: bytes.fromhex("4885ff"), 32: bytes.fromhex("85ff")}  # test
_FILL = bytes.fromhex("f3ab")  # rep stos %eax


def double_free(bits: int) -> list[Piece]:
    """An object is freed, and freed again."""
    free: list[Piece] = [_AS_ARGUMENT[bits], _FREE, _KEPT_AS_ARGUMENT[bits], _FREE]
    return [*_allocation(_FREED_BYTES, bits), _KEEP, *free]


def use_after_free(bits: int) -> list[Piece]:
    """An object is freed, and then written."""
    count, pattern = b"\xb9" + _word(_REUSED_BYTES // 4), b"\xb8" + _word(_SCRIBBLE)
    writing = count + pattern + _FILL
    unless_null = _IS_NULL[bits] + b"\x74" + bytes([len(writing)])
    return [*_allocation(_REUSED_BYTES, bits), _KEEP, _AS_ARGUMENT[bits], _FREE, _KEPT_TO_EDI, unless_null + writing]


def memory_leak(bits: int) -> list[Piece]:
    """An object is allocated and forgotten."""
    return _allocation(_LEAKED_BYTES, bits)


def detour(payload: Payload) -> Rewrite:
    """Puts ``payload`` into the first span and a call of it into the second one."""

    def rewrite(live: Sequence[bytes], addresses: Sequence[int], kernel: Kernel) -> list[bytes]:
        room, entry = addresses
        code = assemble([_SAVE[kernel.bits], *payload(kernel.bits), _RESTORE[kernel.bits]], room, kernel)
        call = x86.call(entry, room)
        return [code + x86.nops(len(live[0]) - len(code)), call + x86.nops(len(live[1]) - len(call))]

    return rewrite


def assemble(pieces: Sequence[Piece], address: int, kernel: Kernel) -> bytes:
    """The code that lies at ``address``. Raises NooksError if the kernel lacks a function."""
    code = b""
    for piece in pieces:
        code += piece if isinstance(piece, bytes) else x86.call(address + len(code), kernel.address(*piece))
    return code


def _allocation(size_bytes: int, bits: int) -> list[Piece]:
    first, second = (b"\xbf", b"\xbe") if bits == 64 else (b"\xb8", b"\xba")  # %edi and %esi, %eax and %edx
    return [first + _word(size_bytes) + second + _word(_GFP_ATOMIC), _ALLOCATE]


def _word(value: int) -> bytes:
    return struct.pack("<I", value)
