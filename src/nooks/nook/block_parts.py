"""The parts of a block nook that outlive a supervisor: made for a new one, or taken from the keeper."""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import structlog

from nooks.device.medium import adopt_medium
from nooks.endpoint import disk
from nooks.endpoint.fuse_disk import FuseDisk
from nooks.host import native
from nooks.host.errors import StateError
from nooks.nook.block_link import Link
from nooks.nook.block_tray import MEDIUM, Tray, is_removable, open_first
from nooks.nook.ledger import Ledger
from nooks.shadow.checksums import SOURCE, Summing, by_library, by_package
from nooks.shadow.integrity import IntegrityMap
from nooks.shadow.requests import RequestLog
from nooks.shadow.write_log import WriteLog
from nooks.spec import Spec
from nooks.xpc.states import BlockState

WRITES, FUSE = "block.writes", "block.fuse"
DATA, BELL, REGION = "block.data", "block.bell", "block.region"
"""Of each bay: its number follows."""

KEYS = "block."
"""What the keys of all that the keeper holds begin with."""

BAYS = 2


@dataclass
class Parts:
    """``state`` is that of the disk as applications see it, None before the first driver was up."""

    tray: Tray
    endpoint: disk.Disk
    store: WriteLog
    log: RequestLog
    links: dict[int, Link] = field(default_factory=dict[int, Link])
    state: BlockState | None = None


@cache
def _summing() -> Summing:
    """The quickest way to checksums that there is here."""

    def failed(why: str) -> None:
        structlog.get_logger().warning("checksums of disks are made one by one, which is slower", error=why)

    library = native.library(SOURCE, failed)
    try:
        return by_library(library) if library is not None else by_package
    except OSError as error:
        structlog.get_logger().warning("no library of checksums", error=str(error))
        return by_package


def integrity_map(spec: Spec, size_bytes: int) -> IntegrityMap | None:
    """Of a medium of which nothing is known; None if its blocks are not to be compared."""
    return IntegrityMap(size_bytes, _summing()) if spec.block.integrity else None


def make(spec: Spec, ledger: Ledger) -> Parts:
    """For a new nook. Raises NooksError; nothing is left then."""
    tray = Tray(spec, ledger, None if spec.real else open_first(spec))
    try:
        endpoint = disk.create(spec.name, tray.size_bytes, removable=is_removable(spec))
    except BaseException:
        tray.close()
        raise
    store = WriteLog.create()
    tray.hold()
    ledger.give(WRITES, store.fileno())
    if isinstance(endpoint, FuseDisk):
        ledger.give(FUSE, endpoint.descriptor)
    return Parts(tray, endpoint, store, RequestLog(store))


def adopt(spec: Spec, ledger: Ledger) -> Parts:
    """Those of a dead supervisor. Raises StateError if it had not come so far as to serve."""
    facts, held = ledger.facts, ledger.held()
    if facts.get("state") is None:
        raise StateError(f"the start of {spec.name} was broken off", f"'nooks stop {spec.name}' clears up")
    state = BlockState.parse({key: value for key, value in facts["state"].items() if key != "class"})
    medium = adopt_medium(ledger.take(MEDIUM), int(facts["size_bytes"])) if MEDIUM in held else None
    size, path = state.size_bytes, Path(facts["device"])
    endpoint = disk.adopt(path, spec.name, size, read_only=state.read_only, connection=lambda: ledger.take(FUSE))
    store, kept = WriteLog.adopt(ledger.take(WRITES))
    links = {
        bay: Link(*(ledger.take(f"{kind}{bay}") for kind in (DATA, BELL, REGION)), astray=True)
        for bay in range(BAYS)
        if {f"{kind}{bay}" for kind in (DATA, BELL, REGION)} <= set(held)
    }
    return Parts(Tray(spec, ledger, medium), endpoint, store, RequestLog(store, kept), links, state)
