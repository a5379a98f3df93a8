"""Deliberate bugs: what each one does to a small driver, and the code that it brings along."""

import asyncio
import struct
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.unit.module_maker import ModuleFile, Section, elf
from tests.unit.test_faults_injector import MemoryStub

from nooks.faults import bugs, names, payloads, x86
from nooks.faults.candidate import Candidate, Kernel
from nooks.faults.coverage import TranslationLog
from nooks.faults.exports import exported
from nooks.faults.injector import Injection
from nooks.faults.symbols import ModuleCode, read_module
from nooks.host.errors import InputError, NooksError

BASE = {64: 0xFFFFFFFFC0123000, 32: 0xF8123000}
EXPORTS = {"__kmalloc": 0xFFFFFFFF81200000, "kfree": 0xFFFFFFFF81200400}
KERNELS = {
    64: Kernel(64, EXPORTS),
    32: Kernel(32, {name: address & 0xFFFFFFFF for name, address in EXPORTS.items()}),
}
SIZE = 64
TRACER = "e800000000"
NOP5 = bytes.fromhex("0f1f440000")
BODIES = {
    # mov $5,%ecx; call _raw_spin_unlock_irqrestore; test %rax,%rax; je +3; mov (%rax),%edx; nop; ret
    64: {"demo_poll": "b905000000 e800000000 4885c0 7403 8b10 90 c3", "demo_intr": "31c0 c3"},
    # the same; test %eax,%eax; jne +1; ret; mov (%eax),%edx; ret
    32: {"demo_poll": "b905000000 e800000000 85c0 7501 c3 8b10 c3", "demo_intr": "31c0 c3"},
}
ROOMS = 3


def module(tmp_path: Path, bits: int, *, locks: bool = True) -> ModuleCode:
    """A driver with an interrupt handler, a poll function and a probe function with room for ROOMS payloads."""
    code, functions = b"", dict[str, tuple[int, int]]()
    for name, body in BODIES[bits].items():
        whole = bytes.fromhex(TRACER + body)
        functions[name] = (len(code), len(whole))
        code += whole + b"\xcc" * (SIZE - len(whole))
    functions["demo_probe"] = (len(code), ROOMS * payloads.ROOM_BYTES)
    code += bytes.fromhex(TRACER) + b"\x90" * (ROOMS * payloads.ROOM_BYTES - 6) + b"\xc3"
    starts = [start for start, _ in functions.values()]
    references = {11: "_raw_spin_unlock_irqrestore"} if locks else {}
    made = ModuleFile(code, functions, bits=bits, references=references, tracer_calls=starts)
    path = tmp_path / "demo.ko"
    path.write_bytes(made.to_bytes())
    return read_module(path)


def candidates(name: str, code: ModuleCode) -> list[Candidate]:
    return list(bugs.find(name, code, Random(1)))


def applied(candidate: Candidate, code: ModuleCode) -> list[tuple[str, bytes]]:
    """What the candidate's functions get, with a NOP where the tracer's calls were."""
    addresses = [BASE[code.bits] + span.offset for span in candidate.spans]
    text = code.sections[".text"].code
    live = [text[span.offset : span.offset + span.length].replace(b"\xe8\0\0\0\0", NOP5) for span in candidate.spans]
    after = candidate.rewrite(live, addresses, KERNELS[code.bits])
    assert after is not None
    assert [len(new) for new in after] == [len(old) for old in live]
    return [(span.function.name, new) for span, new in zip(candidate.spans, after, strict=True)]


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("name", names.BUGS)
def test_every_bug_finds_a_place_and_keeps_to_it(tmp_path: Path, name: str, bits: int) -> None:
    code = module(tmp_path, bits)
    found = candidates(name, code)
    assert found
    for candidate in found:
        applied(candidate, code)


@pytest.mark.parametrize(
    ("name", "bits", "function", "expected"),
    [
        ("missing-check", 64, "demo_poll", "31c090 9090"),  # xor %eax,%eax, and on as if it were no NULL
        ("missing-check", 32, "demo_poll", "31c0 eb01"),  # xor %eax,%eax; jmp to where good pointers go
        ("lock-held", 64, "demo_poll", "9090909090"),
        ("endless-loop", 64, "demo_poll", "fb ebfe 9090"),
        ("interrupt-storm", 64, "demo_intr", "b801000000 c3 90"),
        ("interrupt-storm", 32, "demo_intr", "b801000000 c3 90"),
    ],
)
def test_what_a_bug_writes(tmp_path: Path, name: str, bits: int, function: str, expected: str) -> None:
    code = module(tmp_path, bits)
    (candidate,) = candidates(name, code)
    assert applied(candidate, code) == [(function, bytes.fromhex(expected))]


def test_bugs_that_any_function_can_have(tmp_path: Path) -> None:
    code = module(tmp_path, 64)
    for name, expected in (("endless-loop-irqs-off", "fa ebfe 9090"), ("stack-overflow", "e8fbffffff")):
        changes = [applied(each, code) for each in candidates(name, code)]
        assert sorted(change[0][0] for change in changes) == ["demo_intr", "demo_poll"]
        assert {change[0][1] for change in changes} == {bytes.fromhex(expected)}


def test_first_values_are_constants(tmp_path: Path) -> None:
    code = module(tmp_path, 64)
    places = {(each.spans[0].function.name, each.spans[0].length) for each in candidates("uninitialised", code)}
    assert places == {("demo_poll", 5), ("demo_intr", 2)}


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("name", ["double-free", "use-after-free", "memory-leak"])
def test_memory_bugs_call_the_kernels_own_functions(tmp_path: Path, name: str, bits: int) -> None:
    code = module(tmp_path, bits)
    found = candidates(name, code)
    assert len(found) == 2  # of a busy function each, though there is room for three
    assert len({each.spans[0].offset for each in found}) == 2
    (room_name, payload), (entry_name, entry) = applied(found[0], code)
    room, beginning = (BASE[bits] + span.offset for span in found[0].spans)
    assert room_name == "demo_probe"
    assert entry_name in BODIES[bits]
    (call,) = x86.decode(entry, beginning, bits)
    assert x86.branch_target(call) == room
    instructions = list(x86.decode(payload, room, bits))
    assert not any(each.is_invalid for each in instructions)
    targets = [x86.branch_target(each) for each in instructions if each.len == x86.CALL_BYTES]
    called = [address for address in targets if address in KERNELS[bits].exports.values()]
    allocate, free = KERNELS[bits].exports.values()
    expected = {"double-free": [free, free], "use-after-free": [free], "memory-leak": []}
    assert called == [allocate, *expected[name]]
    text = [x86.text_of(each_bytes, at, bits) for at, each_bytes in _pieces(payload, room, bits)]
    pushed = [word.partition(" ")[2] for word in text if word.startswith("push")]
    popped = [word.partition(" ")[2] for word in text if word.startswith("pop")]
    kept = 0 if name == "memory-leak" else 1
    assert len(pushed) == len(popped)
    assert pushed[: len(pushed) - kept] == popped[kept:][::-1]
    assert text[text.index("ret") + 1 :] in ([], ["nop"] * (len(text) - text.index("ret") - 1))


def _pieces(code: bytes, address: int, bits: int) -> list[tuple[int, bytes]]:
    return [(each.ip, code[each.ip - address : each.next_ip - address]) for each in x86.decode(code, address, bits)]


def test_a_bug_without_a_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"demo has no place for the bug 'lock-held'; choose"):
        candidates("lock-held", module(tmp_path, 64, locks=False))


def test_a_kernel_that_exports_nothing_cannot_be_called(tmp_path: Path) -> None:
    candidate = candidates("double-free", module(tmp_path, 64))[0]
    with pytest.raises(NooksError, match="does not say where __kmalloc lies"):
        candidate.rewrite([bytes(payloads.ROOM_BYTES), NOP5], [0, 0], Kernel(64, {}))


def test_a_bug_is_injected_and_recorded(tmp_path: Path) -> None:
    code = module(tmp_path, 64)
    vmlinux = tmp_path / "vmlinux"
    vmlinux.write_bytes(kernel(64, EXPORTS))
    stub = MemoryStub(code.sections[".text"].code.replace(b"\xe8\0\0\0\0", NOP5))

    def inject() -> list[dict[str, Any]]:
        injection = Injection([tmp_path / "demo.ko"], vmlinux, "double-free", 1, 1)
        return asyncio.run(injection.apply(stub, {"demo": {".text": BASE[64]}}))

    payload, entry = inject()
    assert (payload["function"], payload["type"]) == ("demo_probe", "double-free")
    assert entry["text_before"].startswith("nopl")
    assert entry["text_after"] == f"call 0x{int(payload['address'], 16):X}"
    assert bytes(stub.memory[payload["offset"] :]).startswith(bytes.fromhex(payload["after"]))


# -- where the kernel's functions lie --------------------------------------------------------------------------


def kernel(bits: int, functions: dict[str, int]) -> bytes:
    """A kernel's file with a table of exported functions."""
    strings = b"".join(name.encode() + b"\0" for name in functions)
    table_at, strings_at = functions["kfree"] + 0x1000, functions["kfree"] + 0x2000
    table = b""
    for name, address in functions.items():
        at = table_at + len(table)
        table += struct.pack("<iii", address - at, strings_at + strings.index(name.encode()) - (at + 4), 0)
    tables = [Section("__ksymtab", table, address=table_at), Section("__ksymtab_gpl", b"", address=table_at)]
    return elf(bits, [*tables, Section("__ksymtab_strings", strings, address=strings_at)])


@pytest.mark.parametrize("bits", [64, 32])
def test_exported_functions_are_found(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "vmlinux"
    exports = dict(KERNELS[bits].exports)
    path.write_bytes(kernel(bits, exports))
    assert exported(path) == exports


def test_a_file_that_is_no_kernel(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(elf(64, []))
    assert exported(tmp_path / "other") == {}
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(NooksError, match="no readable kernel"):
        exported(tmp_path / "junk")


# -- what has run ----------------------------------------------------------------------------------------------

LOG = b"""----------------
IN:
0xffffffffc0213470:  0f 1f 44 00 00           nopl     (%rax, %rax)
0xffffffffc0213475:  48 c7 c7 60 50 21 c0     movq     $-0x3fdeafa0, %rdi

----------------
IN:
0xf8123481:  85 c0                    testl    %eax, %eax
0xf8123483:  0f 85 b6 06 00 00        jne      0xffffffffc0213b3f
"""


def test_what_the_emulator_translated_has_run() -> None:
    import os

    log = TranslationLog()
    try:
        assert log.executed([0xFFFFFFFFC0213475]) == [False]
        os.write(log.descriptor, LOG)
        assert log.executed([0xFFFFFFFFC0213475, 0xFFFFFFFFC0213476, 0xF8123481, 0xFFFFFFFFC0213B3F]) == [
            True,
            False,
            True,
            False,
        ]
    finally:
        log.close()
        log.close()
