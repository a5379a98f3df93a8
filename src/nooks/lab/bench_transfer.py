"""``nooks bench transfer``: much data through a nook, each way, every byte of which is checked.

One TCP connection a way: curl fetches known content from a web server at the other end. What the far end does not
check (there is no sum of what iperf3 sends, beyond TCP's own) this does.
"""

import os
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from nooks.host.errors import NooksError
from nooks.lab import bed as beds
from nooks.lab.content import Content
from nooks.lab.download import download
from nooks.lab.figures import machine
from nooks.lab.running import run_lab
from nooks.lab.workers import python, worker

DRIVER = "e1000"
SIZE_BYTES = 1_000_000_000
SPARE_SECONDS = 60.0
_MEGABIT = 1e6


@dataclass(frozen=True)
class Transfer:
    """One way: ``receive`` is towards the nook's interface. ``wrong_blocks`` are of content.BLOCK_BYTES each."""

    way: str
    received_bytes: int
    seconds: float
    megabits_per_second: float
    wrong_blocks: int
    whole: bool


def run(driver: str = DRIVER, size_bytes: int = SIZE_BYTES, json: bool = False) -> dict[str, Any]:
    """Send ``size_bytes`` each way through a nook of ``driver``; ``errors`` has a line for whatever went wrong."""
    console = Console(stderr=True, quiet=json, highlight=False)
    return run_lab(_run(driver, size_bytes, console))


async def _run(driver: str, size_bytes: int, console: Console) -> dict[str, Any]:
    bed = beds.plan()
    async with beds.far_end(bed), beds.nook_on(bed, driver) as (product, _):
        await product.wait_for_spare(SPARE_SECONDS)
        transfers: list[Transfer] = []
        for way, server, client in (("receive", bed.peer, None), ("send", bed.host, bed.netns)):
            transfer = await _transfer(bed, way, server, client, size_bytes)
            transfers.append(transfer)
            console.print(f"{way}: {transfer.megabits_per_second} Mbit/s, {transfer.wrong_blocks} wrong blocks")
        status = await product.status()
    errors = [f"{one.way}: {one.wrong_blocks} wrong blocks" for one in transfers if one.wrong_blocks]
    errors += [f"{one.way}: {one.received_bytes} of {size_bytes} bytes arrived" for one in transfers if not one.whole]
    errors += [f"the driver failed {status['failures']} times"] if status["failures"] else []
    return {
        "driver": driver,
        "bytes": size_bytes,
        "transfers": [asdict(one) for one in transfers],
        "errors": errors,
        "machine": machine(),
    }


async def _transfer(bed: beds.Bed, way: str, server: str, client: str | None, size_bytes: int) -> Transfer:
    """Fetch from a web server on the address ``server``, from within the namespace ``client``."""
    seed = int.from_bytes(os.urandom(4), "big")
    serve = python("nooks.lab.web_server", "--address", server, "--seed", seed)
    async with worker("web server", serve, netns=None if client else bed.netns) as serving:
        await serving.until_ready()
        async with download(f"http://{server}/{size_bytes}", seed, netns=client) as fetching:
            result = await fetching.result()
    if result["exit"]:
        raise NooksError(f"the transfer failed: {result['said'] or result['exit']}")
    seconds = float(result["curl"]["time_total"])
    return Transfer(
        way=way,
        received_bytes=int(result["bytes"]),
        seconds=round(seconds, 3),
        megabits_per_second=round(8 * result["bytes"] / seconds / _MEGABIT, 1),
        wrong_blocks=int(result["wrong_blocks"]),
        whole=result["sha256"] == Content(seed).sha256(size_bytes),
    )
