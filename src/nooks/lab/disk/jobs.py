"""What ``bench block`` has fio do on a disk, and a side: a disk with a meter of processor time."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nooks.host.process import run as run_program
from nooks.lab import processor
from nooks.lab.workloads import Figure

RUN_SECONDS = 4
SIZE_BYTES = 512 << 20
"""Of the disks that are made to be measured."""

AREA_BYTES = 480 << 20
"""Of a disk, from its beginning on; a smaller one is used whole."""

_COMMON = f"--name=bench --ioengine=libaio --direct=1 --time_based --runtime={RUN_SECONDS} --ramp_time=1"
JOBS: Mapping[str, tuple[str, str]] = {
    "sequential read, 1 MiB": ("read", "--rw=read --bs=1M --iodepth=4"),
    "sequential write, 1 MiB": ("write", "--rw=write --bs=1M --iodepth=4"),
    "random read, 4 KiB, QD1": ("read", "--rw=randread --bs=4k --iodepth=1"),
    "random write, 4 KiB, QD1": ("write", "--rw=randwrite --bs=4k --iodepth=1"),
    "random read, 4 KiB, QD16": ("read", "--rw=randread --bs=4k --iodepth=16"),
    "random write, 4 KiB, QD16": ("write", "--rw=randwrite --bs=4k --iodepth=16"),
    "write and fsync, 4 KiB": ("write", "--rw=randwrite --bs=4k --iodepth=1 --fsync=1"),
}
"""By name: which of fio's figures counts, and its options."""

Passes = dict[str, list[dict[str, Figure]]]
"""By side, and for each round, the jobs' figures."""

Fio = Callable[[str], Awaitable[dict[str, Any]]]
"""Runs fio with these options on a side's disk; what it prints as JSON."""


class Side:
    """Something that fio can be run on; ``cpu`` meters what it uses."""

    def __init__(self, name: str, fio: Fio, cpu: processor.CpuSeconds, area_bytes: int = AREA_BYTES) -> None:
        self.name = name
        self.fio = fio
        self.cpu = cpu
        self._area = f"--size={area_bytes}"

    async def measure(self, job: str) -> Figure:
        """One job's figure."""
        kind, options = JOBS[job]
        window = processor.Window(self.cpu)
        window.begin()
        found = (await self.fio(f"{_COMMON} {self._area} {options}"))["jobs"][0][kind]
        window.end()
        if "1 MiB" in job:
            return Figure(found["bw_bytes"] / 1e6, "MB/s", window.cores)
        return Figure(found["iops"], "IOPS", window.cores)


async def in_turn(sides: Sequence[Side], rounds: int, tell: Callable[[str], None]) -> Passes:
    """Each job on one side after the other, ``rounds`` times: the figures by side and round. Raises ProcessError."""
    passes: Passes = {side.name: [] for side in sides}
    for number in range(rounds):
        for side in sides:
            passes[side.name].append({})
        for job in JOBS:
            for side in sides if number % 2 else reversed(sides):
                passes[side.name][-1][job] = await side.measure(job)
            shown = ", ".join(f"{name} {each[-1][job].value:.0f}" for name, each in passes.items())
            tell(f"round {number + 1} of {rounds}, {job}: {shown} {passes[sides[0].name][-1][job].unit}")
    return passes


def fio_on(device: Path) -> Fio:
    """Run fio on a block device of the host. Raises ProcessError."""

    async def fio(options: str) -> dict[str, Any]:
        argv = ["fio", f"--filename={device}", *options.split(), "--output-format=json"]
        done = await asyncio.to_thread(run_program, argv, timeout_seconds=300.0)
        return json.loads(done.stdout[done.stdout.index("{") :])

    return fio
