"""The fault types of the Nooks evaluation, as a table. What one does to an instruction is in its own module."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from iced_x86 import Instruction

from nooks.faults import control, interface, operands, text


@dataclass(frozen=True)
class FaultType:
    """One kind of fault.

    ``places`` says to which of a function's instructions it applies (their indexes). ``rewrite`` returns the
    instruction's new bytes, as many as before, or None if this one can't be changed within its place.
    """

    name: str
    places: Callable[[Sequence[Instruction]], list[int]]
    rewrite: Callable[[Instruction, bytes, Random], bytes | None]


TYPES: Mapping[str, FaultType] = {
    each.name: each
    for each in (
        FaultType("source", operands.source_places, operands.rewrite_source),
        FaultType("destination", operands.destination_places, operands.rewrite_destination),
        FaultType("pointer", operands.pointer_places, operands.rewrite_pointer),
        FaultType("interface", interface.places, control.delete),
        FaultType("branch", control.branch_places, control.delete),
        FaultType("loop", control.loop_places, control.invert),
        FaultType("text", text.places, text.rewrite),
        FaultType("nop", control.nop_places, control.delete),
    )
}
