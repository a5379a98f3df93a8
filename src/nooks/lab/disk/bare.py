"""``nooks bench block --endpoints``: fio on each kind of host endpoint that a disk could get here, over memory.

What a nook's disk can't be quicker than, with this kernel.
"""

import contextlib
import os
import secrets
from typing import Any

from rich.console import Console

from nooks.endpoint import disk
from nooks.host.errors import MachineError
from nooks.host.process import require
from nooks.lab import processor
from nooks.lab.bench_network import compare
from nooks.lab.disk.jobs import SIZE_BYTES, Passes, Side, fio_on, in_turn
from nooks.lab.disk.ram_disk_side import ram_disk
from nooks.lab.figures import machine


async def run(rounds: int, console: Console) -> dict[str, Any]:
    """Measure them in turn; return medians, and ratios of the one that a disk gets to each other. Raises NooksError."""
    if os.geteuid() != 0:
        raise MachineError("block devices need root", "run the command with sudo")
    require("fio", "fio")
    kinds = list(disk.offered())
    async with contextlib.AsyncExitStack() as stack:
        sides: list[Side] = []
        for kind in kinds:
            name = f"bare-{secrets.token_hex(2)}"
            made = await stack.enter_async_context(ram_disk(name, SIZE_BYTES, "--endpoint", kind))
            sides.append(Side(kind, fio_on(made.path), processor.of_processes([made.pid])))
        passes = await in_turn(sides, rounds, console.print)
    return {"rounds": rounds, "endpoints": kinds, "benchmarks": rows(passes), "machine": machine()}


def rows(passes: Passes) -> list[dict[str, Any]]:
    """Medians by job and kind, and the median ratio of the first kind to each other, of rounds side by side."""
    (first, ours), *others = passes.items()
    made = [{"name": row["name"], "unit": row["unit"], first: row["nook"]} for row in compare(ours, ours)]
    for kind, theirs in others:
        for row, beside in zip(made, compare(ours, theirs), strict=True):
            row |= {kind: beside["native"], f"{first}/{kind}": beside["ratio"]}
    return made
