"""Which of the changed code has run: read from QEMU's log of what it translated ("-d in_asm").

The emulator translates code when that is about to run, and once more after it was changed. So an instruction that was
changed shows up in what is logged after the change as soon as it runs. While nothing new runs, the log costs nothing.
What is translated is all up to the next jump, and counts as run with its first instruction.
"""

import os
import re
from collections.abc import Iterable

_INSTRUCTION = re.compile(rb"^0x([0-9a-f]{8,16}):", re.MULTILINE)
MOST_BYTES = 64 << 20


class TranslationLog:
    """The log, in a memory file that outlives the domain which writes it."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("nooks-translated", os.MFD_CLOEXEC)

    def addresses(self) -> frozenset[int]:
        """Of all instructions that are in the log so far."""
        size = min(os.fstat(self.descriptor).st_size, MOST_BYTES)
        return frozenset(int(each, 16) for each in _INSTRUCTION.findall(os.pread(self.descriptor, size, 0)))

    def executed(self, addresses: Iterable[int]) -> list[bool]:
        """For each address whether its instruction ran."""
        seen = self.addresses()
        return [address in seen for address in addresses]

    def close(self) -> None:
        """Give the file back. Safe to call twice."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
