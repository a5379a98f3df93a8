"""A place where something may be injected: which bytes of which functions, and what becomes of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nooks.faults.symbols import Function
from nooks.host.errors import NooksError


@dataclass(frozen=True)
class Span:
    """``length`` bytes at ``offset`` in the section of ``function``."""

    function: Function
    offset: int
    length: int


@dataclass(frozen=True)
class Kernel:
    """The kernel that the driver runs in: 32 or 64 ``bits``, and where its exported functions lie."""

    bits: int
    exports: Mapping[str, int]

    def address(self, *names: str) -> int:
        """Of the function that goes by one of these names, which change with versions. Raises NooksError."""
        found = next((self.exports[name] for name in names if name in self.exports), None)
        if found is None:
            raise NooksError(f"this kernel does not say where {names[0]} lies", "choose another fault type")
        return found


Rewrite = Callable[[Sequence[bytes], Sequence[int], Kernel], Sequence[bytes] | None]
"""From the live bytes of each span and its address to its new bytes; None if it can't be done in these places."""


@dataclass(frozen=True)
class Candidate:
    """``spans`` that change together; ``type`` is the fault's or bug's name."""

    type: str
    spans: tuple[Span, ...]
    rewrite: Rewrite
