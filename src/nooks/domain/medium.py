"""The medium in a domain's disk or drive: nothing at first, the real one only when the domain is to serve.

The drive's node has an empty stand-in of the same size under it (QEMU's null-co) until ``insert`` puts the real medium
there. So a snapshot holds nothing of anybody's medium, a spare may be rehearsed without one, and at no time two
domains could write to it (QEMU's docs/interop/qmp-spec.rst; blockdev-reopen, qapi/block-core.json).
"""

from typing import Any

from nooks.domain.domain import Domain
from nooks.domain.monitor import MonitorError

NODE = "medium"
"""The node that a drive is given as its ``drive``."""

_VOID, _REAL = "void", "real"


def stand_in(size_bytes: int, *, read_only: bool) -> tuple[str, ...]:
    """QEMU's arguments for a node ``NODE`` that is empty."""
    flag = "on" if read_only else "off"
    return (
        *("-blockdev", f"driver=null-co,node-name={_VOID},size={size_bytes},read-zeroes=on,read-only={flag}"),
        *("-blockdev", f"driver=raw,node-name={NODE},file={_VOID},read-only={flag},discard=unmap"),
    )


async def insert(domain: Domain, descriptor: int, *, read_only: bool, is_device: bool, direct: bool) -> None:
    """Put the open file or block device ``descriptor`` in the stand-in's place; ``direct``: past the page cache.

    Its lock is the caller's to hold. Raises MonitorError.
    """
    name = await domain.give_file(descriptor)
    real: dict[str, Any] = {
        "driver": "host_device" if is_device else "file",
        "node-name": _REAL,
        "filename": name,
        "aio": "threads",  # I/O that ends with the process
        "locking": "off",
        "read-only": read_only,
        "cache": {"direct": direct},
        "discard": "unmap",
    }
    await domain.command("blockdev-add", **real)
    drive = {"driver": "raw", "node-name": NODE, "file": _REAL, "read-only": read_only, "discard": "unmap"}
    await domain.command("blockdev-reopen", options=[drive])


async def operations(domain: Domain) -> int:
    """How many operations the drive's node has ended, failed ones included. Raises MonitorError."""
    for node in await domain.command("query-blockstats"):
        if node.get("node-name") == NODE or node.get("qdev"):
            return sum(int(value) for name, value in node["stats"].items() if name.endswith("_operations"))
    raise MonitorError(f"QEMU has no node {NODE}")
