"""How fast this machine is just now, so that time-outs on it are no shorter than its work takes."""

import os
import time
from functools import cache

LONGEST = 16.0
_BUSIEST = 8.0
_ROUNDS = 20_000
_REFERENCE_SECONDS = 0.0005
"""What that many rounds of an empty loop take on a slow present-day machine; on an emulated one ten times as long."""


def load_factor() -> float:
    """How much longer things take for being shared: runnable threads per core, between 1 and 8."""
    return min(_BUSIEST, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))


def slowness() -> float:
    """How much longer things may take on this machine now, shared or slow as it is; between 1 and 16."""
    return min(LONGEST, max(load_factor(), processor() * load_factor() ** 0.5))


@cache
def processor() -> float:
    """How many times slower than the reference a processor of this machine is, between 1 and 16; measured once."""
    return min(LONGEST, max(1.0, min(_loop_seconds() for _ in range(3)) / _REFERENCE_SECONDS))


def _loop_seconds() -> float:
    began = time.perf_counter()
    for _ in range(_ROUNDS):
        pass
    return time.perf_counter() - began
