"""What a card can be told to do wrong, as real ones do when they break."""

from enum import StrEnum

from nooks.hardware.pci import PciFunction
from nooks.hardware.server import Server


class Kind(StrEnum):
    """What goes wrong."""

    NONE = "none"
    STUCK_INTERRUPT = "stuck-interrupt"
    LOST_INTERRUPT = "lost-interrupt"
    WRONG_DMA = "wrong-dma"
    GARBAGE = "garbage"
    ALL_ONES = "all-ones"
    PULLED = "pulled"


class Misbehaviour:
    """Of one card. What is not ``lasting`` ends when the card is reset, or when another domain gets it.

    A card that was pulled is put back by NONE.
    """

    def __init__(self, function: PciFunction, server: Server) -> None:
        self.kind = Kind.NONE
        self._function = function
        self._server = server
        self._lasting = False
        function.was_reset = self.taken

    def begin(self, kind: Kind, *, lasting: bool) -> None:
        """Misbehave like this from now on; NONE: behave."""
        self.kind, self._lasting = kind, lasting
        if kind is Kind.PULLED:
            self._server.pull()
        elif kind is Kind.NONE:
            self._server.put_back()
        function = self._function
        function.memory.astray = kind is Kind.WRONG_DMA
        function.memory.garbled = kind is Kind.GARBAGE
        function.memory.recheck()
        function.read_register = _ones if kind is Kind.ALL_ONES else function.read
        function.interrupts.misbehave(
            stuck=kind is Kind.STUCK_INTERRUPT,
            lost=kind is Kind.LOST_INTERRUPT,
        )

    def taken(self) -> None:
        """The card was reset, or a domain begins with it."""
        if self.kind not in (Kind.NONE, Kind.PULLED) and not self._lasting:
            self.begin(Kind.NONE, lasting=False)


def _ones(bar: int, offset: int, size: int) -> int:
    """What a bus reads where nobody answers."""
    return (1 << 8 * size) - 1
