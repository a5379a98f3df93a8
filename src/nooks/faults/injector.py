"""Chooses where to change a driver's code, changes it in a running domain, and records what was done.

The choice depends only on driver, kernel, type and seed, so that an injection can be repeated.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from iced_x86 import Decoder, Formatter, FormatterSyntax, Instruction

from nooks.faults import text
from nooks.faults.gdb import DebugStub
from nooks.faults.symbols import Function, ModuleCode, busy_functions, read_module
from nooks.host.errors import InputError, NooksError

MAX_COUNT = 1000
SECTION = ".text"
_BUSY_SHARE = 0.9  # so many of the faults go to functions that run all the time
_SAME_SHARE = 0.5  # relocations and the kernel's own patching change less of a function than this
_DRAWS = 200


@dataclass(frozen=True)
class FaultType:
    """One kind of fault: which instructions it applies to, and what becomes of their bytes."""

    name: str
    accepts: Callable[[Instruction], bool]
    rewrite: Callable[[Instruction, bytes, Random], bytes]


TYPES: Mapping[str, FaultType] = {
    text.NAME: FaultType(text.NAME, text.accepts, text.rewrite),
}


async def inject(
    stub: DebugStub,
    module_file: Path,
    section_addresses: Mapping[str, int],
    type_name: str,
    count: int,
    seed: int,
    hot: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Change ``count`` instructions of a module's live code and return CONTRACT's record of each.

    ``section_addresses`` says where the module's sections lie in the domain (``.text`` at least); ``hot``
    names the functions to prefer, by default those that look busy. The machine stands still meanwhile, and
    runs after. Raises InputError for an unknown type or a senseless count, NooksError if the code in memory
    isn't the module's, StubError if the debug stub fails.
    """
    fault_type = _fault_type(type_name)
    if not 1 <= count <= MAX_COUNT:
        raise InputError(f"{count} faults cannot be injected", f"give a count from 1 to {MAX_COUNT}")
    if SECTION not in section_addresses:
        raise NooksError(f"the domain did not say where {SECTION} of {module_file.name} lies")
    module = read_module(module_file)
    random = Random(f"{module.identity}/{fault_type.name}/{seed}")
    session = _Session(stub, module, section_addresses[SECTION], fault_type, random)
    async with stub.stopped():
        return await session.run(count, busy_functions(module) if hot is None else tuple(hot))


def _fault_type(name: str) -> FaultType:
    fault_type = TYPES.get(name)
    if fault_type is None:
        raise InputError(f"there is no fault type {name!r}", f"choose from: {', '.join(sorted(TYPES))}")
    return fault_type


class _Session:
    """One injection into one stopped machine."""

    def __init__(self, stub: DebugStub, module: ModuleCode, base: int, fault_type: FaultType, random: Random) -> None:
        self._stub = stub
        self._module = module
        self._base = base
        self._type = fault_type
        self._random = random

    async def run(self, count: int, hot: Sequence[str]) -> list[dict[str, Any]]:
        ours = [function for function in self._module.functions if function.section == SECTION]
        busy = [function for function in ours if function.name in hot] or ours
        records: list[dict[str, Any]] = []
        taken: set[int] = set()
        for _ in range(count * _DRAWS):
            if len(records) == count:
                break
            pool = busy if self._random.random() < _BUSY_SHARE else ours
            record = await self._change(self._random.choice(pool), taken)
            if record is not None:
                records.append(record)
        if len(records) < count:
            raise NooksError(f"the module has too little code for {count} faults of type {self._type.name!r}")
        return records

    async def _change(self, function: Function, taken: set[int]) -> dict[str, Any] | None:
        """Change one instruction of ``function``, or return None if this draw found nothing to change."""
        address = self._base + function.offset
        chosen = self._random.choice(list(_decode(self._module.bytes_of(function), address, self._module.bits)))
        live = await self._stub.read(address, function.size)
        _check_same(self._module.bytes_of(function), live, function)
        instruction = next((i for i in _decode(live, address, self._module.bits) if i.ip == chosen.ip), None)
        if instruction is None or instruction.ip in taken or not self._type.accepts(instruction):
            return None
        taken.add(instruction.ip)
        start = instruction.ip - address
        before = live[start : start + instruction.len]
        after = self._type.rewrite(instruction, before, self._random)
        await self._stub.write(instruction.ip, after)
        tail = live[start + instruction.len : start + instruction.len + 15]
        return {
            "type": self._type.name,
            "function": function.name,
            "address": f"{instruction.ip:#x}",
            "before": before.hex(),
            "after": after.hex(),
            "text_before": _format(instruction),
            "text_after": _format(next(_decode(after + tail, instruction.ip, self._module.bits))),
        }


def _decode(code: bytes, address: int, bits: int) -> Iterator[Instruction]:
    return iter(Decoder(bits, code, ip=address))


def _check_same(file: bytes, live: bytes, function: Function) -> None:
    same = sum(a == b for a, b in zip(file, live, strict=True))
    if same < len(file) * _SAME_SHARE:
        raise NooksError(
            f"the memory at {function.name} does not hold that function's code",
            "is the domain running this very module?",
        )


def _format(instruction: Instruction) -> str:
    if instruction.is_invalid:
        return "(bad)"
    return Formatter(FormatterSyntax.GAS).format(instruction)
