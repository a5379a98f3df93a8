"""Whether the host came to harm: it is the same boot, and its kernel is no more tainted than before."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TAINTED = Path("/proc/sys/kernel/tainted")
_HARM_BITS = {7: "oops", 9: "warning", 14: "soft lockup"}  # Documentation/admin-guide/tainted-kernels.rst


@dataclass(frozen=True)
class HostHealth:
    """The host's kernel at one moment."""

    boot_id: str
    tainted: int

    @classmethod
    def now(cls) -> Self:
        """As it is now."""
        return cls(_BOOT_ID.read_text().strip(), int(_TAINTED.read_text()))

    def harm(self) -> list[str]:
        """What happened to the host since; nothing if it is unharmed."""
        later = HostHealth.now()
        new = later.tainted & ~self.tainted
        found = [f"the host's kernel had a {what}" for bit, what in _HARM_BITS.items() if new >> bit & 1]
        return found + (["the host was booted anew"] if later.boot_id != self.boot_id else [])
