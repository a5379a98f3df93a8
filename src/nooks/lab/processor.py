"""How much of the processors something used: a set of processes, or everything that the machine did.

A meter is a function that gives the processor seconds used so far; a ``Window`` makes cores of two of its answers.
"""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from nooks.lab.processes import cpu_seconds

CpuSeconds = Callable[[], float]
_TICKS = os.sysconf("SC_CLK_TCK")
_BUSY = ("user", "nice", "system", "irq", "softirq", "steal")
_COLUMNS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")


def of_processes(pids: Iterable[int]) -> CpuSeconds:
    """A meter of these processes with all their threads; one that ends counts with what it was last seen to have used.

    What the kernel does for them outside of their own time (interrupts, its own threads) is not in it.
    """
    seen = dict.fromkeys(pids, 0.0)

    def used() -> float:
        for pid in seen:
            seen[pid] = max(seen[pid], cpu_seconds(pid))
        return sum(seen.values())

    return used


def of_machine(stat: Path = Path("/proc/stat")) -> CpuSeconds:
    """A meter of the whole machine, programs that measure included."""
    return lambda: busy_seconds(stat.read_text())


def busy_seconds(stat: str) -> float:
    """What all processors together were busy, from the text of /proc/stat (proc_stat(5)): also with interrupts, and
    what a hypervisor took (steal). Guests' time is in ``user`` and ``nice`` already, waiting for I/O is idleness.

    Raises ValueError if it is no such text.
    """
    name, *ticks = stat.partition("\n")[0].split()
    if name != "cpu" or not ticks:
        raise ValueError(f"no line of all processors: {name!r}")
    spent = dict(zip(_COLUMNS, map(int, ticks), strict=False))
    return sum(spent.get(kind, 0) for kind in _BUSY) / _TICKS


class Window:
    """The time from ``begin`` to the last ``end``, and what a meter said then."""

    def __init__(self, cpu: CpuSeconds, clock: Callable[[], float] = time.monotonic) -> None:
        self._cpu = cpu
        self._clock = clock
        self._began = self._ended = (0.0, 0.0)

    def begin(self) -> None:
        """What follows is measured."""
        self._began = self._ended = (self._clock(), self._cpu())

    def end(self) -> None:
        """Up to here; a later end replaces it."""
        self._ended = (self._clock(), self._cpu())

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self._ended[0] - self._began[0]

    @property
    def cores(self) -> float:
        """How many processors were busy on average; 0 for a window without length."""
        return (self._ended[1] - self._began[1]) / self.seconds if self.seconds > 0 else 0.0
