"""Injects faults and bugs into the code of a driver that runs, and records what was changed.

What is chosen depends only on driver, kernel, type and seed, so that an injection can be repeated: it is chosen from
the module's file, among instructions that every kernel of that version has in memory as they are in the file.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from random import Random
from typing import Any

from nooks.faults import bugs, drawing, names, x86
from nooks.faults.candidate import Candidate, Kernel, Span
from nooks.faults.exports import exported
from nooks.faults.gdb import DebugStub
from nooks.faults.listing import MAIN_SECTION
from nooks.faults.symbols import ModuleCode, read_module
from nooks.host.errors import InputError, NooksError

MAX_COUNT = 1000
_AHEAD = 8  # candidates more than are wanted, chosen before the machine has to stand still
_STRANGE_PLACES = 20  # so many places without the module's code in them, and it is another module


class Injection:
    """Faults or bugs for one module, chosen before any machine has to stand still for them.

    ``vmlinux`` is the kernel that the driver runs in. Raises InputError for an unknown type, a senseless count, a file
    that is no module, or a module that has no place for the bug.
    """

    def __init__(self, module_file: Path, vmlinux: Path, type_name: str, count: int, seed: int) -> None:
        if type_name not in (*names.FAULTS, names.MIXED, *names.BUGS):
            known = ", ".join((*names.FAULTS, names.MIXED, *names.BUGS))
            raise InputError(f"there is no fault type {type_name!r}", f"choose from: {known}")
        if not 1 <= count <= MAX_COUNT:
            raise InputError(f"{count} faults cannot be injected", f"give a count from 1 to {MAX_COUNT}")
        self._type_name = type_name
        self._count = count
        self.module = read_module(module_file)
        bug = type_name in names.BUGS
        self._kernel = Kernel(self.module.bits, exported(vmlinux) if bug else {})
        found = _find(type_name, self.module, f"{self.module.identity}/{type_name}/{seed}", count)
        self._candidates = chain(list(islice(found, count + _AHEAD)), found)

    async def apply(self, stub: DebugStub, section_addresses: Mapping[str, int]) -> list[dict[str, Any]]:
        """Change the code of a running domain, once, and return CONTRACT's record of each change.

        ``section_addresses`` says where the module's sections lie in that domain (``.text`` at least). The machine
        stands still meanwhile, and runs after. Raises NooksError if the code in memory isn't the module's or is too
        little, StubError if the debug stub fails.
        """
        if MAIN_SECTION not in section_addresses:
            raise NooksError(f"the domain did not say where {MAIN_SECTION} of {self.module.name} lies")
        records: list[dict[str, Any]] = []
        done = strange = 0
        async with stub.stopped():
            for candidate in self._candidates:
                if any(span.function.section not in section_addresses for span in candidate.spans):
                    continue
                addresses = [section_addresses[span.function.section] + span.offset for span in candidate.spans]
                live = [await self._read(stub, *place) for place in zip(addresses, candidate.spans, strict=True)]
                if not all(self._is_ours(*each) for each in zip(live, candidate.spans, strict=True)):
                    strange += 1
                    if strange >= _STRANGE_PLACES and not done:
                        raise _not_the_module(candidate)
                    continue
                changed = await self._change(stub, candidate, live, addresses)
                records += changed
                done += bool(changed)
                if done == self._count:
                    return records
        raise NooksError(
            f"{self.module.name} has too little code for {self._count} faults of type {self._type_name!r}",
            "ask for fewer, or for another type",
        )

    async def _read(self, stub: DebugStub, address: int, span: Span) -> bytes:
        """A span's bytes, and some more to show what the changed code will be read as, within the section."""
        behind = len(self.module.sections[span.function.section].code) - span.offset
        return await stub.read(address, min(span.length + x86.LONGEST_BYTES, behind))

    def _is_ours(self, live: bytes, span: Span) -> bool:
        """Whether the memory has what the file has, but for what the kernel fills in and patches."""
        section = self.module.sections[span.function.section]
        offsets = range(span.offset, span.offset + span.length)
        kernels = section.filled | section.patched
        return all(
            offset in kernels or byte == section.code[offset] for byte, offset in zip(live, offsets, strict=False)
        )

    async def _change(
        self, stub: DebugStub, candidate: Candidate, live: Sequence[bytes], addresses: Sequence[int]
    ) -> list[dict[str, Any]]:
        """Change one candidate's spans; nothing if it can't be done within their place."""
        before = [each[: span.length] for each, span in zip(live, candidate.spans, strict=True)]
        after = candidate.rewrite(before, addresses, self._kernel)
        if after is None:
            return []
        records: list[dict[str, Any]] = []
        for span, address, old, new, read in zip(candidate.spans, addresses, before, after, live, strict=True):
            await stub.write(address, new)
            records.append(
                {
                    "type": candidate.type,
                    "function": span.function.name,
                    "address": f"{address:#x}",
                    "before": old.hex(),
                    "after": new.hex(),
                    "text_before": self._text(old, b"", address),
                    "text_after": self._text(new, read[span.length :], address),
                    "section": span.function.section,
                    "offset": span.offset,
                }
            )
        return records

    def _text(self, code: bytes, following: bytes, address: int) -> str:
        """``code`` as instructions; the last one may reach into what follows."""
        return x86.text_of(code, address, self.module.bits, following)


def _find(type_name: str, module: ModuleCode, seed: str, count: int) -> Iterator[Candidate]:
    if type_name in names.BUGS:
        return bugs.find(type_name, module, Random(seed))
    return drawing.find(type_name, module, seed, count)


def _not_the_module(candidate: Candidate) -> NooksError:
    what = f"the memory at {candidate.spans[-1].function.name} does not hold that function's code"
    return NooksError(what, "is the domain running this very module?")
