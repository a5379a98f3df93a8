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
from nooks.faults.busy import busy_functions
from nooks.faults.candidate import Candidate, Kernel, Span
from nooks.faults.exports import exported
from nooks.faults.gdb import DebugStub
from nooks.faults.listing import MAIN_SECTION
from nooks.faults.symbols import ModuleCode, read_module
from nooks.host.errors import InputError, NooksError

MAX_COUNT = 1000
_AHEAD = 8  # candidates more than are wanted, chosen before the machine has to stand still
_STRANGE_PLACES = 20  # so many places without the module's code in them, and it is another module


Sections = Mapping[str, Mapping[str, int]]
"""Where in a running domain the sections of each module lie."""


class Injection:
    """Faults or bugs for one driver, chosen before any machine has to stand still for them.

    ``module_files`` are its module and others that carry its load: faults go into all of them, by the size of what runs
    all the time, bugs into the first. ``vmlinux`` is the kernel that the driver runs in. Raises InputError for an
    unknown type, a senseless count, a file that is no module, or a module that has no place for the bug.
    """

    def __init__(self, module_files: Sequence[Path], vmlinux: Path, type_name: str, count: int, seed: int) -> None:
        if type_name not in (*names.FAULTS, names.MIXED, *names.BUGS):
            known = ", ".join((*names.FAULTS, names.MIXED, *names.BUGS))
            raise InputError(f"there is no fault type {type_name!r}", f"choose from: {known}")
        if not 1 <= count <= MAX_COUNT:
            raise InputError(f"{count} faults cannot be injected", f"give a count from 1 to {MAX_COUNT}")
        self._type_name = type_name
        self._count = count
        bug = type_name in names.BUGS
        modules = [read_module(path) for path in (module_files[:1] if bug else module_files)]
        self.modules = [module.name for module in modules]
        self._kernel = Kernel(modules[0].bits, exported(vmlinux) if bug else {})
        found = _find(type_name, modules, seed, count)
        self._candidates = chain(list(islice(found, count + _AHEAD)), found)

    async def apply(self, stub: DebugStub, sections: Sections) -> list[dict[str, Any]]:
        """Change the code of a running domain, once, and return CONTRACT's record of each change.

        Of each module's ``sections`` there must be ``.text`` at least. The machine stands still meanwhile, and runs
        after. Raises NooksError if the code in memory isn't the modules' or is too little, StubError if the debug stub
        fails.
        """
        for name in self.modules:
            if MAIN_SECTION not in sections.get(name, {}):
                raise NooksError(f"the domain did not say where {MAIN_SECTION} of {name} lies")
        records: list[dict[str, Any]] = []
        done = strange = 0
        async with stub.stopped():
            for module, candidate in self._candidates:
                section_addresses = sections[module.name]
                if any(span.function.section not in section_addresses for span in candidate.spans):
                    continue
                addresses = [section_addresses[span.function.section] + span.offset for span in candidate.spans]
                places = zip(addresses, candidate.spans, strict=True)
                live = [await _read(stub, module, *place) for place in places]
                if not all(_is_ours(module, *each) for each in zip(live, candidate.spans, strict=True)):
                    strange += 1
                    if strange >= _STRANGE_PLACES and not done:
                        raise _not_the_module(candidate)
                    continue
                changed = await self._change(stub, module, candidate, live, addresses)
                records += changed
                done += bool(changed)
                if done == self._count:
                    return records
        raise NooksError(
            f"{' and '.join(self.modules)} has too little code for {self._count} faults of type {self._type_name!r}",
            "ask for fewer, or for another type",
        )

    async def _change(
        self,
        stub: DebugStub,
        module: ModuleCode,
        candidate: Candidate,
        live: Sequence[bytes],
        addresses: Sequence[int],
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
                    "module": module.name,
                    "function": span.function.name,
                    "address": f"{address:#x}",
                    "before": old.hex(),
                    "after": new.hex(),
                    "text_before": x86.text_of(old, address, module.bits),
                    "text_after": x86.text_of(new, address, module.bits, read[span.length :]),
                    "section": span.function.section,
                    "offset": span.offset,
                }
            )
        return records


async def _read(stub: DebugStub, module: ModuleCode, address: int, span: Span) -> bytes:
    """A span's bytes, and some more to show what the changed code will be read as, within the section."""
    behind = len(module.sections[span.function.section].code) - span.offset
    return await stub.read(address, min(span.length + x86.LONGEST_BYTES, behind))


def _is_ours(module: ModuleCode, live: bytes, span: Span) -> bool:
    """Whether the memory has what the file has, but for what the kernel fills in and patches."""
    section = module.sections[span.function.section]
    offsets = range(span.offset, span.offset + span.length)
    kernels = section.filled | section.patched
    return all(offset in kernels or byte == section.code[offset] for byte, offset in zip(live, offsets, strict=False))


def _find(
    type_name: str, modules: Sequence[ModuleCode], seed: int, count: int
) -> Iterator[tuple[ModuleCode, Candidate]]:
    """Candidates and their modules. Of one module alone they are the same, whatever others there are."""
    streams: list[Iterator[Candidate]] = []
    for module in modules:
        own_seed = f"{module.identity}/{type_name}/{seed}"
        bug = type_name in names.BUGS
        streams.append(
            bugs.find(type_name, module, Random(own_seed)) if bug else drawing.find(type_name, module, own_seed, count)
        )
    weights = [sum(each.size for each in busy_functions(module)) or 1 for module in modules]
    random = Random(seed)
    left = list(range(len(modules)))
    while left:
        (index,) = random.choices(left, weights=[weights[each] for each in left])
        candidate = next(streams[index], None)
        if candidate is None:
            left.remove(index)
        else:
            yield modules[index], candidate


def _not_the_module(candidate: Candidate) -> NooksError:
    what = f"the memory at {candidate.spans[-1].function.name} does not hold that function's code"
    return NooksError(what, "is the domain running this very module?")
