"""On which of the host's processors a thread runs.

Two threads of which one always waits for the other are best off on the same one: to wake a processor that sleeps
takes longer than what it is woken for.
"""

import contextlib
import os
import zlib
from collections.abc import Iterable


def one_for(name: str) -> int:
    """One of the processors that we may use, always the same for a name."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[zlib.crc32(name.encode()) % len(allowed)]


def bind(threads: Iterable[int], processor: int) -> None:
    """Have threads run on ``processor`` alone, where that is allowed (sched_setaffinity(2)) and they still are."""
    for thread in threads:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.sched_setaffinity(thread, {processor})
