"""Draws places for faults by chance: functions by their size, those that run all the time preferred."""

from collections.abc import Iterator, Sequence
from random import Random

from iced_x86 import Instruction

from nooks.faults import listing, names, x86
from nooks.faults.busy import busy_functions
from nooks.faults.candidate import Candidate, Kernel, Rewrite, Span
from nooks.faults.symbols import Function, ModuleCode
from nooks.faults.types import TYPES, FaultType

_BUSY_SHARE = 0.9  # so many of the faults go to functions that run all the time
_DRAWS = 200  # for each fault that is wanted


def find(name: str, module: ModuleCode, seed: str, count: int) -> Iterator[Candidate]:
    """Places for faults of the type ``name`` (or of all types by chance), none of them twice.

    Whatever becomes of one candidate, the next ones are the same. Ends when many draws found nothing new.
    """
    random = Random(seed)
    types = tuple(TYPES.values()) if name == names.MIXED else (TYPES[name],)
    every = [each for each in module.functions if each.section.startswith(listing.MAIN_SECTION)]
    busy = [each for each in busy_functions(module) if each in every] or every
    seen: set[tuple[str, int]] = set()
    for _ in range(count * _DRAWS):
        fault_type = random.choice(types)
        pool = busy if random.random() < _BUSY_SHARE else every
        (function,) = random.choices(pool, weights=[each.size for each in pool])
        places = _places(module, function, fault_type)
        chosen = random.choice(places) if places else None
        if chosen is None or (function.section, chosen.ip) in seen:
            continue
        seen.add((function.section, chosen.ip))
        rewrite = _rewriting(fault_type, Random(f"{seed}/{function.section}+{chosen.ip}"))
        yield Candidate(fault_type.name, (Span(function, chosen.ip, chosen.len),), rewrite)


def _places(module: ModuleCode, function: Function, fault_type: FaultType) -> list[Instruction]:
    """The instructions of a function that faults of the type may change."""
    instructions = listing.instructions_of(module, function)
    chosen = (instructions[index] for index in fault_type.places(instructions))
    return [each for each in chosen if not x86.is_padding(each) and not listing.is_patched(module, function, each)]


def _rewriting(fault_type: FaultType, random: Random) -> Rewrite:
    def rewrite(live: Sequence[bytes], addresses: Sequence[int], kernel: Kernel) -> list[bytes] | None:
        instruction = next(x86.decode(live[0], addresses[0], kernel.bits))
        code = fault_type.rewrite(instruction, live[0], random)
        return [code] if code is not None else None

    return rewrite
