"""The medium in a domain's disk or drive: nothing at first, the real one only when the domain is to serve.

The drive's node has an empty stand-in under it (QEMU's null-co): until ``insert`` puts the real medium there, in a
disk, whose stand-in has the medium's size; until ``change`` does what a hand at the tray would, in a drive. So a
snapshot holds nothing of anybody's medium, a spare may be rehearsed without one, and at no time two domains could
write to it (QEMU's docs/interop/qmp-spec.rst; blockdev-reopen, blockdev-open-tray, qapi/block-core.json).
"""

from typing import Any, Protocol

from nooks.domain.domain import Domain
from nooks.domain.monitor import MonitorError

NODE = "medium"
"""The node that a drive is given as its ``drive``."""

DRIVE = "unit"
"""The monitor's name for the disk or drive."""

STAND_IN_BYTES = 2 << 20
"""Of a drive, whose media may have any size."""

_VOID, _REAL = "void", "real"


class Medium(Protocol):
    """An open file or block device of the host's; ``direct``: past the page cache."""

    @property
    def descriptor(self) -> int:
        """It stays its owner's, who holds a lock as well."""
        ...

    @property
    def read_only(self) -> bool: ...

    @property
    def is_device(self) -> bool: ...

    @property
    def direct(self) -> bool: ...


def stand_in(size_bytes: int, *, read_only: bool) -> tuple[str, ...]:
    """QEMU's arguments for a node ``NODE`` that is empty."""
    flag = "on" if read_only else "off"
    return (
        *("-blockdev", f"driver=null-co,node-name={_VOID},size={size_bytes},read-zeroes=on,read-only={flag}"),
        *("-blockdev", f"driver=raw,node-name={NODE},file={_VOID},read-only={flag},discard=unmap"),
    )


async def insert(domain: Domain, medium: Medium) -> None:
    """Put the medium in the place of a disk's stand-in. Raises MonitorError."""
    await _open(domain, medium, _REAL)
    drive = {"driver": "raw", "node-name": NODE, "file": _REAL, "read-only": medium.read_only, "discard": "unmap"}
    await domain.command("blockdev-reopen", options=[drive])


async def change(domain: Domain, medium: Medium | None) -> None:
    """Take out what is in the drive, and put the medium in if there is one. Raises MonitorError."""
    await domain.command("blockdev-open-tray", id=DRIVE, force=True)
    await domain.command("blockdev-remove-medium", id=DRIVE)
    for node in await domain.command("query-named-block-nodes", flat=True):
        if node["node-name"] == _REAL:
            await domain.command("blockdev-del", **{"node-name": _REAL})
    if medium is not None:
        await _open(domain, medium, _REAL)
        await domain.command("blockdev-insert-medium", id=DRIVE, **{"node-name": _REAL})
    await domain.command("blockdev-close-tray", id=DRIVE)


async def operations(domain: Domain) -> tuple[int, int]:
    """How many operations the drive has ended, and how many of them the host refused. Raises MonitorError."""
    for node in await domain.command("query-blockstats"):
        if node.get("node-name") == NODE or node.get("qdev"):
            counts = {name: int(value) for name, value in node["stats"].items() if name.endswith("_operations")}
            return sum(counts.values()), sum(count for name, count in counts.items() if name.startswith("failed_"))
    raise MonitorError(f"QEMU has no node {NODE}")


async def _open(domain: Domain, medium: Medium, node: str) -> None:
    name = await domain.give_file(medium.descriptor)
    real: dict[str, Any] = {
        "driver": "host_device" if medium.is_device else "file",
        "node-name": node,
        "filename": name,
        "aio": "threads",  # I/O that ends with the process
        "locking": "off",
        "read-only": medium.read_only,
        "cache": {"direct": medium.direct},
        "discard": "unmap",
    }
    await domain.command("blockdev-add", **real)
