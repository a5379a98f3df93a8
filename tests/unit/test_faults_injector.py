"""Choosing and changing code, on a small module file made here and a fake debug stub."""

import asyncio
import struct
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from iced_x86 import Decoder

from nooks.faults import text
from nooks.faults.gdb import DebugStub
from nooks.faults.injector import inject
from nooks.faults.symbols import busy_functions, read_module
from nooks.host.errors import InputError, NooksError

BASE = 0xFFFFFFFFC0123000
# push rbp; mov rbp,rsp; mov eax,[rdi+8]; add eax,1; cmp eax,0x10; jne -8; pop rbp; ret
CODE = bytes.fromhex("55 4889e5 8b4708 83c001 83f810 75f8 5d c3")
TEXT = (CODE + b"\x90" * (32 - len(CODE))) * 3
FUNCTIONS = {"demo_xmit_frame": 0, "demo_open": 32, "__pfx_demo_close": 48, "demo_intr": 64}


def module_bytes(code: bytes = TEXT, functions: dict[str, int] | None = None) -> bytes:
    """A minimal relocatable ELF64 file with .text, .modinfo and symbols."""
    names = FUNCTIONS if functions is None else functions
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in names)
    symbols = bytes(24) + b"".join(
        struct.pack("<IBBHQQ", strings.index(name.encode() + b"\0"), 2, 0, 1, offset, len(CODE))
        for name, offset in names.items()
    )
    contents = [
        (".text", 1, 6, code, 0, 0),
        (".modinfo", 1, 2, b"license=GPL\0vermagic=6.1.0-test SMP\0", 0, 0),
        (".symtab", 2, 0, symbols, 4, 24),
        (".strtab", 3, 0, strings, 0, 0),
        (".shstrtab", 3, 0, b"\0.text\0.modinfo\0.symtab\0.strtab\0.shstrtab\0", 0, 0),
    ]
    body, headers = b"", bytes(64)
    for name, kind, flags, data, link, size in contents:
        offset = 64 + len(body)
        index = contents[-1][3].index(b"\0" + name.encode() + b"\0") + 1
        headers += struct.pack("<IIQQQQIIQQ", index, kind, flags, 0, offset, len(data), link, 0, 8, size)
        body += data + bytes(-len(data) % 8)
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    rest = struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, len(contents) + 1, 5)
    return identity + rest + body + headers


@pytest.fixture
def module_file(tmp_path: Path) -> Path:
    path = tmp_path / "demo.ko"
    path.write_bytes(module_bytes())
    return path


class MemoryStub(DebugStub):
    """A debug stub whose machine is a bytearray."""

    def __init__(self, memory: bytes) -> None:
        self.memory = bytearray(memory)
        self.log: list[str] = []

    async def stop(self) -> None:
        self.log.append("stop")

    async def resume(self) -> None:
        self.log.append("resume")

    async def read(self, address: int, size_bytes: int) -> bytes:
        return bytes(self.memory[address - BASE : address - BASE + size_bytes])

    async def write(self, address: int, data: bytes) -> None:
        self.memory[address - BASE : address - BASE + len(data)] = data


def run(
    stub: MemoryStub, path: Path, *, type_name: str = "text", count: int = 5, seed: int = 1
) -> list[dict[str, Any]]:
    return asyncio.run(inject(stub, path, {".text": BASE}, type_name, count, seed))


def test_module_file_is_understood(module_file: Path) -> None:
    module = read_module(module_file)
    assert module.identity == "demo 6.1.0-test SMP"
    assert module.bits == 64
    assert [function.name for function in module.functions] == ["demo_xmit_frame", "demo_open", "demo_intr"]
    assert busy_functions(module) == ("demo_xmit_frame", "demo_intr")
    assert module.bytes_of(module.functions[1]) == CODE


def test_memory_holds_exactly_what_was_recorded(module_file: Path) -> None:
    stub = MemoryStub(TEXT)
    records = run(stub, module_file)
    expected = bytearray(TEXT)
    for record in records:
        start = int(record["address"], 16) - BASE
        before, after = bytes.fromhex(record["before"]), bytes.fromhex(record["after"])
        assert len(before) == len(after)
        expected[start : start + len(before)] = after
        assert record["type"] == "text"
        assert FUNCTIONS[record["function"]] <= start < FUNCTIONS[record["function"]] + len(CODE)
        assert record["text_before"] != record["text_after"]
    assert stub.memory == expected
    assert stub.log == ["stop", "resume"]


def test_the_same_seed_makes_the_same_faults(module_file: Path) -> None:
    first, again, other = (run(MemoryStub(TEXT), module_file, seed=seed) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_faults_prefer_busy_functions(module_file: Path) -> None:
    names = [
        record["function"] for seed in range(60) for record in run(MemoryStub(TEXT), module_file, count=1, seed=seed)
    ]
    assert names.count("demo_open") < len(names) / 4


def test_code_that_is_not_the_modules_stays_untouched(module_file: Path) -> None:
    stub = MemoryStub(b"\xff" * len(TEXT))
    with pytest.raises(NooksError, match="does not hold"):
        run(stub, module_file)
    assert stub.memory == b"\xff" * len(TEXT)
    assert stub.log == ["stop", "resume"]


def test_wrong_requests_are_refused_before_the_machine_stops(module_file: Path, tmp_path: Path) -> None:
    stub = MemoryStub(TEXT)
    with pytest.raises(InputError, match=r"no fault type 'rowhammer'.*choose from: .*text"):
        run(stub, module_file, type_name="rowhammer")
    with pytest.raises(InputError, match="0 faults"):
        run(stub, module_file, count=0)
    with pytest.raises(InputError, match=r"nothing\.ko"):
        run(stub, tmp_path / "nothing.ko")
    (tmp_path / "junk.ko").write_bytes(b"junk")
    with pytest.raises(InputError, match="no readable kernel module"):
        run(stub, tmp_path / "junk.ko")
    (tmp_path / "empty.ko").write_bytes(module_bytes(functions={}))
    with pytest.raises(InputError, match="no function symbols"):
        run(stub, tmp_path / "empty.ko")
    with pytest.raises(NooksError, match=r"did not say where \.text"):
        asyncio.run(inject(stub, module_file, {}, "text", 1, 1))
    assert stub.log == []


def test_more_faults_than_code_is_an_error(module_file: Path) -> None:
    with pytest.raises(NooksError, match="too little code"):
        run(MemoryStub(TEXT), module_file, count=500)


@given(st.integers(0), st.binary(min_size=15, max_size=15))
def test_text_changes_exactly_one_bit(seed: int, code: bytes) -> None:
    instruction = next(iter(Decoder(64, code)))
    before = code[: instruction.len]
    after = text.rewrite(instruction, before, Random(seed))
    assert len(after) == len(before)
    assert sum((a ^ b).bit_count() for a, b in zip(before, after, strict=True)) == 1
