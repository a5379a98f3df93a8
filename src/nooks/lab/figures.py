"""Numbers for reports: quantiles, and the machine that they were measured on."""

import math
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from nooks.host.process import ProcessError, run


def quantiles(values: Iterable[float | None]) -> dict[str, float | None]:
    """``p50``, ``p95`` (nearest rank) and ``max`` of those values that are known; None without any."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return {"p50": None, "p95": None, "max": None}
    return {"p50": round(median(known), 6), "p95": round(ranked(known, 0.95), 6), "max": round(known[-1], 6)}


def ranked(ordered: Sequence[float], share: float) -> float:
    """The value at ``share`` (above 0, at most 1) of an ordered sequence, by nearest rank."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def machine() -> dict[str, Any]:
    """What measurements depend on: processor, cores, memory, kernel, QEMU."""
    model = next((line for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    total = next((line for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), "0 0")
    return {
        "processor": model.partition(":")[2].strip() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": int(total.split()[1]) << 10,
        "kernel": platform.release(),
        "qemu": _qemu(),
        "load": os.getloadavg()[0],
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _qemu() -> str:
    try:
        return run(["qemu-system-x86_64", "--version"]).stdout.splitlines()[0]
    except ProcessError:
        return ""
