"""``nooks bench footprint``: what an idle nook costs in memory and processor time, and where it goes.

Memory is the proportional set size (PSS) of every process of the nook: pages that several share are divided among
them. Two domains of one snapshot share its pages, for instance.
"""

import asyncio
import time
from typing import Any

from rich.console import Console

from nooks.lab import bed as beds
from nooks.lab.figures import machine
from nooks.lab.processes import cpu_seconds, family_of, pss_bytes
from nooks.lab.running import run_lab

DRIVER = "e1000"
SECONDS = 20.0
SETTLE_SECONDS = 3.0
SPARE_SECONDS = 30.0


def run(driver: str = DRIVER, seconds: float = SECONDS, json: bool = False) -> dict[str, Any]:
    """Start a nook, leave it idle for ``seconds``, and return what each of its processes cost."""
    return run_lab(_run(driver, seconds, Console(stderr=True, quiet=json, highlight=False)))


async def _run(driver: str, seconds: float, console: Console) -> dict[str, Any]:
    bed = beds.plan()
    async with beds.far_end(bed), beds.nook_on(bed, driver) as (product, started):
        console.print(f"{driver} ready after {started.get('ready_seconds')} s; watching it idle for {seconds:.0f} s")
        await product.wait_for_spare(SPARE_SECONDS)
        await asyncio.sleep(SETTLE_SECONDS)
        status = await product.status()
        family = family_of(product.name, [int(status["pid"]), int(status["domain_pid"])])
        before = {pid: cpu_seconds(pid) for pid in family}
        began = time.monotonic()
        await asyncio.sleep(seconds)
        elapsed = time.monotonic() - began
        parts: list[dict[str, Any]] = [
            {
                "process": "spare" if role == "domain" and pid != status["domain_pid"] else role,
                "pid": pid,
                "pss_bytes": pss_bytes(pid),
                "cpu_percent": round(100 * (cpu_seconds(pid) - before[pid]) / elapsed, 2),
            }
            for pid, role in family.items()
        ]
    return {
        "driver": driver,
        "ready_seconds": started.get("ready_seconds"),
        "pss_bytes": sum(part["pss_bytes"].get("total", 0) for part in parts),
        "cpu_percent": round(sum(part["cpu_percent"] for part in parts), 2),
        "seconds": round(elapsed, 1),
        "processes": parts,
        "machine": machine(),
    }
