"""Choosing and changing code, on small module files made here and a fake debug stub."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.unit.module_maker import ModuleFile

from nooks.faults import names
from nooks.faults.busy import busy_functions
from nooks.faults.gdb import DebugStub
from nooks.faults.injector import Injection
from nooks.faults.symbols import Function, read_module
from nooks.host.errors import InputError, NooksError

BASE = 0xFFFFFFFFC0123000
NO_KERNEL = Path("/nonexistent/vmlinux")
# call __fentry__; push rbp; mov rbp,rsp; mov ecx,edi; call kfree; mov eax,[rdi+8]; add eax,1; cmp eax,0x10; jne -8;
# test rax,rax; je +2; mov edx,[rax]; pop rbp; ret
CODE = bytes.fromhex("e800000000 55 4889e5 89f9 e800000000 8b4708 83c001 83f810 75f5 4885c0 7402 8b10 5d c3")
CALL_AT = 11
SIZE = 64
FUNCTIONS = {"demo_xmit_frame": 0, "demo_open": SIZE, "__pfx_demo_close": 2 * SIZE, "demo_intr": 3 * SIZE}
FILE_TEXT = (CODE + b"\xcc" * (SIZE - len(CODE))) * 4
# What the kernel makes of it: a NOP where the tracer's call was, the distance to kfree in the other one
LIVE_CODE = CODE.replace(CODE[:5], bytes.fromhex("0f1f440000"), 1).replace(b"\xe8\0\0\0\0", b"\xe8\x11\x22\x33\x44")
LIVE_TEXT = (LIVE_CODE + b"\xcc" * (SIZE - len(CODE))) * 4


def module_bytes(functions: dict[str, int] | None = None) -> bytes:
    named = FUNCTIONS if functions is None else functions
    starts = [start for name, start in named.items() if not name.startswith("__pfx")]
    return ModuleFile(
        code=FILE_TEXT,
        functions={name: (start, len(CODE)) for name, start in named.items()},
        references={start + CALL_AT + 1: "kfree" for start in starts},
        tracer_calls=starts,
    ).to_bytes()


@pytest.fixture
def module_file(tmp_path: Path) -> Path:
    path = tmp_path / "demo-nic.ko"
    path.write_bytes(module_bytes())
    return path


class MemoryStub(DebugStub):
    """A debug stub whose machine is a bytearray."""

    def __init__(self, memory: bytes = LIVE_TEXT) -> None:
        self.memory = bytearray(memory)
        self.log: list[str] = []

    async def stop(self) -> None:
        self.log.append("stop")

    async def resume(self) -> None:
        self.log.append("resume")

    async def read(self, address: int, size_bytes: int) -> bytes:
        assert 0 <= address - BASE <= len(self.memory) - size_bytes
        return bytes(self.memory[address - BASE : address - BASE + size_bytes])

    async def write(self, address: int, data: bytes) -> None:
        self.memory[address - BASE : address - BASE + len(data)] = data


def run(
    stub: MemoryStub, path: Path, *, type_name: str = "text", count: int = 5, seed: int = 1
) -> list[dict[str, Any]]:
    sections = {"demo_nic": {".text": BASE}}
    return asyncio.run(Injection([path], NO_KERNEL, type_name, count, seed).apply(stub, sections))


def test_module_file_is_understood(module_file: Path) -> None:
    module = read_module(module_file)
    assert module.name == "demo_nic"
    assert module.identity == "demo-nic 6.1.0-test SMP"
    assert module.bits == 64
    assert [function.name for function in module.functions] == ["demo_xmit_frame", "demo_open", "demo_intr"]
    assert [function.name for function in busy_functions(module)] == ["demo_xmit_frame", "demo_intr"]
    assert module.bytes_of(module.functions[1]) == CODE
    text = module.sections[".text"]
    assert text.patched == {0, SIZE, 3 * SIZE}
    assert set(range(CALL_AT + 1, CALL_AT + 5)) < text.filled
    assert text.references[CALL_AT + 1] == "kfree"


def test_a_32_bit_module_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "old.ko"
    functions = {"old_interrupt": (0, len(CODE)), "old_probe": (SIZE, len(CODE))}
    made = ModuleFile(FILE_TEXT, functions, bits=32, references={12: "kfree"}, tracer_calls=[0, SIZE])
    path.write_bytes(made.to_bytes())
    module = read_module(path)
    assert module.bits == 32
    assert [function.name for function in module.functions] == ["old_interrupt", "old_probe"]
    assert module.sections[".text"].patched == {0, SIZE}
    assert module.sections[".text"].references == {1: "__fentry__", SIZE + 1: "__fentry__", 12: "kfree"}


def test_a_function_with_two_names_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "two.ko"
    path.write_bytes(module_bytes({"init_module": 0, "demo_init": 0}))
    assert read_module(path).functions == (Function(".text", 0, len(CODE), "init_module"),)


def test_a_compressed_module_is_read(tmp_path: Path) -> None:
    import lzma

    path = tmp_path / "demo-nic.ko.xz"
    path.write_bytes(lzma.compress(module_bytes()))
    assert read_module(path).identity == "demo-nic 6.1.0-test SMP"


@pytest.mark.parametrize("type_name", [*names.FAULTS, names.MIXED])
def test_memory_holds_exactly_what_was_recorded(module_file: Path, type_name: str) -> None:
    stub = MemoryStub()
    records = run(stub, module_file, type_name=type_name, count=2)
    expected = bytearray(LIVE_TEXT)
    for record in records:
        start = int(record["address"], 16) - BASE
        before, after = bytes.fromhex(record["before"]), bytes.fromhex(record["after"])
        assert len(before) == len(after)
        assert LIVE_TEXT[start : start + len(before)] == before
        expected[start : start + len(before)] = after
        assert record["type"] in (names.FAULTS if type_name == names.MIXED else [type_name])
        assert FUNCTIONS[record["function"]] <= start < FUNCTIONS[record["function"]] + len(CODE)
        assert (record["section"], record["offset"]) == (".text", start)
        assert record["text_before"] != record["text_after"]
    assert stub.memory == expected
    assert stub.log == ["stop", "resume"]


@pytest.mark.parametrize("type_name", [*names.FAULTS, names.MIXED])
def test_the_same_seed_makes_the_same_faults(module_file: Path, type_name: str) -> None:
    first, again = (run(MemoryStub(), module_file, type_name=type_name, count=2, seed=7) for _ in range(2))
    assert first == again
    others = [run(MemoryStub(), module_file, type_name=type_name, count=2, seed=seed) for seed in range(8, 20)]
    assert any(other != first for other in others)


def test_the_same_seed_chooses_the_same_place_whatever_the_kernel_filled_in(module_file: Path) -> None:
    elsewhere = LIVE_TEXT.replace(b"\x11\x22\x33\x44", b"\x55\x66\x77\x88")
    for seed in range(20):
        one, other = (run(MemoryStub(text), module_file, seed=seed) for text in (LIVE_TEXT, elsewhere))
        assert [fault["address"] for fault in one] == [fault["address"] for fault in other]


def test_what_the_kernel_patches_is_left_alone(module_file: Path) -> None:
    places = {fault["offset"] % SIZE for seed in range(40) for fault in run(MemoryStub(), module_file, seed=seed)}
    assert 0 not in places
    assert CALL_AT in places


def test_faults_prefer_busy_functions(module_file: Path) -> None:
    chosen = [fault["function"] for seed in range(200) for fault in run(MemoryStub(), module_file, count=1, seed=seed)]
    assert 0 < chosen.count("demo_open") < len(chosen) / 4


def test_faults_go_into_all_modules_that_carry_the_load(module_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "demo-core.ko"
    other.write_bytes(module_bytes({"core_intr": 0, "core_open": SIZE}))
    base = BASE + len(LIVE_TEXT)
    sections = {"demo_nic": {".text": BASE}, "demo_core": {".text": base}}

    def inject(*paths: Path, seed: int) -> list[dict[str, Any]]:
        stub = MemoryStub(LIVE_TEXT * 2)
        return asyncio.run(Injection(paths, NO_KERNEL, "text", 3, seed).apply(stub, sections))

    faults = [fault for seed in range(40) for fault in inject(module_file, other, seed=seed)]
    assert {fault["module"] for fault in faults} == {"demo_nic", "demo_core"}
    assert all((int(fault["address"], 16) >= base) == (fault["module"] == "demo_core") for fault in faults)
    of_one = [fault for fault in inject(module_file, other, seed=5) if fault["module"] == "demo_nic"]
    assert of_one == inject(module_file, seed=5)[: len(of_one)]


def test_code_that_is_not_the_modules_stays_untouched(module_file: Path) -> None:
    stub = MemoryStub(b"\xff" * len(LIVE_TEXT))
    with pytest.raises(NooksError, match="does not hold"):
        run(stub, module_file)
    assert stub.memory == b"\xff" * len(LIVE_TEXT)
    assert stub.log == ["stop", "resume"]


def test_wrong_requests_are_refused_before_the_machine_stops(module_file: Path, tmp_path: Path) -> None:
    stub = MemoryStub()
    with pytest.raises(InputError, match=r"no fault type 'rowhammer'.*choose from: .*text.*double-free"):
        run(stub, module_file, type_name="rowhammer")
    with pytest.raises(InputError, match="0 faults"):
        run(stub, module_file, count=0)
    with pytest.raises(InputError, match=r"nothing\.ko"):
        run(stub, tmp_path / "nothing.ko")
    (tmp_path / "junk.ko").write_bytes(b"junk")
    with pytest.raises(InputError, match="no readable kernel module"):
        run(stub, tmp_path / "junk.ko")
    (tmp_path / "empty.ko").write_bytes(ModuleFile(FILE_TEXT, {}).to_bytes())
    with pytest.raises(InputError, match="no function symbols"):
        run(stub, tmp_path / "empty.ko")
    with pytest.raises(NooksError, match=r"did not say where \.text"):
        asyncio.run(Injection([module_file], NO_KERNEL, "text", 1, 1).apply(stub, {}))
    assert stub.log == []


def test_more_faults_than_code_is_an_error(module_file: Path) -> None:
    with pytest.raises(NooksError, match="too little code"):
        run(MemoryStub(), module_file, count=500)
