"""The rate of this machine's time stamp counter, which is an emulated processor's as well (QEMU, cpu_get_ticks).

A kernel that boots under emulation on a busy machine may measure it wrongly by a factor (the ticks of the timer that it
counts against come late), and then its clock runs as wrongly for good. It is told instead (``tsc_early_khz``,
Documentation/admin-guide/kernel-parameters.txt).
"""

import ctypes
import mmap
import platform
import time
from collections.abc import Callable
from functools import cache

_READ_COUNTER = bytes.fromhex("0f31 48c1e220 4809d0 c3")  # rdtsc; shl rdx, 32; or rax, rdx; ret
_MEASURE_SECONDS = 0.05
_ROUND_TO_KHZ = 1000
"""So that two measurements agree: they are good to some ppm, and the answer is part of snapshots' keys."""

_BRACKETS = 20


@cache
def khz() -> int | None:
    """Thousands of ticks a second, rounded to whole MHz; None where the counter can't be read."""
    if platform.machine() != "x86_64":
        return None
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:  # a system that forbids pages both writable and executable
        return None
    page.write(_READ_COUNTER)
    start = ctypes.addressof(ctypes.c_char.from_buffer(page))
    counter: Callable[[], int] = ctypes.CFUNCTYPE(ctypes.c_uint64)(start)
    begin = _reading(counter)
    time.sleep(_MEASURE_SECONDS)
    end = _reading(counter)
    rate = (end[1] - begin[1]) / (end[0] - begin[0]) * 1e6
    return round(rate / _ROUND_TO_KHZ) * _ROUND_TO_KHZ


def kernel_argument() -> str:
    """What tells a Linux kernel on an emulated processor; nothing where we don't know."""
    rate = khz()
    return f"tsc_early_khz={rate}" if rate is not None else ""


def _reading(counter: Callable[[], int]) -> tuple[float, int]:
    """A moment of the raw clock, in nanoseconds, and the counter then: the closest of some looks."""
    looks: list[tuple[int, float, int]] = []
    for _ in range(_BRACKETS):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        ticks = counter()
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        looks.append((after - before, (before + after) / 2, ticks))
    _, moment, ticks = min(looks)
    return moment, ticks
